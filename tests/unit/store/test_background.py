"""What happens behind the scenes, and when it cannot: back-pressure, failures, damage, orphans."""

from __future__ import annotations

import errno
import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvstore
from kvstore import (
    ChecksumMismatch,
    ClosedError,
    CorruptionError,
    DiskFullError,
    KVStore,
    KVStoreError,
    LockedError,
    PoisonedError,
    StorageIOError,
)
from kvstore.compaction import picker, pressure
from tests.support.damage import cut, flip, snapshot
from tests.support.faultfs import WRITES, Fault, FaultFileSystem
from tests.support.stores import NEVER, contents, output_of, segment_names
from tests.support.trees import (
    SMALL,
    WaitingFileSystem,
    idle,
    noise,
    small,
    tables,
    wait_until,
)

MODEL = {b"k%03d" % i: noise(1500, i) for i in range(120)}


def build(path: Path, **options: object) -> None:
    """A closed store: tables of level 1, one of level 0, and the newest key in the log."""
    with KVStore(path, small(**options)) as db:
        db.update(MODEL)
        db.compact()
        db.put(b"table", b"1")
        db.flush()
        db.put(b"log", b"1")


WHOLE = {**MODEL, b"table": b"1", b"log": b"1"}


def table_of(path: Path, key: bytes) -> Path:
    """The deepest table whose range holds ``key``, of a closed store."""
    with kvstore.open(path, recovery="salvage") as db:
        found = [
            meta.number
            for meta in db._tree.state.version.tables()
            if meta.smallest <= key <= meta.largest
        ]
    return path / f"{found[-1]:06d}.sst"


# ---- back-pressure ----


def test_writers_wait_while_memory_is_full_and_go_on_when_it_is_flushed(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        fs.gate.clear()
        written: list[int] = []

        def write(thread: int) -> None:
            for i in range(60):  # more than memory takes: none is done before the others come
                db.put(b"%d %d" % (thread, i), noise(3000, i), sync=i % 2 == 0)
                written.append(i)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        assert fs.waiting.wait(20)
        wait_until(lambda: db.stats().stops >= 4)
        stopped = len(written)
        assert stopped < 60
        # Two memtables, and what four writers had begun.
        assert db.stats().memtable_bytes < 2 * (64 << 10) + 4 * 4000
        assert db.stats().sealed_memtables == 1
        for thread in threads:
            thread.join(0.02)
            assert thread.is_alive()
        assert len(written) == stopped
        assert len(db) == stopped  # reads go on
        fs.gate.set()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        stats = db.stats()
        assert stats.stall_seconds > 0
        assert stats.flushes >= 4
        assert len(db) == 240
    assert len(contents(tmp_path / "db")) == 240


def test_closing_lets_writers_go_that_wait(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    db = KVStore(tmp_path / "db", small(), fs=fs)
    fs.gate.clear()
    acknowledged: list[int] = []
    ended: list[BaseException] = []

    def write() -> None:
        try:
            for i in range(200):
                db.put(b"%d" % i, noise(3000, i))
                acknowledged.append(i)
        except BaseException as error:
            ended.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: db.stats().stops)
    closer = threading.Thread(target=db.close)
    closer.start()
    writer.join(20)
    assert not writer.is_alive()
    assert isinstance(ended[0], ClosedError)
    fs.gate.set()
    closer.join(20)
    assert not closer.is_alive()
    assert contents(tmp_path / "db").keys() == {b"%d" % i for i in acknowledged}


def test_writers_are_slowed_before_they_are_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picker, "L0_COMPACT_TABLES", 100)
    monkeypatch.setattr(pressure, "L0_SLOW_TABLES", 2)
    monkeypatch.setattr(pressure, "L0_STOP_TABLES", 100)
    with KVStore(tmp_path / "db", small()) as db:
        for i in range(3):
            db.put(b"%d" % i, b"")
            assert db.stats().slowdowns == 0
            db.flush()
        for i in range(40):
            db.put(b"slow %d" % i, noise(2000, i), sync=False)
        stats = db.stats()
        assert stats.slowdowns > 0
        assert stats.stops == 0
        assert stats.stall_seconds >= 40 * 2000 / pressure.SLOW_BYTES_PER_SECOND / 2


