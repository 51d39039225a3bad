"""KVStore: the synchronous API. What becomes of a write is in pipeline.py."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kvstore import paths
from kvstore.access import Access
from kvstore.batch import WriteBatch, check_key, check_value, encode_delete
from kvstore.compaction import BackgroundWorker, CompactionRequest
from kvstore.errors import ClosedError, ForkedError, storage_error
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.mapping import StoreMapping
from kvstore.memtable import MemTable
from kvstore.native import BytesLike
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX, Options, make_options
from kvstore.pipeline import WritePipeline
from kvstore.recovery import Recovered, RecoveryReport, VerifyReport, open_store, verify_store
from kvstore.snapshot import Snapshot, end_scans, scan_lists, scan_range
from kvstore.sstable import check_available
from kvstore.stats import StoreStats, collect_stats
from kvstore.wal import IoUringConfig, SegmentedWalWriter
from kvstore.wal.background import BackgroundFlusher

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["KVStore", "open", "verify"]

T = TypeVar("T")

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
    return KVStore(path, make_options(options))


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
        self._access = Access(self.path, read_only=self.options.recovery == "salvage")
        self._flusher = BackgroundFlusher(self._wal, self.options.flush_interval_ms)
        self._worker = BackgroundWorker(self._tree, self._wal)
        self._pressure = self._worker.pressure
        self._pipeline = WritePipeline(
            self._access, self._tree, self._wal, self._flusher, self._worker
        )
        self._sync = self.options.sync
        self._commit, self._commit_relaxed = self._pipeline.commit, self._pipeline.commit_relaxed
        self._put, self._put_relaxed = self._pipeline.put, self._pipeline.put_relaxed
        self._close_lock = threading.Lock()
        self._closed = False
        self._access.refusal = None
        _live[id(self)] = self
        self._pressure.closed = self._access.read_only  # which check_writable then finds
        if not self._access.read_only:
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
            batches_in_flight=self.options.wal_batches_in_flight,
            fs=self._fs,
        )

    def _begin_background(self, segments: int) -> None:
        """What was left to do: recovered memory that is too much, or in too many log files."""
        memtable = self._tree.state.memtable
        full = memtable.bytes_used >= self.options.memtable_bytes_max
        if full or segments > _SEGMENTS_LEFT_MAX:
            self._pipeline.seal()
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
            self._put(key, value)
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
            self._access.check_writable()
        elif self._sync if sync is None else sync:
            self._commit(batch.encode(), batch.changes)
        else:
            self._commit_relaxed(batch.encode(), batch.changes)

    @contextlib.contextmanager
    def batch(self, *, sync: bool | None = None) -> Iterator[WriteBatch]:
        """``with db.batch() as b:`` collects changes and writes them when the block ends.

        An exception in the block drops them all. Reads do not see them before.
        """
        self._access.check_writable()
        collected = WriteBatch()
        yield collected
        self.write(collected, sync=sync)

    def sync(self) -> None:
        """Returns when every write before it, relaxed ones too, is durable."""
        self._access.check_writable()
        self._wal.sync()

    # ---- tables ----

    def flush(self) -> None:
        """Moves what is in memory to a sorted table; returns when that is durable, and the log
        entries it came from are given up.

        Never needed for safety. Raises DiskFullError, StorageIOError, PoisonedError.
        """
        self._access.check_writable()
        self._pipeline.apply_ready()  # what an interrupt cut short
        waiting = [table for table in self._unflushed() if table.bytes_used]
        while waiting:
            waiting = [table for table in waiting if table in self._unflushed()]
            memtable = self._tree.state.memtable
            if memtable in waiting:
                self._pipeline.seal(memtable)
            if waiting:
                self._wait_a_little()

    def _unflushed(self) -> tuple[MemTable, ...]:
        """Memtables that are in no table yet, or whose log is not given up yet."""
        state = self._tree.state
        # Looked at last: it is set before the memtable leaves the tree.
        flushing = self._worker.flushing
        return (state.memtable, *state.sealed, *([] if flushing is None else [flushing]))

    def _wait_a_little(self) -> None:
        self._access.check_open()
        self._pressure.meet_failure(self._access.check_open)
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
        tell_at = 0.0
        try:
            self._worker.request(request)
            while not request.done:
                self._worker.serve()
                time.sleep(_POLL_SECONDS)
                self._access.check_open()
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
        if self._access.refusal is not None:
            self._access.refuse()
        lower: bytes | None
        upper: bytes | None
        if (
            type(start) is bytes
            and stop is None
            and prefix is None
            and (limit is None or limit >= 0)
        ):
            lower, upper = start, None
        else:
            lower, upper = scan_range(start, stop, prefix, limit)
        return chain.from_iterable(
            scan_lists(self._access, self._tree, lower, upper, reverse=reverse, limit=limit)
        )

    def snapshot(self) -> Snapshot:
        """The store as it is now, for reading: ``with db.snapshot() as s: s.get(k); s.scan()``.

        O(1), holds no lock. To be closed: until then it pins memory (at most the memtables of now)
        and the disk space of the tables of now.
        """
        self._access.check_open()
        return Snapshot(self._tree, self._access)

    def __len__(self) -> int:
        """The number of keys: O(1) while all are in memory, O(keys) once there are tables."""
        self._access.check_open()
        state = self._tree.state
        if not state.view.tables and not state.sealed:
            count = len(state.memtable)
            self._access.check_open()  # else a close under way may have emptied the tree
            return count
        with Snapshot(self._tree, self._access) as snapshot:
            return len(snapshot)

    # ---- life ----

    def stats(self) -> StoreStats:
        """Counters and facts, as of now. O(tables)."""
        self._access.check_open()
        return collect_stats(self.path, self._tree, self._worker, self._wal)

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Reads every file and checks every checksum; the report says what is damaged, and where.

        Reads the disk, not what is cached; changes nothing. Of the log segment that is being
        written, what was durable when it began. ``progress`` is called with (files done, files).
        """
        self._access.check_open()
        with self._wal.keep_segments():
            durable_lsn = self._wal.durable_lsn
            version, tables = self._tree.version_and_tables(self._access.check_open)
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
        if self._access.refusal is ForkedError:
            return
        with self._close_lock:
            if self._closed:
                return
            self._access.refusal = ClosedError
            end_scans(self._access)
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
        self._tree.refuse(self._access.refuse)
        self._tree.close(self._wal.segment_number)

    def _let_go(self) -> None:
        self._lock.release()
        self._closed = True
        _live.pop(id(self), None)

    def __enter__(self) -> Self:
        self._access.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed and self._access.refusal is not ForkedError:
            try:
                warnings.warn(f"store {self.path} was not closed", ResourceWarning, stacklevel=2)
            finally:
                self.close()

    def __repr__(self) -> str:
        state = "open" if self._access.refusal is None else "closed"
        return f"<KVStore {self.path!r} {state}>"

    def _abandon_in_child(self) -> None:
        self._access.refusal = ForkedError
        self._tree.refuse(self._access.refuse)
        end_scans(self._access)
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
