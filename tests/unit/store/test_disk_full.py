"""A disk that is really full: a small tmpfs where one can be mounted, or a file size limit."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvstore
from kvstore import DiskFullError
from tests.support.stores import contents, each_backend, output_of

MIB = 1 << 20


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A tmpfs; skips the test, with the reason, where none can be mounted."""
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        # Lazily: the kernel lets go of a ring's files some time after the ring's end.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(db: kvstore.KVStore, model: dict[bytes, bytes], *, sync: bool) -> DiskFullError:
    """Puts until the disk is full; what was accepted goes into ``model``."""
    for _ in range(10_000):
        key, value = b"%d" % len(model), bytes(20_000)
        try:
            db.put(key, value, sync=sync)
        except DiskFullError as error:
            assert key not in db
            return error
        model[key] = value
    raise AssertionError("the disk never fills up")


@each_backend
@pytest.mark.parametrize("sync", [True, False])
def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(
    tmp_path: Path, backend: str, *, sync: bool
) -> None:
    with small_disk(tmp_path / "disk", 6 * MIB) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 * MIB))
        model: dict[bytes, bytes] = {}
        with kvstore.open(disk / "db", wal_backend=backend, wal_segment_bytes=MIB) as db:
            error = fill(db, model, sync=sync)
            assert error.filename is not None
            assert os.path.dirname(error.filename) == str(disk / "db")
            assert "No space left" in str(error)
            assert len(model) > 100
            for _ in range(3):
                with pytest.raises(DiskFullError):
                    db.put(b"refused", bytes(20_000), sync=sync)
            db.sync()
            assert dict(db.items()) == dict(sorted(model.items()))

            ballast.unlink()
            before = len(model)
            fill(db, model, sync=not sync)
            assert len(model) > before + 50
        # Closed and opened again while there is no room at all.
        assert contents(disk / "db", recovery="strict") == model
        with kvstore.open(disk / "db", wal_segment_bytes=MIB) as db:
            with pytest.raises(DiskFullError):
                db.put(b"refused", bytes(20_000))
            assert dict(db.items()) == dict(sorted(model.items()))
        assert contents(disk / "db") == model


@each_backend
def test_a_full_disk_does_not_keep_a_killed_store_from_opening(
    tmp_path: Path, backend: str
) -> None:
    with small_disk(tmp_path / "disk", 4 * MIB) as disk:
        model: dict[bytes, bytes] = {}
        with kvstore.open(disk / "db", wal_backend=backend, wal_segment_bytes=MIB) as db:
            fill(db, model, sync=True)
            shutil.copytree(disk / "db", tmp_path / "killed")  # as kill -9 would leave it
    with small_disk(tmp_path / "other disk", 5 * MIB) as disk:
        shutil.copytree(tmp_path / "killed", disk / "db")
        with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(bytes(4096)):
                pass
        assert contents(disk / "db") == model


LIMITED = """
import resource, signal, sys
import kvstore

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = 3 << 20
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
path, backend = sys.argv[1:]
model = {}
with kvstore.open(path, wal_backend=backend, flush_interval_ms=60000) as db:
    full = None
    for i in range(1000):
        key, value = b"%d" % i, bytes(20_000)
        try:
            db.put(key, value, sync=i % 3 == 0)
        except kvstore.DiskFullError as error:
            full = error
            assert key not in db
            break
        model[key] = value
    assert full is not None, "the limit was never met"
    assert full.filename.startswith(path), full.filename
    assert len(model) > 30, len(model)
    for _ in range(3):
        try:
            db.put(b"refused", bytes(20_000))
        except kvstore.DiskFullError:
            pass
        else:
            raise AssertionError("there was room after all")
    db.sync()
    assert dict(db.items()) == dict(sorted(model.items()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for i in range(20):
        db.put(b"after%d" % i, bytes(20_000))
    assert len(db) == len(model) + 20
print(len(model))
"""


@each_backend
def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, backend: str) -> None:
    pytest.importorskip("resource")
    accepted = int(output_of(LIMITED, tmp_path / "db", backend))
    found = contents(tmp_path / "db", recovery="strict")
    names = {b"%d" % i for i in range(accepted)} | {b"after%d" % i for i in range(20)}
    assert found.keys() == names
    assert set(found.values()) == {bytes(20_000)}
