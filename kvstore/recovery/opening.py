"""The open protocol of a store, top to bottom.

    1. lock        nobody else may look or write
    2. settle      fsync every segment and the directory: no decision on bytes that are only in the
                   page cache, which a power cut could take back after the decision
    3. read        replay every batch into a memtable; nothing on disk is changed (scan.py)
    4. publish     set aside what the mode consented to drop, save and cut what a crash left behind
                   the end. A segment once recovered is never appended to
    5. clean up    the spare files of a process that was killed

Every step may be cut short by another crash: reading decides the same again, since 4 goes from the
last segment towards the first and saves before it cuts.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from dataclasses import dataclass

from kvstore import paths
from kvstore.errors import storage_error
from kvstore.fs import FileSystem, Lock
from kvstore.memtable import MemTable
from kvstore.options import Options
from kvstore.recovery.report import RecoveryReport
from kvstore.recovery.scan import LogState, Segment, list_segments, read_log
from kvstore.wal.format import Predecessor
from kvstore.wal.tail import cut_tail, used_bytes

__all__ = ["Recovered", "open_store"]


@dataclass(frozen=True)
class Recovered:
    """A store's state as its log tells it, and where the log goes on."""

    lock: Lock
    memtable: MemTable
    report: RecoveryReport
    log_id: bytes
    next_segment: int
    base_lsn: int
    predecessor: Predecessor | None


def open_store(fs: FileSystem, directory: str, options: Options) -> Recovered:
    """Opens ``directory`` by the protocol above. Whatever it raises, the lock is released.

    Raises LockedError, CorruptionError, FormatError, StorageIOError.
    """
    began = time.monotonic()
    read_only = options.recovery == "salvage"
    _prepare_directory(fs, directory, options)
    lock = fs.lock(os.path.join(directory, paths.LOCK))
    try:
        segments = list_segments(fs, directory)
        if not read_only:
            _settle(fs, directory, segments)
        memtable = MemTable()
        state = read_log(fs, segments, options.recovery, memtable)
        saved = [] if read_only else _publish(fs, directory, state)
        if not read_only:
            _clean_up(fs, directory)
    except BaseException:
        lock.release()
        raise
    return Recovered(
        lock=lock,
        memtable=memtable,
        report=_report(directory, options.recovery, state, saved, time.monotonic() - began),
        log_id=state.log_id or os.urandom(16),
        next_segment=state.last.number + 1 if state.last else 1,
        base_lsn=state.end.last_lsn + 1 if state.end else 1,
        predecessor=_predecessor(state),
    )


def _prepare_directory(fs: FileSystem, directory: str, options: Options) -> None:
    if fs.exists(directory) and not fs.is_directory(directory):
        raise storage_error(errno.ENOTDIR, "open store", directory)
    there = fs.is_directory(directory) and any(
        name == paths.LOCK or paths.parse_segment(name) for name in fs.list(directory)
    )
    if there and options.error_if_exists:
        raise storage_error(errno.EEXIST, "create store", directory)
    if not there and (not options.create_if_missing or options.recovery == "salvage"):
        raise storage_error(errno.ENOENT, "open store", directory)
    fs.make_directory(directory)


def _settle(fs: FileSystem, directory: str, segments: list[Segment]) -> None:
    for segment in segments:
        file = fs.open(segment.path)
        try:
            file.sync()
        finally:
            file.close()
    fs.sync_directory(directory)


def _publish(fs: FileSystem, directory: str, state: LogState) -> list[str]:
    """Makes the disk say what was decided; the files that keep what was removed."""
    saved = []
    for segment in reversed(state.dropped):
        kept = _unused_name(fs, directory, os.path.basename(segment.path))
        fs.rename(segment.path, kept)
        fs.sync_directory(directory)
        saved.append(kept)
    if state.last is not None and state.end is not None:
        file = fs.open(state.last.path)
        try:
            tail_bytes = state.end.torn_bytes
            if state.damage:
                tail_bytes = used_bytes(file, state.end.offset)
            torn = cut_tail(fs, file, state.end.offset, tail_bytes)
        finally:
            file.close()
        saved += [torn] if torn else []
    return saved


def _unused_name(fs: FileSystem, directory: str, segment_name: str) -> str:
    there = set(fs.list(directory))
    names = (paths.format_dropped(segment_name, count) for count in itertools.count(1))
    return os.path.join(directory, next(name for name in names if name not in there))


def _clean_up(fs: FileSystem, directory: str) -> None:
    for name in (paths.SPARE, paths.RECYCLED):
        path = os.path.join(directory, name)
        if fs.exists(path):
            fs.unlink(path)


def _predecessor(state: LogState) -> Predecessor | None:
    if state.last is None or state.end is None:
        return None
    return Predecessor(state.last.number, state.end.offset, state.end.last_lsn)


def _report(
    directory: str, mode: str, state: LogState, saved: list[str], seconds: float
) -> RecoveryReport:
    end = state.end
    return RecoveryReport(
        path=directory,
        mode=mode,
        files=state.files,
        entries=state.entries,
        bytes=state.log_bytes,
        torn_bytes=end.torn_bytes if end else 0,
        torn_reason=end.torn_reason if end else "",
        saved=tuple(saved),
        damage=tuple(state.damage),
        sealed=end.sealed if end else False,
        last_lsn=end.last_lsn if end else 0,
        seconds=seconds,
    )
