"""Compaction as the store's users meet it: keys over levels, tombstones, progress, disk space."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from unittest import mock

import pytest

import kvstore
from kvstore import ClosedError, KVStore
from tests.support.stores import contents
from tests.support.trees import (
    WaitingFileSystem,
    directory_bytes,
    idle,
    noise,
    small,
    tables,
    wait_until,
)


class StopHereError(Exception):
    """What a caller's progress function raises."""


def fill(db: KVStore, seed: int, *, first: int = 0, step: int = 1, keys: int = 100) -> None:
    for i in range(first, keys, step):
        db.put(b"k%03d" % i, noise(1500, seed + i), sync=False)


def expected(*fills: tuple[int, int, int], keys: int = 100) -> dict[bytes, bytes]:
    return {
        b"k%03d" % i: noise(1500, seed + i)
        for seed, first, step in fills
        for i in range(first, keys, step)
    }


def test_the_newest_value_is_found_whatever_level_it_is_in(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        fill(db, 1000)
        db.compact()
        fill(db, 2000, step=2)
        db.flush()
        fill(db, 3000, step=3)
        db.flush()
        for i in range(0, 100, 5):
            db.delete(b"k%03d" % i, sync=False)
        db.flush()
        fill(db, 4000, step=7)
        model = expected((1000, 0, 1), (2000, 0, 2), (3000, 0, 3))
        for i in range(0, 100, 5):
            del model[b"k%03d" % i]
        model |= expected((4000, 0, 7))
        model = dict(sorted(model.items()))
        for _ in range(2):
            assert dict(db.items()) == model
            assert list(db.scan(b"k031", b"k067", reverse=True)) == sorted(
                ((k, v) for k, v in model.items() if b"k031" <= k < b"k067"), reverse=True
            )
            for i in range(100):
                assert db.get(b"k%03d" % i) == model.get(b"k%03d" % i)
            assert len(db) == len(model)
            db.compact()
        stats = db.stats()
        assert len(stats.levels) == 1
        assert stats.levels[0].entries == len(model)
        assert stats.levels[0].tombstones == 0
        assert db.verify().ok
    assert contents(tmp_path / "db", recovery="strict") == model


def test_levels_take_shape_in_the_background(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        for seed in range(6):
            fill(db, seed * 1000, first=seed % 2, step=2, keys=400)
        db.flush()
        idle(db)
        stats = db.stats()
        assert stats.flushes > 20
        assert stats.compactions > 3
        assert max(level.level for level in stats.levels) >= 2
        for level in stats.levels[:-1]:
            assert level.level == 0 or level.bytes <= level.bytes_target
        assert sum(level.tables for level in stats.levels if not level.level) < 4
        assert stats.write_amplification > 1
        assert stats.compaction_bytes_written > stats.flush_bytes / 2
        assert 1.0 <= stats.space_amplification < 3
        assert stats.background_error == ""
        model = expected((4000, 0, 2), (5000, 1, 2), keys=400)
        assert dict(db.items()) == dict(sorted(model.items()))
        assert db.verify().ok
        assert len(tables(tmp_path / "db")) == sum(level.tables for level in stats.levels)
    assert contents(tmp_path / "db") == model


@pytest.mark.parametrize("whole", [False, True])
def test_deleted_keys_leave_the_disk(tmp_path: Path, *, whole: bool) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        fill(db, 1, keys=300)
        db.compact()
        full = db.stats().table_bytes
        for i in range(300 if whole else 270):
            db.delete(b"k%03d" % i, sync=False)
        db.compact()
        stats = db.stats()
        assert sum(level.tombstones for level in stats.levels) == 0
        assert stats.tombstones_dropped >= 270
        assert stats.table_bytes < full / 5
        assert sum(map(len, db.values())) == (0 if whole else 30 * 1500)
        if whole:
            assert tables(tmp_path / "db") == []
    assert len(contents(tmp_path / "db")) == (0 if whole else 30)


def test_a_range_is_compacted_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        fill(db, 1, keys=300)
        db.compact()
        for i in range(300):
            db.delete(b"k%03d" % i, sync=False)
        # Several tables of tombstones, one for each third of the keys.
        db.flush()
        before = {meta.number for meta in db._tree.state.version.tables()}
        db.compact(b"k000", b"k030")
        stats = db.stats()
        after = {meta.number for meta in db._tree.state.version.tables()}
        assert list(db.scan()) == []
        assert before != after
        assert stats.background_error == ""
        assert db.verify().ok
        db.compact(b"x")  # nothing is there
        assert {meta.number for meta in db._tree.state.version.tables()} == after
        db.compact(b"k200", b"k100")  # nor here
        assert {meta.number for meta in db._tree.state.version.tables()} == after


def test_progress_is_told_in_the_callers_thread_and_rises_to_one(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        for seed in range(3):
            fill(db, seed * 1000, keys=400)
        shares: list[float] = []
        threads: set[int] = set()

        def progress(share: float) -> None:
            shares.append(share)
            threads.add(threading.get_ident())

        db.compact(progress=progress)
        assert threads == {threading.get_ident()}
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert shares[0] < 1.0
        assert all(0.0 <= share <= 1.0 for share in shares)


def test_what_progress_raises_ends_the_compaction_and_loses_nothing(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    path = tmp_path / "db"
    with KVStore(path, small(), fs=fs) as db:
        fill(db, 1000)
        db.compact()
        fill(db, 2000, step=2)
        db.flush()
        idle(db)
        before = db.stats().table_bytes
        fs.gate.clear()

        def stop(share: float) -> None:
            if fs.waiting.is_set():
                raise StopHereError

        fs.waiting.clear()
        with pytest.raises(StopHereError):
            db.compact(progress=stop)
        fs.gate.set()
        db.put(b"more", b"")  # nothing is refused
        model = {**expected((1000, 0, 1), (2000, 0, 2)), b"more": b""}
        wait_until(lambda: not any(name.endswith(".tmp") for name in tables(path)))
        assert db.stats().table_bytes == before
        assert dict(db.items()) == model
        assert db.verify().ok
        db.compact()
        assert dict(db.items()) == model
        assert len(tables(path)) == sum(level.tables for level in db.stats().levels)
    assert contents(path) == model


def test_a_compaction_whose_caller_was_interrupted_as_he_asked_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        for seed in (1, 2):
            db.put(b"k", noise(100, seed))
            db.flush()
        before = db.stats().levels
        with monkeypatch.context() as patch:
            patch.setattr(db._worker, "_serve_request", lambda: False)  # not yet
            patch.setattr(db._worker, "rouse", mock.Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                db.compact()
        assert len(db._worker._requests) == 1
        db._worker.rouse()
        wait_until(lambda: not db._worker._requests)
        assert db.stats().levels == before


def test_a_queue_leaves_nearly_nothing_behind(tmp_path: Path) -> None:
    path, backlog, rounds = tmp_path / "db", 20, 1500
    largest = 0
    with KVStore(path, small()) as db:
        waiting: deque[int] = deque()
        for i in range(rounds):
            db.put(b"job %08d" % i, noise(1000, i), sync=False)
            waiting.append(i)
            if len(waiting) > backlog:
                job = waiting.popleft()
                assert db.pop(b"job %08d" % job) == noise(1000, job)
            if i % 50 == 0:
                largest = max(largest, directory_bytes(path))
        db.flush()
        idle(db)
        stats = db.stats()
        assert [int(key.split()[1]) for key in db] == list(waiting)
        assert stats.flushes > 10
        assert stats.table_bytes < 6 * backlog * 1000
        assert len(tables(path)) < 8
        db.compact()
        assert db.stats().table_bytes < 2 * backlog * 1000
        assert sum(level.tombstones for level in db.stats().levels) == 0
    # A few memtables' worth of log and tables, of the 1.5 MB that went through.
    assert largest < 1_000_000
    assert len(contents(path)) == backlog


def test_compacting_twice_changes_nothing_more(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        for seed in range(2):
            fill(db, seed * 1000, keys=200)
        for _ in range(2):
            db.compact()
            idle(db)  # a level that has become too large goes down
        before = db.stats()
        db.compact()
        after = db.stats()
        assert after.levels == before.levels
        assert after.compaction_bytes_written == before.compaction_bytes_written


def test_two_callers_may_compact_at_once(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        fill(db, 1, keys=200)
        errors: list[BaseException] = []

        def compact(start: bytes | None) -> None:
            try:
                db.compact(start)
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=compact, args=(start,)) for start in (None, b"k050", b"k150")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert errors == []
        assert dict(db.items()) == expected((1, 0, 1), keys=200)
        assert db.verify().ok


@pytest.mark.parametrize("work", ["flush", "compact"])
def test_close_ends_what_the_background_is_at_and_loses_nothing(tmp_path: Path, work: str) -> None:
    path = tmp_path / "db"
    for delay in range(0, 12, 2):
        with KVStore(path, small()) as db:
            fill(db, delay * 1000)
            ended: list[BaseException | None] = []

            def run(db: KVStore = db, ended: list[BaseException | None] = ended) -> None:
                try:
                    getattr(db, work)()
                except BaseException as error:
                    ended.append(error)
                else:
                    ended.append(None)

            thread = threading.Thread(target=run)
            thread.start()
            thread.join(delay / 1000)
        thread.join(20)
        assert not thread.is_alive()
        assert ended[0] is None or isinstance(ended[0], ClosedError)
        assert [name for name in tables(path) if name.endswith(".tmp")] == []
        assert contents(path, recovery="strict") == expected((delay * 1000, 0, 1))


def test_a_salvaged_store_neither_flushes_nor_compacts(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        fill(db, 1)
    before = tables(tmp_path / "db")
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        for call in (db.flush, db.compact):
            with pytest.raises(kvstore.ReadOnlyError):
                call()
        assert db == expected((1, 0, 1))
    assert tables(tmp_path / "db") == before
