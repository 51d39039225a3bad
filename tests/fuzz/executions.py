"""Fuzzing for `make torture`: every decoder, in Python and in C.

A chunk is 150,000 executions: 20,000 of one Python target, which takes its turn among 12, and
130,000 of the five C targets, so that the whole goal gives each Python target 100,000 at least::

    chunks 67    Python 12 targets: 5 or 6 chunks, 100,000 or 120,000 each       1.3 million
                 c-log 2.7, c-table 2.0, c-batch 2.0, c-block 1.3, c-crc 0.7     8.7 million

Each begins with the corpus and has the chunk's index as its seed. The C kernels alone are behind
most decoders, and a hundred times faster; Python adds what is decoded there.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.fuzz.runner import fuzz
from tests.fuzz.targets import TARGETS

__all__ = ["GOAL", "chunk"]

GOAL = {"executions": 10_000_000}

_PYTHON_RUNS = 20_000
_NATIVE_RUNS = {
    "c-log": 40_000,
    "c-table": 30_000,
    "c-batch": 30_000,
    "c-block": 20_000,
    "c-crc": 10_000,
}


def chunk(index: int, directory: Path) -> Counter[str]:
    """Executions done. Raises Finding, an AssertionError, with the way to repeat it: the input is
    kept in build/fuzz/crashers."""
    names = list(TARGETS)
    runs = {names[index % len(names)]: _PYTHON_RUNS, **_NATIVE_RUNS}
    counts: Counter[str] = Counter()
    for name, count in runs.items():
        folder = directory / name
        folder.mkdir()
        counts["executions"] += fuzz(name, count, index, folder)
    return counts
