"""What the tests of flush and compaction share: small trees, and file systems that tell or wait."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvstore import KVStore, Options
from tests.support.faultfs import FaultFileSystem
from tests.support.stores import NEVER, SMALLEST_SEGMENT

SMALL: dict[str, Any] = {
    "wal_segment_bytes": SMALLEST_SEGMENT,
    "memtable_bytes_max": 64 << 10,
    "table_bytes_max": 64 << 10,
    "level_bytes_base": 64 << 10,
    "block_bytes": 256,
}
WAIT_SECONDS_MAX = 20


def small(**options: Any) -> Options:
    """Everything as small as it may be."""
    return Options(**{**SMALL, "flush_interval_ms": NEVER, **options})


def noise(size: int, seed: int) -> bytes:
    """Bytes that cannot be compressed."""
    return random.Random(seed).randbytes(size)


def wait_until(condition: Callable[[], object]) -> None:
    """Returns when it is true; fails after a bounded wait."""
    never = threading.Event()
    for _ in range(WAIT_SECONDS_MAX * 1000):
        if condition():
            return
        never.wait(0.001)
    raise AssertionError("it never comes true")


def idle(db: KVStore) -> None:
    """Returns when the background has nothing to do any more."""
    wait_until(lambda: not db.stats().sealed_memtables and not db.stats().pending_compaction_bytes)


def tables(path: Path) -> list[str]:
    """The sorted tables of a store, finished or not."""
    return sorted(one.name for one in path.iterdir() if ".sst" in one.name)


def directory_bytes(path: Path) -> int:
    """The sizes of all files; one that goes meanwhile counts as nothing."""
    total = 0
    for one in os.scandir(path):
        try:
            total += one.stat().st_size
        except FileNotFoundError:  # noqa: PERF203 (each for itself)
            continue
    return total


class TellingFileSystem(FaultFileSystem):
    """Notes which operation met which file, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, str]] = []

    def step(self, operation: str, path: str) -> int | None:
        self.operations.append((operation, os.path.basename(path)))
        return super().step(operation, path)


class WaitingFileSystem(FaultFileSystem):
    """While ``gate`` is closed, no sorted table can be synced."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waiting = threading.Event()
        self.gate.set()

    def step(self, operation: str, path: str) -> int | None:
        if operation == "sync" and path.endswith(".sst.tmp") and not self.gate.is_set():
            self.waiting.set()
            assert self.gate.wait(WAIT_SECONDS_MAX)
        return super().step(operation, path)
