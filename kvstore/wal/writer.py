"""PortableWalWriter: a write-ahead log in one file, usable alone."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.batch import encode_put
from kvstore.errors import ClosedError, KVStoreError, LimitError, StorageIOError
from kvstore.fs import File, FileSystem, PosixFileSystem, write_all
from kvstore.native import BytesLike, as_bytes, ffi, lib
from kvstore.wal.backends import (
    SYNC_STRATEGIES,
    Backend,
    open_backend,
    remember_strategy,
)
from kvstore.wal.config import IoUringConfig
from kvstore.wal.format import (
    HEADER_BYTES,
    PAD,
    PAYLOAD_BYTES_MAX,
    SegmentHeader,
    entry_bytes,
)
from kvstore.wal.reader import LogEnd, LogReader
from kvstore.wal.stats import LATENCY_BUCKETS, IoUringStatsSnapshot
from kvstore.wal.tail import cut_tail

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["SPARE_BYTES", "PortableWalWriter"]

NO_TICKET = (1 << 64) - 1  # as in native/core.h

# Looked up once: these are on the path of every write.
_CHECKED = lib.KV_CHECKED
_append_batched = lib.kv_log_append_batched
_append_commit = lib.kv_log_append_commit
_append_apply = lib.kv_log_append_apply
_append_relaxed = lib.kv_log_append_relaxed
_put_apply = lib.kv_log_put_apply
_put_relaxed = lib.kv_log_put_relaxed

_BLOCK = 4096
_GROWTH_BYTES_MAX = 16 << 20
NO_SEAL = (1 << 64) - 1
SPARE_BYTES = 4 * _BLOCK  # what a SEAL takes, and the PADs around it under direct I/O


class PortableWalWriter:
    """Appends checksummed entries to a log file and makes them durable in batches.

    ``path`` is created, or reopened after a check: a torn tail (the remains of writes that a crash
    cut off) is saved beside it as ``PATH.torn`` and cut durably; the loss of durable data is a
    CorruptionError, and nothing is changed. ``backend`` is "auto", "io_uring" or "pwrite"; the
    environment's KVSTORE_WAL_BACKEND overrides it; ``backend`` and ``backend_reason`` say what was
    taken and why, and what was degraded. ``preallocate_bytes``: how far the file is zero-filled
    ahead at first; it grows by itself and is cut to its contents by ``close``. ``single_thread``
    promises that one thread does everything, and lets the kernel count on it.

    Entries are 0 to 1 GiB of any bytes-like object. Memory: ``config.max_batch_bytes()``, plus at
    most 1 MiB. What is queued and not yet flushed is lost in a crash; what ``flush_batch``,
    ``sync`` or ``commit`` returned for survives kill -9 and power loss.

    Thread-safe. Fork-safe in the sense that a child gets ForkedError. After a failed write or sync
    every later write is a PoisonedError; the failed entries stay pending, reopening recovers.

    Raises LockedError, FormatError, CorruptionError, BackendUnavailableError, StorageIOError.

    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "events.wal")
    >>> with PortableWalWriter(path) as log:
    ...     log.append_with_checksum_batched(b"first")
    ...     log.append_with_checksum_batched(b"second")
    ...     log.flush_batch()
    5
    11
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        config: IoUringConfig | None = None,
        *,
        backend: str = "auto",
        preallocate_bytes: int = 1 << 20,
        single_thread: bool = False,
        fs: FileSystem | None = None,
    ) -> None:
        self._setup(os.fspath(path), config, fs)
        if preallocate_bytes < 0:
            raise LimitError(f"preallocate_bytes must be 0 or more, not {preallocate_bytes}")
        file, header, end = self._open_or_create()
        try:
            limit = max(file.size(), end.offset + preallocate_bytes + SPARE_BYTES)
            file.preallocate(file.size(), limit - file.size())
            file.sync()
            self._start(self._path, backend, single_thread=single_thread)
            self._enter_file(file, header, end, limit)
        except BaseException:
            self._abandon(file)
            raise
        self._closed = False

    def _setup(self, path: str, config: IoUringConfig | None, fs: FileSystem | None) -> None:
        if config is not None and not isinstance(config, IoUringConfig):
            raise TypeError(f"config must be an IoUringConfig, not {type(config).__name__}")
        self._path = path
        self._config = config or IoUringConfig()
        self._fs: FileSystem = fs or PosixFileSystem()
        self._file: File | None = None
        self._direct_file: File | None = None
        self._limit = 0
        self._direct_note = ""
        self._bytes_read = 0
        self._sealed_lsn = NO_SEAL
        self._room_lock = threading.Lock()
        self._eventfds: tuple[int, int] | None = None
        self._closed = True  # until it is open
        self._pid = os.getpid()

    # ---- opening ----

    def _open_or_create(self) -> tuple[File, SegmentHeader, LogEnd]:
        if self._fs.exists(self._path):
            file = self._fs.open(self._path)
            try:
                file.lock()
                file.sync()  # nothing is decided on bytes that are only in the page cache
                return self._recover(file)
            except BaseException:
                file.close()
                raise
        header = SegmentHeader.make(os.urandom(16), 1, 1)
        file = self._fs.open(self._path + ".tmp", create=True)
        try:
            file.lock()
            if self._fs.exists(self._path):
                # Somebody was quicker; who has the lock and sees no log is alone in making it.
                self._fs.unlink(file.path)
                file.close()
                return self._open_or_create()
            file.truncate(0)
            self._publish(file, header, self._path)
        except BaseException:
            file.close()
            raise
        return file, header, LogEnd(HEADER_BYTES, 0, False)

    def _publish(self, file: File, header: SegmentHeader, path: str) -> None:
        """Gives a file its header, then its name: whoever sees the name finds a header."""
        write_all(file, header.encode(), 0)
        file.sync()
        self._fs.rename(file.path, path)
        file.path = path
        self._fs.sync_directory(os.path.dirname(os.path.abspath(path)))

    def _recover(self, file: File) -> tuple[File, SegmentHeader, LogEnd]:
        reader = LogReader(file)
        for _ in reader.blocks():
            pass
        self._bytes_read = reader.bytes_read
        end = reader.end
        assert end is not None
        cut_tail(self._fs, file, end.offset, end.torn_bytes)
        if end.sealed:
            self._sealed_lsn = end.last_lsn
        return file, reader.header, end

    def _start(
        self,
        place: str,
        wish: str,
        *,
        record_tickets: bool = False,
        single_thread: bool = False,
        batches_in_flight: int = 0,
    ) -> None:
        self._device = self._fs.device(place)
        self._backend: Backend = open_backend(
            self._config,
            wish,
            place,
            self._device,
            record_tickets=record_tickets,
            single_issuer=single_thread,
            batches_in_flight=batches_in_flight,
        )
        self._core = self._backend.core
        self._log = self._core.log

    def _enter_file(self, file: File, header: SegmentHeader, end: LogEnd, limit: int) -> None:
        """From here on entries go to ``file``, behind ``end``."""
        position, lsn = end.offset, end.last_lsn + 1
        target, note = self._open_direct(file)
        try:
            if target is not None and (position - HEADER_BYTES) % _BLOCK:
                position, lsn = self._pad_to_block(file, header.seed, position, lsn)
            self._core.attach(
                target or file,
                direct=target is not None,
                seed=header.seed,
                base=HEADER_BYTES,
                position=position,
                limit=limit,
                lsn=lsn,
            )
        except BaseException:
            if target is not None:
                target.close()
            raise
        self._core.name = self._path = file.path
        for old in (self._direct_file, self._file):
            if old is not None:
                old.close()
        self._file, self._direct_file, self._limit = file, target, limit
        self._direct_note = note

    def _open_direct(self, file: File) -> tuple[File | None, str]:
        if not self._config.direct_io:
            return None, ""
        try:
            return self._fs.open(file.path, direct=True), ""
        except StorageIOError as error:
            return None, f"no direct I/O here ({error.strerror})"

    def _pad_to_block(self, file: File, seed: int, position: int, lsn: int) -> tuple[int, int]:
        """Under direct I/O a log that was left within a block goes on in the next one."""
        gap = -(position - HEADER_BYTES) % _BLOCK
        if gap < entry_bytes(0):
            gap += _BLOCK
        entry = ffi.new("char[]", gap)
        lib.kv_frame_header(entry, seed, 0, gap - entry_bytes(0), 0, lsn, PAD)
        write_all(file, bytes(ffi.buffer(entry)), position)
        file.sync()
        return position + gap, lsn + 1

    def _abandon(self, file: File) -> None:
        if hasattr(self, "_core"):
            self._core.close()
        if self._direct_file is not None:
            self._direct_file.close()
        with contextlib.suppress(OSError):
            file.close()

    # ---- the contract ----

    def append(self, data: BytesLike) -> int:
        """Writes at once what is queued and then ``data``, not checksummed, without a sync.

        Returns the byte offset of the entry in the log; the first is 0. Survives a crash only after
        ``sync``.
        """
        return self._append(lib.kv_log_append, data, lib.KV_PLAIN)

    def append_with_checksum(self, data: BytesLike) -> int:
        """``append``, the payload covered by a CRC-32C; returns the offset."""
        return self._append(lib.kv_log_append, data, lib.KV_CHECKED)

    def append_batched(self, data: BytesLike) -> int:
        """Queues ``data``, not checksummed; returns the pending payload bytes, these counted.

        The call that brings them to ``max_batch_bytes()`` writes and syncs the batch (and returns
        what had been pending). Until then nothing of it survives a crash for certain.
        """
        return self._append(lib.kv_log_append_batched, data, lib.KV_PLAIN)

    def append_with_checksum_batched(self, data: BytesLike) -> int:
        """``append_batched``, the payload covered by a CRC-32C; returns the pending bytes."""
        if type(data) is not bytes:
            data = as_bytes(data)
        result = _append_batched(self._log, data, len(data), _CHECKED)
        if result < 0:
            result = self._overcome(result, _append_batched, data, _CHECKED)
        return result

    def append_and_commit(self, data: BytesLike, ticket: int = NO_TICKET) -> int:
        """``append_with_checksum_batched`` and ``commit`` in one native call; returns the LSN.

        When it returns, the entry survives kill -9 and power loss. Threads that wait at the same
        time share one device write. ``ticket`` comes back from the core in LSN order (store.py).
        """
        if type(data) is not bytes:
            data = as_bytes(data)
        result = _append_commit(self._log, data, len(data), _CHECKED, ticket)
        if result < 0:
            result = self._overcome(result, _append_commit, data, _CHECKED, ticket)
        return result

    def append_and_apply(self, data: bytes, ticket: int) -> int:
        """``append_and_commit`` for the store: returns twice the LSN; plus 1 when it is the caller
        who has to apply what is ready, its own change among it. Else somebody has done so."""
        result = _append_apply(self._log, data, len(data), ticket)
        if result < 0:
            result = self._overcome(result, _append_apply, data, ticket)
        return result

    def put_and_apply(self, key: bytes, value: bytes, ticket: int) -> int:
        """``append_and_apply`` of a batch that is one put; C encodes it."""
        result = _put_apply(self._log, key, len(key), value, len(value), ticket)
        if result < 0:  # perhaps nothing was appended; the general way knows why not
            result = self._put_another_way(result, key, value, ticket)
        return result

    def _put_another_way(self, code: int, key: bytes, value: bytes, ticket: int) -> int:
        if code not in (-errno.EMSGSIZE, lib.KV_E_FULL):
            self._obstacle(code, len(value))
        return self.append_and_apply(encode_put(key, value), ticket)

    def append_relaxed(self, data: bytes, ticket: int = NO_TICKET, applied_lsn: int = 0) -> int:
        """Queues a checksummed entry for the store's relaxed writes, which has applied up to
        ``applied_lsn``. Returns twice its LSN, plus 1 when one before it is still to be applied.
        """
        result = _append_relaxed(self._log, data, len(data), _CHECKED, ticket, applied_lsn)
        if result < 0:
            result = self._overcome(result, _append_relaxed, data, _CHECKED, ticket, applied_lsn)
        return result

    def put_relaxed(self, key: bytes, value: bytes, ticket: int, applied_lsn: int) -> int:
        """``append_relaxed`` of a batch that is one put; C encodes it, which spares two copies."""
        result = _put_relaxed(self._log, key, len(key), value, len(value), ticket, applied_lsn)
        if result < 0:  # nothing was appended; the general way knows why not, and what to do
            result = self.append_relaxed(encode_put(key, value), ticket, applied_lsn)
        return result

    def flush_batch(self) -> None:
        """Writes every queued entry and syncs; when it returns they survive power loss."""
        self._core.check(lib.kv_log_flush(self._log))

    def sync(self) -> None:
        """Flushes and syncs everything, direct appends included."""
        self._core.check(lib.kv_log_flush(self._log))

    def commit(self, lsn: int) -> None:
        """Waits until entry ``lsn`` is durable, sharing the device write with other waiters.

        Raises LimitError for an LSN that was not appended yet, or the cause when its batch failed.
        """
        if not 0 <= lsn <= self.last_lsn:
            raise LimitError(f"LSN {lsn} is not in the log, which ends with {self.last_lsn}")
        self._core.check(lib.kv_log_commit(self._log, lsn))

    def submit(self) -> int:
        """Begins to write and sync what is queued, without waiting; returns the last LSN of it.

        With several batches in flight the next may have to wait for ``reap``; then the LSN is that
        of the last batch begun.
        """
        return self._core.check(lib.kv_log_submit(self._log))

    def reap(self) -> int:
        """Takes what completed, without waiting; returns the durable LSN."""
        return self._core.check(lib.kv_log_reap(self._log))

    @property
    def eventfd(self) -> int:
        """A descriptor that becomes readable when ``reap`` may have something; read 8 bytes then.

        Made at the first use; closed by ``close``. An eventfd(2), elsewhere than on Linux a pipe.
        """
        if self._eventfds is None:
            if self._closed:
                raise ClosedError(self._path)
            if sys.platform == "linux":
                fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._eventfds = (fd, fd)
            else:
                self._eventfds = os.pipe()
                for fd in self._eventfds:
                    os.set_blocking(fd, False)  # a full pipe must not hold up the log
            self._core.check(lib.kv_log_set_eventfd(self._log, self._eventfds[1]))
        return self._eventfds[0]

    def mark(self) -> bool:
        """Writes a MARK, a witness of what is durable, if the last entry has none; True if so."""
        return self._core.check(lib.kv_log_mark(self._log)) == 1

    def pending_batch_bytes(self) -> int:
        """Payload bytes queued and not yet written as a batch."""
        return lib.kv_log_pending_bytes(self._log)

    def pending_batch_ops(self) -> int:
        """Entries queued."""
        return lib.kv_log_pending_ops(self._log)

    def has_pending_batch(self) -> bool:
        """Whether anything is queued."""
        return self.pending_batch_ops() > 0

    def size(self) -> int:
        """The logical end of the log: bytes of entries written, headers included.

        Those of the log itself (PAD, MARK, SEAL) count. It is the offset of the next entry when
        nothing is queued.
        """
        return lib.kv_log_size(self._log)

    def max_batch_bytes(self) -> int:
        """``registered_buffers * buffer_size``: pending bytes at which a batch is flushed."""
        return self._config.max_batch_bytes()

    def stats(self) -> IoUringStatsSnapshot:
        """Counters since this writer was opened."""
        raw = self._core.stats()
        return IoUringStatsSnapshot(
            ops_submitted=raw.ops_submitted,
            ops_completed=raw.ops_completed,
            bytes_written=raw.bytes_written,
            bytes_read=self._bytes_read,
            cqe_overflows=raw.cqe_overflows,
            sq_dropped=raw.sq_dropped,
            syncs=raw.syncs,
            entries=raw.entries,
            batches=raw.batches,
            sync_latency_us=tuple(ffi.unpack(raw.sync_latency_us, LATENCY_BUCKETS)),
        )

    @property
    def path(self) -> str:
        """The file that entries go to."""
        return self._path

    @property
    def last_lsn(self) -> int:
        """LSN of the last entry appended, queued or not; 0 in an empty log."""
        return lib.kv_log_last_lsn(self._log)

    @property
    def durable_lsn(self) -> int:
        """Every entry up to this LSN survives a crash."""
        return lib.kv_log_durable_lsn(self._log)

    def failure(self) -> StorageIOError | None:
        """What the log failed with, for good; a new exception for each call. None: it did not."""
        return self._core.error()

    @property
    def backend(self) -> str:
        """ "io_uring" or "pwrite" ("simulated" on a file system that is not the real one)."""
        return self._backend.name

    @property
    def backend_reason(self) -> str:
        """Why this backend, and what it had to do without."""
        return "; ".join(filter(None, (self._backend.reason, self._direct_note)))

    @property
    def sync_strategy(self) -> str:
        """How a batch that threads wait for is made durable, as measured with the first ones.

        "RWF_DSYNC", "fdatasync", or with io_uring "RWF_DSYNC by call": one of them calls pwritev2
        itself, and the ring carries batches that nobody waits for. "measuring" until it is decided:
        an event loop's batches measure nothing, and sync themselves.
        """
        return SYNC_STRATEGIES[lib.kv_log_sync_strategy(self._log)]

    @property
    def config(self) -> IoUringConfig:
        """What it was opened with."""
        return self._config

    def close(self) -> None:
        """Flushes, seals the log and cuts the zeros behind its end; idempotent.

        After a failed write it only lets go. Raises when the last flush fails; the file is closed
        then too. In a forked child it does nothing: the log is the parent's.
        """
        if os.getpid() != self._pid:
            self._closed = True
            return
        with self._room_lock:
            if self._closed:
                return
            self._closed = True
            try:
                if self._core.error() is None:
                    self._seal_and_trim()
            finally:
                self._release()

    def _seal_and_trim(self) -> None:
        assert self._file is not None
        self._core.check(lib.kv_log_seal(self._log, self._sealed_lsn))
        self._file.truncate(lib.kv_log_end(self._log))
        self._file.sync()

    def _release(self) -> None:
        if self._file is not None:
            remember_strategy(self._backend, self._device, self._config)
        self._core.close()
        for file in (self._direct_file, self._file):
            if file is not None:
                file.close()
        for fd in set(self._eventfds or ()):
            os.close(fd)
        self._eventfds = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and os.getpid() == self._pid:
            warnings.warn(f"log {self._path} was not closed", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.backend}, {self.size()} bytes"
        return f"<{type(self).__name__} {self._path!r} {state}>"

    # ---- appending ----

    def _append(self, call: Callable[..., int], data: BytesLike, kind: int) -> int:
        """What the calls on the path of every write spell out, to spare a frame (0.07 us)."""
        if type(data) is not bytes:
            data = as_bytes(data)
        result = call(self._log, data, len(data), kind)
        if result < 0:
            result = self._overcome(result, call, data, kind)
        return result

    def _overcome(
        self, code: int, call: Callable[..., int], data: bytes, kind: int, *rest: int
    ) -> int:
        """Repeats an append as long as what stopped it (``code``) can be dealt with."""
        while code < 0:
            self._obstacle(code, len(data))
            code = call(self._log, data, len(data), kind, *rest)
        return code

    def _obstacle(self, code: int, size: int) -> None:
        """Makes what stopped an append of ``size`` bytes go away, or raises."""
        if size > PAYLOAD_BYTES_MAX:
            raise LimitError(f"an entry holds at most {PAYLOAD_BYTES_MAX} bytes, not {size}")
        if code == lib.KV_E_FULL:
            self._make_room(entry_bytes(size))
            return
        if code == lib.KV_E_BUSY:
            raise KVStoreError(f"{self._path}: {lib.KV_TICKETS_MAX} writes wait to be applied")
        self._core.fail(code)

    def _make_room(self, size: int) -> None:
        """Lengthens the file, before the entry is accepted: a full disk is met here, and nothing of
        what was queued is touched."""
        with self._room_lock:
            if self._closed:
                return
            end = lib.kv_log_end(self._log)
            if end + size + SPARE_BYTES > self._limit:
                self._lengthen(end + size + SPARE_BYTES)
            # Always: an interrupt may have come in here after the file was made longer.
            self._core.check(lib.kv_log_extend(self._log, self._limit))

    def _lengthen(self, least: int) -> None:
        assert self._file is not None
        growth = min(max(self._limit // 2, 1 << 20), _GROWTH_BYTES_MAX)
        limit = max(self._limit + growth, least)
        limit += -limit % _BLOCK
        # The kernel tells each open file just once of a page that it lost. With one of its own,
        # this sync cannot take that news from the log's; and if it comes, it may be of the log's.
        extension = self._fs.open(self._file.path)
        try:
            extension.preallocate(self._limit, limit - self._limit)
            extension.sync()
        except StorageIOError as error:
            if error.operation == "sync":
                lib.kv_log_fail(self._log, error.errno or errno.EIO)
            raise
        finally:
            extension.close()
        self._limit = limit