def test_writers_stop_when_level_0_is_too_long_and_go_on_when_it_is_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picker, "L0_COMPACT_TABLES", 100)
    with KVStore(tmp_path / "db", small()) as db:
        for i in range(4):
            db.put(b"%d" % i, b"")
            db.flush()
        monkeypatch.setattr(pressure, "L0_STOP_TABLES", 3)
        db.flush()
        db._pressure.update()
        writer = threading.Thread(target=db.put, args=(b"waits", b""))
        writer.start()
        wait_until(lambda: db.stats().stops)
        writer.join(0.02)
        assert writer.is_alive()
        monkeypatch.setattr(picker, "L0_COMPACT_TABLES", 2)
        writer.join(20)
        assert not writer.is_alive()
        assert len(db) == 5


# ---- failures ----


def put_until_poisoned(
    db: KVStore, puts: Iterator[tuple[bytes, bytes]], acknowledged: dict[bytes, bytes]
) -> BaseException:
    """The cause; what was put before goes into ``acknowledged``."""
    for key, value in puts:
        try:
            db.put(key, value, sync=False)
        except PoisonedError as error:
            return error.cause
        acknowledged[key] = value
    raise AssertionError("no write is refused")


@pytest.mark.parametrize("work", ["flush", "compact"])
def test_a_full_disk_is_told_and_forgotten_when_there_is_room(tmp_path: Path, work: str) -> None:
    class FullForTables(FaultFileSystem):
        def step(self, operation: str, path: str) -> int | None:
            return super().step(operation, path) if ".sst" in path else None

    fs = FullForTables(None, Fault(errno.ENOSPC, WRITES, forever=True))
    # Two tables: too few for a compaction that nobody asks for.
    model = dict(list(MODEL.items())[:20])
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        for i in range(2):
            db.update(dict(list(model.items())[i::2]))
            db.flush()
        if work == "flush":
            db.put(b"more", b"")
        fs.fail_at = fs.count
        with pytest.raises(DiskFullError, match=r"\.sst\.tmp: write failed"):
            getattr(db, work)()
        if work == "flush":  # of a compaction nothing is left to do, which is found at once
            assert "No space left" in db.stats().background_error
        fs.heal()
        db.put(b"more", b"")
        db.flush()
        db.compact()
        assert db.stats().background_error == ""
        assert db == {**model, b"more": b""}
    assert contents(tmp_path / "db") == {**model, b"more": b""}


@pytest.mark.parametrize("killed", [False, True])
def test_a_store_with_tables_opens_on_a_full_disk(tmp_path: Path, *, killed: bool) -> None:
    path = tmp_path / "db"
    build(path)
    with KVStore(path, small()) as db:
        db.put(b"more", b"1")
        idle(db)
        shutil.copytree(path, tmp_path / "killed")
    path = tmp_path / "killed" if killed else path
    model = {**WHOLE, b"more": b"1"}
    fs = FaultFileSystem(0, Fault(errno.ENOSPC, WRITES | {"preallocate"}, forever=True))
    for _ in range(2):
        with KVStore(path, small(), fs=fs) as db:
            assert db == model
            with pytest.raises(DiskFullError):
                db.put(b"refused", b"")
            with pytest.raises(DiskFullError):
                db.compact()
            assert db == model
    fs = FaultFileSystem(0, Fault(errno.ENOSPC, WRITES | {"preallocate"}, forever=True))
    with KVStore(path, small(), fs=fs) as db:
        fs.heal()
        db[b"room"] = model[b"room"] = b"1"
        db.compact()
        assert db == model
        assert db.stats().background_error == ""
        assert db.verify().ok
    assert contents(path, recovery="strict") == model


