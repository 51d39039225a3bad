"""Replay: how long a store takes to open over a log that was never flushed to a table."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass

__all__ = ["KEY_BYTES", "VALUE_BYTES", "Replay", "ReplayUnavailableError", "measure_replay"]

KEY_BYTES, VALUE_BYTES = 16, 100
_MEMTABLE_BYTES = 1 << 30  # nothing is flushed while the log is made, nor while it is replayed
# A process of its own for each, as after a crash: with a fresh heap. Importing is not timed.
_REOPEN = """
import json, sys, time
import kvstore
options = json.loads(sys.argv[2])
began = time.perf_counter()
store = kvstore.open(sys.argv[1], **options)
seconds = time.perf_counter() - began
print(json.dumps([seconds, len(store)]))
store.close()
"""


class ReplayUnavailableError(RuntimeError):
    """This kvstore cannot open a store (yet)."""


@dataclass(frozen=True)
class Replay:
    """``seconds``: the wall clock of each ``kvstore.open``, in a fresh process, on a fresh copy."""

    entries: int
    log_bytes: int
    seconds: tuple[float, ...]


def measure_replay(directory: str, entries: int, repetitions: int, seed: int) -> Replay:
    """Puts ``entries`` distinct keys, each its own log entry, in random order, copies the directory
    while the store is open, so that nothing is flushed or sealed, and opens copies of that.

    They lie in the page cache, as a log does after its process was killed.
    """
    open_store = getattr(importlib.import_module("kvstore"), "open", None)
    if open_store is None:
        raise ReplayUnavailableError("kvstore.open is not there")
    origin = os.path.join(directory, "replay")
    options = _options()
    store = open_store(origin, **options)
    try:
        generator = random.Random(seed)
        order = list(range(entries))
        generator.shuffle(order)
        value = generator.randbytes(VALUE_BYTES)
        for number in order:
            store.put(b"key%013d" % number, value, sync=False)
        store.sync()
        _copy(origin, origin + "-copy")
    finally:
        store.close()
        shutil.rmtree(origin)
    try:
        log_bytes = _bytes_in(origin + "-copy")
        seconds = tuple(_open_once(options, origin, entries) for _ in range(repetitions))
    finally:
        shutil.rmtree(origin + "-copy")
    return Replay(entries, log_bytes, seconds)


def _options() -> dict[str, int]:
    """A memtable that holds it all, where the store lets one say so."""
    known = inspect.signature(importlib.import_module("kvstore.options").Options).parameters
    return {"memtable_bytes_max": _MEMTABLE_BYTES} if "memtable_bytes_max" in known else {}


def _open_once(options: dict[str, int], origin: str, entries: int) -> float:
    # Opening may change a store, so that each time needs a copy of its own.
    copy = origin + "-opened"
    _copy(origin + "-copy", copy)
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _REOPEN, copy, json.dumps(options)],
            check=True,
            capture_output=True,
            text=True,
        )
    finally:
        shutil.rmtree(copy)
    seconds, found = json.loads(answer.stdout)
    if found != entries:
        raise RuntimeError(f"{found} of {entries} entries were replayed")
    return float(seconds)


def _copy(source: str, target: str) -> None:
    shutil.copytree(source, target)
    # Recovery syncs what it reads: the copying must not be on its account.
    for parent, _, names in os.walk(target):
        for name in names:
            fd = os.open(os.path.join(parent, name), os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


def _bytes_in(directory: str) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory) if entry.is_file())
