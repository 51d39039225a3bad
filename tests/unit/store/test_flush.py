"""From memory to sorted tables: what is flushed, when the log is given up, what readers see."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

import kvstore
from kvstore import KVStore
from tests.support.faultfs import FaultFileSystem
from tests.support.stores import NEVER, contents, each_backend, segment_names
from tests.support.trees import (
    SMALL,
    TellingFileSystem,
    WaitingFileSystem,
    noise,
    small,
    tables,
    wait_until,
)
from tests.unit.store.test_visibility import run_threads


@each_backend
def test_flush_moves_memory_to_a_table_and_gives_the_log_up(tmp_path: Path, backend: str) -> None:
    model = {b"%03d" % i: noise(3000, i) for i in range(60)}
    path = tmp_path / "db"
    with kvstore.open(path, wal_backend=backend, wal_segment_bytes=64 << 10) as db:
        db.update(model)
        assert len(segment_names(path)) > 2
        assert tables(path) == []
        db.flush()
        stats = db.stats()
        assert (stats.memtable_bytes, stats.sealed_memtables, stats.flushes) == (0, 0, 1)
        assert [(level.level, level.tables, level.entries) for level in stats.levels] == [
            (0, 1, 60)
        ]
        assert stats.flush_bytes == stats.table_bytes == (path / tables(path)[0]).stat().st_size
        assert len(segment_names(path)) == 1
        assert db == model
        assert db.verify().ok
    assert contents(path) == model


class SlowToForget(FaultFileSystem):
    """Gives a log file up when ``flush`` has returned, or else after a while."""

    def __init__(self) -> None:
        super().__init__()
        self.returned = threading.Event()
        self.overtaken: list[bool] = []

    def step(self, operation: str, path: str) -> int | None:
        if operation in ("unlink", "rename") and path.endswith(("recycled.wal.tmp", ".wal")):
            self.overtaken.append(self.returned.wait(0.01))
        return super().step(operation, path)


@pytest.mark.parametrize("begun", [False, True])
def test_flush_returns_when_the_log_is_given_up(tmp_path: Path, *, begun: bool) -> None:
    fs = SlowToForget()
    fs.returned.set()
    with KVStore(tmp_path / "db", small(memtable_bytes_max=1 << 20), fs=fs) as db:
        for i in range(60):
            db.put(b"%d" % i, noise(3000, i), sync=False)
        fs.overtaken.clear()
        fs.returned.clear()
        if begun:  # by another thread, and the table is there already
            other = threading.Thread(target=db.flush)
            other.start()
            wait_until(lambda: not db.stats().sealed_memtables and db.stats().flushes)
        db.flush()
        fs.returned.set()
        assert fs.overtaken
        assert not any(fs.overtaken)
        assert len(segment_names(tmp_path / "db")) == 1
        if begun:
            other.join(20)


def test_a_flush_of_nothing_does_nothing(tmp_path: Path) -> None:
    fs = TellingFileSystem()
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        before = len(fs.operations)
        db.flush()
        db.compact()
        assert fs.operations[before:] == []
        db.put(b"k", b"v")
        db.flush()
        before, flushes = len(fs.operations), db.stats().flushes
        db.flush()
        assert fs.operations[before:] == []
        assert db.stats().flushes == flushes


def test_what_was_put_and_deleted_again_needs_no_table(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:
        for i in range(20):
            db.put(b"%d" % i, noise(1000, i))
        for i in range(20):
            db.delete(b"%d" % i)
        db.flush()
        assert tables(tmp_path / "db") == []
        assert dict(db) == {}
    assert contents(tmp_path / "db") == {}


def test_the_log_goes_only_when_the_table_and_the_edit_are_durable(tmp_path: Path) -> None:
    fs = TellingFileSystem()
    with KVStore(tmp_path / "db", small(memtable_bytes_max=1 << 20), fs=fs) as db:
        db.put(b"before", b"")
        db.flush()  # so that there is a manifest
        for i in range(60):
            db.put(b"%d" % i, noise(3000, i), sync=False)
        assert len(segment_names(tmp_path / "db")) > 2
        before = len(fs.operations)
        db.flush()
        assert len(segment_names(tmp_path / "db")) == 1
        seen = fs.operations[before:]
    manifest = "MANIFEST-000001"
    table = seen.index(("sync", "000002.sst.tmp"))
    named = seen.index(("rename", "000002.sst"))
    settled = seen.index(("sync directory", "db"), named)
    log = max(i for i, (what, name) in enumerate(seen) if what == "sync" and ".wal" in name)
    edit = seen.index(("write", manifest))
    durable = seen.index(("sync", manifest), edit)
    given_up = [
        i
        for i, (what, name) in enumerate(seen)
        if (what == "unlink" and name.endswith(".wal")) or name == "recycled.wal.tmp"
    ]
    assert table < named < settled < edit < durable < given_up[0]
    assert log < edit
    assert max(i for i, (what, _) in enumerate(seen) if what == "write") > table
    assert not any(name.endswith(".wal") for what, name in seen[:durable] if what == "unlink")


def test_reads_see_memory_sealed_memory_and_tables(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    with KVStore(tmp_path / "db", small(memtable_bytes_max=1 << 20), fs=fs) as db:
        model = {b"all": b"1", b"table": b"1", b"gone": b"1", b"back": b"1"}
        db.update(model)
        db.flush()
        fs.gate.clear()
        for key, value in ((b"all", b"2"), (b"sealed", b"2")):
            db[key] = model[key] = value
        for key in (b"gone", b"back"):
            del db[key], model[key]
        flusher = threading.Thread(target=db.flush)
        flusher.start()
        assert fs.waiting.wait(20)
        for key, value in ((b"all", b"3"), (b"active", b"3"), (b"back", b"3")):
            db[key] = model[key] = value
        assert db.stats().sealed_memtables == 1
        assert dict(db.items()) == model
        assert list(db.items()) == sorted(model.items())
        assert list(reversed(db)) == sorted(model, reverse=True)
        assert len(db) == len(model)
        for key in (*model, b"gone", b"never"):
            assert db.get(key) == model.get(key)
        assert list(db.scan(prefix=b"a", limit=1)) == [(b"active", b"3")]
        fs.gate.set()
        flusher.join(20)
        assert not flusher.is_alive()
        assert db.stats().sealed_memtables == 0
        assert db == model
    assert contents(tmp_path / "db") == model


def test_flush_returns_only_when_what_was_sealed_before_is_durable_too(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        fs.gate.clear()
        for i in range(30):  # fills a memtable, and is not stopped by the next
            db.put(b"%d" % i, noise(3000, i), sync=False)
        assert fs.waiting.wait(20)
        flusher = threading.Thread(target=db.flush)
        flusher.start()
        flusher.join(0.05)
        assert flusher.is_alive()
        fs.gate.set()
        flusher.join(20)
        assert not flusher.is_alive()
        assert db.stats().memtable_bytes == 0
        assert db.stats().flushes == 2


def test_many_may_flush_at_once(tmp_path: Path) -> None:
    with KVStore(tmp_path / "db", small()) as db:

        def write_and_flush(thread: int) -> None:
            for i in range(10):
                db.put(b"%d %d" % (thread, i), noise(500, i), sync=i % 2 == 0)
                db.flush()
                assert b"%d %d" % (thread, i) in db

        run_threads(*(lambda thread=thread: write_and_flush(thread) for thread in range(4)))
        assert len(db) == 40
        assert db.verify().ok
        assert db.stats().flushes <= 40
    assert len(contents(tmp_path / "db")) == 40


def test_a_flush_keeps_the_log_of_what_was_written_meanwhile(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    fs.gate.clear()
    with KVStore(tmp_path / "db", small(memtable_bytes_max=256 << 10), fs=fs) as db:
        for number in range(90):  # the first 50 or so fill a memtable; several log files each
            db.put(b"%02d" % number, noise(5000, number))
        assert fs.waiting.wait(20)
        fs.gate.set()
        wait_until(lambda: db.stats().flushes == 1 and db._worker.flushing is None)
        shutil.copytree(tmp_path / "db", tmp_path / "killed")
        expected = dict(db.items())
        assert len(expected) == 90
    assert contents(tmp_path / "killed") == expected


@each_backend
def test_writers_lose_nothing_while_memtables_are_sealed(tmp_path: Path, backend: str) -> None:
    threads, puts = 8, 60
    options = {**SMALL, "wal_backend": backend, "flush_interval_ms": 1}
    with kvstore.open(tmp_path / "db", **options) as db:

        def write(thread: int) -> None:
            for i in range(puts):
                key = b"%d %03d" % (thread, i)
                db.put(key, noise(2500, i), sync=(thread + i) % 3 == 0)
                assert db[key] == noise(2500, i)
                with db.batch(sync=False) as batch:
                    batch.put(key + b"+", b"")
                    batch.put(b"last %d" % thread, key)
                if i % 10 == 5:
                    db.delete(key)

        run_threads(*(lambda thread=thread: write(thread) for thread in range(threads)))
        stats = db.stats()
        assert stats.flushes >= 5
        found = dict(db.items())
        assert db.verify().ok
    for thread in range(threads):
        assert found.pop(b"last %d" % thread) == b"%d %03d" % (thread, puts - 1)
        for i in range(puts):
            assert found.pop(b"%d %03d+" % (thread, i)) == b""
            value = found.pop(b"%d %03d" % (thread, i), None)
            assert value == (None if i % 10 == 5 else noise(2500, i))
    assert found == {}
    with kvstore.open(tmp_path / "db", recovery="strict", wal_backend=backend) as db:
        assert len(db) == threads * (puts + puts - puts // 10 + 1)
        assert db.verify().ok


def test_memory_recovered_that_is_too_much_is_flushed_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with kvstore.open(path, flush_interval_ms=NEVER) as db:
        for i in range(60):
            db.put(b"%02d" % i, noise(3000, i), sync=False)
    assert tables(path) == []
    with kvstore.open(path, **SMALL) as db:
        wait_until(lambda: db.stats().flushes)
        assert len(db) == 60
    assert tables(path) != []
    assert len(contents(path)) == 60


def test_a_log_in_many_files_is_flushed_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for i in range(7):
        with kvstore.open(path) as db:
            db.put(b"%d" % i, b"")
            wait_until(lambda db=db: not db.stats().sealed_memtables)  # type: ignore[misc]
    assert 1 <= len(segment_names(path)) <= 5
    assert len(contents(path)) == 7


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_values_of_every_size_come_back_from_tables(tmp_path: Path, compression: str) -> None:
    model = {b"%d" % size: noise(size, size) for size in (0, 1, 255, 4096, 70_000, 300_000)}
    model |= {b"=%d" % size: bytes(size) for size in (1, 5000, 70_000, 2_000_000)}
    model[b"k" * 65536] = b"long key"
    with KVStore(tmp_path / "db", small(compression=compression)) as db:
        db.update(model)
        db.flush()
        assert db.stats().memtable_bytes == 0
        for key, value in model.items():
            assert db[key] == value
        assert db == model
        db.compact()
        assert db == model
        assert list(db.scan(reverse=True)) == sorted(model.items(), reverse=True)
    # Every table says itself how it is compressed.
    assert contents(tmp_path / "db", compression="none") == model


def test_a_flush_that_was_interrupted_before_it_roused_the_worker_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with kvstore.open(tmp_path / "s") as db:
        db.put(b"a", b"1")
        db.flush()
        db.put(b"a", b"2")
        with monkeypatch.context() as patch:
            patch.setattr(db._worker, "rouse", interrupted)
            with pytest.raises(KeyboardInterrupt):
                db.flush()
        assert db.stats().sealed_memtables == 1
        flusher = threading.Thread(target=db.flush, daemon=True)
        flusher.start()
        flusher.join(10)
        assert not flusher.is_alive()
        assert db.stats().sealed_memtables == 0


def test_writers_flush_and_compact_themselves_when_no_thread_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.12 begins none once the main thread has ended, while others still write."""

    def refused(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    def work(db: kvstore.KVStore) -> None:
        for n in range(2000):
            db.put(b"%06d" % n, b"v" * 100, sync=False)
        db.flush()
        db.compact()

    with kvstore.open(tmp_path / "s", memtable_bytes_max=65536) as db:
        monkeypatch.setattr("kvstore.thread._thread.start_new_thread", refused)
        work(db)
        assert db.stats().flushes > 1
        assert len(db) == 2000
        monkeypatch.undo()