def test_a_full_disk_is_tried_again_though_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvstore.compaction.worker._RETRY_SECONDS", 0.01)
    fs = FaultFileSystem(None, Fault(errno.ENOSPC, frozenset({"rename"}), forever=True))
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        db.put(b"k", b"v")
        fs.fail_at = fs.count
        with pytest.raises(DiskFullError):
            db.flush()
        fs.heal()
        wait_until(lambda: db.stats().flushes)
        assert db.stats().background_error == ""
        assert not db.stats().sealed_memtables


@pytest.mark.parametrize("work", ["flush", "compact"])
@pytest.mark.parametrize("failing", ["write", "sync", "preallocate"])
def test_a_disk_that_stays_full_is_not_filled_with_tables_that_no_manifest_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str, failing: str
) -> None:
    class FullForManifests(FaultFileSystem):
        def step(self, operation: str, path: str) -> int | None:
            return super().step(operation, path) if "MANIFEST" in path else None

    path = tmp_path / "db"
    model = dict(list(MODEL.items())[:20])
    with KVStore(path, small()) as db:
        for i in range(2):
            db.update(dict(list(model.items())[i::2]))
            db.flush()
    # So that the next edit needs more room.
    monkeypatch.setattr("kvstore.manifest.log._PREALLOCATE_BYTES", 0)
    monkeypatch.setattr("kvstore.wal.writer.SPARE_BYTES", 0)
    fs = FullForManifests(None, Fault(errno.ENOSPC, frozenset({failing}), forever=True))
    with KVStore(path, small(), fs=fs) as db:
        before = tables(path)
        if work == "flush":
            db[b"more"] = model[b"more"] = b""
        fs.fail_at = fs.count
        # Only a preallocation that failed leaves no doubt that the edit is not on the disk.
        kept = len(before) + (failing != "preallocate")
        for _ in range(3):
            with pytest.raises(DiskFullError):
                getattr(db, work)()
            wait_until(lambda: len(tables(path)) == kept)  # another attempt may be under way
        assert set(before) <= set(tables(path))
        assert db == model
        fs.heal()
        getattr(db, work)()
        assert db.stats().background_error == ""
        assert len(tables(path)) == sum(level.tables for level in db.stats().levels)
        assert db == model
        assert db.verify().ok
    assert contents(path, recovery="strict") == model


def test_a_flush_that_fails_stops_writes_and_not_reads(tmp_path: Path) -> None:
    class BadForTables(FaultFileSystem):
        def step(self, operation: str, path: str) -> int | None:
            return super().step(operation, path) if ".sst" in path else None

    fs = BadForTables(0, Fault(errno.EIO, WRITES, forever=True))
    db = KVStore(tmp_path / "db", small(), fs=fs)
    acknowledged: dict[bytes, bytes] = {}
    cause = put_until_poisoned(db, iter(MODEL.items()), acknowledged)
    assert isinstance(cause, StorageIOError)
    assert cause.errno == errno.EIO
    fs.heal()
    for call in (
        lambda: db.put(b"k", b"v"),
        lambda: db.put(b"k", b"v", sync=False),
        lambda: db.delete(b"k"),
        db.flush,
        db.compact,
    ):
        with pytest.raises(PoisonedError):
            call()
    assert dict(db.items()) == acknowledged
    assert "Input/output error" in db.stats().background_error
    db.close()
    assert contents(tmp_path / "db") == acknowledged


@pytest.mark.parametrize("work", ["nothing", "flush", "compact"])
def test_a_closed_store_has_no_file_open_whatever_failed_before(tmp_path: Path, work: str) -> None:
    class BadForManifests(FaultFileSystem):
        def step(self, operation: str, path: str) -> int | None:
            return super().step(operation, path) if "MANIFEST" in path else None

    fs = BadForManifests(None, Fault(errno.EIO, WRITES, forever=True))
    gc.disable()
    try:
        db = KVStore(tmp_path / "db", small(), fs=fs)
        for i in range(2):
            db.put(b"k", noise(100, i))
            db.flush()
        failure: KVStoreError | None = None
        if work != "nothing":
            db.put(b"more", b"")
            if work == "compact":
                db.flush()
            fs.fail_at = fs.count
            with pytest.raises(KVStoreError) as caught:
                getattr(db, work)()
            failure = caught.value
        fs.heal()
        db.close()
        assert (failure is None) == (work == "nothing")
        assert fs.open_files == 0
    finally:
        gc.enable()


