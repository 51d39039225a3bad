"""What to compact next: a pure function from a version to a plan.

Every plan makes progress: it moves entries to a deeper level, or drops tombstones where they are.
So the sum, over all entries, of the number of levels from theirs to behind the last one falls with
each plan, and on a version that nobody else changes ``pick`` comes to None.

Who carries a plan out must drop a tombstone when no level below the output level has a table whose
range holds its key: a table that is written again in place for its tombstones would otherwise be
picked again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from kvstore.manifest.version import LEVELS, TableMeta, Version

__all__ = [
    "L0_COMPACT_TABLES",
    "L0_SLOW_TABLES",
    "L0_STOP_TABLES",
    "LEVELS",
    "LEVEL_MULTIPLIER",
    "Plan",
    "entries_to_read",
    "level_bytes_target",
    "pending_bytes",
    "pick",
    "pick_range",
]

L0_COMPACT_TABLES = 4  # in level 0, that a compaction begins
L0_SLOW_TABLES = 12  # ... that writers are slowed down
L0_STOP_TABLES = 20  # ... that they wait
LEVEL_MULTIPLIER = 10  # each level's target, of the one above it

_INPUT_TABLES_MAX = 25  # a plan's input, in full tables, where overlap does not force more
_CANDIDATES = 4  # tables behind the cursor, of which the one with the least overlap is taken
_TOMBSTONES_MIN = 1024  # fewer are not worth a compaction of their own


@dataclass(frozen=True)
class Plan:
    """A compaction: ``inputs``, of ``level``, and ``overlapping``, all tables of ``output_level``
    in their range, become new tables of ``output_level``.

    Where a key is in several, that in ``inputs`` is newer, and of those (level 0) the one with the
    larger last LSN. No other table of ``output_level`` overlaps the range of all of them together,
    so that outputs may be cut anywhere between two keys.

    ``trivial``: the inputs overlap neither each other nor ``output_level``; they change the level
    and are not written again. ``output_level == level``: one table is written again without its
    tombstones, which nothing deeper needs. Outputs may turn out empty.
    ``reason``: "level 0 tables", "level size", "tombstones" or "manual".
    """

    level: int
    output_level: int
    inputs: tuple[TableMeta, ...]
    overlapping: tuple[TableMeta, ...]
    reason: str
    trivial: bool = False

    @property
    def bytes(self) -> int:
        """What is read, and at most written: the sizes of all input files."""
        return _bytes(self.inputs) + _bytes(self.overlapping)

    @property
    def largest(self) -> _Key:
        """The largest key of ``inputs``: the level's next cursor."""
        return max(table.largest for table in self.inputs)


_Key = bytes  # in Plan the builtin's name is a property's


def pick(
    version: Version,
    *,
    level_bytes_base: int,
    table_bytes_max: int,
    cursors: Mapping[int, bytes],
) -> Plan | None:
    """The next compaction that ``version`` needs; None when it needs none.

    ``level_bytes_base``: target of level 1, in bytes. ``table_bytes_max``: of one output.
    ``cursors``: for each level ``largest`` of the last plan that was carried out on it, if any.

    The level that is the furthest above its target comes first (level 0 counts tables, the others
    bytes; the last one has no target); then tables that are mostly tombstones. Within a level the
    plans go round: of the next tables behind the cursor that which overlaps the least, for its
    size, in the level below. Input is at most 25 times ``table_bytes_max``, unless overlap forces
    more. O(tables).
    """
    scores = [_score(version, level, level_bytes_base) for level in range(LEVELS - 1)]
    score = max(scores)
    level = scores.index(score)
    if score < 1:
        return _pick_tombstones(version)
    input_bytes_max = _INPUT_TABLES_MAX * table_bytes_max
    if level == 0:
        return _pick_level_0(version, input_bytes_max, table_bytes_max)
    return _pick_level(version, level, cursors.get(level), input_bytes_max)


