"""A version edit, format version 1: the specification, and its codec.

An edit says what changed in the set of sorted tables and in what goes with it. The manifest is a
log of edits, framed as ``wal/format.py`` says; one edit is the payload of one CHECKED entry, so it
is there whole or not at all. All numbers are little-endian. An edit is a row of records::

    +-------+------------+----------+
    | tag u8| length u32 |   body   |   length counts the body
    +-------+------------+----------+

    tag                  body
      1  SNAPSHOT        none: the edit begins from nothing. The first edit of each manifest does,
                         and no other
      2  LOG ID          16 bytes: the identity of the store's log (wal/format.py)
      3  FLUSHED LSN     u64: every write up to here is in a table, or was superseded by one that is
      4  LOG NUMBER      u64: the first log segment that is still needed
      5  NEWEST SEGMENT  u64: the newest log segment there was when this was written, 0 = none; that
                         it is missing at open is damage
      6  NEXT TABLE      u64: the next free table number; those below may have been used
      7  REMOVED         level u8 | table number u64
      8  ADDED           level u8 | table number u64 | file bytes u64 | entries u64 | tombstones u64
                         | key bytes u64 | value bytes u64 | first LSN u64 | last LSN u64
                         | length of the smallest key u32 | smallest key | largest key
    128..255             not known to this version, safe to ignore

Records stand in the order of their tags. Tags 1 to 6 occur at most once; what an edit does not name
stays as it was. A table that changes its level is removed and added in one edit. Any other tag is
of a newer version that must not be ignored.

    level         0 to 6
    table number  1 to 10**19 - 1; segment numbers alike
    LSN           0 to 2**56 - 1; first LSN <= last LSN
    entries       1 or more, tombstones (deleted keys) counted; tombstones <= entries
    keys          1 to 65536 bytes; smallest <= largest, bytewise

Worked example: the flush that made table 7, of 4096 bytes, of the writes with LSN 1 to 3; keys "a"
to "c", of which one is deleted. Segment 2 is now the first that is needed, and the newest::

    03 08000000 0300000000000000
    04 08000000 0200000000000000
    05 08000000 0200000000000000
    06 08000000 0800000000000000
    08 47000000 00 0700000000000000 0010000000000000 0300000000000000 0100000000000000
                0300000000000000 0a00000000000000 0100000000000000 0300000000000000
                01000000 61 63
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from kvstore.errors import CorruptionError, FormatError, LimitError
from kvstore.options import KEY_BYTES_MAX
from kvstore.paths import NUMBER_MAX
from kvstore.wal.format import LSN_MAX

__all__ = ["LEVELS", "TableMeta", "VersionEdit", "table_problem"]

# Part of the format.
LEVELS = 7
LOG_ID_BYTES = 16
SNAPSHOT, LOG_ID, FLUSHED_LSN, LOG_NUMBER, NEWEST_SEGMENT, NEXT_TABLE, REMOVED, ADDED = range(1, 9)
IGNORABLE = 128
_RECORD = struct.Struct("<BI")
_U64 = struct.Struct("<Q")
_REMOVED = struct.Struct("<BQ")
_ADDED = struct.Struct("<BQQQQQQQQI")

_U64_MAX = (1 << 64) - 1
# field of VersionEdit -> (tag, smallest, largest)
_NUMBERS = {
    "flushed_lsn": (FLUSHED_LSN, 0, LSN_MAX),
    "log_number": (LOG_NUMBER, 0, NUMBER_MAX),
    "newest_segment": (NEWEST_SEGMENT, 0, NUMBER_MAX),
    "next_table": (NEXT_TABLE, 1, NUMBER_MAX),
}
_NAMES = {tag: name for name, (tag, _, _) in _NUMBERS.items()}

Key: TypeAlias = bytes  # in TableMeta the builtin's name is a field's


@dataclass(frozen=True)
class TableMeta:
    """What the manifest knows of a sorted table; immutable.

    ``bytes``                   the file's size
    ``entries, tombstones``     keys in it, and how many of them are deleted ones
    ``key_bytes, value_bytes``  as given, before prefixes and compression
    ``first_lsn, last_lsn``     of the writes that are in it
    ``smallest, largest``       its first and last key
    """

    number: int
    bytes: int
    entries: int
    tombstones: int
    key_bytes: int
    value_bytes: int
    first_lsn: int
    last_lsn: int
    smallest: Key
    largest: Key


@dataclass(frozen=True)
class VersionEdit:
    """A change of the version; immutable. None: as it was. The fields stand in the module's text.

    ``added`` holds (level, table), ``removed`` holds (level, table number).
    """

    added: tuple[tuple[int, TableMeta], ...] = ()
    removed: tuple[tuple[int, int], ...] = ()
    flushed_lsn: int | None = None
    log_number: int | None = None
    newest_segment: int | None = None
    next_table: int | None = None
    log_id: bytes | None = None
    snapshot: bool = False

    def encode(self) -> bytes:
        """The payload of a manifest entry. O(bytes). Raises LimitError; nothing is masked."""
        return b"".join(_RECORD.pack(tag, len(body)) + body for tag, body in self._records())

    def _records(self) -> Iterator[tuple[int, bytes]]:
        if self.snapshot:
            yield SNAPSHOT, b""
        if self.log_id is not None:
            if len(self.log_id) != LOG_ID_BYTES:
                raise LimitError(f"a log id has {LOG_ID_BYTES} bytes, not {len(self.log_id)}")
            yield LOG_ID, self.log_id
        for name, (tag, _, _) in _NUMBERS.items():
            number = getattr(self, name)
            if number is not None:
                _refuse(_number_problem(name, number))
                yield tag, _U64.pack(number)
        for level, removed in self.removed:
            _refuse(_place_problem(level, removed))
            yield REMOVED, _REMOVED.pack(level, removed)
        for level, table in self.added:
            _refuse(table_problem(level, table))
            yield ADDED, _encode_table(level, table)

    @classmethod
    def decode(cls, data: bytes, path: str, offset: int) -> VersionEdit:
        """The edit in ``data``, which stood at ``offset`` of the file ``path``. O(bytes).

        Raises CorruptionError for what no version wrote, FormatError for what only a newer one
        could have written. Needs no more memory than a few times ``data``.
        """
        return _Decoder(data, path, offset).edit()


class _Decoder:
    """Reads one edit; knows where it is, for the errors' sake."""

    def __init__(self, data: bytes, path: str, offset: int) -> None:
        self._data = data
        self._path = path
        self._offset = offset
        self._at = 0

    def edit(self) -> VersionEdit:
        snapshot, log_id = False, None
        numbers: dict[str, int] = {}
        added: list[tuple[int, TableMeta]] = []
        removed: list[tuple[int, int]] = []
        for tag, body in self._records():
            if tag == SNAPSHOT:
                self._want(len(body) == 0, "a snapshot record with a body")
                snapshot = True
            elif tag == LOG_ID:
                self._want(len(body) == LOG_ID_BYTES, f"a log id of {len(body)} bytes")
                log_id = body
            elif tag in _NAMES:
                self._want(len(body) == _U64.size, f"record {tag} has {len(body)} bytes, not 8")
                (number,) = _U64.unpack(body)
                self._accept(_number_problem(_NAMES[tag], number))
                numbers[_NAMES[tag]] = number
            elif tag == REMOVED:
                self._want(len(body) == _REMOVED.size, f"a removal of {len(body)} bytes")
                level, number = _REMOVED.unpack(body)
                self._accept(_place_problem(level, number))
                removed.append((level, number))
            else:
                added.append(self._table(body))
        return VersionEdit(
            added=tuple(added),
            removed=tuple(removed),
            log_id=log_id,
            snapshot=snapshot,
            **numbers,
        )

    def _records(self) -> Iterator[tuple[int, bytes]]:
        """Tag and body of those that this version knows; afterwards ``_at`` is the end."""
        before = 0
        while self._at < len(self._data):
            begin = self._at + _RECORD.size
            self._want(begin <= len(self._data), "the edit ends within a record's head")
            tag, length = _RECORD.unpack_from(self._data, self._at)
            self._want(length <= len(self._data) - begin, f"record {tag} is longer than the edit")
            if not SNAPSHOT <= tag <= ADDED and tag < IGNORABLE:
                self._want(tag != 0, "record 0, which no version writes")
                raise FormatError(
                    self._path,
                    f"offset {self._offset + self._at}: an edit holds record {tag}, "
                    "which only a newer version of kvstore knows; upgrade",
                )
            once = tag <= NEXT_TABLE
            in_order = before < tag or (before == tag and not once)
            self._want(in_order, f"record {tag} behind record {before}")
            if tag < IGNORABLE:
                yield tag, self._data[begin : begin + length]
            before, self._at = tag, begin + length

    def _table(self, body: bytes) -> tuple[int, TableMeta]:
        self._want(len(body) >= _ADDED.size, f"an added table of {len(body)} bytes")
        level, *numbers, smallest_bytes = _ADDED.unpack_from(body)
        middle = _ADDED.size + smallest_bytes
        self._want(middle <= len(body), "a table's smallest key is longer than its record")
        fields = [*numbers, body[_ADDED.size : middle], body[middle:]]
        table = TableMeta(*fields)
        self._accept(table_problem(level, table))
        return level, table

    def _want(self, holds: bool, problem: str) -> None:
        if not holds:
            self._accept(problem)

    def _accept(self, problem: str | None) -> None:
        if problem is not None:
            reason = f"no valid version edit: {problem}"
            raise CorruptionError(self._path, self._offset + self._at, reason)