# ---- damage ----


def damaged_block(path: Path, key: bytes) -> Path:
    """A bit of the first data block of the table that holds ``key`` is turned around."""
    table = table_of(path, key)
    flip(table, 600)
    return table


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_damaged_table_is_told_by_the_read_that_meets_it(
    tmp_path: Path, compression: str
) -> None:
    path = tmp_path / "db"
    build(path, compression=compression)
    table = damaged_block(path, b"k000")
    with kvstore.open(path) as db:
        for _ in range(2):
            for call in (lambda: db[b"k000"], lambda: list(db.items()), lambda: len(db)):
                with pytest.raises(ChecksumMismatch) as caught:
                    call()
                assert caught.value.path == str(table)
                assert 0 < caught.value.offset <= 600
        for key in list(MODEL)[60:]:
            assert db[key] == MODEL[key]
        assert dict(db.scan(b"k060")) == dict(sorted(WHOLE.items())[60:])
        report = db.verify()
        assert [damage.path for damage in report.damage] == [str(table)]
        db.put(b"still", b"works")
        assert db[b"still"] == b"works"


def overwrites(db: KVStore) -> Iterator[tuple[bytes, bytes]]:
    """New values for most keys, again and again; as slowly as compaction is."""
    for i in range(10):
        for number, key in enumerate(sorted(MODEL)[:100]):
            yield key, noise(1500, 1000 * i + number)
        wait_until(lambda: db.stats().background_error or not db.stats().pending_compaction_bytes)


def test_damage_met_by_a_compaction_stops_writes_and_not_reads(tmp_path: Path) -> None:
    path = tmp_path / "db"
    build(path)
    table = damaged_block(path, b"k000")
    with KVStore(path, small()) as db:
        acknowledged: dict[bytes, bytes] = {}
        cause = put_until_poisoned(db, overwrites(db), acknowledged)
        assert isinstance(cause, CorruptionError)
        assert cause.path == str(table)
        assert str(table) in db.stats().background_error
        for key, value in acknowledged.items():
            assert db[key] == value
        assert db[b"k119"] == MODEL[b"k119"]
        with pytest.raises(PoisonedError):
            db.put(b"k", b"v")
    assert table.exists()
    with kvstore.open(path) as db:
        for key, value in acknowledged.items():
            assert db[key] == value


def test_damage_met_by_a_compaction_on_demand_is_told_to_who_asked(tmp_path: Path) -> None:
    path = tmp_path / "db"
    build(path)
    table = damaged_block(path, b"k000")
    with KVStore(path, small()) as db:
        db.put(b"k000", b"new")
        with pytest.raises(CorruptionError) as caught:
            db.compact()
        assert caught.value.path == str(table)
        assert db[b"k000"] == b"new"
        assert db[b"k100"] == MODEL[b"k100"]


def remove(table: Path) -> None:
    table.unlink()


def shorten(table: Path) -> None:
    cut(table, table.stat().st_size - 1)


def empty(table: Path) -> None:
    cut(table, 0)


def lengthen(table: Path) -> None:
    table.write_bytes(table.read_bytes() + b"\0")


def break_footer(table: Path) -> None:
    flip(table, table.stat().st_size - 10)


def break_head(table: Path) -> None:
    flip(table, 20)


@pytest.mark.parametrize("mode", ["tolerate_torn_tail", "strict", "point_in_time"])
@pytest.mark.parametrize(
    "damage", [remove, shorten, empty, lengthen, break_footer, break_head], ids=lambda f: f.__name__
)
def test_a_store_without_one_of_its_tables_does_not_open(
    tmp_path: Path, damage: Callable[[Path], None], mode: str
) -> None:
    path = tmp_path / "db"
    build(path)
    table = table_of(path, b"k000")
    kept = table.read_bytes()
    damage(table)
    before = snapshot(path)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=table.name) as caught:
            kvstore.open(path, recovery=mode)
        assert caught.value.path == str(table)
    assert snapshot(path) == before
    table.write_bytes(kept)
    assert contents(path) == WHOLE


