"""Reads for an event loop: what is in memory is answered at once, the rest in a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

from kvstore.access import Access, Entry, RunningScan
from kvstore.aio.lookups import Lookups
from kvstore.batch import check_key
from kvstore.errors import ClosedError
from kvstore.memtable import MemTable
from kvstore.native import BytesLike
from kvstore.snapshot import Chunks, Pin, scan_range
from kvstore.sstable import NOT_RESIDENT
from kvstore.tree import Tree

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["AsyncSnapshot", "in_thread", "scan", "sort"]

T = TypeVar("T")

_FIRST_CHUNK = 64
_CHUNK_MAX = 1024
_SORTED_AT_ONCE = 1000  # keys: a millisecond or two with the GIL held
_BREATH_SECONDS = 0.00005


async def in_thread(threads: Executor, work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns or raises, in one of the threads."""
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)


async def scan(
    access: Access,
    threads: Executor,
    source: Tree | Pin,
    start: bytes | None,
    stop: bytes | None,
    *,
    reverse: bool,
    limit: int | None,
) -> AsyncIterator[Entry]:
    """The entries of a range one after the other, as ``kvstore.snapshot.scan`` gives them.

    The loop gets its turn after each list of entries that was read, 1,024 at most.
    """
    access.check_open()
    held = _Held(access, source)
    pin = held.pin
    first = _FIRST_CHUNK if limit is None else max(1, min(limit, _CHUNK_MAX))
    chunks = pin.chunks(start, stop, reverse=reverse, first_chunk=first)
    memtables = pin.memtables()
    left = limit
    while left is None or left > 0:
        for memtable in memtables:
            if memtable.unsorted_count > _SORTED_AT_ONCE:
                await in_thread(threads, sort, memtable)
        _check(access, pin)
        entries = await _next_chunk(threads, chunks)
        if entries is None:
            break
        if left is not None:
            entries = entries[:left]
            left -= len(entries)
        held.running.entries = entries
        for entry in entries:  # none, and no more, once it is closed (end_scans)
            _check(access, pin)
            yield entry
        _check(access, pin)
        await asyncio.sleep(0)
        _check(access, pin)
    _check(access, pin)


class _Held:
    """What a running scan reads, held as long as its generator lives: however that ends, since its
    loops may not stand in a block with an end of its own (decision 15)."""

    def __init__(self, access: Access, source: Tree | Pin) -> None:
        self._access = access
        self._own: Pin | None = None
        if isinstance(source, Pin):
            self.pin = source
        else:
            self.pin = self._own = Pin(source)
        self.running = RunningScan(self.pin)
        access.scans.add(self.running)

    def __del__(self) -> None:
        if hasattr(self, "running"):  # else it was cut short while it was made
            self._access.scans.discard(self.running)
        if self._own is not None:
            self._own.close()


def _check(access: Access, pin: Pin) -> None:
    access.check_open()
    if pin.state is None:
        raise ClosedError("the snapshot")


async def _next_chunk(threads: Executor, chunks: Chunks) -> list[Entry] | None:
    chunks.only_resident(True)
    try:
        return next(chunks, None)
    except BlockingIOError:
        chunks.only_resident(False)
        return await in_thread(threads, next, chunks, None)


def sort(memtable: MemTable) -> None:
    """Brings its sorted view up to date, in a thread beside the loop."""
    while not memtable.sort_some(_SORTED_AT_ONCE):
        time.sleep(_BREATH_SECONDS)  # the loop gets the lock, and the GIL


def _count(pin: Pin) -> int:
    for memtable in pin.memtables():
        sort(memtable)
    return pin.count()


class AsyncSnapshot:
    """The store as it was when ``AsyncKVStore.snapshot`` was called.

    ``async with db.snapshot() as s: await s.get(k)``, and ``async for`` over ``s.scan()``. To be
    closed: until then it keeps memory and disk space from being reused. Used after that, or after
    the store was closed, it raises ClosedError. For the tasks of one loop.
    """

    def __init__(self, access: Access, threads: Executor, lookups: Lookups, tree: Tree) -> None:
        self._access, self._threads, self._lookups = access, threads, lookups
        self._pin = Pin(tree)

    def __del__(self) -> None:
        if hasattr(self, "_pin"):  # else Ctrl-C came while it was made
            self._pin.close()

    async def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key`` at that moment, or ``default``."""
        _check(self._access, self._pin)
        key = check_key(key)
        value = self._pin.get_resident(key)
        if value is NOT_RESIDENT:
            value = await self._lookups.get(self._pin.fetch, key)
            _check(self._access, self._pin)
        return default if value is None else value

    def scan(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[Entry]:
        """(key, value) pairs at that moment, as ``AsyncKVStore.scan`` gives them."""
        _check(self._access, self._pin)
        lower, upper = scan_range(start, stop, prefix, limit)
        return scan(
            self._access, self._threads, self._pin, lower, upper, reverse=reverse, limit=limit
        )

    async def count(self) -> int:
        """The number of keys. O(keys), in a thread."""
        _check(self._access, self._pin)
        count = await in_thread(self._threads, _count, self._pin)
        _check(self._access, self._pin)
        return count

    async def close(self) -> None:
        """Lets go of the moment. Idempotent."""
        self._pin.close()

    async def __aenter__(self) -> Self:
        _check(self._access, self._pin)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
