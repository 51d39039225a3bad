"""The picker: what it plans, that readers see no change, and that plans come to an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.compaction import picker
from kvstore.compaction.picker import (
    L0_COMPACT_TABLES,
    LEVEL_MULTIPLIER,
    LEVELS,
    Plan,
    pending_bytes,
    pick,
    pick_range,
)
from kvstore.manifest import TableMeta, Version, VersionEdit
from tests.support.tables import table

Contents = dict[bytes, int | None]
ENTRY_BYTES = 100
TABLE_BYTES_MAX = 500
LEVEL_BYTES_BASE = 1500


@dataclass
class Tree:
    """A version and what is in its tables; carries plans out as the job is to."""

    version: Version = Version.EMPTY
    contents: dict[int, Contents] = field(default_factory=dict)
    cursors: dict[int, bytes] = field(default_factory=dict)
    lsns: count[int] = field(default_factory=lambda: count(1))

    def flush(self, changes: dict[int, bool]) -> None:
        """A new table in level 0: key -> whether it has a value (a new one) or is deleted."""
        lsn = next(self.lsns)
        contents = {b"%03d" % key: lsn if put else None for key, put in sorted(changes.items())}
        self._apply((), [(0, contents)], lsn, lsn)

    def view(self) -> dict[bytes, int]:
        """What a reader sees."""
        seen: Contents = {}
        for one in self.version.tables():
            for key, value in self.contents[one.number].items():
                seen.setdefault(key, value)
        return {key: value for key, value in seen.items() if value is not None}

    def carry_out(self, plan: Plan) -> None:
        check_plan(self.version, plan)
        if plan.level:
            self.cursors[plan.level] = plan.largest
        inputs = [*plan.inputs, *plan.overlapping]
        removed = [(plan.level, one) for one in plan.inputs]
        removed += [(plan.output_level, one) for one in plan.overlapping]
        if plan.trivial:
            edit = VersionEdit(
                removed=tuple((level, one.number) for level, one in removed),
                added=tuple((plan.output_level, one) for one in plan.inputs),
            )
            self.version = self.version.apply(edit)
            return
        merged: Contents = {}
        for one in inputs:
            for key, value in self.contents[one.number].items():
                merged.setdefault(key, value)
        kept = {
            key: merged[key]
            for key in sorted(merged)
            if merged[key] is not None or self._hides(plan.output_level, key)
        }
        keys = list(kept)
        size = TABLE_BYTES_MAX // ENTRY_BYTES
        parts = [{k: kept[k] for k in keys[i : i + size]} for i in range(0, len(keys), size)]
        self._apply(
            tuple((level, one.number) for level, one in removed),
            [(plan.output_level, part) for part in parts],
            min(one.first_lsn for one in inputs),
            max(one.last_lsn for one in inputs),
        )

    def _hides(self, level: int, key: bytes) -> bool:
        return any(self.version.overlapping(n, key, key) for n in range(level + 1, LEVELS))

    def _apply(
        self,
        removed: tuple[tuple[int, int], ...],
        added: list[tuple[int, Contents]],
        first_lsn: int,
        last_lsn: int,
    ) -> None:
        number = self.version.next_table
        tables = []
        for level, contents in added:
            made = table(
                number,
                min(contents),
                max(contents),
                bytes=ENTRY_BYTES * len(contents),
                entries=len(contents),
                tombstones=sum(value is None for value in contents.values()),
                first_lsn=first_lsn,
                last_lsn=last_lsn,
            )
            self.contents[number] = contents
            tables.append((level, made))
            number += 1
        edit = VersionEdit(removed=removed, added=tuple(tables), next_table=number)
        self.version = self.version.apply(edit)

    def pick(self) -> Plan | None:
        return pick(
            self.version,
            level_bytes_base=LEVEL_BYTES_BASE,
            table_bytes_max=TABLE_BYTES_MAX,
            cursors=self.cursors,
        )

    def settle(self) -> list[Plan]:
        """Carries out all that is picked; what readers see must not change."""
        before, plans = self.view(), []
        while plan := self.pick():
            measure = self.measure()
            self.carry_out(plan)
            assert self.measure() < measure
            assert self.view() == before
            plans.append(plan)
        self.version._check()
        return plans

    def measure(self) -> int:
        """What every plan makes smaller."""
        return sum(
            one.entries * (LEVELS - level)
            for level, tables in enumerate(self.version.levels)
            for one in tables
        )


def check_plan(version: Version, plan: Plan) -> None:
    """What holds of every plan."""
    assert plan.inputs
    smallest = min(one.smallest for one in plan.inputs)
    largest = max(one.largest for one in plan.inputs)
    if plan.output_level == plan.level:
        assert len(plan.inputs) == 1
        assert (plan.overlapping, plan.trivial) == ((), False)
        return
    assert plan.output_level == plan.level + 1 < LEVELS
    assert plan.overlapping == version.overlapping(plan.output_level, smallest, largest)
    order = [one for one in version.levels[plan.level] if one in plan.inputs]
    assert order == list(plan.inputs)
    if plan.trivial:
        assert not plan.overlapping


_flushes = st.lists(
    st.dictionaries(st.integers(0, 60), st.booleans(), min_size=1, max_size=12),
    min_size=1,
    max_size=30,
)


@given(_flushes, st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_plans_keep_what_readers_see_and_come_to_an_end(
    flushes: list[dict[int, bool]], pause: int, tombstones_min: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picker, "_TOMBSTONES_MIN", tombstones_min)
        tree = Tree()
        for index, changes in enumerate(flushes):
            tree.flush(changes)
            if index % pause == 0:
                tree.settle()
        tree.settle()
    version = tree.version
    assert len(version.levels[0]) < L0_COMPACT_TABLES
    for level in range(1, LEVELS - 1):
        assert version.bytes_at(level) <= LEVEL_BYTES_BASE * LEVEL_MULTIPLIER ** (level - 1)
    assert pending_bytes(version, LEVEL_BYTES_BASE) == 0
    for one in version.tables():
        assert one.tombstones < tombstones_min or 2 * one.tombstones <= one.entries


@given(
    _flushes,
    st.none() | st.integers(0, 61),
    st.none() | st.integers(0, 61),
    st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_compacting_a_range_brings_it_into_one_level_without_tombstones(
    flushes: list[dict[int, bool]], low: int | None, high: int | None, pause: int
) -> None:
    tree = Tree()
    for index, changes in enumerate(flushes):
        tree.flush(changes)
        if index % pause == 0:
            tree.settle()
    start = None if low is None else b"%03d" % low
    stop = None if high is None else b"%03d" % high
    before = tree.view()
    for level in range(LEVELS):
        while plan := pick_range(tree.version, start, stop, level):
            assert plan.reason == "manual"
            measure = tree.measure()
            tree.carry_out(plan)
            assert tree.measure() < measure
            assert tree.view() == before
    tree.version._check()
    inside = [
        (level, one)
        for level, tables in enumerate(tree.version.levels)
        for one in tables
        if (stop is None or one.smallest < stop) and (start is None or one.largest >= start)
    ]
    assert len({level for level, _ in inside}) <= 1
    if start is None and stop is None:
        assert not any(one.tombstones for _, one in inside)
        assert {key for _, one in inside for key in tree.contents[one.number]} == set(before)


# ---- single decisions ----


def make(*places: tuple[int, TableMeta]) -> Version:
    top = max((one.number for _, one in places), default=0)
    return Version.EMPTY.apply(VersionEdit(added=places, next_table=top + 1))


def choose(version: Version, base: int = 1 << 20, **cursors: bytes) -> Plan | None:
    levels = {int(name[1:]): key for name, key in cursors.items()}
    plan = pick(version, level_bytes_base=base, table_bytes_max=4096, cursors=levels)
    if plan is not None:
        check_plan(version, plan)
    return plan


def numbers(tables: tuple[TableMeta, ...]) -> list[int]:
    return [one.number for one in tables]


def test_an_empty_version_needs_nothing() -> None:
    assert choose(Version.EMPTY) is None
    assert pick_range(Version.EMPTY, None, None, 0) is None
    assert pending_bytes(Version.EMPTY, 1) == 0


def test_level_0_waits_for_four_tables() -> None:
    tables = [(0, table(n, b"a", b"z")) for n in range(1, 5)]
    assert choose(make(*tables[:3])) is None
    plan = choose(make(*tables, (1, table(9, b"k", b"l")), (1, table(8, b"zz", b"zzz"))))
    assert plan is not None
    assert (numbers(plan.inputs), numbers(plan.overlapping)) == ([4, 3, 2, 1], [9])
    assert (plan.level, plan.output_level, plan.trivial) == (0, 1, False)
    assert plan.reason == "level 0 tables"
    assert plan.bytes == 5 * 4096


def test_a_full_level_0_goes_down_in_bounded_steps_the_oldest_first() -> None:
    big = 4096 * 10
    tables = [(0, table(n, b"a", b"z", bytes=big)) for n in range(1, 9)]
    plan = choose(make(*tables))
    assert plan is not None
    assert numbers(plan.inputs) == [2, 1]
    assert plan.bytes <= 25 * 4096


def test_where_overlap_forces_more_as_much_of_level_0_goes_with_it() -> None:
    tables = [(0, table(n, b"a", b"z", bytes=4096 * 10)) for n in range(1, 9)]
    plan = choose(make(*tables, (1, table(9, b"b", b"c", bytes=4096 * 40))), base=1 << 30)
    assert plan is not None
    assert numbers(plan.inputs) == [4, 3, 2, 1]


def test_ascending_tables_of_level_0_are_moved() -> None:
    tables = [(0, table(n, b"%d" % n, b"%d5" % n)) for n in range(1, 5)]
    plan = choose(make(*tables))
    assert plan is not None
    assert (plan.trivial, numbers(plan.inputs)) == (True, [4, 3, 2, 1])


def test_small_tables_of_level_0_are_merged_and_not_moved() -> None:
    tables = [(0, table(n, b"%d" % n, b"%d5" % n, bytes=100)) for n in range(1, 5)]
    plan = choose(make(*tables))
    assert plan is not None
    assert (plan.trivial, len(plan.inputs)) == (False, 4)


def test_the_level_furthest_above_its_target_comes_first() -> None:
    level_0 = [(0, table(n, b"a", b"z")) for n in range(1, 6)]
    small = make(*level_0, (1, table(9, b"a", b"z", bytes=1200)))
    large = make(*level_0, (1, table(9, b"a", b"z", bytes=1300)))
    for version, level in ((small, 0), (large, 1)):
        plan = choose(version, 1000)
        assert plan is not None
        assert plan.level == level


def test_the_cursor_goes_round() -> None:
    version = make(*((1, table(n, b"%02d" % n, b"%02dz" % n)) for n in range(1, 11)))
    seen = []
    cursor = b""
    for _ in range(11):
        plan = choose(version, 1000, n1=cursor)
        assert plan is not None
        assert (plan.reason, plan.trivial) == ("level size", True)
        seen += numbers(plan.inputs)
        cursor = plan.largest
    assert seen == [*range(1, 11), 1]


def test_of_the_next_few_tables_the_one_with_the_least_overlap_goes() -> None:
    version = make(
        *((1, table(n, b"%02d" % n, b"%02dz" % n)) for n in range(1, 11)),
        *((2, table(20 + n, b"%02d" % n, b"%02dz" % n)) for n in range(1, 11) if n != 7),
    )
    for cursor, expected in ((b"", 1), (b"02z", 3), (b"04", 7), (b"09z", 10)):
        plan = choose(version, 1000, n1=cursor)
        assert plan is not None
        assert numbers(plan.inputs) == [expected]
        assert plan.trivial == (expected == 7)


def test_neighbours_that_cost_nothing_go_along() -> None:
    version = make(
        (1, table(1, b"a", b"b")),
        (1, table(2, b"c", b"d")),
        (1, table(3, b"e", b"z")),
        (2, table(9, b"a", b"d")),
        (2, table(8, b"y", b"y")),
    )
    plan = choose(version, 1000, n1=b"z")
    assert plan is not None
    assert (numbers(plan.inputs), numbers(plan.overlapping)) == ([1, 2], [9])


def test_the_last_level_has_no_target() -> None:
    assert choose(make((LEVELS - 1, table(1, b"a", b"z", bytes=1 << 50))), 1) is None


HEAVY = {"entries": 4000, "tombstones": 2001}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (HEAVY, True),
        ({"entries": 4000, "tombstones": 2000}, False),
        ({"entries": 1023, "tombstones": 1023}, False),
    ],
)
def test_a_table_that_is_mostly_tombstones_goes_early(fields: dict[str, int], wanted: bool) -> None:
    version = make((1, table(1, b"a", b"m", **fields)), (2, table(2, b"l", b"z")))
    plan = choose(version)
    assert (plan is not None) == wanted
    if plan is not None:
        assert (plan.reason, plan.output_level, numbers(plan.overlapping)) == ("tombstones", 2, [2])


def test_tombstones_fall_towards_what_they_hide() -> None:
    plan = choose(make((1, table(1, b"a", b"m", **HEAVY)), (4, table(2, b"l", b"z"))))
    assert plan is not None
    assert (plan.reason, plan.output_level, plan.trivial) == ("tombstones", 2, True)


@pytest.mark.parametrize("level", [1, LEVELS - 1])
def test_where_they_hide_nothing_the_table_is_written_again(level: int) -> None:
    version = make((level, table(1, b"a", b"m", **HEAVY)), (1, table(2, b"x", b"z")))
    plan = choose(version)
    assert plan is not None
    assert (plan.level, plan.output_level, plan.trivial) == (level, level, False)
    assert (numbers(plan.inputs), plan.overlapping) == ([1], ())


def test_from_level_0_a_table_takes_the_older_ones_along_that_it_overlaps() -> None:
    version = make(
        (0, table(1, b"l", b"z")),
        (0, table(2, b"a", b"b")),
        (0, table(3, b"g", b"m", **HEAVY)),
    )
    plan = choose(version)
    assert plan is not None
    assert (plan.reason, numbers(plan.inputs), plan.trivial) == ("tombstones", [3, 1], False)


def test_compacting_a_range_takes_large_levels_in_steps() -> None:
    version = make(
        *((1, table(n, b"%03d" % n, b"%03dz" % n)) for n in range(1, 101)),
        (2, table(200, b"000", b"999")),
    )
    plan = pick_range(version, None, None, 1)
    assert plan is not None
    assert (numbers(plan.inputs), numbers(plan.overlapping)) == (list(range(1, 25)), [200])
    assert pick_range(version, None, b"001", 1) is None
    assert pick_range(version, b"100zz", None, 1) is None
    one = pick_range(version, b"100", b"1000", 1)
    assert one is not None
    assert numbers(one.inputs) == [100]


def test_pending_bytes_grow_with_what_is_to_be_moved() -> None:
    three = [(0, table(n, b"a", b"z")) for n in range(1, 4)]
    four = [*three, (0, table(4, b"a", b"z"))]
    assert pending_bytes(make(*three), 1 << 20) == 0
    assert pending_bytes(make(*four), 1 << 20) == 4 * 4096
    assert pending_bytes(make(*four, (1, table(9, b"a", b"z"))), 1 << 20) == 5 * 4096
    assert pending_bytes(make((1, table(9, b"a", b"z", bytes=3000))), 1000) == 2000
    below = (2, table(8, b"a", b"z", bytes=6000))
    assert pending_bytes(make((1, table(9, b"a", b"z", bytes=3000)), below), 1000) == 6000
