"""AsyncKVStore: the API of KVStore for asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from kvstore.aio.lookups import Lookups
from kvstore.aio.reads import AsyncSnapshot, in_thread, scan, sort
from kvstore.aio.writer import AsyncWriter
from kvstore.batch import OPERATION_BYTES, WriteBatch, check_key, check_value
from kvstore.errors import ClosedError, ForkedError
from kvstore.native import BytesLike
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX, Options, make_options
from kvstore.pipeline import Change
from kvstore.recovery import RecoveryReport, VerifyReport
from kvstore.snapshot import scan_range
from kvstore.sstable import NOT_RESIDENT
from kvstore.stats import StoreStats
from kvstore.store import KVStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kvstore.access import Access
    from kvstore.fs import FileSystem
    from kvstore.tree import Tree

__all__ = ["AsyncKVStore", "open_async"]

T = TypeVar("T")

_THREADS_MAX = 8


def open_async(path: str | os.PathLike[str], **options: Any) -> AsyncKVStore:
    """The store in directory ``path`` for asyncio; options are those of Options.

    ``async with kvstore.open_async(path) as db:``, or ``db = await kvstore.open_async(path)`` and
    at the end ``await db.close()``. It is opened then, in a thread; raises as ``kvstore.open``.
    """
    return AsyncKVStore(path, make_options(options))


class AsyncKVStore:
    """An open store for the tasks of one event loop (asyncio's own, or uvloop).

    Keys, values, durability and errors are those of KVStore. What differs:

    Writes: the puts of one iteration of the loop become durable by one device write. With io_uring
    no thread takes part; the portable backend has one. At most ``write_queue_bytes_max`` bytes are
    taken in and not durable; beyond it writes wait. When ``put`` returns, the write survives kill
    -9 and power loss, and every task sees it; writes return in the order of the log.

    Cancellation: a write that is cancelled is written or not at all, never in part. Before the
    end of the loop's iteration in which it was begun it is not written (with several batches in
    flight it may be); afterwards it is under way, and goes on.

    Reads: what is in memory, the page cache included, is answered without giving up the loop; what
    needs the disk is read in a thread. ``flush``, ``compact``, ``verify``, opening and closing run
    in a thread.

    Belongs to the loop that opened it: writing and closing elsewhere is a KVStoreError. (When that
    loop is closed, another may close it.)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: Options | None = None,
        *,
        fs: FileSystem | None = None,
    ) -> None:
        self.path = os.path.abspath(os.fspath(path))
        self.options = options or Options()
        self._fs = fs
        self._store: KVStore | None = None  # until it is open
        self._opening = False
        self._closed: asyncio.Task[None] | None = None
        self._sync = self.options.sync
        nothing: Any = _NotOpen(self.path)
        self._access: Access = nothing
        self._tree: Tree = nothing
        self._threads: ThreadPoolExecutor = nothing
        self._writer: AsyncWriter = nothing
        self._lookups: Lookups = nothing
        self._put = nothing

    # ---- life ----

    async def _open(self) -> Self:
        if self._store is not None or self._opening:
            raise RuntimeError(f"store {self.path} is open already, or was")
        self._opening = True
        self._threads = ThreadPoolExecutor(_THREADS_MAX, "kvstore")
        try:
            await self._open_in_thread(asyncio.get_running_loop())
        except BaseException:
            self._threads.shutdown(wait=False)
            raise
        finally:
            self._opening = False
        return self

    async def _open_in_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        opening = self._threads.submit(KVStore, self.path, self.options, fs=self._fs)
        try:
            store = await asyncio.wrap_future(opening)
        except BaseException:  # cancelled, as a rule, and the thread is still at it
            self._threads.submit(_close_again, opening)
            raise
        try:
            writer = AsyncWriter(
                loop,
                store._access,
                store._pipeline,
                store._wal,
                queue_bytes_max=self.options.write_queue_bytes_max,
                batches_max=self.options.wal_batches_in_flight,
            )
        except BaseException:
            store.close()
            raise
        self._store, self._writer, self._put = store, writer, writer.put
        self._access, self._tree = store._access, store._tree
        self._lookups = Lookups(loop, self._threads)

    def __await__(self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def __aenter__(self) -> Self:
        if self._store is None:
            await self._open()
        self._open_store()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for the writes under way, makes everything durable, lets the next opener in.

        Idempotent. A close that is cancelled goes on all the same. Raises as ``KVStore.close``. In
        a forked child it does nothing. When the loop that opened it is closed, another may do this.
        """
        store = self._store
        if store is None or self._access.refusal is ForkedError:
            return
        if self._closed is None or self._closed.cancelled():
            self._writer.check_close()
            self._closed = asyncio.ensure_future(self._close(store))
        elif self._closed.done():
            return
        await asyncio.shield(self._closed)

    async def _close(self, store: KVStore) -> None:
        # In a thread of its own: what occupies the others may go on until the store is closed.
        closer = ThreadPoolExecutor(1, "kvstore-close")
        try:
            await self._writer.close()
        finally:
            try:
                await in_thread(closer, store.close)
            finally:
                closer.shutdown(wait=False)
                self._threads.shutdown(wait=False)

    def __del__(self) -> None:
        # Forgotten: KVStore warns of it, and closes itself.
        if isinstance(getattr(self, "_writer", None), AsyncWriter) and self._closed is None:
            self._writer.stop_listening()

    def _open_store(self) -> KVStore:
        if self._store is None:
            raise ClosedError(f"store {self.path}, which was never opened: await it")
        self._access.check_open()
        return self._store

    def __repr__(self) -> str:
        is_open = self._store is not None and self._access.refusal is None
        return f"<AsyncKVStore {self.path!r} {'open' if is_open else 'closed'}>"

    # ---- writing ----

    async def put(self, key: BytesLike, value: BytesLike, *, sync: bool | None = None) -> None:
        """Sets ``key`` (1 B to 64 KiB) to ``value`` (0 B to 512 MiB); durable as KVStore.put is.

        With ``sync`` false it gives up the loop only when it has to wait. Cancelled: see the class.
        """
        if type(key) is not bytes or not 0 < len(key) <= KEY_BYTES_MAX:
            key = check_key(key)
        if type(value) is not bytes or len(value) > VALUE_BYTES_MAX:
            value = check_value(value)
        if self._sync if sync is None else sync:
            await self._put(key, value, OPERATION_BYTES + len(key) + len(value))
        else:
            await self._write_relaxed((key, value), OPERATION_BYTES + len(key) + len(value))

    async def delete(self, key: BytesLike, *, sync: bool | None = None) -> None:
        """Removes ``key``; no error when it is not there. Durable as ``put`` is."""
        key = check_key(key)
        if self._sync if sync is None else sync:
            await self._writer.delete(key, OPERATION_BYTES + len(key))
        else:
            await self._write_relaxed((key, None), OPERATION_BYTES + len(key))

    async def write(self, batch: WriteBatch, *, sync: bool | None = None) -> None:
        """Writes a batch: durable whole or not at all, and visible all at once."""
        if not len(batch):
            self._access.check_writable()
        elif self._sync if sync is None else sync:
            await self._writer.write(batch.changes, batch.bytes_encoded)
        else:
            await self._write_relaxed(batch.changes, batch.bytes_encoded)

    async def _write_relaxed(self, change: Change, size: int) -> None:
        if not self._writer.write_at_once(change):
            await self._writer.write(change, size, relaxed=True)

    @contextlib.asynccontextmanager
    async def batch(self, *, sync: bool | None = None) -> AsyncIterator[WriteBatch]:
        """``async with db.batch() as b:`` collects changes and writes them when the block ends.

        ``b.put`` and ``b.delete`` are not awaited. An exception in the block drops them all.
        """
        self._access.check_writable()
        collected = WriteBatch()
        yield collected
        await self.write(collected, sync=sync)

    async def sync(self) -> None:
        """Returns when every write before it, relaxed ones too, is durable."""
        await self._writer.sync()

    # ---- reading ----

    @overload
    async def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    async def get(self, key: BytesLike, default: T) -> bytes | T: ...
    async def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key``, or ``default``. Gives up the loop only to wait for the disk."""
        if type(key) is not bytes:
            key = check_key(key)
        value = self._tree.state.get_resident(key)  # once it is closed, what raises the refusal
        if value is NOT_RESIDENT:
            value = await self._lookups.get(self._tree.state.fetch, key)
        if value is not None:
            return value
        if not 0 < len(key) <= KEY_BYTES_MAX:
            check_key(key)  # which says what is wrong
        return default

    def scan(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """``async for key, value in db.scan(...)``, as KVStore.scan.

        The loop gets its turn every 1,024 entries at the latest.
        """
        self._open_store()
        lower, upper = scan_range(start, stop, prefix, limit)
        return scan(
            self._access, self._threads, self._tree, lower, upper, reverse=reverse, limit=limit
        )

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The keys, in order."""
        async for key, _ in self.scan():
            yield key

    def snapshot(self) -> AsyncSnapshot:
        """The store as it is now: ``async with db.snapshot() as s:``; see KVStore.snapshot."""
        self._open_store()
        return AsyncSnapshot(self._access, self._threads, self._lookups, self._tree)

    async def count(self) -> int:
        """The number of keys (``len`` of a KVStore), in a thread."""
        return await in_thread(self._threads, _count, self._open_store())

    # ---- the whole store ----

    @property
    def recovery(self) -> RecoveryReport:
        """What recovery found when the store was opened."""
        return self._open_store().recovery

    async def stats(self) -> StoreStats:
        """Counters and facts, as of now. O(tables)."""
        return self._open_store().stats()

    async def flush(self) -> None:
        """Moves what is in memory to a sorted table, as KVStore.flush, in a thread."""
        await in_thread(self._threads, self._open_store().flush)

    async def compact(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """KVStore.compact in a thread; ``progress`` is called in the loop. A compaction that is
        cancelled ends between two tables."""
        store = self._open_store()
        loop = asyncio.get_running_loop()
        cancelled = False

        def tell(share: float) -> None:
            if cancelled:
                raise asyncio.CancelledError
            if progress is not None:
                loop.call_soon_threadsafe(progress, share)

        try:
            await in_thread(self._threads, partial(store.compact, start, stop, progress=tell))
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """KVStore.verify in a thread; ``progress`` is called in the loop."""
        store = self._open_store()
        loop = asyncio.get_running_loop()

        def tell(done: int, files: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, done, files)

        return await in_thread(self._threads, partial(store.verify, progress=tell))


class _NotOpen:
    """Stands for the parts of a store that is not open: who uses one hears so."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> NoReturn:
        self()

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise ClosedError(f"store {self._path}, which was never opened: await it")


def _count(store: KVStore) -> int:
    state = store._tree.state
    if state.view.tables or state.sealed:  # else nothing is sorted
        for memtable in (state.memtable, *state.sealed):
            sort(memtable)
    return len(store)


def _close_again(opening: concurrent.futures.Future[KVStore]) -> None:
    """Whoever was opening it has been cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
