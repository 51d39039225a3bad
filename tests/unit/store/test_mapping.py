"""KVStore as a mapping and as an ordered one: every way of reading against a sorted dict."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvstore
from kvstore import KVStore
from tests.support.stores import NEVER

KEYS = (
    st.binary(min_size=1, max_size=3)
    | st.text("ab", min_size=1, max_size=4).map(str.encode)
    | st.sampled_from([b"\0", b"\xff", b"\xff\xff", b"\xff\xff\xff", b"a\xff", b"a\xff\xff", b"b"])
)
MODELS = st.dictionaries(KEYS, st.binary(max_size=3), max_size=30)
BOUNDS = st.none() | st.just(b"") | KEYS

reusing_the_store = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[KVStore]:
    with kvstore.open(tmp_path / "db", sync=False, flush_interval_ms=NEVER) as db:
        yield db


def fill(db: KVStore, model: dict[bytes, bytes]) -> None:
    """Makes the store hold just ``model``, whatever it held before."""
    with db.batch() as batch:
        for key in list(db):
            batch.delete(key)
        for key, value in model.items():
            batch.put(key, value)


def expected(
    model: dict[bytes, bytes],
    bounds: tuple[bytes | None, bytes | None, bytes | None],
    limit: int | None,
    *,
    reverse: bool,
) -> list[tuple[bytes, bytes]]:
    """A scan in plain words."""
    start, stop, prefix = bounds
    found = [
        (key, value)
        for key, value in sorted(model.items(), reverse=reverse)
        if (start is None or key >= start)
        and (stop is None or key < stop)
        and (prefix is None or key.startswith(prefix))
    ]
    return found[:limit]


@given(
    model=MODELS,
    bounds=st.tuples(BOUNDS, BOUNDS, BOUNDS),
    limit=st.none() | st.integers(0, 8),
    reverse=st.booleans(),
)
@settings(reusing_the_store, max_examples=400)
def test_a_scan_is_a_slice_of_the_sorted_entries(
    db: KVStore,
    model: dict[bytes, bytes],
    bounds: tuple[bytes | None, bytes | None, bytes | None],
    limit: int | None,
    *,
    reverse: bool,
) -> None:
    fill(db, model)
    start, stop, prefix = bounds
    found = db.scan(start, stop, prefix=prefix, reverse=reverse, limit=limit)
    assert list(found) == expected(model, bounds, limit, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [255, 256, 257, 511, 512, 513, 2000])
def test_a_scan_longer_than_one_step_is_complete(db: KVStore, count: int, *, reverse: bool) -> None:
    model = {b"%05d" % i: b"" for i in range(count)}
    fill(db, model)
    keys = sorted(model, reverse=reverse)
    assert [key for key, _ in db.scan(reverse=reverse)] == keys
    assert [key for key, _ in db.scan(reverse=reverse, limit=257)] == keys[:257]
    with db.batch() as batch:  # whole steps without one live key
        for key in keys[100:900]:
            batch.delete(key)
    assert [key for key, _ in db.scan(reverse=reverse)] == keys[:100] + keys[900:]


@given(model=MODELS)
@settings(reusing_the_store, max_examples=60)
def test_every_view_agrees_with_a_dict(db: KVStore, model: dict[bytes, bytes]) -> None:
    fill(db, model)
    assert db == model
    assert model == db
    assert (db != model) is False
    assert db != {**model, b"\x01\x02\x03\x04": b""}
    assert len(db) == len(model)
    assert bool(db) == bool(model)
    keys = sorted(model)
    assert list(db) == list(db.keys()) == keys
    assert list(reversed(db)) == keys[::-1]
    assert list(db.items()) == [(key, model[key]) for key in keys]
    assert list(db.values()) == [model[key] for key in keys]
    assert dict(db) == model
    assert db.keys() == model.keys()
    assert db.items() == model.items()
    for key in keys:
        assert key in db
        assert db[key] == db.get(key) == model[key]
        assert (key, model[key]) in db.items()
        assert (key, model[key] + b"x") not in db.items()
        assert model[key] in db.values()
    assert b"\x01\x02\x03\x04" not in db


def test_it_is_a_mutable_mapping(db: KVStore) -> None:
    assert isinstance(db, MutableMapping)
    db[b"b"] = b"2"
    db.update({b"a": b"1"})
    db.update([(b"c", b"3")])
    assert db.setdefault(b"a", b"other") == b"1"
    assert db.setdefault(b"d", b"4") == b"4"
    assert db.pop(b"b") == b"2"
    assert db.pop(b"b", None) is None
    assert db.popitem() == (b"a", b"1")
    del db[b"c"]
    assert db == {b"d": b"4"}
    db.clear()
    assert db == {}
    assert len(db) == 0


def test_what_is_not_there_is_a_key_error_that_names_it(db: KVStore) -> None:
    for missing in (lambda: db[b"no"], lambda: db.pop(b"no"), lambda: db.__delitem__(b"no")):
        with pytest.raises(KeyError) as caught:
            missing()
        assert caught.value.args == (b"no",)
    with pytest.raises(KeyError):
        db.popitem()
    assert db.get(b"no") is None
    assert db.get(b"no", 5) == 5
    db.delete(b"no")  # like a file system, unlike a dict
    assert db == {}


def test_an_empty_value_is_a_value(db: KVStore) -> None:
    db.put(b"k", b"")
    assert db[b"k"] == db.get(b"k", b"default") == b""
    assert b"k" in db
    assert list(db.items()) == [(b"k", b"")]
    assert db.setdefault(b"k", b"default") == b""


def test_deleting_and_putting_again_leaves_no_ghosts(db: KVStore) -> None:
    for value in (b"1", b"2"):
        db.put(b"k", value)
        assert list(db.items()) == [(b"k", value)]
        db.delete(b"k")
        db.delete(b"k")
        assert list(db.items()) == []
        assert len(db) == 0


@pytest.mark.parametrize("number", [0, 1, 5000, 20_000])
def test_clearing_takes_a_few_batches(db: KVStore, number: int) -> None:
    # A write for every key, each after a search past all the deleted ones, would take for ever.
    with db.batch() as batch:
        for i in range(number):
            batch.put(b"%d" % i, b"")
    before = db.stats().last_lsn
    db.clear()
    assert db == {}
    assert db.stats().last_lsn - before <= number // 1000 + 1


def test_values_can_be_walked_through_while_keys_go(db: KVStore) -> None:
    fill(db, {b"%03d" % i: b"%d" % i for i in range(300)})
    values = iter(db.values())
    assert next(values) == b"0"
    db.delete(b"001")
    db.delete(b"299")
    assert list(values) == [b"%d" % i for i in range(1, 300)]


def test_a_scan_shows_the_moment_of_its_first_entry(db: KVStore) -> None:
    fill(db, {b"%03d" % i: b"old" for i in range(600)})
    scans = [db.scan(), db.scan(reverse=True), db.scan(prefix=b"5")]
    firsts = [[next(scan)] for scan in scans]
    with db.batch() as batch:
        for i in range(0, 600, 2):
            batch.delete(b"%03d" % i)
            batch.put(b"%03dx" % i, b"new")
            batch.put(b"%03d" % (i + 1), b"new")
    for first, scan, count in zip(firsts, scans, (600, 600, 100), strict=True):
        entries = first + list(scan)
        assert len(entries) == count
        assert {value for _, value in entries} == {b"old"}
    assert b"old" not in set(db.values())


def test_a_scan_that_is_dropped_gives_its_snapshot_up(db: KVStore) -> None:
    fill(db, {b"%d" % i: b"" for i in range(100)})  # more than one list, which needs none
    scan = db.scan()
    next(scan)
    assert sum(db._tree.state.memtable._snapshots.values()) == 1
    del scan
    assert not db._tree.state.memtable._snapshots


def test_limits_and_bounds_of_a_scan_are_checked_at_once(db: KVStore) -> None:
    with pytest.raises(ValueError, match="limit must be 0 or more, not -1"):
        db.scan(limit=-1)
    for wrong in ({"start": "a"}, {"stop": 5}, {"prefix": "a"}):
        with pytest.raises(TypeError):
            db.scan(**wrong)
    assert list(db.scan(limit=0)) == []


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_keys_and_bounds_may_be_any_bytes_like_object(db: KVStore, kind: type) -> None:
    db.put(kind(b"key"), kind(b"value"))
    db[kind(b"kez")] = kind(b"other")
    assert db[kind(b"key")] == db.get(kind(b"key")) == b"value"
    assert kind(b"key") in db
    assert type(db[kind(b"key")]) is bytes
    assert list(db.scan(kind(b"key"), kind(b"kez"))) == [(b"key", b"value")]
    assert list(db.scan(prefix=kind(b"kez"))) == [(b"kez", b"other")]
    del db[kind(b"kez")]
    db.delete(kind(b"key"))
    assert db == {}


def test_what_a_caller_changes_later_is_not_changed_in_the_store(tmp_path: Path) -> None:
    key, value = bytearray(b"key"), bytearray(b"value")
    with kvstore.open(tmp_path / "db") as db:
        db.put(key, value)
        value[:] = b"XXXXX"
        key[:] = b"XXX"
        assert list(db.items()) == [(b"key", b"value")]
    with kvstore.open(tmp_path / "db") as db:
        assert list(db.items()) == [(b"key", b"value")]


def test_a_store_compares_with_another(tmp_path: Path, db: KVStore) -> None:
    with kvstore.open(tmp_path / "twin", sync=False) as twin:
        for each in (db, twin):
            fill(each, {b"a": b"1", b"b": b"2"})
        assert db == twin
        twin.put(b"c", b"3")
        assert db != twin
    other: object = [(b"a", b"1"), (b"b", b"2")]
    assert db != other


def test_a_batch_applies_at_its_end_or_never(db: KVStore) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"1")
        assert b"a" not in db
    assert b"a" in db

    class DroppedError(Exception):
        pass

    before = db.stats().last_lsn
    with pytest.raises(DroppedError), db.batch() as batch:  # noqa: PT012
        batch.put(b"b", b"2")
        raise DroppedError
    with db.batch() as batch:
        pass
    assert b"b" not in db
    assert db.stats().last_lsn == before


def test_writing_a_batch_twice_writes_it_twice(db: KVStore) -> None:
    batch = kvstore.WriteBatch()
    batch.put(b"k", b"v")
    batch.delete(b"gone")
    db.put(b"gone", b"")
    db.write(batch)
    batch.put(b"k", b"w")  # not seen by what was written
    assert dict(db) == {b"k": b"v"}
    db.write(batch)
    assert dict(db) == {b"k": b"w"}


def test_iterators_are_independent(db: KVStore) -> None:
    fill(db, {b"%d" % i: b"" for i in range(5)})
    pairs = list(itertools.product(db, repeat=2))
    assert len(pairs) == len(set(pairs)) == 25