def pick_range(
    version: Version, start: bytes | None, stop: bytes | None, level: int
) -> Plan | None:
    """The next step of compacting the keys ``start <= key < stop`` of ``level`` on demand.

    None as a bound: all keys on that side. Steps are bounded (about 25 tables where overlap does
    not force more), so call again, after each was carried out, until it is None; then go on with
    the next level, up to the last. Level 0 always moves to level 1; a deeper one moves as long as
    there is anything in the range below it, and otherwise only drops tombstones. Afterwards the
    range is in one level, and where nothing of another range forbids it, without tombstones.
    O(tables).
    """
    tables = _in_range(version, start, stop, level)
    if not tables:
        return None
    if level == 0:
        return _plan(version, 0, _with_older(version, tables), "manual")
    deeper = any(_in_range(version, start, stop, below) for below in range(level + 1, LEVELS))
    if deeper:
        count = 1
        while count < len(tables):
            wider = _plan(version, level, tables[: count + 1], "manual")
            if len(wider.inputs) + len(wider.overlapping) > _INPUT_TABLES_MAX:
                break
            count += 1
        return _plan(version, level, tables[:count], "manual")
    for table in tables:
        if table.tombstones and not _needs_tombstones(version, level, table):
            return Plan(level, level, (table,), (), "manual")
    return None


def entries_to_read(version: Version, start: bytes | None, stop: bytes | None) -> int:
    """How many entries all steps of compacting a range on demand read, estimated. O(tables)."""
    total = carried = 0
    for level in range(LEVELS):
        here = sum(table.entries for table in _in_range(version, start, stop, level))
        if carried and (here or level == 1):
            total += carried + here
        carried += here
    return total


