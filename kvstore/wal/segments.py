"""SegmentedWalWriter: a log that goes on from file to file.

A segment is a log file (format.py) with a number. The next one is prepared in the background (the
spare: allocated and filled with zeros), so that going on costs a header, a rename and three syncs.

    prepare the file  ->  SEAL the old segment, durable  ->  header with the old one's end, durable
    ->  rename to its number, directory synced  ->  first entry

A crash between any two leaves a log that ends with the old segment. A full disk is met in the first
step, before the entry that asked for room is accepted, and the next append tries again.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from kvstore import paths
from kvstore.errors import LimitError, StorageIOError
from kvstore.fs import File, FileSystem
from kvstore.native import ffi, lib
from kvstore.wal.config import IoUringConfig
from kvstore.wal.format import HEADER_BYTES, Predecessor, SegmentHeader
from kvstore.wal.reader import LogEnd
from kvstore.wal.writer import NO_SEAL, SPARE_BYTES, PortableWalWriter

__all__ = ["FULL", "LATER", "SEGMENT_BYTES_MIN", "TOO_LARGE", "SegmentedWalWriter"]

# On the path of every write of an event loop.
_try_append = lib.kv_log_try_append
_try_puts = lib.kv_log_try_puts

SEGMENT_BYTES_MIN = 64 << 10
_FIRST_SEGMENT_BYTES = 1 << 20
# What try_append may answer.
LATER, TOO_LARGE, FULL = -errno.EAGAIN, -errno.EMSGSIZE, lib.KV_E_FULL
_GROWTH = 4

# A spare is filled in steps, each synced, with a pause: one sync of 16 MiB keeps the disk from the
# log for 30 to 50 ms, and every writer waits (measured with 64 threads).
_FILL_STEP_BYTES = 256 << 10
_FILL_PAUSE_SECONDS = 0.001


class _Spare:
    """The next segment's file, filled in a thread of its own."""

    def __init__(self, fs: FileSystem, path: str, size: int, *, recycled: bool = False) -> None:
        self.size = size
        self.recycled = recycled
        self._fs, self._path = fs, path
        self._file: File | None = None
        self._abandoned = self._awaited = False
        self._filling = threading.Lock()  # held while it is
        self._filling.acquire()
        self._thread_id = 0
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        self._thread_id = _thread.get_ident()
        try:
            self._fill()
        finally:
            self._thread_id = 0
            self._filling.release()

    def _fill(self) -> None:
        # A failure (a full disk, as a rule) is met again, and reported, when the file is needed.
        with contextlib.suppress(StorageIOError):
            self._file = self._fs.open(self._path, create=True)
            if not self.recycled:
                self._file.truncate(0)
            at = self._file.size()
            try:
                while at < self.size and not self._abandoned:
                    step = min(_FILL_STEP_BYTES, self.size - at)
                    self._file.preallocate(at, step)
                    self._file.sync()
                    at += step
                    if not self._awaited:
                        time.sleep(_FILL_PAUSE_SECONDS)
            except StorageIOError:
                self._file.truncate(0)  # a full disk needs the room for other things

    def take(self) -> File | None:
        """The file, when it is ready; None when preparing it failed."""
        self._awaited = True
        with self._filling:
            file = self._file
        if file is not None and file.size() < self.size:
            self.abandon()
            return None
        return file

    def abandon(self) -> None:
        """Removes the file."""
        self._abandoned = True
        if self._thread_id != _thread.get_ident():  # the garbage collector may be in it
            with self._filling:
                pass
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(StorageIOError):
                self._fs.unlink(self._path)


def _without_interrupts(work: Callable[[], None]) -> None:
    """Does ``work`` where Ctrl-C cannot stop it half-way: it comes to the main thread only."""
    if _thread.get_ident() != threading.main_thread().ident:
        work()
        return
    failures: list[BaseException] = []
    done = threading.Lock()  # held: not yet
    done.acquire()

    def catch() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
        finally:
            done.release()

    try:
        # Not a Thread: an interrupt in its start() can leave it waiting for a lock for ever.
        _thread.start_new_thread(catch, ())
    except RuntimeError:  # no thread can begin while the interpreter ends
        work()
        return
    with done:
        pass
    if failures:
        raise failures[0]


