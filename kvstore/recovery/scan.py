"""Reading a store's log, without changing anything: the chain of segments, and where it ends."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from kvstore import paths
from kvstore.errors import CorruptionError, FormatError, KVStoreError
from kvstore.fs import FileSystem
from kvstore.manifest import Version
from kvstore.memtable import MemTable
from kvstore.recovery.replay import replay
from kvstore.wal import Damage, LogEnd, LogReader
from kvstore.wal.format import HEADER_BYTES, SegmentHeader

__all__ = ["LogState", "Segment", "list_segments", "read_log"]

_ADVICE = (
    "Restore a backup, or consent to lose what follows with recovery='point_in_time', "
    "or export what is readable with recovery='salvage'"
)


@dataclass(frozen=True)
class Segment:
    """A log file in the store's directory."""

    number: int
    path: str


@dataclass
class LogState:
    """What reading the log found. ``last`` and ``end``: the segment in which the log ends, and
    where; None in an empty store. ``dropped``: segments behind damage that the mode consents to
    lose. ``finished``: the number and last LSN of each segment that was read."""

    files: int = 0
    entries: int = 0
    log_bytes: int = 0
    log_id: bytes | None = None
    last: Segment | None = None
    end: LogEnd | None = None
    damage: list[Damage] = field(default_factory=list)
    dropped: list[Segment] = field(default_factory=list)
    finished: list[tuple[int, int]] = field(default_factory=list)


def list_segments(fs: FileSystem, directory: str) -> list[Segment]:
    """The log's segments in order; names that are not ours are passed over."""
    numbers = (paths.parse_segment(name) for name in fs.list(directory))
    return [
        Segment(number, os.path.join(directory, paths.format_segment(number)))
        for number in sorted(number for number in numbers if number is not None)
    ]


def read_log(
    fs: FileSystem, segments: list[Segment], mode: str, memtable: MemTable, version: Version
) -> LogState:
    """Replays what of ``segments`` is not in ``version``'s tables into ``memtable``; afterwards the
    caller knows what may be changed on disk.

    Raises CorruptionError for damage that ``mode`` does not allow, FormatError, StorageIOError.
    """
    state = LogState(log_id=version.log_id)
    chain = _read_chain(fs, segments, mode, state, version)
    flushed_lsn = version.flushed_lsn
    for index, (segment, header) in enumerate(chain):
        says = chain[index + 1][1].predecessor if index + 1 < len(chain) else None
        if says is not None and says.segment_number != segment.number:
            says = None  # salvage goes on over a missing segment
        cut_here = False
        file = fs.open_read_only(segment.path)
        try:
            reader = LogReader(file, successor_says=says, salvage=mode == "salvage")
            try:
                replay(
                    reader,
                    memtable,
                    segment.path,
                    after_lsn=flushed_lsn,
                    salvage=mode == "salvage",
                )
                end = reader.end
            except CorruptionError as error:
                if mode != "point_in_time":
                    raise _advised(error) from None
                cut_here, end = True, reader.position
                if error.offset < end.offset:  # sound to the reader, but not a batch
                    end = LogEnd(error.offset, memtable.last_lsn, sealed=False)
                state.damage.append(_damage(error, end, file.size()))
                state.dropped[:0] = [later for later, _ in chain[index + 1 :]]
        finally:
            file.close()
        assert end is not None
        state.damage += reader.damage
        state.files += 1
        state.entries += reader.entry_count
        state.log_bytes += end.offset
        state.last, state.end, state.log_id = segment, end, header.log_id
        state.finished.append((segment.number, end.last_lsn))
        if mode == "strict" and end.torn_bytes:
            raise CorruptionError(
                segment.path,
                end.offset,
                f"strict mode refuses a torn tail: {end.torn_bytes} bytes ({end.torn_reason})",
                "recovery='tolerate_torn_tail' cuts it: none of it was ever acknowledged",
            )
        if cut_here:
            break
    last_lsn = max(state.end.last_lsn if state.end else 0, flushed_lsn)
    memtable.loaded(flushed_lsn + 1, last_lsn)
    return state


