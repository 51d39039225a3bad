"""Versions, and what may be done to them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.manifest import LEVELS, TableMeta, Version, VersionEdit, VersionError
from tests.support.tables import table


def version(*places: tuple[int, TableMeta]) -> Version:
    numbers = [0, *(one.number for _, one in places)]
    made = Version.EMPTY.apply(VersionEdit(added=places, next_table=max(numbers) + 1))
    made._check()
    return made


def numbers(tables: tuple[TableMeta, ...]) -> list[int]:
    return [one.number for one in tables]


BASE = version(
    (0, table(9, b"a", b"m")),
    (0, table(8, b"c", b"z")),
    (1, table(3, b"a", b"c")),
    (1, table(5, b"e", b"g")),
    (1, table(4, b"k", b"m")),
).apply(VersionEdit(flushed_lsn=1000, log_number=3, newest_segment=4))


def test_an_empty_version_has_nothing() -> None:
    empty = Version.empty()
    empty._check()
    assert (list(empty.tables()), empty.next_table, empty.log_id) == ([], 1, b"")
    assert empty.apply(VersionEdit()) == empty


def test_a_version_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        BASE.flushed_lsn = 5  # type: ignore[misc]
    before = replace(BASE)
    BASE.apply(VersionEdit(removed=((1, 5),)))
    assert before == BASE
    BASE._check()


def test_level_0_is_newest_first_and_the_others_by_key() -> None:
    more = BASE.apply(
        VersionEdit(added=((0, table(10, b"b", b"c")), (1, table(11, b"h", b"i"))), next_table=12)
    )
    more._check()
    assert numbers(more.levels[0]) == [10, 9, 8]
    assert numbers(more.levels[1]) == [3, 5, 11, 4]


def test_a_table_moves_down_in_one_edit() -> None:
    moved = BASE.apply(VersionEdit(removed=((1, 5),), added=((2, BASE.levels[1][1]),)))
    moved._check()
    assert numbers(moved.levels[1]) == [3, 4]
    assert numbers(moved.levels[2]) == [5]
    assert 5 in moved
    assert BASE.bytes_at(1) - moved.bytes_at(1) == moved.bytes_at(2) == 4096


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (VersionEdit(removed=((2, 5),)), "not there"),
        (VersionEdit(removed=((1, 5), (1, 5))), "not there"),
        (VersionEdit(removed=((7, 5),)), "not there"),
        (VersionEdit(added=((2, BASE.levels[1][1]),)), "there already"),
        (VersionEdit(added=((2, table(1, b"a", b"b")), (3, table(1, b"c", b"d")))), "already"),
        (VersionEdit(added=((1, table(2, b"c", b"d")),)), "3 and 2 clash in level 1"),
        (VersionEdit(added=((1, table(2, b"d", b"e")),)), "5 and 2 clash in level 1"),
        (VersionEdit(added=((1, table(2, b"l", b"l")),)), "4 and 2 clash in level 1"),
        (VersionEdit(added=((1, table(2, b"A", b"Z")), (1, table(1, b"B", b"C")))), "clash"),
        (VersionEdit(added=((0, table(2, b"a", b"b", first_lsn=950, last_lsn=960)),)), "clash"),
        (VersionEdit(added=((1, table(10, b"x", b"y")),)), "10 is the next free"),
        (VersionEdit(added=((1, table(2, b"y", b"x")),)), "larger than its largest"),
        (VersionEdit(flushed_lsn=999), "flushed_lsn goes back from 1000 to 999"),
        (VersionEdit(log_number=2), "log_number goes back"),
        (VersionEdit(next_table=9), "next_table goes back"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: VersionEdit, reason: str) -> None:
    with pytest.raises(VersionError, match=reason):
        BASE.apply(edit)
    BASE._check()


def test_the_newest_segment_may_go_back() -> None:
    assert BASE.apply(VersionEdit(newest_segment=0)).newest_segment == 0


def test_a_log_id_once_given_stays() -> None:
    known = BASE.apply(VersionEdit(log_id=bytes(16)))
    assert known.apply(VersionEdit(log_id=bytes(16))) == known
    with pytest.raises(VersionError, match="another log"):
        known.apply(VersionEdit(log_id=bytes(range(16))))


def test_flushed_tables_of_one_time_may_stand_side_by_side_in_level_0() -> None:
    made = version(
        (0, table(1, b"a", b"c", first_lsn=1, last_lsn=9)),
        (0, table(2, b"d", b"f", first_lsn=1, last_lsn=9)),
    )
    assert numbers(made.levels[0]) == [2, 1]


@pytest.mark.parametrize(
    ("level", "smallest", "largest", "expected"),
    [
        (0, b"n", b"o", [8]),
        (0, b"m", None, [9, 8]),
        (0, None, b"b", [9]),
        (1, None, None, [3, 5, 4]),
        (1, b"c", b"e", [3, 5]),
        (1, b"d", b"d", []),
        (1, b"h", None, [4]),
        (1, None, b"j", [3, 5]),
        (1, b"n", None, []),
        (6, None, None, []),
    ],
)
def test_overlapping_counts_both_ends_in(
    level: int, smallest: bytes | None, largest: bytes | None, expected: list[int]
) -> None:
    assert numbers(BASE.overlapping(level, smallest, largest)) == expected


def test_a_snapshot_makes_the_version_out_of_nothing() -> None:
    full = BASE.apply(VersionEdit(log_id=bytes(range(16))))
    edit = full.snapshot_edit()
    assert Version.EMPTY.apply(edit) == full
    assert version((3, table(1, b"x", b"y"))).apply(edit) == full
    assert Version.EMPTY.apply(Version.EMPTY.snapshot_edit()) == Version.EMPTY


@given(st.lists(st.tuples(st.integers(0, LEVELS - 1), st.integers(0, 30), st.integers(0, 5))))
@settings(max_examples=60, deadline=None)
def test_whatever_is_applied_the_invariants_hold(steps: list[tuple[int, int, int]]) -> None:
    now = Version.EMPTY
    model: dict[int, dict[int, TableMeta]] = {level: {} for level in range(LEVELS)}
    for number, (level, low, width) in enumerate(steps, start=1):
        new = table(number, b"%02d" % low, b"%02d" % (low + width))
        edit = VersionEdit(added=((level, new),), next_table=number + 1)
        try:
            now = now.apply(edit)
        except VersionError:
            there = model[level].values()
            assert level > 0
            assert any(t.smallest <= new.largest and new.smallest <= t.largest for t in there)
            if low % 2:  # make room, so that removals are part of it
                gone = tuple(model[level])
                now = now.apply(VersionEdit(removed=tuple((level, n) for n in gone)))
                model[level] = {}
        else:
            model[level][number] = new
        now._check()
        assert [{t.number for t in tables} for tables in now.levels] == [
            set(model[n]) for n in range(LEVELS)
        ]
    assert Version.EMPTY.apply(now.snapshot_edit()) == now
