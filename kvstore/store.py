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
import errno
import itertools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from kvstore import paths
from kvstore.batch import WriteBatch, check_key, check_value, encode_delete, encode_put
from kvstore.compaction import BackgroundWorker, CompactionRequest
from kvstore.errors import ClosedError, ForkedError, KVStoreError, ReadOnlyError, storage_error
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.mapping import StoreMapping
from kvstore.native import BytesLike
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX, Options
from kvstore.recovery import Recovered, RecoveryReport, VerifyReport, open_store, verify_store
from kvstore.snapshot import RunningScan, Snapshot, end_scans, scan, scan_range
from kvstore.sstable import check_available
from kvstore.stats import StoreStats, collect_stats
from kvstore.wal import IoUringConfig, SegmentedWalWriter
from kvstore.wal.background import BackgroundFlusher

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["KVStore", "open", "verify"]

T = TypeVar("T")
Change = tuple[bytes, bytes | None] | dict[bytes, bytes | None]

_POLL_SECONDS = 0.001
_PROGRESS_SECONDS = 0.05
_SEGMENTS_LEFT_MAX = 4
_BUFFER_BYTES = 64 << 10


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


def verify(
    path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Reads every file of the store at ``path``, which nobody has open, and checks every checksum.

    Changes nothing; the report says what is damaged, and where. ``progress`` is called with (files
    done, files). O(bytes), in bounded memory. Raises LockedError, StorageIOError.
    """
    fs = PosixFileSystem()
    directory = os.path.abspath(os.fspath(path))
    if not fs.is_directory(directory):
        raise storage_error(errno.ENOENT, "verify store", directory)
    lock = fs.lock(os.path.join(directory, paths.LOCK))
    try:
        return verify_store(fs, directory, progress=progress)
    finally:
        lock.release()


class KVStore(StoreMapping):
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
        self.refusal: Callable[[str], Exception] | None = ClosedError
        self.scans: set[RunningScan] = set()
        self._closed = True  # until it is open
        # Absolute, since files are made there later on, whatever the working directory is then.
        self.path = os.path.abspath(os.fspath(path))
        self.options = options or Options()
        check_available(self.options.compression)
        self._fs = fs or PosixFileSystem()
        recovered = open_store(self._fs, self.path, self.options)
        self.recovery: RecoveryReport = recovered.report
        """What recovery found when the store was opened."""
        self._lock, self._tree = recovered.lock, recovered.tree
        try:
            self._wal = self._open_log(recovered)
        except BaseException:
            self._tree.abandon()
            self._lock.release()
            raise
        self._flusher = BackgroundFlusher(self._wal, self.options.flush_interval_ms)
        self._worker = BackgroundWorker(self._tree, self._wal)
        self._pressure = self._worker.pressure
        self._sync = self.options.sync
        self._memtable_bytes_max = self.options.memtable_bytes_max
        self._wal_put_relaxed = self._wal.put_relaxed
        self._read_only = self.options.recovery == "salvage"
        self._tickets = itertools.count(1)
        self._pending: dict[int, Change] = {}
        self._apply_lock = threading.Lock()
        self._applied_lsn = recovered.base_lsn - 1
        self._close_lock = threading.Lock()
        self._closed = False
        self.refusal = None
        _live[id(self)] = self
        self._pressure.closed = self._read_only  # which check_writable then finds
        if not self._read_only:
            self._begin_background(len(recovered.finished))

    def _open_log(self, recovered: Recovered) -> SegmentedWalWriter:
        return SegmentedWalWriter(
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
            finished=recovered.finished,
            segment_bytes=self.options.wal_segment_bytes,
            fs=self._fs,
        )

    def _begin_background(self, segments: int) -> None:
        """What was left to do: recovered memory that is too much, or in too many log files."""
        memtable = self._tree.state.memtable
        full = memtable.bytes_used >= self.options.memtable_bytes_max
        if full or segments > _SEGMENTS_LEFT_MAX:
            with self._apply_lock:
                self._seal()
        elif any(self._tree.state.version.levels):
            self._worker.rouse()

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
        if self._sync if sync is None else sync:
            self._commit(encode_put(key, value), (key, value))
        else:
            self._put_relaxed(key, value)

    def delete(self, key: BytesLike, *, sync: bool | None = None) -> None:
        """Removes ``key``; no error when it is not there. Durable as ``put`` is."""
        key = check_key(key)
        if self._sync if sync is None else sync:
            self._commit(encode_delete(key), (key, None))
        else:
            self._commit_relaxed(encode_delete(key), (key, None))

    def write(self, batch: WriteBatch, *, sync: bool | None = None) -> None:
        """Writes a batch: durable whole or not at all, and visible all at once."""
        if not len(batch):
            self._check_writable()
        elif self._sync if sync is None else sync:
            self._commit(batch.encode(), batch.changes)
        else:
            self._commit_relaxed(batch.encode(), batch.changes)

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

    def _commit(self, payload: bytes, change: Change) -> None:
        if self.refusal is not None or self._pressure.closed:
            self._wait_for_room(len(payload))
        ticket = next(self._tickets)
        self._pending[ticket] = change
        try:
            lsn = self._wal.append_and_commit(payload, ticket)
        except KVStoreError:
            # Refused or failed, so its turn never comes. (After what a signal handler raises it
            # may, whatever that is.)
            self._pending.pop(ticket, None)
            raise
        if self._applied_lsn < lsn:
            self._apply_ready()
        if not self._flusher.awake:
            self._flusher.rouse()

    def _commit_relaxed(self, payload: bytes, change: Change) -> None:
        if self.refusal is not None or self._pressure.closed:
            self._wait_for_room(len(payload))
        ticket = next(self._tickets)
        with self._apply_lock:
            self._pending[ticket] = change
            try:
                twice_lsn = self._wal.append_relaxed(payload, ticket, self._applied_lsn)
            except KVStoreError:
                self._pending.pop(ticket, None)
                raise
            if not twice_lsn & 1:
                self._apply(change, twice_lsn >> 1)
                self._pending.pop(ticket, None)
        self._relaxed_done(twice_lsn)

    def _put_relaxed(self, key: bytes, value: bytes) -> None:
        # The same as _commit_relaxed and _apply, spelled out: the most frequent write.
        if self.refusal is not None or self._pressure.closed:
            self._wait_for_room(len(key) + len(value))
        ticket = next(self._tickets)
        with self._apply_lock:
            self._pending[ticket] = (key, value)
            try:
                twice_lsn = self._wal_put_relaxed(key, value, ticket, self._applied_lsn)
            except KVStoreError:
                self._pending.pop(ticket, None)
                raise
            if not twice_lsn & 1:
                memtable = self._tree.state.memtable
                self._applied_lsn = memtable.apply_one(key, value, twice_lsn >> 1)
                if memtable.bytes_used >= self._memtable_bytes_max:
                    self._seal()
                self._pending.pop(ticket, None)
        if twice_lsn & 1 or not self._flusher.awake:
            self._relaxed_done(twice_lsn)

    def _relaxed_done(self, twice_lsn: int) -> None:
        if twice_lsn & 1:  # writes before it are not durable yet
            self._wal.commit((twice_lsn >> 1) - 1)
            self._apply_ready()
        if not self._flusher.awake:
            self._flusher.rouse()

    def _wait_for_room(self, entry_bytes: int) -> None:
        self._check_writable()
        self._pressure.wait(entry_bytes, self.check_open)

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
        memtable = self._tree.state.memtable
        if type(change) is tuple:
            memtable.apply_one(change[0], change[1], lsn)
        else:
            memtable.apply(change, lsn)  # type: ignore[arg-type]
        self._applied_lsn = lsn
        if memtable.bytes_used >= self._memtable_bytes_max:
            self._seal()

    def _seal(self) -> None:
        """Begins a new memtable and has the old one flushed, unless the one before it still is:
        then writers wait (pressure.py). Under the apply lock."""
        # Whoever appends has registered its change before: once none is pending, all that the log
        # held a moment ago, its own entries too, is applied.
        log_end = self._wal.last_lsn
        memtable = self._tree.state.memtable
        memtable.covered_lsn = memtable.last_lsn if self._pending else log_end
        if self._tree.seal():
            self._worker.rouse()
        self._pressure.update()

    # ---- tables ----

    def flush(self) -> None:
        """Moves what is in memory to a sorted table; returns when that is durable.

        The log entries it came from are then given up. Never needed for safety. Raises
        DiskFullError, StorageIOError, PoisonedError.
        """
        self._check_writable()
        self._apply_ready()  # what an interrupt cut short
        state = self._tree.state
        waiting = [table for table in (state.memtable, *state.sealed) if table.bytes_used]
        while waiting:
            state = self._tree.state
            waiting = [table for table in waiting if table in (state.memtable, *state.sealed)]
            if state.memtable in waiting:
                with self._apply_lock:
                    if self._tree.state.memtable in waiting:
                        self._seal()
            if waiting:
                self._wait_a_little()

    def _wait_a_little(self) -> None:
        self.check_open()
        self._pressure.meet_failure(self.check_open)
        # An interrupt may have come between a seal and its rouse.
        self._worker.serve()
        time.sleep(_POLL_SECONDS)

    def compact(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Flushes, then merges every table with keys from ``start`` to ``stop`` (None: no bound)
        down to the deepest level in use; returns when that is done.

        Deleted and overwritten entries of the range are gone then. Never needed. ``progress`` is
        called, in the calling thread, with the share done, 0.0 to 1.0, 20 times a second; what it
        raises ends the compaction between two tables, and nothing is lost. Raises as ``flush``,
        and CorruptionError.
        """
        self.flush()
        lower, upper = scan_range(start, stop, None, None)
        request = CompactionRequest(lower, upper)
        self._worker.request(request)
        tell_at = 0.0
        try:
            while not request.done:
                self._worker.serve()
                time.sleep(_POLL_SECONDS)
                self.check_open()
                if progress is not None and time.monotonic() >= tell_at:
                    progress(request.progress.share())
                    tell_at = time.monotonic() + _PROGRESS_SECONDS
        finally:
            request.cancelled = True
        if request.error is not None:
            raise request.error
        if progress is not None:
            progress(1.0)

    # ---- reading ----

    @overload
    def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    def get(self, key: BytesLike, default: T) -> bytes | T: ...
    def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key``, or ``default``.

        No lock. From a memtable O(1); from the tables O(log n), a filter look-up for each level
        and one block. Raises CorruptionError when the block is damaged, StorageIOError.
        """
        if type(key) is not bytes:
            key = check_key(key)
        value = self._tree.state.get(key)  # once it is closed, what raises the refusal
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
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) pairs with start <= key < stop, in key order; with ``reverse`` backwards.

        ``prefix`` narrows the range to keys that begin with it; ``limit`` ends it after so many.
        The iterator shows the store as it was when its first entry was asked for, holds no lock,
        and raises ClosedError once the store is closed. O(log n), then O(1) an entry.
        """
        self.check_open()
        lower, upper = scan_range(start, stop, prefix, limit)
        return scan(self, self._tree, lower, upper, reverse=reverse, limit=limit)

    def snapshot(self) -> Snapshot:
        """The store as it is now, for reading: ``with db.snapshot() as s: s.get(k); s.scan()``.

        O(1), holds no lock. To be closed: until then it pins memory (at most the memtables of now)
        and the disk space of the tables of now.
        """
        self.check_open()
        return Snapshot(self._tree, self)

    def __len__(self) -> int:
        """The number of keys: O(1) while all are in memory, O(keys) once there are tables."""
        self.check_open()
        state = self._tree.state
        if not state.view.tables and not state.sealed:
            count = len(state.memtable)
            self.check_open()  # else a close under way may have emptied the tree
            return count
        with Snapshot(self._tree, self) as snapshot:
            return len(snapshot)

    # ---- life ----

    def stats(self) -> StoreStats:
        """Counters and facts, as of now. O(tables)."""
        self.check_open()
        return collect_stats(self.path, self._tree, self._worker, self._wal)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Reads every file and checks every checksum; the report says what is damaged, and where.

        Reads the disk, not what is cached; changes nothing. Of the log segment that is being
        written, what was durable when it began. ``progress`` is called with (files done, files).
        """
        self.check_open()
        with self._wal.keep_segments():
            durable_lsn = self._wal.durable_lsn
            version, tables = self._tree.version_and_tables(self.check_open)
            return verify_store(
                self._fs,
                self.path,
                version=version,
                tables=tables,
                durable_lsn=durable_lsn,
                progress=progress,
            )

    def close(self) -> None:
        """Makes everything durable, seals the log, lets the next opener in. Idempotent.

        Writes under way are finished first. Raises when the last flush fails; the store is closed
        then too. In a forked child it does nothing.
        """
        if self.refusal is ForkedError:
            return
        with self._close_lock:
            if self._closed:
                return
            self.refusal = ClosedError
            end_scans(self)
            try:
                with contextlib.ExitStack() as stack:  # in the opposite order, whatever fails
                    stack.callback(self._close_tree)
                    stack.callback(self._wal.close)
                    stack.callback(self._worker.stop)
                    stack.callback(self._flusher.stop)
            except Exception:
                self._let_go()
                raise
            # After a KeyboardInterrupt it is not closed: the next close goes on, or that at exit.
            self._let_go()

    def _close_tree(self) -> None:
        self._tree.refuse(self._refuse)
        self._tree.close(self._wal.segment_number)

    def _refuse(self) -> NoReturn:
        assert self.refusal is not None
        raise self.refusal(f"store {self.path}")

    def _let_go(self) -> None:
        self._lock.release()
        self._closed = True
        _live.pop(id(self), None)

    def __enter__(self) -> Self:
        self.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and self.refusal is not ForkedError:
            try:
                warnings.warn(f"store {self.path} was not closed", ResourceWarning, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        state = "open" if self.refusal is None else "closed"
        return f"<KVStore {self.path!r} {state}>"

    def check_open(self) -> None:
        if self.refusal is not None:
            self._refuse()

    def _check_writable(self) -> None:
        self.check_open()
        if self._read_only:
            raise ReadOnlyError(self.path)

    def _abandon_in_child(self) -> None:
        self.refusal = ForkedError
        self._tree.refuse(self._refuse)
        end_scans(self)
        self._lock.abandon_in_child()


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
