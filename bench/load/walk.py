"""Cases without a script: one client that takes all entries, over and over until time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from bench.load.tape import SERIES_SECONDS
from bench.stores.base import Entry, count

__all__ = ["walk"]

_ENTRIES_AT_ONCE = 1000


def walk(entries: Callable[[], Iterator[Entry]], records: int, seconds: float) -> dict[str, Any]:
    """As Tape.result, but for latencies: an operation is an entry, and no clock is read for each.

    The first walk warms up and is not counted, nor limited by time: it finds whether all
    ``records`` are there. RuntimeError when they are not.
    """
    clock = time.perf_counter_ns
    if (found := count(entries())) != records:
        raise RuntimeError(f"{found:,} of {records:,} entries are there")
    first = clock()
    deadline = first + int(1e9 * seconds)
    interval_ns = int(1e9 * SERIES_SECONDS)
    series: list[int] = []
    operations, now = 0, first
    while now < deadline:
        iterator = entries()
        while now < deadline and (taken := count(islice(iterator, _ENTRIES_AT_ONCE))):
            now = clock()
            operations += taken
            interval = (now - first) // interval_ns
            series += [0] * (interval + 1 - len(series))
            series[interval] += taken
    return {
        "operations": operations,
        "seconds": (now - first) / 1e9,
        "measured_from_ns": first,
        "latency_counts": {},
        "series": series,
        "not_reached": 0,
    }
