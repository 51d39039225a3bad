"""A crash between any two steps of flush, compaction and manifest swap, and of the recovery after
it; and a disk that is full for a while. (Operations that fail: tests/faults.)

A file system on which everything fails from operation n on leaves the directory as a kill at that
moment would. Syncs are counted and skipped: a kill takes nothing from the page cache.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvstore import (
    DiskFullError,
    KVStore,
    KVStoreError,
    Options,
    PoisonedError,
    StorageIOError,
)
from kvstore.fs import posix
from kvstore.manifest import ManifestLog
from tests.support.faultfs import Fault, FaultFileSystem
from tests.support.stores import NEVER, SMALLEST_SEGMENT, strays

OPTIONS = Options(
    wal_backend="pwrite",
    wal_segment_bytes=SMALLEST_SEGMENT,
    flush_interval_ms=NEVER,
    memtable_bytes_max=64 << 10,
    table_bytes_max=64 << 10,
    level_bytes_base=64 << 10,
    block_bytes=256,
)
MANIFEST_BYTES = 400  # two or three edits behind the snapshot
STEPS_MAX = 2000

Model = dict[bytes, bytes]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the device, and manifests that are full soon."""
    adopt = ManifestLog._adopt

    def adopt_and_limit(self: ManifestLog, log: object, name: str, snapshot_bytes: int) -> None:
        adopt(self, log, name, snapshot_bytes)  # type: ignore[arg-type]
        self._roll_bytes = snapshot_bytes + MANIFEST_BYTES

    monkeypatch.setattr(ManifestLog, "_adopt", adopt_and_limit)
    monkeypatch.setattr(posix, "_sync", lambda fd: None)


@dataclass
class Script:
    """Writes, flushes and compactions in one thread. ``states``: what the store may hold: that
    after the last acknowledged write, and that after the write under way."""

    model: Model = field(default_factory=dict)
    states: list[Model] = field(default_factory=lambda: [{}])
    failure: KVStoreError | None = None
    number: int = 0

    def write(self, db: KVStore, changes: dict[bytes, bytes | None]) -> None:
        after = dict(self.model)
        for key, value in changes.items():
            after.pop(key, None)
            if value is not None:
                after[key] = value
        self.states = [self.model, after]
        with db.batch() as batch:
            for key, value in changes.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
        self.model = after
        self.states = [after]

    def round(self, db: KVStore) -> None:
        """Every other key again, some deleted."""
        self.number += 1
        for i in range(self.number % 2, 12, 2):
            value = b"%d-%d " % (self.number, i) * 1200
            self.write(db, {b"%02d" % i: value, b"%02d again" % i: b"%d" % self.number})
        self.write(db, {b"%02d" % self.number: None, b"%02d again" % (self.number + 5): None})

    def run(self, db: KVStore) -> None:
        """Flushes by itself and on demand, level 0 to 1 and 1 to 2, moves, a dropped tombstone."""
        for _ in range(2):
            self.round(db)
            db.flush()
        db.compact()
        self.round(db)
        db.flush()
        self.write(db, dict.fromkeys(self.model))
        self.round(db)
        db.compact(b"03")

    def run_as_far_as_it_goes(self, db: KVStore) -> None:
        try:
            self.run(db)
        except KVStoreError as error:
            self.failure = error


def opened(path: Path) -> Model:
    """What a store that was crashed, or closed, holds; opened and closed again."""
    with KVStore(path, OPTIONS, fs=FaultFileSystem()) as db:
        found = dict(db.items())
        assert len(db) == len(found)
        report = db.verify()
        assert report.ok, report
        db._tree.state.version._check()
    assert strays(path) == set()
    return found


def end(db: KVStore) -> None:
    """Closes what may be unable to close in order."""
    with contextlib.suppress(StorageIOError, PoisonedError):
        db.close()


def check_all_closed(fs: FaultFileSystem) -> None:
    """Tables are closed when nobody refers to them any more, be it a thread that just ends."""
    deadline = time.monotonic() + 10
    while fs.open_files:
        gc.collect()
        assert time.monotonic() < deadline, f"{fs.open_files} files stay open"


