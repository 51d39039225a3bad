"""Snapshots and iterators: one moment, whatever happens to the store meanwhile."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore import ClosedError, KVStore, LimitError
from tests.support.stores import NEVER, output_of
from tests.support.trees import noise, small, tables, wait_until
from tests.unit.store.test_visibility import run_threads

OLD = {b"k%02d" % i: noise(1500, i) for i in range(60)}
NEW = {b"k%02d" % i: noise(1500, 100 + i) for i in range(0, 90, 2)}

Change = Callable[[KVStore], None]


def overwrite(db: KVStore) -> None:
    db.update(NEW)


def delete_everything(db: KVStore) -> None:
    db.clear()


def flush(db: KVStore) -> None:
    db.update(NEW)
    db.flush()


def compact(db: KVStore) -> None:
    db.update(NEW)
    db.compact()


def delete_and_compact(db: KVStore) -> None:
    db.clear()
    db.compact()


def several(db: KVStore) -> None:
    for _ in range(3):
        flush(db)
        delete_and_compact(db)


CHANGES = [overwrite, delete_everything, flush, compact, delete_and_compact, several]
PLACES: dict[str, Change] = {
    "memory": lambda db: None,
    "tables": lambda db: db.flush(),
    "a deep level": lambda db: db.compact(),
}


def check(snapshot: object, model: dict[bytes, bytes]) -> None:
    assert list(snapshot.scan()) == sorted(model.items())  # type: ignore[attr-defined]
    backwards = list(snapshot.scan(reverse=True))  # type: ignore[attr-defined]
    assert backwards == sorted(model.items(), reverse=True)
    for key in OLD.keys() | NEW.keys() | {b"other"}:
        assert snapshot.get(key) == model.get(key)  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_snapshot_shows_its_moment(tmp_path: Path, place: str, change: Change) -> None:
    options = small(flush_interval_ms=NEVER, sync=False)
    with KVStore(tmp_path / "db", options) as db:
        db.update(OLD)
        PLACES[place](db)
        db[b"k00"] = b"in memory"
        del db[b"k01"]
        model = {**OLD, b"k00": b"in memory"}
        del model[b"k01"]
        with db.snapshot() as snapshot:
            begun = snapshot.scan()
            live = db.scan()
            first = next(begun)
            assert next(live) == first == (b"k00", b"in memory")
            change(db)
            check(snapshot, model)
            assert [first, *begun] == [first, *live] == sorted(model.items())
            assert len(snapshot) == len(model)
            assert list(snapshot) == sorted(model)
            assert b"k00" in snapshot
            assert b"k01" not in snapshot
            assert snapshot.get(b"k01", b"default") == b"default"
            assert list(snapshot.scan(b"k10", b"k20", limit=3)) == sorted(model.items())[9:12]
        with pytest.raises(ClosedError, match="snapshot"):
            snapshot.get(b"k00")


def test_tables_that_were_replaced_are_freed_with_the_snapshot(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        db.update(OLD)
        db.flush()
        snapshot = db.snapshot()
        before = tables(tmp_path / "db")
        delete_and_compact(db)
        assert not set(before) & set(tables(tmp_path / "db"))  # the names are gone
        check(snapshot, OLD)  # and what they named is not
        held = open_tables(tmp_path / "db")
        snapshot.close()
        snapshot.close()
        del snapshot
        gc.collect()
        if held is not None:
            assert held >= 1
            wait_until(lambda: open_tables(tmp_path / "db") == 0)


def open_tables(path: Path) -> int | None:
    """How many tables of a store this process has open; None where there is no /proc."""
    root = Path("/proc/self/fd")
    if not root.exists():
        return None
    count = 0
    for one in root.iterdir():
        try:
            target = os.readlink(one)
        except FileNotFoundError:
            continue
        count += target.startswith(str(path)) and ".sst" in target
    return count


def test_a_closed_snapshot_refuses_everything_its_iterators_too(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        db.update(OLD)
        db.flush()
        db[b"more"] = b""
        snapshot = db.snapshot()
        begun, fresh = snapshot.scan(), snapshot.scan()
        next(begun)
        snapshot.close()
        calls: list[Callable[[], object]] = [
            lambda: snapshot.get(b"k00"),
            lambda: b"k00" in snapshot,
            lambda: len(snapshot),
            snapshot.scan,
            lambda: list(snapshot),
            snapshot.__enter__,
            lambda: next(begun),
            lambda: next(fresh),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                call()
        assert db[b"k00"] == OLD[b"k00"]  # the store goes on


@pytest.mark.parametrize("empty", [False, True])
def test_a_snapshot_ends_with_its_store(tmp_path: Path, *, empty: bool) -> None:
    db = KVStore(tmp_path / "db", small())
    if not empty:
        db.update(OLD)
        db.flush()
    snapshot = db.snapshot()
    fresh = snapshot.scan()
    begun = snapshot.scan()
    if not empty:
        next(begun)
    db.close()
    calls: list[Callable[[], object]] = [
        lambda: snapshot.get(b"k00"),
        lambda: len(snapshot),
        snapshot.scan,
        lambda: next(fresh),
        lambda: next(begun),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()
    snapshot.close()
    with pytest.raises(ClosedError):
        db.snapshot()


def test_keys_are_checked_as_the_store_checks_them(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db, db.snapshot() as snapshot:
        with pytest.raises(LimitError):
            snapshot.get(b"")
        with pytest.raises(TypeError):
            snapshot.get("text")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit"):
            snapshot.scan(limit=-1)
        assert snapshot.get(bytearray(b"k")) is None


def test_a_batch_is_in_a_snapshot_whole_or_not_at_all(tmp_path: Path) -> None:
    rounds = 150
    with KVStore(tmp_path / "db", small(sync=False)) as db:
        ended = threading.Event()

        def write() -> None:
            try:
                for i in range(rounds):
                    with db.batch() as batch:
                        for key in (b"left", b"middle", b"right"):
                            batch.put(key, b"%d" % i + noise(1000, i))
            finally:
                ended.set()

        def look() -> None:
            seen = -1
            while not ended.is_set():
                with db.snapshot() as snapshot:
                    values = {value for _, value in snapshot.scan()}
                    assert len(values) <= 1
                    assert {snapshot.get(key) for key in (b"left", b"right")} <= values | {None}
                values = {value for _, value in db.scan(reverse=True)}
                assert len(values) <= 1
                number = int(values.pop()[:-1000]) if values else -1
                assert number >= seen
                seen = number

        run_threads(write, look, look)
        assert db.stats().flushes > 1


FORK = """
import os, sys, warnings
import kvstore

warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")  # Python 3.12
db = kvstore.open(sys.argv[1], memtable_bytes_max=65536)
for i in range(40):
    db.put(b"%02d" % i, bytes(3000))
db.flush()
db.put(b"memory", b"")
snapshot = db.snapshot()
scan = snapshot.scan()
next(scan)
pid = os.fork()
if pid == 0:
    try:
        calls = [
            lambda: snapshot.get(b"00"), lambda: len(snapshot), lambda: list(snapshot),
            snapshot.scan, lambda: next(scan), db.snapshot, db.flush, db.compact, db.verify,
        ]
        for number, call in enumerate(calls):
            try:
                call()
            except kvstore.ForkedError:
                pass
            else:
                raise AssertionError(f"call {number} worked in a child")
        snapshot.close()
        db.close()
        del scan, snapshot, db
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
db.clear()
db.compact()
print(len(list(scan)), len(snapshot), len(db))
snapshot.close()
db.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_is_refused_the_snapshot_and_hurts_nothing(tmp_path: Path) -> None:
    assert output_of(FORK, tmp_path / "db") == "40 41 0\n"