def pending_bytes(version: Version, level_bytes_base: int) -> int:
    """An estimate of the bytes that compaction has to write until no level is above its target.

    0 when none is; tombstones do not count. O(tables).
    """
    sizes = [version.bytes_at(level) for level in range(LEVELS)]
    pending = carried = 0
    if len(version.levels[0]) >= L0_COMPACT_TABLES:
        carried = sizes[0]
        pending = carried + sizes[1]
    for level in range(1, LEVELS - 1):
        size = sizes[level] + carried
        carried = max(0, size - level_bytes_target(level, level_bytes_base))
        # What goes down is merged with the part of the next level that lies in its range.
        pending += carried + min(sizes[level + 1], carried * sizes[level + 1] // max(size, 1))
    return pending


def level_bytes_target(level: int, level_bytes_base: int) -> int:
    """The size beyond which tables of ``level`` (1 or more) move down."""
    factor: int = LEVEL_MULTIPLIER ** (level - 1)
    return level_bytes_base * factor


def _score(version: Version, level: int, level_bytes_base: int) -> float:
    """1 or more: the level is to be compacted."""
    if level == 0:
        return len(version.levels[0]) / L0_COMPACT_TABLES
    return version.bytes_at(level) / level_bytes_target(level, level_bytes_base)


def _pick_level_0(version: Version, input_bytes_max: int, table_bytes_max: int) -> Plan:
    """The oldest tables, as many as the bound allows: an older one must not stay above a newer one.

    Going beyond the bound does not cost much as long as the tables are smaller than what they
    overlap: that is written again however many go with it.
    """
    tables = version.levels[0]
    count = 1
    while count < len(tables):
        wider = tables[-count - 1 :]
        overlap_bytes = _bytes(_below(version, 0, wider))
        if _bytes(wider) > max(input_bytes_max - overlap_bytes, overlap_bytes):
            break
        count += 1
    return _plan(version, 0, tables[-count:], "level 0 tables", table_bytes_max)


def _pick_level(version: Version, level: int, cursor: bytes | None, input_bytes_max: int) -> Plan:
    tables = version.levels[level]
    first = 0 if cursor is None else bisect_right(tables, cursor, key=lambda one: one.smallest)
    candidates = [tables[(first + n) % len(tables)] for n in range(min(_CANDIDATES, len(tables)))]
    table = min(
        candidates, key=lambda one: _bytes(_below(version, level, (one,))) / (one.bytes or 1)
    )
    return _widened(version, _plan(version, level, (table,), "level size"), input_bytes_max)


def _widened(version: Version, plan: Plan, input_bytes_max: int) -> Plan:
    """With those neighbours of the input that cost nothing: they lie within what it overlaps."""
    if plan.trivial:
        return plan
    smallest, largest = _range(plan.inputs + plan.overlapping)
    wider = version.overlapping(plan.level, smallest, largest)
    other = _plan(version, plan.level, wider, plan.reason)
    fits = other.bytes <= input_bytes_max and other.overlapping == plan.overlapping
    return other if fits else plan


def _pick_tombstones(version: Version) -> Plan | None:
    """Of the tables that are mostly tombstones, that with the most: down to what they hide, or
    written again without them where nothing is left to hide."""
    heavy = [
        (table.tombstones, table.number, level, table)
        for level, tables in enumerate(version.levels)
        for table in tables
        if table.tombstones >= _TOMBSTONES_MIN and 2 * table.tombstones > table.entries
    ]
    if not heavy:
        return None
    _, _, level, table = max(heavy)  # numbers are unique, so nothing else is compared
    if level == 0:
        return _plan(version, 0, _with_older(version, (table,)), "tombstones")
    if _needs_tombstones(version, level, table):
        return _plan(version, level, (table,), "tombstones")
    return Plan(level, level, (table,), (), "tombstones")


def _plan(
    version: Version,
    level: int,
    inputs: tuple[TableMeta, ...],
    reason: str,
    table_bytes_max: int = 0,
) -> Plan:
    """``inputs`` one level down; they are moved where that will do.

    Not those of which merging would make fewer tables (a quarter of ``table_bytes_max`` on
    average): a store that is flushed often would come to have too many. And not tombstones that
    would be dropped, when they are the reason.
    """
    overlapping = _below(version, level, inputs)
    trivial = (
        not overlapping
        and (len(inputs) == 1 or _bytes(inputs) * 4 >= table_bytes_max * len(inputs))
        and (level > 0 or _are_disjoint(inputs))
        and (reason != "tombstones" or any(_needs_tombstones(version, level, t) for t in inputs))
    )
    return Plan(level, level + 1, inputs, overlapping, reason, trivial)


def _with_older(version: Version, tables: Iterable[TableMeta]) -> tuple[TableMeta, ...]:
    """Tables of level 0 and all those that must go down with them: the older ones that overlap."""
    chosen: list[TableMeta] = []
    seeds = set(tables)
    for table in version.levels[0]:  # newest first
        if table in seeds or any(_overlap(table, newer) for newer in chosen):
            chosen.append(table)
    return tuple(chosen)


def _below(version: Version, level: int, inputs: Sequence[TableMeta]) -> tuple[TableMeta, ...]:
    """What the range of all ``inputs`` together overlaps in the next level."""
    return version.overlapping(level + 1, *_range(inputs))


def _needs_tombstones(version: Version, level: int, table: TableMeta) -> bool:
    """Whether something in a level below ``level`` may be hidden by a tombstone of ``table``."""
    return any(
        version.overlapping(below, table.smallest, table.largest)
        for below in range(level + 1, LEVELS)
    )


def _in_range(
    version: Version, start: bytes | None, stop: bytes | None, level: int
) -> tuple[TableMeta, ...]:
    tables = version.overlapping(level, start, stop)
    return tuple(table for table in tables if stop is None or table.smallest < stop)


def _are_disjoint(tables: Sequence[TableMeta]) -> bool:
    by_key = sorted(tables, key=lambda table: table.smallest)
    return all(before.largest < table.smallest for before, table in pairwise(by_key))


def _overlap(one: TableMeta, other: TableMeta) -> bool:
    return one.smallest <= other.largest and other.smallest <= one.largest


def _range(tables: Sequence[TableMeta]) -> tuple[bytes, bytes]:
    return min(table.smallest for table in tables), max(table.largest for table in tables)


def _bytes(tables: Iterable[TableMeta]) -> int:
    return sum(table.bytes for table in tables)
