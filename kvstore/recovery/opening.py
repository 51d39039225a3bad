"""The open protocol of a store, top to bottom.

    1. lock        nobody else may look or write
    2. settle      fsync every segment and the directory: no decision on bytes that are only in the
                   page cache, which a power cut could take back after the decision
    3. tables      those that the manifest names, each opened
    4. read        replay every batch that is in no table into a memtable (scan.py). Up to here
                   nothing on disk is changed
    5. publish     set aside what the mode consented to drop, save and cut what a crash left behind
                   the end. A segment once recovered is never appended to
    6. clean up    now that the state is known: what a crash left half made, or not yet removed

Every step may be cut short by another crash: reading decides the same again, since 5 goes from the
last segment towards the first and saves before it cuts.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import time
from dataclasses import dataclass

from kvstore import paths
from kvstore.errors import CorruptionError, DiskFullError, FormatError, storage_error
from kvstore.fs import FileSystem, Lock
from kvstore.manifest import ManifestLog, TableMeta, Version, VersionEdit, orphans
from kvstore.memtable import MemTable
from kvstore.options import Options
from kvstore.recovery.report import RecoveryReport
from kvstore.recovery.scan import LogState, Segment, list_segments, read_log
from kvstore.sstable import Table
from kvstore.tree import Tree, open_table
from kvstore.wal import Damage
from kvstore.wal.format import Predecessor
from kvstore.wal.tail import cut_tail, used_bytes

__all__ = ["Recovered", "open_store"]


@dataclass(frozen=True)
class Recovered:
    """A store's state as its files tell it, and where the log goes on. ``finished``: the number
    and last LSN of the log segments that are there."""

    lock: Lock
    tree: Tree
    report: RecoveryReport
    log_id: bytes
    next_segment: int
    base_lsn: int
    predecessor: Predecessor | None
    finished: tuple[tuple[int, int], ...]


def open_store(fs: FileSystem, directory: str, options: Options) -> Recovered:
    """Opens ``directory`` by the protocol above. Whatever it raises, the lock is released.

    Raises LockedError, CorruptionError, FormatError, StorageIOError.
    """
    began = time.monotonic()
    _prepare_directory(fs, directory, options)
    with contextlib.ExitStack() as undo:
        lock = fs.lock(os.path.join(directory, paths.LOCK))
        undo.callback(lock.release)
        found = _read(fs, directory, options)
        state, version = found.log, found.version
        end = _log_end(state, version)
        saved: list[str] = []
        manifest = None
        if options.recovery != "salvage":
            saved = _publish(fs, directory, state)
            if found.manifest_name is not None:
                manifest = _open_manifest(fs, directory, needed=end.edit != VersionEdit())
            if manifest is not None:
                undo.callback(manifest.close)
                if end.edit != VersionEdit():
                    version = manifest.append(end.edit)
            # The edit may have made the manifest too long, and begun another.
            name = manifest.name if manifest is not None else found.manifest_name
            _clean_up(fs, directory, version, name, settled=manifest is not None)
        log_id = state.log_id or version.log_id or os.urandom(16)
        tree = Tree(
            fs,
            directory,
            options,
            version=version,
            tables=found.tables,
            manifest=manifest,
            memtable=found.memtable,
            log_id=log_id,
        )
        undo.pop_all()
    return Recovered(
        lock=lock,
        tree=tree,
        report=_report(directory, options.recovery, state, saved, time.monotonic() - began),
        log_id=log_id,
        next_segment=end.next_segment,
        base_lsn=end.base_lsn,
        predecessor=end.predecessor,
        finished=tuple(state.finished) if end.predecessor else (),
    )


@dataclass(frozen=True)
class _Found:
    """What the files say: steps 2 to 4."""

    manifest_name: str | None
    version: Version
    tables: dict[int, Table]
    memtable: MemTable
    log: LogState


def _read(fs: FileSystem, directory: str, options: Options) -> _Found:
    mode = options.recovery
    there = list_segments(fs, directory)
    if mode != "salvage":
        _settle(fs, directory, there)
    damage: list[Damage] = []
    named = _read_manifest(fs, directory, mode, damage)
    said, manifest_name = named if named else (Version.EMPTY, None)
    version, tables = _open_tables(fs, directory, said, mode, damage)
    segments = [segment for segment in there if segment.number >= version.log_number]
    memtable = MemTable()
    log = read_log(fs, segments, mode, memtable, version)
    log.damage[:0] = damage
    return _Found(manifest_name, version, tables, memtable, log)


def _prepare_directory(fs: FileSystem, directory: str, options: Options) -> None:
    if fs.exists(directory) and not fs.is_directory(directory):
        raise storage_error(errno.ENOTDIR, "open store", directory)
    there = fs.is_directory(directory) and any(
        name in (paths.LOCK, paths.CURRENT) or paths.parse_segment(name)
        for name in fs.list(directory)
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


def _read_manifest(
    fs: FileSystem, directory: str, mode: str, damage: list[Damage]
) -> tuple[Version, str] | None:
    """The tables there are, and the name of what says so; None before there ever was one, or when
    salvage cannot know."""
    try:
        return ManifestLog.read(fs, directory, mode)
    except CorruptionError as error:
        if mode != "salvage":
            raise
        damage.append(Damage(error.path, error.offset, error.offset, 0, None, error.reason))
        return None


def _open_manifest(fs: FileSystem, directory: str, *, needed: bool) -> ManifestLog | None:
    """Ready for the next edit; None on a full disk, unless it is ``needed`` at once: what is there
    can be read, and the tree tries again."""
    try:
        return ManifestLog.open(fs, directory)
    except DiskFullError:
        if needed:
            raise
        return None


def _open_tables(
    fs: FileSystem, directory: str, version: Version, mode: str, damage: list[Damage]
) -> tuple[Version, dict[int, Table]]:
    """Every table of the version, open; in salvage mode those that cannot be are left out of it."""
    tables: dict[int, Table] = {}
    lost: list[tuple[int, int]] = []
    for level, metas in enumerate(version.levels):
        for meta in metas:
            try:
                tables[meta.number] = open_table(fs, directory, meta)
            except (CorruptionError, FormatError) as error:  # noqa: PERF203 (each on its own)
                if mode != "salvage":
                    raise
                damage.append(_table_damage(directory, meta, error))
                lost.append((level, meta.number))
    return version.apply(VersionEdit(removed=tuple(lost))) if lost else version, tables


def _table_damage(directory: str, meta: TableMeta, error: CorruptionError | FormatError) -> Damage:
    path = os.path.join(directory, paths.format_table(meta.number))
    offset = error.offset if isinstance(error, CorruptionError) else 0
    return Damage(path, offset, meta.bytes, meta.first_lsn, meta.last_lsn, error.reason)


@dataclass(frozen=True)
class _LogEnd:
    """Where the log goes on, and what the manifest has to be told about it."""

    next_segment: int
    base_lsn: int
    predecessor: Predecessor | None
    edit: VersionEdit


def _log_end(state: LogState, version: Version) -> _LogEnd:
    number = state.last.number if state.last else max(version.log_number, 1) - 1
    if state.last and state.end and state.end.last_lsn >= version.flushed_lsn:
        # A newer segment that the manifest names is missing, and the mode consented to that.
        lost = version.newest_segment > number
        edit = VersionEdit(newest_segment=number) if lost else VersionEdit()
        predecessor = Predecessor(number, state.end.offset, state.end.last_lsn)
        return _LogEnd(number + 1, state.end.last_lsn + 1, predecessor, edit)
    # All that the log holds, or held, is in tables: it begins anew.
    edit = VersionEdit()
    if number >= version.log_number or version.newest_segment > number:
        edit = VersionEdit(log_number=number + 1, newest_segment=0)
    return _LogEnd(number + 1, version.flushed_lsn + 1, None, edit)


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


def _clean_up(
    fs: FileSystem, directory: str, version: Version, manifest_name: str | None, *, settled: bool
) -> None:
    """``settled``: CURRENT is durable, so an older manifest cannot come to count again."""
    names = [name for name in (paths.SPARE, paths.RECYCLED) if name in fs.list(directory)]
    names += [
        os.path.basename(segment.path)
        for segment in list_segments(fs, directory)
        if segment.number < version.log_number
    ]
    leftovers = orphans(fs, directory, version, manifest_name)
    if manifest_name is not None and not settled:
        leftovers = [name for name in leftovers if paths.parse_manifest(name) is None]
    for name in names + leftovers:
        fs.unlink(os.path.join(directory, name))


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
