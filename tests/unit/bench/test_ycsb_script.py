"""A script is its workload: the mix, the records it asks for, and only those that are there."""

from __future__ import annotations

import dataclasses
from array import array
from collections import Counter
from itertools import count

import pytest

from bench.ycsb.generation import generate, generate_load
from bench.ycsb.generators import fnv_64
from bench.ycsb.records import (
    FIELD_BYTES,
    FIELDS,
    RECORD_BYTES,
    UPDATES,
    Records,
    make_key,
    splice,
    split,
)
from bench.ycsb.script import Kind, Script
from bench.ycsb.workloads import ORDER, WORKLOADS, Workload
from tests.support.chi_square import fits

SEED = 20100610
RECORDS = 300
OPERATIONS = 10_000

CONTENTS = Records(SEED)
NUMBERS = {make_key(number): number for number in range(RECORDS + OPERATIONS)}


def _generate(workload: Workload, *, clients: int = 1, seed: int = SEED) -> Script:
    return generate(
        workload, CONTENTS, records=RECORDS, operations=OPERATIONS, seed=seed, clients=clients
    )


SCRIPTS = {name: _generate(workload) for name, workload in WORKLOADS.items()}

every_workload = pytest.mark.parametrize("name", WORKLOADS)


def _inserted(script: Script) -> list[int]:
    pairs = zip(script.kinds, script.keys, strict=True)
    return [NUMBERS[key] for kind, key in pairs if kind == Kind.INSERT]


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        ("A", {Kind.READ: 0.5, Kind.UPDATE: 0.5}),
        ("B", {Kind.READ: 0.95, Kind.UPDATE: 0.05}),
        ("C", {Kind.READ: 1.0}),
        ("D", {Kind.READ: 0.95, Kind.INSERT: 0.05}),
        ("E", {Kind.SCAN: 0.95, Kind.INSERT: 0.05}),
        ("F", {Kind.READ: 0.5, Kind.READ_MODIFY_WRITE: 0.5}),
    ],
)
def test_operations_come_in_the_mix_of_the_workload(name: str, mix: dict[Kind, float]) -> None:
    counts = Counter(SCRIPTS[name].kinds)
    assert set(counts) == set(mix)
    assert len(mix) == 1 or fits([counts[kind] for kind in mix], list(mix.values()))


def test_the_workloads_run_in_the_order_of_ycsb() -> None:
    assert ORDER == ("load", "A", "B", "C", "F", "D", "reload", "E")
    assert {name for name in ORDER if not name.endswith("load")} == set(WORKLOADS)
    distributions = {name: workload.distribution for name, workload in WORKLOADS.items()}
    assert distributions == dict.fromkeys("ABCEF", "zipfian") | {"D": "latest"}


def test_a_workload_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="gaussian"):
        dataclasses.replace(WORKLOADS["A"], distribution="gaussian")
    with pytest.raises(ValueError, match="add up"):
        dataclasses.replace(WORKLOADS["A"], mix={Kind.READ: 0.9})
    with pytest.raises(ValueError, match="no record"):
        generate(WORKLOADS["A"], CONTENTS, records=0, operations=1, seed=SEED)


@every_workload
def test_inserts_go_on_from_the_load_without_gaps(name: str) -> None:
    inserted = _inserted(SCRIPTS[name])
    assert inserted == list(range(RECORDS, RECORDS + len(inserted)))
    assert bool(inserted) == (name in "DE")


@pytest.mark.parametrize("clients", [1, 16])
@every_workload
def test_only_what_is_there_by_then_is_asked_for(name: str, clients: int) -> None:
    script = _generate(WORKLOADS[name], clients=clients)
    inserted, highest = RECORDS, 0
    for kind, key in zip(script.kinds, script.keys, strict=True):
        if kind == Kind.INSERT:
            inserted += 1
        else:
            acknowledged = max(RECORDS, inserted - (clients - 1))
            assert NUMBERS[key] < acknowledged
            highest = max(highest, NUMBERS[key])
    assert highest >= RECORDS or name not in "DE", "what was inserted is asked for as well"


@every_workload
def test_what_is_written_is_of_the_key(name: str) -> None:
    script = SCRIPTS[name]
    for kind, key, value in zip(script.kinds, script.keys, script.values, strict=True):
        if kind == Kind.INSERT:
            assert value == CONTENTS.record(key)
        elif kind in (Kind.UPDATE, Kind.READ_MODIFY_WRITE):
            assert isinstance(value, tuple)
            changed = splice(CONTENTS.record(key), *value)
            assert changed != CONTENTS.record(key)
            assert CONTENTS.holds(key, changed)
        else:
            assert value is None


@pytest.mark.parametrize("name", ["A", "F"])
def test_updates_are_of_every_field_alike(name: str) -> None:
    fields = Counter(value[0] for value in SCRIPTS[name].values if isinstance(value, tuple))
    assert fits([fields[field] for field in range(FIELDS)], [1 / FIELDS] * FIELDS)


def test_scans_are_of_1_to_100_records_all_lengths_alike() -> None:
    script = SCRIPTS["E"]
    lengths = Counter(
        length
        for kind, length in zip(script.kinds, script.lengths, strict=True)
        if kind != Kind.INSERT
    )
    assert set(lengths) == set(range(1, 101))
    assert fits([lengths[length] for length in range(1, 101)], [0.01] * 100)
    assert all(
        length == 0
        for kind, length in zip(script.kinds, script.lengths, strict=True)
        if kind == Kind.INSERT
    )
    assert not any(any(SCRIPTS[name].lengths) for name in "ABCDF")