@pytest.mark.parametrize(
    "damage", [remove, shorten, empty, break_footer], ids=lambda function: function.__name__
)
def test_salvage_shows_what_is_left_and_changes_nothing(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "db"
    build(path)
    table = table_of(path, b"k000")
    damage(table)
    before = snapshot(path)
    with kvstore.open(path, recovery="salvage") as db:
        assert [one.path for one in db.recovery.damage] == [str(table)]
        found = dict(db.items())
        assert found.items() < WHOLE.items()
        assert {b"k119", b"table", b"log"} <= found.keys()
        assert b"k000" not in found
    assert snapshot(path) == before


def several_segments(path: Path) -> list[Path]:
    """Of a store with tables, whose log has several segments that are needed."""
    with KVStore(path, small(memtable_bytes_max=1 << 20)) as db:
        db.update(MODEL)
        db.flush()
        for i in range(80):
            db.put(b"log %d" % i, noise(3000, i))
    segments = [path / name for name in segment_names(path)]
    assert len(segments) > 3
    return segments


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_log_segment_that_is_needed_and_missing_is_damage(tmp_path: Path, which: int) -> None:
    path = tmp_path / "db"
    segment = several_segments(path)[which]
    kept = segment.read_bytes()
    segment.unlink()
    before = snapshot(path)
    for mode in ("tolerate_torn_tail", "strict"):
        with pytest.raises(CorruptionError):
            kvstore.open(path, recovery=mode)
    assert snapshot(path) == before
    with kvstore.open(path, recovery="salvage") as db:
        assert db.recovery.damage
        assert MODEL.items() <= dict(db.items()).items()
    assert snapshot(path) == before
    segment.write_bytes(kept)
    assert len(contents(path)) == 200


def test_all_segments_missing_is_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for segment in several_segments(path):
        segment.unlink()
    with pytest.raises(CorruptionError, match=r"\.wal"):
        kvstore.open(path)
    with kvstore.open(path, recovery="point_in_time") as db:
        assert db == MODEL
        db.put(b"after", b"")
    assert contents(path) == {**MODEL, b"after": b""}


def test_opening_removes_what_a_crash_left_over(tmp_path: Path) -> None:
    path = tmp_path / "db"
    several_segments(path)
    shutil.copytree(path, tmp_path / "older")
    with kvstore.open(path) as db:
        db.flush()
        db.compact()
        model = dict(db.items())
    older = [tmp_path / "older" / name for name in segment_names(tmp_path / "older")]
    current = set(os.listdir(path))
    for segment in older[:-1]:  # superseded segments that come back
        shutil.copy(segment, path)
    for name in ("000900.sst", "000901.sst.tmp", "MANIFEST-000900", "CURRENT.tmp"):
        (path / name).write_bytes(b"left over")
    for name in ("notes.txt", "1.sst", "x.wal"):
        (path / name).write_bytes(b"not ours")
    assert contents(path) == model
    left = set(os.listdir(path)) - {"notes.txt", "1.sst", "x.wal"}
    assert left == current
    assert contents(path) == model


# ---- other processes, and the end ----

OPEN = """
import sys, kvstore
try:
    kvstore.open(sys.argv[1])
except kvstore.LockedError as error:
    print(error.pid)
"""


def test_another_process_is_kept_out_while_a_compaction_runs(tmp_path: Path) -> None:
    fs = WaitingFileSystem()
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        db.update(MODEL)
        db.compact()
        db.put(b"k000", MODEL[b"k000"])
        db.flush()
        idle(db)
        fs.waiting.clear()
        fs.gate.clear()
        compaction = threading.Thread(target=db.compact)
        compaction.start()
        assert fs.waiting.wait(20)
        assert int(output_of(OPEN, tmp_path / "db")) == os.getpid()
        with pytest.raises(LockedError):
            kvstore.open(tmp_path / "db")
        fs.gate.set()
        compaction.join(20)
        assert not compaction.is_alive()
        assert db == MODEL


LEAVE = """
import sys, threading, kvstore
db = kvstore.open(
    sys.argv[1], memtable_bytes_max=65536, table_bytes_max=65536, level_bytes_base=65536,
    wal_segment_bytes=65536, flush_interval_ms=60000,
)
for i in range(300):
    db.put(b"%d" % i, bytes(3000), sync=False)
def work():
    try:
        getattr(db, sys.argv[2])()
    except kvstore.ClosedError:
        pass
if sys.argv[2] != "write":
    threading.Thread(target=work, daemon=True).start()
"""


@pytest.mark.parametrize("work", ["write", "flush", "compact"])
def test_a_process_that_ends_without_closing_loses_nothing(tmp_path: Path, work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, str(tmp_path / "db"), work],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(contents(tmp_path / "db", recovery="strict")) == 300
    assert not any(name.endswith(".tmp") for name in tables(tmp_path / "db"))


@pytest.mark.parametrize("flushed", [False, True])
def test_a_read_that_a_close_overtakes_does_not_miss_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, flushed: bool
) -> None:
    db = KVStore(tmp_path / "db", small())
    db.put(b"k", b"v")
    if flushed:
        db.flush()

    def check_and_close(key: object) -> bytes:
        db.close()
        return b"k"

    monkeypatch.setattr("kvstore.store.check_key", check_and_close)
    with pytest.raises(ClosedError):
        db.get(bytearray(b"k"))