def crashed(path: Path, step: int) -> tuple[Script, FaultFileSystem]:
    """The script with nothing possible any more from operation ``step`` on."""
    fs = FaultFileSystem(step, Fault(errno.EIO, forever=True))
    script = Script()
    with contextlib.suppress(StorageIOError):
        db = KVStore(path, OPTIONS, fs=fs)
        script.run_as_far_as_it_goes(db)
        end(db)
        del db
    script.failure = None  # its traceback refers to tables
    check_all_closed(fs)
    return script, fs


def test_the_script_does_all_that_is_to_be_crashed(tmp_path: Path) -> None:
    fs = FaultFileSystem()
    with KVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
        script = Script()
        script.run(db)
        stats = db.stats()
        assert db.verify().ok
    assert stats.flushes >= 4
    assert stats.compactions >= 2
    assert stats.tombstones_dropped > 0
    assert stats.wal_segment >= 2
    assert int((tmp_path / "db" / "CURRENT").read_text().split()[0][-6:]) >= 3
    assert opened(tmp_path / "db") == script.model


def test_a_crash_between_any_two_steps_loses_nothing(tmp_path: Path) -> None:
    for step in itertools.count():
        path = tmp_path / str(step)
        script, fs = crashed(path, step)
        if path.exists():
            found = opened(path)
            assert found in script.states, step
            assert opened(path) == found
            shutil.rmtree(path)
        if not fs.failures:
            break
        assert step < STEPS_MAX
    print(f"{step} steps")
    assert step > 200


def test_a_crash_in_the_recovery_after_a_crash_loses_nothing(tmp_path: Path) -> None:
    steps = 0
    for first in range(10, 220, 14):
        image = tmp_path / f"{first}"
        script, _ = crashed(image, first)
        for step in itertools.count():
            path = tmp_path / f"{first}-{step}"
            shutil.copytree(image, path)
            fs = FaultFileSystem(step, Fault(errno.EIO, forever=True))
            with contextlib.suppress(StorageIOError):
                end(KVStore(path, OPTIONS, fs=fs))
            check_all_closed(fs)
            found = opened(path)
            assert found in script.states, (first, step)
            assert opened(path) == found
            shutil.rmtree(path)
            steps += 1
            if not fs.failures:
                break
            assert step < STEPS_MAX
    print(f"{steps} steps")
    assert steps > 100


def test_a_crash_in_what_a_recovered_store_goes_on_with_loses_nothing(tmp_path: Path) -> None:
    for first, second in itertools.product(range(40, 220, 20), range(5, 120, 19)):
        path = tmp_path / f"{first}-{second}"
        script, _ = crashed(path, first)
        script.model = opened(path)
        assert script.model in script.states
        script.states = [script.model]
        fs = FaultFileSystem(second, Fault(errno.EIO, forever=True))
        with contextlib.suppress(StorageIOError):
            db = KVStore(path, OPTIONS, fs=fs)
            script.run_as_far_as_it_goes(db)
            end(db)
        assert fs.failures
        assert opened(path) in script.states, (first, second)
        shutil.rmtree(path)


class FullForTables(FaultFileSystem):
    """The log has room set aside; tables and manifest have none from operation n on."""

    def step(self, operation: str, path: str) -> int | None:
        if ".wal" in path or operation == "sync directory":
            return None
        return super().step(operation, path)


def test_a_disk_that_is_full_for_a_while_anywhere_is_got_over(tmp_path: Path) -> None:
    for step in itertools.count():
        path = tmp_path / str(step)
        fs = FullForTables(None, Fault(errno.ENOSPC, forever=True))
        script = Script()
        with KVStore(path, OPTIONS, fs=fs) as db:
            fs.count, fs.fail_at = 0, step
            script.run_as_far_as_it_goes(db)
            # None: a file could not be removed, or a manifest not rolled over.
            assert script.failure is None or type(script.failure) is DiskFullError
            assert script.failure is None or fs.failures
            fs.heal()
            script.run(db)
            assert dict(db.items()) == script.model
            assert db.stats().background_error == ""
        assert opened(path) == script.model
        if not fs.failures:
            break
        assert step < STEPS_MAX
    print(f"{step} steps")
    assert step > 100
