"""KVStore: the synchronous API and the write pipeline.

A write, top to bottom:

    put / delete / write     check, encode as a batch (batch.py)
    _commit                  register the change under a ticket; ONE native call appends the entry
                             and waits until it is durable, sharing the device write with others
    _apply_ready             whoever comes back first applies, in LSN order, all that has become
                             durable, its own change among it

A relaxed write (``sync=False``) is applied at once when nothing before it waits to become durable;
else it waits for that, so that what is visible is always a prefix of the log.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import warnings
import weakref
from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kvstore.batch import WriteBatch, check_key, check_value, encode_delete, encode_put
from kvstore.errors import ClosedError, ForkedError, ReadOnlyError
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.native import BytesLike
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX, Options
from kvstore.recovery import RecoveryReport, open_store
from kvstore.wal import IoUringConfig, IoUringStatsSnapshot, SegmentedWalWriter
from kvstore.wal.background import BackgroundFlusher

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["KVStore", "StoreStats", "open"]

T = TypeVar("T")
Change = tuple[bytes, bytes | None] | dict[bytes, bytes | None]

_SCAN_KEYS = 256
_CLEAR_KEYS = 4096  # at most 256 MiB of keys in a batch
_BUFFER_BYTES = 64 << 10


@dataclass(frozen=True)
class StoreStats:
    """The state of a store at one moment.

    ``entries`` counts keys, ``wal_segment`` is the log file in use (0: none yet), ``wal`` what the
    log has done since the store was opened.
    """

    path: str
    entries: int
    last_lsn: int
    durable_lsn: int
    backend: str
    backend_reason: str
    sync_strategy: str
    wal_segment: int
    wal: IoUringStatsSnapshot


def open(path: str | os.PathLike[str], **options: Any) -> KVStore:
    """Opens the store in directory ``path``, made if it is not there; options are those of Options.

    Recovers first: every write that was ever acknowledged as durable is there, or an error says why
    not. Raises LockedError (another opener; names its pid), CorruptionError (durable data is
    damaged; nothing was changed), FormatError (a newer version's files), BackendUnavailableError,
    LimitError, StorageIOError.
    """
    known = {field.name for field in fields(Options)}
    if unknown := options.keys() - known:
        raise TypeError(
            f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return KVStore(path, Options(**options))


class KVStore(MutableMapping[bytes, bytes]):
    """An open store: a mutable mapping from bytes to bytes, ordered by key (bytewise).

    Made by ``kvstore.open``; to be closed, or used as a context manager. Keys have 1 B to 64 KiB,
    values 0 B to 512 MiB, of any bytes-like object; else LimitError or TypeError.

    Thread-safe; one process at a time (LockedError); a forked child gets ForkedError. When a write
    with ``sync=True`` returns, it survives kill -9 and power loss, and every thread sees it. A
    write that raises was not acknowledged: it may or may not be there after reopening, but never in
    part. After a failed write or sync of the log every later write is a PoisonedError, and reads go
    on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: Options | None = None,
        *,
        fs: FileSystem | None = None,
    ) -> None:
        self._refusal: Callable[[str], Exception] | None = ClosedError
        self._closed = True  # until it is open
        # Absolute, since files are made there later on, whatever the working directory is then.
        self.path = os.path.abspath(os.fspath(path))
        self.options = options or Options()
        recovered = open_store(fs or PosixFileSystem(), self.path, self.options)
        self.recovery: RecoveryReport = recovered.report
        """What recovery found when the store was opened."""
        self._lock = recovered.lock
        try:
            self._wal = SegmentedWalWriter(
                self.path,
                IoUringConfig(
                    direct_io=self.options.wal_direct_io,
                    registered_buffers=-(-self.options.wal_buffer_bytes // _BUFFER_BYTES),
                    buffer_size=_BUFFER_BYTES,
                ),
                backend=self.options.wal_backend,
                log_id=recovered.log_id,
                next_segment=recovered.next_segment,
                base_lsn=recovered.base_lsn,
                predecessor=recovered.predecessor,
                segment_bytes=self.options.wal_segment_bytes,
                fs=fs,
            )
        except BaseException:
            self._lock.release()
            raise
        self._memtable = recovered.memtable
        self._flusher = BackgroundFlusher(self._wal, self.options.flush_interval_ms)
        self._read_only = self.options.recovery == "salvage"
        self._tickets = itertools.count(1)
        self._pending: dict[int, Change] = {}
        self._apply_lock = threading.Lock()
        self._applied_lsn = recovered.base_lsn - 1
        self._close_lock = threading.Lock()
        self._closed = False
        self._refusal = None
        _live[id(self)] = self

    # ---- writing ----

    def put(self, key: BytesLike, value: BytesLike, *, sync: bool | None = None) -> None:
        """Sets ``key`` (1 B to 64 KiB) to ``value`` (0 B to 512 MiB).

        With ``sync`` true (None: the store's option) it returns when the write is durable; else
        when it is queued and visible, and a crash may lose it within ``flush_interval_ms``.
        """
        if type(key) is not bytes or not 0 < len(key) <= KEY_BYTES_MAX:
            key = check_key(key)
        if type(value) is not bytes or len(value) > VALUE_BYTES_MAX:
            value = check_value(value)
        self._commit(encode_put(key, value), (key, value), sync)

    def delete(self, key: BytesLike, *, sync: bool | None = None) -> None:
        """Removes ``key``; no error when it is not there. Durable as ``put`` is."""
        key = check_key(key)
        self._commit(encode_delete(key), (key, None), sync)

    def write(self, batch: WriteBatch, *, sync: bool | None = None) -> None:
        """Writes a batch: durable whole or not at all, and visible all at once."""
        if len(batch):
            self._commit(batch.encode(), batch.changes, sync)
        else:
            self._check_writable()

    @contextlib.contextmanager
    def batch(self, *, sync: bool | None = None) -> Iterator[WriteBatch]:
        """``with db.batch() as b:`` collects changes and writes them when the block ends.

        An exception in the block drops them all. Reads do not see them before.
        """
        self._check_writable()
        collected = WriteBatch()
        yield collected
        self.write(collected, sync=sync)

    def sync(self) -> None:
        """Returns when every write before it, relaxed ones too, is durable."""
        self._check_writable()
        self._wal.sync()

    def _commit(self, payload: bytes, change: Change, sync: bool | None) -> None:
        if self._refusal is not None or self._read_only:
            self._check_writable()
        if not (self.options.sync if sync is None else sync):
            self._commit_relaxed(payload, change)
            return
        ticket = next(self._tickets)
        self._pending[ticket] = change
        try:
            lsn = self._wal.append_and_commit(payload, ticket)
        except Exception:
            # Refused or failed, so its turn never comes. (After a KeyboardInterrupt it may.)
            self._pending.pop(ticket, None)
            raise
        if self._applied_lsn < lsn:
            self._apply_ready()
        self._flusher.wrote()

    def _commit_relaxed(self, payload: bytes, change: Change) -> None:
        ticket = next(self._tickets)
        with self._apply_lock:
            self._pending[ticket] = change
            try:
                twice_lsn = self._wal.append_relaxed(payload, ticket, self._applied_lsn)
            except Exception:
                self._pending.pop(ticket, None)
                raise
            lsn, must_wait = twice_lsn >> 1, twice_lsn & 1
            if not must_wait:
                self._apply(change, lsn)
                self._pending.pop(ticket, None)
        if must_wait:
            self._wal.commit(lsn - 1)
            self._apply_ready()
        self._flusher.wrote()

    def _apply_ready(self) -> None:
        """Applies, in LSN order, every change whose turn has come.

        An interrupt in the middle loses nothing: what was not reported as taken comes again.
        """
        with self._apply_lock:
            while pairs := self._wal.ready():
                tickets = pairs[::2]
                for ticket, lsn in zip(tickets, pairs[1::2], strict=True):
                    if lsn > self._applied_lsn:  # else a relaxed write applied itself
                        self._apply(self._pending[ticket], lsn)
                self._wal.taken(pairs[-1])
                for ticket in tickets:
                    self._pending.pop(ticket, None)

    def _apply(self, change: Change, lsn: int) -> None:
        if type(change) is tuple:
            self._memtable.apply_one(change[0], change[1], lsn)
        else:
            self._memtable.apply(change, lsn)  # type: ignore[arg-type]
        self._applied_lsn = lsn

    # ---- reading ----

    @overload
    def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    def get(self, key: BytesLike, default: T) -> bytes | T: ...
    def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key``, or ``default``. O(1), no lock."""
        if self._refusal is not None:
            self._check_open()
        if type(key) is not bytes:
            key = check_key(key)
        value = self._memtable.get(key)
        if value is not None:
            return value
        check_key(key)
        return default

    def scan(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) pairs with start <= key < stop, in key order; with ``reverse`` backwards.

        ``prefix`` narrows the range to keys that begin with it; ``limit`` ends it after so many.
        The iterator shows the store as it was when its first entry was asked for, holds no lock,
        and raises ClosedError once the store is closed. O(log n), then O(1) an entry.
        """
        self._check_open()
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        lower, upper = _range(start, stop, prefix)
        entries = self._scan(lower, upper, reverse)
        return entries if limit is None else itertools.islice(entries, limit)

    def _scan(
        self, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check_open()
        memtable = self._memtable
        snapshot = memtable.open_snapshot()
        try:
            after: bytes | None = None
            while True:
                entries, after = memtable.read_range(
                    snapshot, start, stop, after=after, reverse=reverse, keys_max=_SCAN_KEYS
                )
                for entry in entries:
                    if self._refusal is not None:
                        self._check_open()
                    yield entry
                if after is None:
                    return
        finally:
            memtable.close_snapshot(snapshot)

    # ---- a mapping ----

    def __getitem__(self, key: BytesLike) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: BytesLike, value: BytesLike) -> None:
        self.put(key, value)

    def __delitem__(self, key: BytesLike) -> None:
        if self.get(key) is None:
            raise KeyError(key)
        self.delete(key)

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan())

    def __reversed__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan(reverse=True))

    def __len__(self) -> int:
        self._check_open()
        return len(self._memtable)

    def items(self) -> ItemsView[bytes, bytes]:
        """A view of the (key, value) pairs in key order; iterating it is a scan."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """A view of the values in key order; iterating it is a scan."""
        return _Values(self)

    def clear(self) -> None:
        """Deletes every key that is there, in a few batches. O(keys)."""
        self._check_writable()
        keys = iter(self)
        while chunk := list(itertools.islice(keys, _CLEAR_KEYS)):
            with self.batch() as batch:
                for key in chunk:
                    batch.delete(key)

    # ---- life ----

    def stats(self) -> StoreStats:
        """Counters and facts, as of now."""
        self._check_open()
        wal = self._wal
        return StoreStats(
            path=self.path,
            entries=len(self._memtable),
            last_lsn=wal.last_lsn,
            durable_lsn=wal.durable_lsn,
            backend=wal.backend,
            backend_reason=wal.backend_reason,
            sync_strategy=wal.sync_strategy,
            wal_segment=wal.segment_number,
            wal=wal.stats(),
        )

    def close(self) -> None:
        """Makes everything durable, seals the log, lets the next opener in. Idempotent.

        Writes under way are finished first. Raises when the last flush fails; the store is closed
        then too. In a forked child it does nothing.
        """
        if self._refusal is ForkedError:
            return
        with self._close_lock:
            if self._closed:
                return
            self._refusal = ClosedError
            try:
                try:
                    self._flusher.stop()
                finally:
                    self._wal.close()
            except Exception:
                self._let_go()
                raise
            # After a KeyboardInterrupt it is not closed: the next close goes on, or that at exit.
            self._let_go()

    def _let_go(self) -> None:
        self._lock.release()
        self._closed = True
        _live.pop(id(self), None)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and self._refusal is not ForkedError:
            try:
                warnings.warn(f"store {self.path} was not closed", ResourceWarning, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        state = "open" if self._refusal is None else "closed"
        return f"<KVStore {self.path!r} {state}>"

    def _check_open(self) -> None:
        if self._refusal is not None:
            raise self._refusal(f"store {self.path}")

    def _check_writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnlyError(self.path)

    def _abandon_in_child(self) -> None:
        self._refusal = ForkedError
        self._lock.abandon_in_child()


class _Items(ItemsView[bytes, bytes]):
    """Iterates by one scan, where the inherited view would look every key up again."""

    _mapping: KVStore

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.scan()


class _Values(ValuesView[bytes]):
    """The same for values; and a key that goes meanwhile is not missed."""

    _mapping: KVStore

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping.scan())

    def __contains__(self, value: object) -> bool:
        return any(other == value for other in self)


def _range(
    start: BytesLike | None, stop: BytesLike | None, prefix: BytesLike | None
) -> tuple[bytes | None, bytes | None]:
    """The bounds of a scan: those given, narrowed to the keys that begin with ``prefix``."""
    lower = None if start is None else bytes(memoryview(start))
    upper = None if stop is None else bytes(memoryview(stop))
    if prefix is not None:
        first = bytes(memoryview(prefix))
        lower = first if lower is None else max(lower, first)
        # The first key behind all with the prefix: its last byte that can be raised, raised.
        trimmed = first.rstrip(b"\xff")
        if trimmed:
            behind = trimmed[:-1] + bytes([trimmed[-1] + 1])
            upper = behind if upper is None else min(upper, behind)
    return lower, upper


# Open stores: to be closed when the interpreter ends, and given up in a forked child.
_live: weakref.WeakValueDictionary[int, KVStore] = weakref.WeakValueDictionary()


def _close_all() -> None:
    with contextlib.ExitStack() as stack:  # one that fails does not keep the others open
        for store in list(_live.values()):
            stack.callback(store.close)


def _abandon_all() -> None:
    for store in list(_live.values()):
        store._abandon_in_child()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_abandon_all)
