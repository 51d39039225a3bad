"""A store on a file system that fails: what is raised, what goes on, what is there afterwards.

Whatever fails, in every operation: tests/faults.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from kvstore import CorruptionError, DiskFullError, KVStore, Options, PoisonedError, StorageIOError
from tests.support.damage import all_puts, build, cut, entries, expected, flip, snapshot
from tests.support.faultfs import MUTATIONS, SYNCS, WRITES, Fault, FaultFileSystem
from tests.support.stores import NEVER, SMALLEST_SEGMENT, contents

STEPS_MAX = 400
READS = frozenset({"read"})


def small(**options: object) -> Options:
    return Options(
        wal_segment_bytes=SMALLEST_SEGMENT,
        flush_interval_ms=NEVER,
        **options,  # type: ignore[arg-type]
    )


def failure_of(call: Callable[[], object]) -> StorageIOError | PoisonedError | None:
    """What it raises, if anything."""
    try:
        call()
    except (StorageIOError, PoisonedError) as error:
        return error
    return None


@pytest.mark.parametrize("operations", [WRITES, SYNCS])
def test_a_log_that_failed_takes_no_more_writes_and_says_why(
    tmp_path: Path, operations: frozenset[str]
) -> None:
    fs = FaultFileSystem(None, Fault(errno.EIO, operations, forever=True))
    db = KVStore(tmp_path / "db", small(), fs=fs)
    db.put(b"before", b"1")
    fs.fail_at = fs.count
    # The failure may have been met already, by the background thread.
    failure = failure_of(lambda: db.put(b"failed", b"1"))
    cause = failure.cause if isinstance(failure, PoisonedError) else failure
    assert isinstance(cause, StorageIOError)
    assert cause.errno == errno.EIO
    fs.heal()
    for call in (
        lambda: db.put(b"k", b"v"),
        lambda: db.put(b"k", b"v", sync=False),
        lambda: db.delete(b"before"),
        db.sync,
        db.clear,
    ):
        with pytest.raises(PoisonedError) as poisoned:
            call()
        assert isinstance(poisoned.value.cause, StorageIOError)
        assert poisoned.value.__cause__ is not None
    assert dict(db) == {b"before": b"1"}
    assert list(db.scan()) == [(b"before", b"1")]
    assert db.stats().entries == 1
    db.close()
    assert contents(tmp_path / "db")[b"before"] == b"1"


def test_a_flush_that_fails_behind_the_scenes_is_told_to_the_next_writer(tmp_path: Path) -> None:
    fs = FaultFileSystem(None, Fault(errno.EIO, SYNCS, forever=True))
    db = KVStore(tmp_path / "db", Options(flush_interval_ms=1), fs=fs)
    db.put(b"durable", b"1")
    fs.fail_at = fs.count
    waiter = threading.Condition()
    poisoned: Exception | None = None
    with waiter:
        for _ in range(5000):
            poisoned = failure_of(lambda: db.put(b"relaxed", b"1", sync=False))
            if poisoned:
                break
            waiter.wait(0.002)
    assert isinstance(poisoned, PoisonedError)
    assert isinstance(poisoned.cause, StorageIOError)
    assert poisoned.cause.errno == errno.EIO
    db.close()
    assert contents(tmp_path / "db")[b"durable"] == b"1"


@pytest.mark.parametrize("operation", ["rename", "sync directory", "sync", "write", "open"])
def test_a_rotation_that_fails_is_tried_again(tmp_path: Path, operation: str) -> None:
    fs = FaultFileSystem(None, Fault(errno.ENOSPC, frozenset({operation})))
    db = KVStore(tmp_path / "db", small(), fs=fs)
    db.put(b"first", bytes(30_000))
    fs.fail_at = fs.count
    failed = failure_of(lambda: db.put(b"large", bytes(40_000)))
    fs.heal()
    # Small enough for what is left of the segment which the rotation has sealed.
    finished = threading.Event()

    def write_small() -> None:
        with contextlib.suppress(PoisonedError):
            db.put(b"small", b"")
        finished.set()

    thread = threading.Thread(target=write_small, daemon=True)
    thread.start()
    assert finished.wait(20), "a write after a failed rotation never comes back"
    writes_go_on = b"small" in db
    if writes_go_on:
        for i in range(10):
            db.put(b"%d" % i, bytes(20_000))
    db.close()
    found = contents(tmp_path / "db")
    assert b"first" in found
    assert (b"large" in found) or failed is not None
    assert not writes_go_on or len(found) >= 12


def crashed_store(path: Path) -> tuple[dict[bytes, bytes], str]:
    """One with a torn tail and a spare; what it holds, and the mode that takes it."""
    build(path, segments=3)
    cut(path / "000003.wal", entries(path / "000003.wal")[-1].offset + 50)
    (path / "spare.wal.tmp").write_bytes(bytes(5000))
    return expected(all_puts()[:-1]), "tolerate_torn_tail"


def damaged_store(path: Path) -> tuple[dict[bytes, bytes], str]:
    """One that needs consent: two segments are dropped, a third is cut."""
    build(path, segments=3)
    flip(path / "000001.wal", entries(path / "000001.wal")[2].offset + 40)
    return expected(all_puts()[:2]), "point_in_time"


def header_damaged_store(path: Path) -> tuple[dict[bytes, bytes], str]:
    """One of which segments are dropped and none is cut."""
    build(path, segments=4)
    flip(path / "000003.wal", 100)
    return expected(all_puts()[:8]), "point_in_time"


@pytest.mark.parametrize("make", [crashed_store, damaged_store, header_damaged_store])
@pytest.mark.parametrize("forever", [False, True])
def test_recovery_cut_short_anywhere_is_finished_by_the_next(
    tmp_path: Path, make: object, *, forever: bool
) -> None:
    assert callable(make)
    crashed, smooth = tmp_path / "crashed", tmp_path / "smooth"
    want, mode = make(crashed)
    shutil.copytree(crashed, smooth)
    assert contents(smooth, recovery=mode) == want
    smooth_files = {
        name: (content or b"").rstrip(b"\0") for name, content in snapshot(smooth).items()
    }
    for step in range(STEPS_MAX):
        path = tmp_path / str(step)
        shutil.copytree(crashed, path)
        fs = FaultFileSystem(step, Fault(errno.EIO, MUTATIONS, forever=forever))
        failure = failure_of(
            lambda path=path, fs=fs: KVStore(path, Options(recovery=mode), fs=fs).close()  # type: ignore[misc]
        )
        assert (failure is None) == (fs.failures == 0)
        assert fs.open_files == 0
        assert contents(path, recovery=mode) == want
        assert contents(path, recovery="strict") == want
        files = {name: (content or b"").rstrip(b"\0") for name, content in snapshot(path).items()}
        assert files == smooth_files
        if not fs.failures:
            break
    assert 5 < step < STEPS_MAX - 1


@pytest.mark.parametrize("mode", ["tolerate_torn_tail", "strict", "point_in_time", "salvage"])
def test_what_cannot_be_read_is_never_taken_for_lost(tmp_path: Path, mode: str) -> None:
    # In every place where recovery reads: headers, entries, what stands behind damage.
    crashed = tmp_path / "crashed"
    crashed_store(crashed)
    flip(crashed / "000002.wal", entries(crashed / "000002.wal")[1].offset + 30)
    before = snapshot(crashed)
    for step in range(STEPS_MAX):
        path = tmp_path / str(step)
        shutil.copytree(crashed, path)
        fs = FaultFileSystem(step, Fault(errno.EIO, READS, forever=True))
        try:
            KVStore(path, Options(recovery=mode), fs=fs).close()
        except StorageIOError as error:
            failure = error
        except CorruptionError:
            break  # everything could be read
        else:
            break
        assert fs.open_files == 0
        assert failure.operation == "read"
        assert str(path / "00000") in str(failure)
        if mode == "point_in_time":  # consent was given, so it may have begun to set aside
            assert contents(path, recovery=mode) == expected(all_puts()[:5])
        else:
            assert snapshot(path) == before
    assert not fs.failures
    assert 2 < step < STEPS_MAX - 1


def test_a_full_disk_is_met_before_a_write_is_accepted(tmp_path: Path) -> None:
    fs = FaultFileSystem(None, Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True))
    with KVStore(tmp_path / "db", small(), fs=fs) as db:
        for sync in (True, False):
            db.put(b"before", bytes(30_000), sync=sync)
        fs.fail_at = fs.count
        refused = 0
        for i in range(20):
            failure = failure_of(
                lambda i=i: db.put(b"%d" % i, bytes(30_000), sync=i % 2 == 0)  # type: ignore[misc]
            )
            assert failure is None or type(failure) is DiskFullError
            assert (failure is None) == (b"%d" % i in db)
            refused += failure is not None
        assert refused >= 17  # but for what fitted into the segment and a spare
        assert db[b"before"] == bytes(30_000)
        db.sync()
        fs.heal()
        db.put(b"after", bytes(30_000))
        memory = dict(db.items())
    assert contents(tmp_path / "db", recovery="strict") == memory


def test_the_cause_is_the_first_failure_not_one_that_came_of_it(tmp_path: Path) -> None:
    fs = FaultFileSystem(None, Fault(errno.EIO, WRITES, forever=True))
    db = KVStore(tmp_path / "db", small(), fs=fs)
    db.put(b"relaxed", b"1", sync=False)
    fs.fail_at = fs.count
    assert isinstance(failure_of(db.sync), StorageIOError)
    for call in (db.flush, lambda: db.put(b"k", b"v"), db.flush):
        failure = failure_of(call)
        assert isinstance(failure, PoisonedError)
        assert isinstance(failure.cause, StorageIOError)
        assert failure.__cause__ is failure.cause
    db.close()


def test_a_relaxed_write_that_others_made_visible_does_not_raise(tmp_path: Path) -> None:
    """It waits for writes before it, and those fail just after it has had its turn."""
    with KVStore(tmp_path / "db", small(), fs=FaultFileSystem()) as db:
        pipeline = db._pipeline
        put = pipeline._wal_put_relaxed
        waits = mock.patch.object(
            pipeline, "_wal_put_relaxed", lambda *arguments: put(*arguments) | 1
        )
        failure = StorageIOError(errno.EIO, "write", "log")
        fails = mock.patch.object(pipeline._wal, "commit", side_effect=failure)
        with waits, fails:
            db.put(b"key", b"value", sync=False)
        assert db[b"key"] == b"value"
