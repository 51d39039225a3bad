"""How much each part of the tree benchmark does."""

from __future__ import annotations

from dataclasses import dataclass

from bench.keys import KEY_BYTES

__all__ = ["FULL", "LARGE", "PARTS", "QUICK", "Dataset", "Plan"]

PARTS = ("get", "scan", "load", "open", "queue")


@dataclass(frozen=True)
class Dataset:
    """What is read from: ``keys`` random keys of 16 B, each with a value."""

    keys: int
    value_bytes: int

    @property
    def data_bytes(self) -> int:
        return self.keys * (KEY_BYTES + self.value_bytes)

    @property
    def name(self) -> str:
        return f"{self.keys:,} x {self.value_bytes} B"


@dataclass(frozen=True)
class Plan:
    """Sizes. A slice is what one engine does before it is another's turn.

    ``lookups`` and ``scans`` are those of a slice; a full scan is a slice of its own. The load
    is of ``load_keys`` keys, with ``load_memtable_bytes`` on both sides.
    """

    datasets: tuple[Dataset, ...]
    get_repetitions: int
    lookups: int
    scan_repetitions: int
    scans: int
    full_scan_repetitions: int
    load_keys: int
    load_repetitions: int
    load_memtable_bytes: int
    open_bytes: int
    open_repetitions: int
    queue_pairs: int
    queue_memtable_bytes: int
    queue_backlog: int = 1000


QUICK = Plan(
    datasets=(Dataset(50_000, 100), Dataset(50_000, 1000)),
    get_repetitions=7,
    lookups=5_000,
    scan_repetitions=7,
    scans=200,
    full_scan_repetitions=5,
    load_keys=500_000,
    load_repetitions=1,
    # So that a small load too fills it several times.
    load_memtable_bytes=8 << 20,
    open_bytes=50_000_000,
    open_repetitions=3,
    queue_pairs=200_000,
    queue_memtable_bytes=4 << 20,
)
FULL = Plan(
    datasets=(Dataset(200_000, 100), Dataset(200_000, 1000), Dataset(5_000_000, 100)),
    get_repetitions=15,
    lookups=20_000,
    scan_repetitions=15,
    scans=500,
    full_scan_repetitions=5,
    load_keys=10_000_000,
    load_repetitions=3,
    load_memtable_bytes=64 << 20,
    open_bytes=1_000_000_000,
    open_repetitions=5,
    queue_pairs=10_000_000,
    queue_memtable_bytes=64 << 20,
)
LARGE = Dataset(5_000_000, 1000)
