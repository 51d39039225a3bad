"""Recovery decides on what is on the disk, and what it decided is on the disk when it returns."""

from __future__ import annotations

import shutil
from pathlib import Path

import kvstore
from kvstore import KVStore, Options
from tests.support.stores import NEVER, segment_names
from tests.support.trees import TellingFileSystem


def killed_store(tmp_path: Path) -> Path:
    """A store whose log ends with what a crash left half written."""
    with kvstore.open(tmp_path / "db", flush_interval_ms=NEVER) as db:
        for number in range(10):
            db.put(b"%d" % number, b"value")
        killed = Path(shutil.copytree(tmp_path / "db", tmp_path / "killed"))
    (name,) = segment_names(killed)
    log = killed / name
    whole = log.read_bytes()
    used = whole.rstrip(b"\0")
    log.write_bytes((used + b"half an entry").ljust(len(whole), b"\0"))
    return killed


def recovered(directory: Path) -> list[tuple[str, str]]:
    """The operations of an opening, each with the file's name."""
    fs = TellingFileSystem()
    with KVStore(directory, Options(), fs=fs) as db:
        operations = list(fs.operations)
        assert db.recovery.torn_bytes
    return operations


def test_the_log_is_synced_before_it_is_read(tmp_path: Path) -> None:
    killed = killed_store(tmp_path)
    (segment,) = segment_names(killed)
    operations = recovered(killed)
    synced = operations.index(("sync", segment))
    assert synced < operations.index(("sync directory", killed.name))
    assert operations.index(("sync directory", killed.name)) < operations.index(("read", segment))


def test_a_torn_tail_is_saved_and_then_cut_durably(tmp_path: Path) -> None:
    killed = killed_store(tmp_path)
    (segment,) = segment_names(killed)
    operations = recovered(killed)
    cut = operations.index(("truncate", segment))
    torn = f"{segment}.torn"
    assert operations.index(("sync", torn)) < cut
    assert ("sync directory", killed.name) in operations[operations.index(("sync", torn)) : cut]
    assert ("sync", segment) in operations[cut:]