class SegmentedWalWriter(PortableWalWriter):
    """A PortableWalWriter whose log goes on in the next segment of ``directory`` when one is full.

    The first segment, number ``next_segment``, is made by the first append, with ``base_lsn`` as
    its first LSN and ``predecessor`` as the end of what came before; an existing segment (those
    ``finished``: number and last LSN) is never written to. Segments grow from 1 MiB to
    ``segment_bytes``; an entry that is larger gets a larger one. No more than
    ``batches_in_flight`` batches are on their way to the device at a time. Offsets and ``size()``
    count within the current segment. The caller holds the directory's lock.
    """

    def __init__(
        self,
        directory: str,
        config: IoUringConfig | None = None,
        *,
        backend: str = "auto",
        log_id: bytes,
        next_segment: int,
        base_lsn: int,
        predecessor: Predecessor | None,
        finished: Iterable[tuple[int, int]] = (),
        segment_bytes: int = 64 << 20,
        batches_in_flight: int = 1,
        fs: FileSystem | None = None,
    ) -> None:
        if segment_bytes < SEGMENT_BYTES_MIN:
            raise LimitError(
                f"segment_bytes must be {SEGMENT_BYTES_MIN} or more, not {segment_bytes}"
            )
        self._setup(directory, config, fs)
        self._directory = directory
        self._log_id = log_id
        self._next_segment = next_segment
        self._predecessor = predecessor
        self._segment_bytes = segment_bytes
        self._next_bytes = min(_FIRST_SEGMENT_BYTES, segment_bytes)
        self._spare: _Spare | None = None
        self._finished = deque(finished)
        self._keepers = 0
        self._sealed = False
        self._start(directory, backend, record_tickets=True, batches_in_flight=batches_in_flight)
        self._core.check(lib.kv_log_begin(self._log, base_lsn))
        self._closed = False

    @property
    def segment_number(self) -> int:
        """The segment that entries go to; that before the first while nothing was appended."""
        return self._next_segment - 1

    def try_append(self, data: bytes, ticket: int, *, relaxed: bool) -> int:
        """Queues a checksummed entry without waiting; its LSN, or a negative number.

        LATER: there is no room until a batch has completed. TOO_LARGE: only a call that waits can
        take it. FULL: ``remove_obstacle`` makes room in the next file. Any other: it raises.
        """
        return _try_append(self._log, data, len(data), ticket, relaxed)

    def try_append_puts(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes | None],
        ticket: int,
        *,
        deletes: bool,
    ) -> int:
        """The same for many batches of one put or delete (None: when there are ``deletes``) each,
        all of them or none; returns the last one's LSN, whose ticket it is. They become durable
        together."""
        if deletes:
            lengths = array("i", [-1 if value is None else len(value) for value in values])
            values = [value or b"" for value in values]
        else:
            lengths = array("i", [*map(len, values)])  # type: ignore[arg-type]
        return _try_puts(
            self._log,
            len(keys),
            b"".join(keys),
            ffi.from_buffer("uint32_t[]", array("I", [*map(len, keys)])),
            b"".join(values),  # type: ignore[arg-type]
            ffi.from_buffer("int32_t[]", lengths),
            ticket,
        )

    def remove_obstacle(self, code: int, size: int) -> None:
        """Deals with what kept ``try_append`` from taking an entry of ``size`` bytes, or raises the
        error that it was. Waits for the disk."""
        self._obstacle(code, size)

    def ready(self) -> list[int]:
        """Tickets whose turn to be applied has come, each followed by its LSN (LogCore.ready)."""
        return self._core.ready()

    def taken(self, lsn: int) -> None:
        """Everything ready up to ``lsn`` has been applied."""
        self._core.taken(lsn)

    def first_needed(self, lsn: int) -> int:
        """The first segment that holds, or will hold, anything behind ``lsn``."""
        with self._room_lock:
            later = (number for number, last_lsn in self._finished if last_lsn > lsn)
            current = self._next_segment - (self._file is not None)
            return next(later, current)

    def release(self, first_needed: int) -> None:
        """Gives up the segments before that one, as ``recycle`` does, unless somebody keeps them.

        For entries that are elsewhere, durably, by now. A file that cannot be removed stays, and is
        removed on opening.
        """
        while True:
            with self._room_lock:
                if self._keepers or not self._finished or self._finished[0][0] >= first_needed:
                    return
                number, _ = self._finished.popleft()
                with contextlib.suppress(StorageIOError):
                    self._recycle(number)

    @contextlib.contextmanager
    def keep_segments(self) -> Iterator[None]:
        """While the block runs ``release`` gives nothing up: somebody reads the files."""
        with self._room_lock:
            self._keepers += 1
        try:
            yield
        finally:
            with self._room_lock:
                self._keepers -= 1

    def recycle(self, number: int) -> None:
        """Gives segment ``number`` up: its file is kept to become a later segment, or goes.

        Only for a segment whose entries nobody needs any more, and which nobody reads: it is gone
        when this returns, for good. Never for the current one. One file is kept at a time.
        """
        if number >= self.segment_number:
            raise LimitError(f"segment {number} is in use")
        with self._room_lock:
            self._recycle(number)

    def _recycle(self, number: int) -> None:
        path = os.path.join(self._directory, paths.format_segment(number))
        if self._fs.exists(self._recycled_path()) or self._closed:
            self._fs.unlink(path)
        else:
            self._fs.rename(path, self._recycled_path())
        self._fs.sync_directory(self._directory)

    def _make_room(self, size: int) -> None:
        _without_interrupts(lambda: self._rotate_if_full(size))

    def _rotate_if_full(self, size: int) -> None:
        with self._room_lock:
            if self._closed:
                return
            end = lib.kv_log_end(self._log)
            full = end + size + SPARE_BYTES > self._limit
            if self._file is None or self._sealed or full:
                self._rotate(HEADER_BYTES + size + SPARE_BYTES)

    def _rotate(self, bytes_needed: int) -> None:
        file, recycled = self._next_file(bytes_needed)
        went_on = self._file is not None
        try:
            limit = file.size()
            if went_on:
                self._core.check(lib.kv_log_seal(self._log, NO_SEAL))
                self._sealed = True  # should what follows fail, the next append tries again
                end = lib.kv_log_end(self._log)
                self._predecessor = Predecessor(self.segment_number, end, self.last_lsn)
            number = self._next_segment
            header = SegmentHeader.make(
                self._log_id, number, self.last_lsn + 1, self._predecessor, recycled=recycled
            )
            path = os.path.join(self._directory, paths.format_segment(number))
            self._publish(file, header, path)
            self._enter_file(
                file, header, LogEnd(HEADER_BYTES, header.base_lsn - 1, sealed=False), limit
            )
        except BaseException:
            file.close()
            raise
        if went_on and self._predecessor is not None:
            self._finished.append((number - 1, self._predecessor.last_lsn))
        self._sealed = False
        self._next_segment = number + 1
        self._next_bytes = min(self._next_bytes * _GROWTH, self._segment_bytes)
        recycled = self._reuse_recycled()
        with contextlib.suppress(RuntimeError):  # no thread can begin while the interpreter ends
            self._spare = _Spare(self._fs, self._spare_path(), self._next_bytes, recycled=recycled)

    def _next_file(self, bytes_needed: int) -> tuple[File, bool]:
        """A file with room for so much, zero-filled or recycled, under the spare's name."""
        spare, self._spare = self._spare, None
        file = spare.take() if spare is not None else None
        recycled = file is not None and spare is not None and spare.recycled
        try:
            if file is None:
                recycled = self._reuse_recycled()
                file = self._fs.open(self._spare_path(), create=True)
                if not recycled:
                    file.truncate(0)
            size = file.size()
            wanted = max(self._next_bytes, bytes_needed)
            if size < wanted:
                file.preallocate(size, wanted - size)
                file.sync()
        except BaseException:
            if file is not None:
                file.close()
                with contextlib.suppress(StorageIOError):
                    self._fs.unlink(self._spare_path())  # a full disk needs its room
            raise
        return file, recycled

    def _reuse_recycled(self) -> bool:
        """Makes the file that was kept, if there is one, the spare."""
        kept = self._recycled_path()
        if not self._fs.exists(kept):
            return False
        self._fs.rename(kept, self._spare_path())
        return True

    def _spare_path(self) -> str:
        return os.path.join(self._directory, paths.SPARE)

    def _recycled_path(self) -> str:
        return os.path.join(self._directory, paths.RECYCLED)

    def _seal_and_trim(self) -> None:
        if self._file is not None:
            super()._seal_and_trim()

    def _release(self) -> None:
        if self._spare is not None:
            self._spare.abandon()
        with contextlib.suppress(StorageIOError):
            if self._fs.exists(self._recycled_path()):
                self._fs.unlink(self._recycled_path())
        super()._release()