def _encode_table(level: int, table: TableMeta) -> bytes:
    head = _ADDED.pack(
        level,
        table.number,
        table.bytes,
        table.entries,
        table.tombstones,
        table.key_bytes,
        table.value_bytes,
        table.first_lsn,
        table.last_lsn,
        len(table.smallest),
    )
    return head + table.smallest + table.largest


def table_problem(level: int, table: TableMeta) -> str | None:
    """What keeps ``table`` from being one that a manifest may list in ``level``; None: nothing."""
    return next(_table_problems(level, table), None)


def _table_problems(level: int, table: TableMeta) -> Iterator[str]:
    place = _place_problem(level, table.number)
    if place is not None:
        yield place
    who = f"table {table.number}"
    for name in ("bytes", "entries", "tombstones", "key_bytes", "value_bytes"):
        if not 0 <= getattr(table, name) <= _U64_MAX:
            yield f"{who}: {name} is {getattr(table, name)}"
    if not table.entries:
        yield f"{who} has no entries"
    if table.tombstones > table.entries:
        yield f"{who} has {table.tombstones} tombstones among {table.entries} entries"
    if not 0 <= table.first_lsn <= table.last_lsn <= LSN_MAX:
        yield f"{who} holds the LSNs {table.first_lsn} to {table.last_lsn}"
    for key in (table.smallest, table.largest):
        if not 1 <= len(key) <= KEY_BYTES_MAX:
            yield f"{who} is bounded by a key of {len(key)} bytes"
    if table.smallest > table.largest:
        yield f"{who}: its smallest key is larger than its largest"


def _place_problem(level: int, number: int) -> str | None:
    if not 0 <= level < LEVELS:
        return f"table {number} is in level {level}"
    if not 1 <= number <= NUMBER_MAX:
        return f"{number} is no table's number"
    return None


def _number_problem(name: str, number: int) -> str | None:
    _, smallest, largest = _NUMBERS[name]
    return None if smallest <= number <= largest else f"{name} is {number}"


def _refuse(problem: str | None) -> None:
    if problem is not None:
        raise LimitError(problem)
