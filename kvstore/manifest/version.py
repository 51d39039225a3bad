"""Version: which sorted tables there are, at one moment. Immutable, so readers need no lock."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar, TypeVar

from kvstore.manifest.edit import LEVELS, TableMeta, VersionEdit, table_problem

__all__ = ["LEVELS", "TableMeta", "Version", "VersionError"]

_T = TypeVar("_T")
_NO_LEVELS: tuple[tuple[TableMeta, ...], ...] = ((),) * LEVELS


class VersionError(ValueError):
    """An edit does not fit the version it is applied to; ``reason`` says why.

    A mistake of the caller's, or, when the edit was read, damage: log.py then says where.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Version:
    """The tables of each level, and how far they reach into the log. Immutable; thread-safe.

    ``levels``          7 of them. Level 0: newest first (by descending last LSN, then number); its
                        tables may overlap, and then hold disjoint ranges of LSNs. The others: by
                        smallest key, disjoint. Of one key, what a smaller level says is newer.
    ``flushed_lsn``     every write up to here is in a table, or was superseded by one that is
    ``log_number``      the first log segment that is still needed; 0 before anybody said so
    ``newest_segment``  the newest log segment there was; 0 = none
    ``next_table``      the next free table number
    ``log_id``          the identity of the store's log, 16 bytes; empty before anybody said so
    """

    EMPTY: ClassVar[Version]

    levels: tuple[tuple[TableMeta, ...], ...] = _NO_LEVELS
    flushed_lsn: int = 0
    log_number: int = 0
    newest_segment: int = 0
    next_table: int = 1
    log_id: bytes = b""
    # By number, for each level; handed on from version to version where nothing changed.
    _numbers: tuple[dict[int, TableMeta], ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self._numbers:
            numbers = tuple({table.number: table for table in level} for level in self.levels)
            object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def empty(cls) -> Version:
        """That of a new store; also ``Version.EMPTY``."""
        return cls.EMPTY

    def apply(self, edit: VersionEdit) -> Version:
        """The version after ``edit``; this one stays as it is.

        Raises VersionError when a table is removed that is not there or added that is, when tables
        of a deeper level overlap, when a table's number was not below ``next_table``, or when
        ``flushed_lsn``, ``log_number``, ``next_table`` or ``log_id`` would be taken back. O(tables
        of the levels that change).
        """
        if edit.snapshot:
            return Version.EMPTY.apply(replace(edit, snapshot=False))
        after = replace(
            self,
            flushed_lsn=self._forward("flushed_lsn", edit.flushed_lsn),
            log_number=self._forward("log_number", edit.log_number),
            next_table=self._forward("next_table", edit.next_table),
            newest_segment=_default(edit.newest_segment, self.newest_segment),
            log_id=_default(edit.log_id, self.log_id),
        )
        if self.log_id not in (b"", after.log_id):
            raise VersionError("it names another log than the store's")
        if not edit.added and not edit.removed:
            return after
        draft = _Draft(self.levels, self._numbers)
        for level, number in edit.removed:
            draft.remove(level, number)
        for level, table in edit.added:
            if table.number >= after.next_table:
                raise VersionError(
                    f"table {table.number} is added, but {after.next_table} is the next free number"
                )
            draft.add(level, table)
        return replace(after, levels=tuple(draft.levels), _numbers=tuple(draft.numbers))

    def _forward(self, name: str, number: int | None) -> int:
        now: int = getattr(self, name)
        if number is not None and number < now:
            raise VersionError(f"{name} goes back from {now} to {number}")
        return now if number is None else number

    def snapshot_edit(self) -> VersionEdit:
        """The edit that makes this version out of nothing. O(tables)."""
        return VersionEdit(
            added=tuple((level, table) for level, table in self._places()),
            flushed_lsn=self.flushed_lsn,
            log_number=self.log_number,
            newest_segment=self.newest_segment,
            next_table=self.next_table,
            log_id=self.log_id or None,
            snapshot=True,
        )

    def _places(self) -> Iterator[tuple[int, TableMeta]]:
        for level, tables in enumerate(self.levels):
            for table in tables:
                yield level, table

    def tables(self) -> Iterator[TableMeta]:
        """All of them, level after level."""
        for level in self.levels:
            yield from level

    def __contains__(self, number: object) -> bool:
        """Whether it has a table of that number. O(1)."""
        return any(number in level for level in self._numbers)

    def bytes_at(self, level: int) -> int:
        """The sizes of a level's files together. O(tables of the level)."""
        return sum(table.bytes for table in self.levels[level])

    def overlapping(
        self, level: int, smallest: bytes | None, largest: bytes | None
    ) -> tuple[TableMeta, ...]:
        """The tables of ``level`` with keys from ``smallest`` to ``largest``, both included.

        In the level's order. None: no bound. A table counts by its range, not by its keys.
        O(log tables), in level 0 O(tables).
        """
        tables = self.levels[level]
        if level == 0:
            return tuple(table for table in tables if _overlaps(table, smallest, largest))
        start, stop = 0, len(tables)
        if smallest is not None:
            start = bisect_left(tables, smallest, key=_largest)
        if largest is not None:
            stop = bisect_right(tables, largest, key=_smallest)
        return tables[start:stop]

    def _check(self) -> None:
        """Audits every invariant; for tests and KVSTORE_VERIFY=1."""
        assert len(self.levels) == len(self._numbers) == LEVELS
        assert len(self.log_id) in (0, 16)
        numbers = [table.number for table in self.tables()]
        assert len(set(numbers)) == len(numbers)
        for level, tables in enumerate(self.levels):
            assert self._numbers[level] == {table.number: table for table in tables}
            for table in tables:
                assert table_problem(level, table) is None
                assert table.number < self.next_table
        newest, *deeper = self.levels
        assert list(newest) == sorted(newest, key=_age)
        for index, table in enumerate(newest):
            assert not any(_ambiguous(table, other) for other in newest[index + 1 :])
        for tables in deeper:
            for before, table in pairwise(tables):
                assert before.largest < table.smallest


class _Draft:
    """The levels of a version in the making; copies those that it changes, each once."""

    def __init__(
        self,
        levels: tuple[tuple[TableMeta, ...], ...],
        numbers: tuple[dict[int, TableMeta], ...],
    ) -> None:
        self.numbers = list(numbers)
        self._old = levels
        self._changed: dict[int, list[TableMeta]] = {}

    @property
    def levels(self) -> Iterable[tuple[TableMeta, ...]]:
        for level, tables in enumerate(self._old):
            yield tuple(self._changed[level]) if level in self._changed else tables

    def _open(self, level: int) -> list[TableMeta]:
        if level not in self._changed:
            self._changed[level] = list(self._old[level])
            self.numbers[level] = dict(self.numbers[level])
        return self._changed[level]

    def remove(self, level: int, number: int) -> None:
        if not 0 <= level < LEVELS or number not in self.numbers[level]:
            raise VersionError(f"table {number} is removed from level {level}, but is not there")
        tables = self._open(level)
        table = self.numbers[level].pop(number)
        if level == 0:
            tables.remove(table)
        else:
            del tables[bisect_left(tables, table.smallest, key=_smallest)]

    def add(self, level: int, table: TableMeta) -> None:
        problem = table_problem(level, table)
        if problem is not None:
            raise VersionError(problem)
        if any(table.number in there for there in self.numbers):
            raise VersionError(f"table {table.number} is added, but is there already")
        tables = self._open(level)
        other = _clash_in_level_0(tables, table) if level == 0 else _clash(tables, table)
        if other is not None:
            raise VersionError(f"tables {other.number} and {table.number} clash in level {level}")
        insort(tables, table, key=_age if level == 0 else _smallest)
        self.numbers[level][table.number] = table


def _clash(tables: list[TableMeta], table: TableMeta) -> TableMeta | None:
    """One of a level's disjoint ``tables`` that overlaps ``table``."""
    index = bisect_left(tables, table.smallest, key=_largest)
    if index < len(tables) and tables[index].smallest <= table.largest:
        return tables[index]
    return None


def _clash_in_level_0(tables: list[TableMeta], table: TableMeta) -> TableMeta | None:
    """One of which nobody could say whether it is newer than ``table``."""
    return next((other for other in tables if _ambiguous(other, table)), None)


def _ambiguous(one: TableMeta, other: TableMeta) -> bool:
    same_time = one.first_lsn <= other.last_lsn and other.first_lsn <= one.last_lsn
    return same_time and _overlaps(one, other.smallest, other.largest)


def _overlaps(table: TableMeta, smallest: bytes | None, largest: bytes | None) -> bool:
    return (smallest is None or smallest <= table.largest) and (
        largest is None or table.smallest <= largest
    )


def _age(table: TableMeta) -> tuple[int, int]:
    return -table.last_lsn, -table.number


def _smallest(table: TableMeta) -> bytes:
    return table.smallest


def _largest(table: TableMeta) -> bytes:
    return table.largest


def _default(new: _T | None, old: _T) -> _T:
    return old if new is None else new


Version.EMPTY = Version()
