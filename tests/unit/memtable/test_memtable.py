"""MemTable against a dict, and its snapshots against copies of one."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from kvstore.batch import WriteBatch
from kvstore.memtable import ABSENT, MemTable

KEYS = st.binary(min_size=1, max_size=2) | st.sampled_from([b"a", b"b", b"c", b"\xff\xff"])
BOUNDS = st.none() | KEYS
VALUES = st.none() | st.binary(max_size=3)

Model = dict[bytes, bytes | None]


def read(
    table: MemTable,
    snapshot: int,
    start: bytes | None = None,
    stop: bytes | None = None,
    *,
    reverse: bool = False,
    keys_max: int = 3,
) -> list[tuple[bytes, bytes | None]]:
    """A whole range, in steps."""
    found: list[tuple[bytes, bytes | None]] = []
    after: bytes | None = None
    while True:
        entries, after = table.read_range(
            snapshot, start, stop, after=after, reverse=reverse, keys_max=keys_max
        )
        assert len(entries) <= keys_max
        found += entries
        if after is None:
            return found


def in_range(
    model: Model, start: bytes | None, stop: bytes | None, *, reverse: bool
) -> list[tuple[bytes, bytes | None]]:
    """What a sorted dict would give."""
    items = sorted(model.items(), reverse=reverse)
    return [
        (key, value)
        for key, value in items
        if (start is None or start <= key) and (stop is None or key < stop)
    ]


class MemTableMachine(RuleBasedStateMachine):
    """Snapshots come and go while changes are applied."""

    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.table = MemTable()
        self.model: Model = {}
        self.lsn = 0

    @rule(key=KEYS, value=VALUES)
    def apply_one(self, key: bytes, value: bytes | None) -> None:
        self.lsn += 1
        self.table.apply_one(key, value, self.lsn)
        self.model[key] = value

    @rule(changes=st.dictionaries(KEYS, VALUES, max_size=5), gap=st.integers(1, 3))
    def apply(self, changes: dict[bytes, bytes | None], gap: int) -> None:
        self.lsn += gap
        self.table.apply(changes, self.lsn)
        self.model.update(changes)

    @rule(changes=st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=8), puts=st.booleans())
    def apply_each(self, changes: list[tuple[bytes, bytes | None]], puts: bool) -> None:
        keys = [key for key, _ in changes]
        values = [value or b"" if puts else value for _, value in changes]
        payload_bytes = sum(map(len, keys)) + sum(len(value or b"") for value in values)
        deletes = None in values
        self.lsn += len(changes)
        before = self.table.bytes_used
        self.table.apply_each(keys, values, self.lsn, payload_bytes, deletes=deletes)
        assert self.table.bytes_used >= before + payload_bytes
        self.model.update(zip(keys, values, strict=True))

    @rule(target=snapshots)
    def open_snapshot(self) -> tuple[int, Model]:
        return self.table.open_snapshot(), dict(self.model)

    @rule(snapshot=consumes(snapshots))
    def close_snapshot(self, snapshot: tuple[int, Model]) -> None:
        self.table.close_snapshot(snapshot[0])

    @rule(
        target=snapshots,
        snapshot=consumes(snapshots),
        start=BOUNDS,
        stop=BOUNDS,
        reverse=st.booleans(),
        keys_max=st.integers(1, 5),
    )
    def read(
        self,
        snapshot: tuple[int, Model],
        start: bytes | None,
        stop: bytes | None,
        *,
        reverse: bool,
        keys_max: int,
    ) -> object:
        found = read(self.table, snapshot[0], start, stop, reverse=reverse, keys_max=keys_max)
        wanted = in_range(snapshot[1], start, stop, reverse=reverse)
        assert self.seen(found) == self.seen(wanted)
        return multiple(snapshot)

    def seen(self, entries: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        """What of a range there must be."""
        return entries

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.table.get(key, ABSENT) == self.model.get(key, ABSENT)

    @rule(target=snapshots, key=KEYS, snapshot=consumes(snapshots))
    def get_at(self, key: bytes, snapshot: tuple[int, Model]) -> object:
        value, wanted = self.table.get_at(key, snapshot[0]), snapshot[1].get(key, ABSENT)
        assert value == wanted or not self.seen([(key, wanted)])
        return multiple(snapshot)

    @invariant()
    def sound(self) -> None:
        self.table._check()
        assert len(self.table) == sum(value is not None for value in self.model.values())
        assert self.table.entries == self.model
        assert self.table.last_lsn == self.lsn


class DroppingMachine(MemTableMachine):
    """The same where nothing older has any key that begins with an a: its tombstones go."""

    def __init__(self) -> None:
        super().__init__()
        self.table.older_may_hold = lambda key: not key.startswith(b"a")

    def seen(self, entries: list[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
        return [entry for entry in entries if entry[1] is not None]

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        value, wanted = self.table.get(key, ABSENT), self.model.get(key, ABSENT)
        assert value == wanted or (value is ABSENT and wanted is None)

    @invariant()
    def sound(self) -> None:
        self.table._check()
        live = {key: value for key, value in self.model.items() if value is not None}
        assert len(self.table) == len(live)
        assert {k: v for k, v in self.table.entries.items() if v is not None} == live


TestDropping = DroppingMachine.TestCase
TestDropping.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMemTable = MemTableMachine.TestCase
TestMemTable.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=8))
def test_a_loaded_table_is_as_if_the_batches_had_been_applied(
    batches: list[dict[bytes, bytes | None]],
) -> None:
    loaded, applied = MemTable(), MemTable()
    for lsn, changes in enumerate(batches, 1):
        applied.apply(changes, lsn)
        data, operations = bytearray(), list[int]()
        for key, value in changes.items():
            begin = len(data)
            data += key + (value or b"")
            operations += [begin, begin + len(key), -1 if value is None else len(data)]
        loaded.load(bytes(data), operations)
    loaded.loaded(1, len(batches))
    loaded._check()
    assert (len(loaded), loaded.last_lsn) == (len(applied), applied.last_lsn)
    assert read(loaded, len(batches)) == read(applied, len(batches))


def test_versions_are_kept_only_while_a_snapshot_needs_them() -> None:
    table = MemTable()
    table.apply_one(b"k", b"1", 1)
    assert not table._undo
    first, second = table.open_snapshot(), table.open_snapshot()
    table.apply_one(b"k", b"2", 2)
    table.close_snapshot(first)
    assert read(table, second) == [(b"k", b"1")]
    table.close_snapshot(second)
    assert not table._undo
    assert not table._snapshots
    table.apply_one(b"k", b"3", 3)
    assert not table._undo


def test_a_snapshot_that_is_closed_while_the_lock_is_held_is_closed_by_the_next_change() -> None:
    # So does the garbage collector, when it runs in a thread that is in the memtable.
    table = MemTable()
    table.apply_one(b"k", b"1", 1)
    snapshot = table.open_snapshot()
    with table._lock:
        table.close_snapshot(snapshot)
    assert table._snapshots
    table.apply_one(b"k", b"2", 2)
    assert not table._snapshots
    assert not table._undo


def test_the_memory_it_says_it_uses_is_what_it_uses() -> None:
    for value_bytes in (10, 100, 1000):
        tracemalloc.start()
        table = MemTable()
        for lsn in range(1, 20_001):
            table.apply_one(b"%016d" % lsn, bytes(value_bytes), lsn)
        snapshot = table.open_snapshot()
        table.read_range(snapshot, None, None, keys_max=1)  # the sorted view counts
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.8 < table.bytes_used / used < 1.3, value_bytes


def test_overwriting_counts_for_the_log_that_it_fills() -> None:
    table = MemTable()
    for lsn in range(1, 1001):
        table.apply_one(b"counter", bytes(100), lsn)
    assert 200_000 < table.bytes_used < 300_000


def test_a_queue_leaves_no_tombstones_where_nothing_older_can_have_its_keys() -> None:
    table = MemTable()
    table.older_may_hold = lambda _: False
    lsn = 0
    for i in range(3000):
        table.apply_one(b"%06d" % i, b"job", lsn := lsn + 1)
        if i >= 10:
            table.apply_one(b"%06d" % (i - 10), None, lsn := lsn + 1)
        if i % 100 == 99:
            entries, _ = table.read_range(table.last_lsn, None, None, keys_max=1)
            assert entries == [(b"%06d" % (i - 9), b"job")]
            table._check()
    assert (len(table), table.entry_count) == (10, 10)
    assert table.bytes_used > 3000 * 256, "what it cost the log still counts"


def test_scans_that_overlap_for_ever_do_not_keep_every_version() -> None:
    # There is always a scan open, but none is old: a busy server.
    table = MemTable()
    lsn = 0
    before = table.open_snapshot()
    for _ in range(2000):
        for _ in range(10):
            lsn += 1
            table.apply_one(b"k", b"%d" % lsn, lsn)
        after = table.open_snapshot()
        table.close_snapshot(before)
        before = after
    assert sum(map(len, table._undo.values())) < 5000


def test_a_batch_is_seen_whole_or_not_at_all_by_a_scan() -> None:
    table = MemTable()
    keys = [b"%03d" % i for i in range(100)]
    rounds = 150
    torn: list[object] = []
    done = threading.Event()

    def scanning() -> None:
        while not done.is_set():
            snapshot = table.open_snapshot()
            values = {value for _, value in read(table, snapshot, keys_max=7)}
            table.close_snapshot(snapshot)
            if len(values) > 1:
                torn.append(values)

    readers = [threading.Thread(target=scanning) for _ in range(2)]
    for reader in readers:
        reader.start()
    for lsn in range(1, rounds + 1):
        table.apply(dict.fromkeys(keys, b"%d" % lsn), lsn)
    done.set()
    for reader in readers:
        reader.join()
    assert not torn


@pytest.mark.parametrize("reverse", [False, True])
def test_a_range_read_in_steps_neither_skips_nor_repeats(*, reverse: bool) -> None:
    table = MemTable()
    batch = WriteBatch()
    for i in range(500):
        batch.put(b"%04d" % (i * 7919 % 500), b"")
    table.apply(batch.changes, 1)
    for keys_max in (1, 2, 499, 500, 501):
        keys = [key for key, _ in read(table, 1, reverse=reverse, keys_max=keys_max)]
        assert len(keys) == 500
        assert all((a > b) == reverse and a != b for a, b in pairwise(keys))


def test_keys_that_come_and_go_between_steps_do_not_disturb_a_snapshot() -> None:
    table = MemTable()
    table.apply({b"%d" % i: b"old" for i in range(10)}, 1)
    snapshot = table.open_snapshot()
    first, after = table.read_range(snapshot, None, None, keys_max=4)
    table.apply({b"3": None, b"4": None, b"35": b"new", b"7": b"new"}, 2)
    rest, _ = table.read_range(snapshot, None, None, after=after, keys_max=100)
    assert first + rest == [(b"%d" % i, b"old") for i in range(10)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("after", [None, 3])
def test_a_range_ends_with_the_key_that_is_given(reverse: bool, after: int | None) -> None:
    keys = [b"%d" % i for i in range(10)]
    table = MemTable()
    for lsn, key in enumerate(keys, start=1):
        table.apply_one(key, b"", lsn)
    order = keys[1:9][::-1] if reverse else keys[1:9]  # start 1, stop 9
    for until in range(1, 9):
        begin = 0 if after is None else order.index(b"%d" % after) + 1
        expected = order[begin : order.index(b"%d" % until) + 1]
        found, last = table.read_range(
            10,
            b"1",
            b"9",
            after=None if after is None else b"%d" % after,
            until=b"%d" % until,
            reverse=reverse,
            keys_max=100,
        )
        assert [key for key, _ in found] == expected
        assert last is None