def test_latest_asks_for_the_newest_most_of_all() -> None:
    newest, ages = RECORDS - 1, Counter[int]()
    for kind, key in zip(SCRIPTS["D"].kinds, SCRIPTS["D"].keys, strict=True):
        if kind == Kind.INSERT:
            newest += 1
        else:
            ages[newest - NUMBERS[key]] += 1
    assert [age for age, _ in ages.most_common(3)] == [0, 1, 2]
    # Of 300 to 800 records: zeta is 6.5 to 7.5.
    assert 1 / 7.5 < ages[0] / ages.total() < 1 / 6.5


@pytest.mark.parametrize("name", ["A", "C", "E"])
def test_zipfian_asks_for_few_records_most_of_the_time(name: str) -> None:
    script = SCRIPTS[name]
    asked = Counter(
        key for kind, key in zip(script.kinds, script.keys, strict=True) if kind != Kind.INSERT
    )
    (_, often), *_ = asked.most_common(1)
    assert often / asked.total() > 1 / 26.5


@pytest.mark.parametrize(("name", "items"), [("C", RECORDS + 1), ("E", RECORDS + 1000 + 1)])
def test_numbers_are_hashed_to_a_range_with_the_expected_inserts(name: str, items: int) -> None:
    """Twice those expected, 5% of the operations; and one more, for the range includes its end."""
    most_popular = next(number for rank in count() if (number := fnv_64(rank) % items) < RECORDS)
    asked = Counter(SCRIPTS[name].keys)
    assert asked.most_common(1)[0][0] == make_key(most_popular)


def test_loaded_records_are_there_however_many_clients_insert() -> None:
    script = _generate(WORKLOADS["D"], clients=OPERATIONS)
    assert Counter(script.keys).most_common(1)[0][0] == make_key(RECORDS - 1)


def test_records_popular_before_the_inserts_are_so_after_them() -> None:
    script = SCRIPTS["E"]
    scanned = [
        key for kind, key in zip(script.kinds, script.keys, strict=True) if kind == Kind.SCAN
    ]
    half = len(scanned) // 2
    popular = [Counter(part).most_common(1)[0][0] for part in (scanned[:half], scanned[half:])]
    assert popular[0] == popular[1]


def test_uniform_asks_for_all_loaded_records_alike() -> None:
    script = _generate(dataclasses.replace(WORKLOADS["C"], distribution="uniform"))
    asked = Counter(map(NUMBERS.__getitem__, script.keys))
    assert fits([asked[number] for number in range(RECORDS)], [1 / RECORDS] * RECORDS)


def test_the_same_seed_makes_the_same_script() -> None:
    for name, workload in WORKLOADS.items():
        assert _generate(workload) == SCRIPTS[name]
    assert _generate(WORKLOADS["A"], seed=SEED + 1) != SCRIPTS["A"]
    assert Records(SEED).record(make_key(0)) == CONTENTS.record(make_key(0))
    assert Records(SEED + 1).record(make_key(0)) != CONTENTS.record(make_key(0))


def test_the_load_inserts_every_record_once() -> None:
    load = generate_load(CONTENTS, RECORDS)
    assert set(load.kinds) == {Kind.INSERT}
    assert _inserted(load) == list(range(RECORDS))
    assert list(zip(load.keys, load.values, strict=True)) == list(CONTENTS.pairs(range(RECORDS)))
    assert list(load.keys) != sorted(load.keys), "hashed order"


def test_the_shares_of_processes_are_the_script() -> None:
    script = SCRIPTS["A"]
    shares = [script.share(number, 3) for number in range(3)]
    assert sum(map(len, shares)) == len(script)
    for slot in (0, 1, 2, 3, 4, 9_999):
        share = shares[slot % 3]
        assert share.kinds[slot // 3] == script.kinds[slot]
        assert share.keys[slot // 3] is script.keys[slot]
        assert share.values[slot // 3] is script.values[slot]


def test_a_script_with_a_part_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="1, 2"):
        Script(bytes([Kind.READ] * 2), [b"user1"], [None], array("H", [0]))


def test_what_needs_a_sync_is_a_write() -> None:
    assert [kind.name for kind in Kind if kind.writes] == [
        *("UPDATE", "INSERT", "READ_MODIFY_WRITE", "PUT", "DELETE")
    ]


def test_a_record_is_its_fields() -> None:
    record = CONTENTS.record(make_key(7))
    fields = split(record)
    assert [len(field) for field in fields] == [FIELD_BYTES] * FIELDS
    assert b"".join(fields) == record
    other = splice(record, 3, bytes(FIELD_BYTES))
    assert len(other) == RECORD_BYTES
    assert split(other) == [*fields[:3], bytes(FIELD_BYTES), *fields[4:]]


def test_a_record_that_cannot_be_the_one_of_its_key_is_noticed() -> None:
    key, other = make_key(1), make_key(2)
    record = CONTENTS.record(key)
    for choice in range(UPDATES):
        record = splice(record, *CONTENTS.update(key, choice))
        assert CONTENTS.holds(key, record)
        assert CONTENTS.holds_fields(key, split(record))
        assert not CONTENTS.holds(other, record)
    foreign = splice(record, *CONTENTS.update(other, 4))
    swapped = splice(record, 0, split(record)[1])
    torn = record[:550] + CONTENTS.record(key)[550:]
    for wrong in (foreign, swapped, torn, record[:-1], record + b"\0", b""):
        assert not CONTENTS.holds(key, wrong)
    assert not CONTENTS.holds_fields(key, split(record)[:-1])


def test_the_updates_of_a_key_are_all_different() -> None:
    key = make_key(5)
    assert len({CONTENTS.update(key, choice) for choice in range(UPDATES)}) == UPDATES
