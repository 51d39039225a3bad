"""What one client's operations leave behind, and what is told from it."""

from __future__ import annotations

from array import array

from bench.ycsb.generation import generate
from bench.ycsb.outcome import Outcome
from bench.ycsb.records import Records, make_key, splice
from bench.ycsb.script import Kind, Script, Written
from bench.ycsb.workloads import WORKLOADS

SEED = 20100610
CONTENTS = Records(SEED)
KEY, OTHER = make_key(1), make_key(2)
RECORD = CONTENTS.record(KEY)


def _outcome(*operations: tuple[Kind, bytes, Written]) -> Outcome:
    kinds, keys, values = zip(*operations, strict=True)
    count = len(operations)
    script = Script(bytes(kinds), keys, values, array("H", bytes(2 * count)))
    return Outcome(script, range(count))


def test_the_last_update_of_a_field_is_what_it_holds() -> None:
    first, last = (0, b"a" * 100), (0, b"b" * 100)
    outcome = _outcome((Kind.UPDATE, KEY, first), (Kind.READ_MODIFY_WRITE, KEY, last))
    assert outcome.agrees(KEY, splice(RECORD, *last))
    assert outcome.agrees(KEY, splice(splice(RECORD, *last), 5, b"c" * 100)), "another field"
    for wrong in (splice(RECORD, *first), RECORD, None):
        assert not outcome.agrees(KEY, wrong)


def test_a_record_that_is_inserted_and_updated_is_known_wholly() -> None:
    update = (3, b"x" * 100)
    outcome = _outcome((Kind.INSERT, KEY, RECORD), (Kind.UPDATE, KEY, update))
    changed = splice(RECORD, *update)
    assert outcome.agrees(KEY, changed)
    for wrong in (RECORD, splice(changed, 4, b"y" * 100), None):
        assert not outcome.agrees(KEY, wrong)


def test_what_was_deleted_is_gone_until_it_is_put_again() -> None:
    deleted = _outcome((Kind.PUT, KEY, b"old"), (Kind.DELETE, KEY, None))
    assert deleted.agrees(KEY, None)
    assert not deleted.agrees(KEY, b"old")
    again = _outcome((Kind.DELETE, KEY, None), (Kind.PUT, KEY, b"new"))
    assert again.agrees(KEY, b"new")
    for wrong in (b"old", None):
        assert not again.agrees(KEY, wrong)


def test_reading_leaves_nothing_behind() -> None:
    reads = (Kind.READ, Kind.READ_MISSING, Kind.SCAN, Kind.SEEK)
    assert not _outcome(*((kind, KEY, None) for kind in reads)).written_keys()


def test_only_the_operations_that_were_done_count() -> None:
    workload = WORKLOADS["A"]
    script = generate(workload, CONTENTS, records=50, operations=500, seed=SEED)
    store = {make_key(number): CONTENTS.record(make_key(number)) for number in range(50)}
    states = [dict(store)]
    for key, value in zip(script.keys, script.values, strict=True):
        if isinstance(value, tuple):
            store[key] = splice(store[key], *value)
        states.append(dict(store))
    for done in (0, 1, 250, 500):
        outcome = Outcome(script, range(done))
        assert all(outcome.agrees(key, states[done][key]) for key in outcome.written_keys())
    whole = Outcome(script, range(500))
    assert whole.written_keys() == sorted(whole.written_keys())
    assert not all(whole.agrees(key, states[250][key]) for key in whole.written_keys())
    assert whole.agrees(OTHER, store[OTHER])