# ---- figures ----


def test_the_figures_fit_each_other_and_the_files(tmp_path: Path) -> None:
    path = tmp_path / "db"
    options = small(compression="zstd", block_cache_bytes=1 << 20)
    with KVStore(path, options) as db:
        fresh = db.stats()
        assert (fresh.levels, fresh.table_bytes, fresh.flushes) == ((), 0, 0)
        assert (fresh.read_amplification, fresh.space_amplification) == (0.0, 0.0)
        assert fresh.pending_compaction_bytes == 0
        db.update({key: key * 300 for key in MODEL})
        db.flush()
        for key in list(MODEL)[:30]:
            db.delete(key)
        db.flush()
        idle(db)
        for key in (*MODEL, *MODEL):
            db.get(key)
            db.get(key + b"?")
        stats = db.stats()
        # What a compaction replaced is removed after it has become visible.
        wait_until(lambda: len(tables(path)) == sum(level.tables for level in stats.levels))
        files = sum((path / name).stat().st_size for name in tables(path))
        assert stats.table_bytes == files == sum(level.bytes for level in stats.levels)
        assert sum(level.tables for level in stats.levels) == len(tables(path))
        assert stats.entries >= len(db)
        assert stats.write_amplification > 1.0
        assert stats.space_amplification >= 1.0
        assert stats.read_amplification > 0
        assert stats.filter_negatives > 50
        assert stats.cache_misses > 0
        assert stats.cache_hits > 0
        assert 0 < stats.cache_bytes <= 1 << 20
        assert stats.compaction_bytes_read >= 0
        assert stats.background_error == ""
        for level in stats.levels:
            assert level.tables > 0
            assert level.tombstones <= level.entries
            assert level.bytes_target == (64 << 10) * 10 ** (level.level - 1) * bool(level.level)


def test_a_store_that_goes_on_is_verified_at_any_time(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db", **SMALL, flush_interval_ms=NEVER) as db:
        ended = threading.Event()
        errors: list[BaseException] = []

        def write() -> None:
            try:
                for i in range(400):
                    db.put(b"%d" % (i % 150), noise(2000, i), sync=i % 20 == 0)
            except BaseException as error:
                errors.append(error)
            finally:
                ended.set()

        writer = threading.Thread(target=write)
        writer.start()
        runs = 0
        while not ended.is_set() or not runs:
            report = db.verify()
            assert report.ok, report
            runs += 1
        writer.join(20)
        assert errors == []
        assert db.stats().flushes > 3
        report = db.verify()
        assert report.ok
        assert report.entries >= 100