def _read_chain(
    fs: FileSystem, segments: list[Segment], mode: str, state: LogState, version: Version
) -> list[tuple[Segment, SegmentHeader]]:
    """The headers, each checked against the one before; the first and the last against the
    manifest."""
    chain: list[tuple[Segment, SegmentHeader]] = []
    try:
        _check_all_there(segments, version)
    except CorruptionError as error:
        if mode not in ("point_in_time", "salvage"):
            raise _advised(error) from None
        state.damage.append(_damage(error, None, 0))
        first = segments[0].number if segments else 0
        if mode == "point_in_time" and first > version.log_number > 0:
            state.dropped = segments  # the damage is before all that is there
            return chain
    for index, segment in enumerate(segments):
        try:
            header = _read_header(fs, segment)
            if chain or not version.log_number:
                _check_link(segment, header, chain[-1] if chain else None)
            else:
                _check_first(segment, header, version)
        except CorruptionError as error:
            if mode == "point_in_time":
                state.damage.append(_damage(error, None, HEADER_BYTES))
                state.dropped = segments[index:]
                break
            if mode != "salvage":
                raise _advised(error) from None
            state.damage.append(_damage(error, None, HEADER_BYTES))
            if not error.offset or not _belongs(segment, header, chain):
                continue  # no header, no salt; or what another log says of the same keys
        chain.append((segment, header))
    return chain


def _read_header(fs: FileSystem, segment: Segment) -> SegmentHeader:
    file = fs.open_read_only(segment.path)
    try:
        block = file.pread(HEADER_BYTES, 0)
    finally:
        file.close()
    try:
        return SegmentHeader.decode(block, segment.path)
    except FormatError as error:
        if block.startswith(b"KVSTWAL\n") and len(block) == HEADER_BYTES:
            raise  # whole, and of a newer version
        # A segment gets its name only when its header is durable, so this one was whole once.
        raise CorruptionError(segment.path, 0, error.reason) from None


def _belongs(
    segment: Segment, header: SegmentHeader, chain: list[tuple[Segment, SegmentHeader]]
) -> bool:
    own = not chain or header.log_id == chain[0][1].log_id
    return own and header.segment_number == segment.number


def _check_all_there(segments: list[Segment], version: Version) -> None:
    """The manifest knows the first segment that is needed, and the newest there was."""
    first, newest = version.log_number, version.newest_segment
    missing = 0
    if first and segments and segments[0].number != first:
        missing = first
    elif newest >= first and newest and (not segments or segments[-1].number < newest):
        missing = newest
    if missing:
        directory = os.path.dirname(segments[0].path) if segments else ""
        path = os.path.join(directory, paths.format_segment(missing))
        raise CorruptionError(path, 0, "the manifest names this log segment, and it is missing")


def _check_first(segment: Segment, header: SegmentHeader, version: Version) -> None:
    """The first segment that is still needed: those before it may be gone."""
    predecessor = header.predecessor
    if predecessor is not None and predecessor.segment_number < segment.number:
        before = Segment(predecessor.segment_number, segment.path), header
    else:
        before = None
    _check_link(segment, header, before)
    if version.log_id and header.log_id != version.log_id:
        raise CorruptionError(segment.path, 16, "it belongs to another store")


def _check_link(
    segment: Segment, header: SegmentHeader, before: tuple[Segment, SegmentHeader] | None
) -> None:
    def wrong(reason: str) -> CorruptionError:
        return CorruptionError(segment.path, 16, reason)

    if header.segment_number != segment.number:
        raise wrong(f"it says that it is segment {header.segment_number}")
    predecessor = header.predecessor
    expected = before[0].number if before else 0
    named = predecessor.segment_number if predecessor else 0
    if named != expected:
        if named:
            raise wrong(f"it continues segment {named}, which is missing")
        raise wrong(f"it says that nothing came before, but there is segment {expected}")
    if before is not None and header.log_id != before[1].log_id:
        raise wrong("it belongs to another store")
    if predecessor is not None and header.base_lsn != predecessor.last_lsn + 1:
        raise wrong(
            f"it begins with LSN {header.base_lsn}, but its predecessor ended with "
            f"{predecessor.last_lsn}"
        )


def _damage(error: CorruptionError, end: LogEnd | None, end_offset: int) -> Damage:
    first = end.last_lsn + 1 if end else 0
    return Damage(error.path, error.offset, end_offset, first, None, error.reason)


def _advised(error: CorruptionError) -> KVStoreError:
    """The same error, saying what can be done."""
    if _ADVICE not in error.args[0]:
        error.advice = _ADVICE
        error.args = (f"{error.args[0]}. {_ADVICE}",)
    return error
