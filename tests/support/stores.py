"""What the tests of the store share: backends, reading a store back, running scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import paths
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.manifest import ManifestLog
from kvstore.native import HAS_URING
from kvstore.wal import is_io_uring_available

HAS_RING = HAS_URING and is_io_uring_available()

BACKENDS = [
    "pwrite",
    pytest.param(
        "io_uring", marks=pytest.mark.skipif(not HAS_RING, reason="no io_uring on this machine")
    ),
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

# No background flush gets in the way of what a test is about.
NEVER = 60_000
SMALLEST_SEGMENT = 64 << 10
SMALLEST_BUFFER = 32 << 10


def contents(path: str | os.PathLike[str], **options: Any) -> dict[bytes, bytes]:
    """Opens a store that is closed, and closes it again; what is in it, in key order."""
    with kvstore.open(path, **options) as db:
        return dict(db.items())


def segment_names(directory: Path) -> list[str]:
    """The log files of a store, in order."""
    return sorted(path.name for path in directory.glob("*.wal"))


def strays(directory: Path | str, fs: FileSystem | None = None) -> set[str]:
    """Names that are not explained by the manifest and the log, nor set aside by recovery."""
    fs = fs or PosixFileSystem()
    found = ManifestLog.read(fs, str(directory))
    explained = {paths.LOCK}
    first = 0
    if found is not None:
        version, manifest = found
        explained |= {paths.CURRENT, manifest}
        explained |= {paths.format_table(meta.number) for meta in version.tables()}
        first = version.log_number
    names = {name for name in fs.list(str(directory)) if not name.endswith(".torn")}
    segments = {name for name in names if (paths.parse_segment(name) or -1) >= first}
    return names - explained - segments


def run_script(
    script: str | Path, *arguments: str | os.PathLike[str], timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Runs Python source (or a file) in an interpreter of its own, every warning shown."""
    source = [str(script)] if isinstance(script, Path) else ["-c", script]
    environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
    environment.pop("KVSTORE_WAL_BACKEND", None)
    return subprocess.run(
        [sys.executable, "-W", "always", *source, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )


def output_of(script: str | Path, *arguments: str | os.PathLike[str], timeout: float = 60) -> str:
    """What such a script prints; it must end well and say nothing on the error channel."""
    done = run_script(script, *arguments, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, ""), f"{done.returncode}\n{done.stderr}"
    return done.stdout


def every_call(db: kvstore.KVStore) -> dict[str, Callable[[], object]]:
    """All that can be asked of a store, by name; writes change nothing that a test relies on."""

    def batch_block() -> None:
        with db.batch() as batch:
            batch.put(b"other", b"")

    def full_batch() -> None:
        batch = kvstore.WriteBatch()
        batch.put(b"other", b"")
        db.write(batch)

    return {**_readers(db), **_writers(db), "write": full_batch, "batch": batch_block}


READERS = [
    *("get", "get other", "[]", "in", "scan", "scan prefix", "iter", "reversed", "len"),
    *("keys", "values", "items", "==", "stats"),
]
WRITERS = [
    *("put", "put relaxed", "[]=", "delete", "delete relaxed", "del []", "write nothing"),
    *("update", "setdefault", "pop", "popitem", "clear", "sync", "write", "batch"),
]


def _readers(db: kvstore.KVStore) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: db.get(b"key"),
        "get other": lambda: db.get(b"missing", b"default"),
        "[]": lambda: db[b"key"],
        "in": lambda: b"key" in db,
        "scan": db.scan,
        "scan prefix": lambda: list(db.scan(prefix=b"k", reverse=True, limit=1)),
        "iter": lambda: iter(db),
        "reversed": lambda: reversed(db),
        "len": lambda: len(db),
        "keys": lambda: list(db.keys()),
        "values": lambda: list(db.values()),
        "items": lambda: list(db.items()),
        "==": lambda: db == {},
        "stats": db.stats,
    }


def _writers(db: kvstore.KVStore) -> dict[str, Callable[[], object]]:
    return {
        "put": lambda: db.put(b"other", b""),
        "put relaxed": lambda: db.put(b"other", b"", sync=False),
        "[]=": lambda: db.__setitem__(b"other", b""),
        "delete": lambda: db.delete(b"missing"),
        "delete relaxed": lambda: db.delete(b"missing", sync=False),
        "del []": lambda: db.__delitem__(b"key"),
        "write nothing": lambda: db.write(kvstore.WriteBatch()),
        "update": lambda: db.update({b"other": b""}),
        "setdefault": lambda: db.setdefault(b"missing", b""),
        "pop": lambda: db.pop(b"key"),
        "popitem": db.popitem,
        "clear": db.clear,
        "sync": db.sync,
    }
