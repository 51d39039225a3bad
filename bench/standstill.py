"""When a CPU stood still: of a virtual machine, say, that its host does not let run.

Asked: seconds. A thread on each CPU, which the system prefers to all others (SCHED_FIFO), does
nothing but sleep a millisecond at a time; what it slept too long is nobody's doing in this system,
but for the rare kernel code that cannot be interrupted. Answers once: the intervals in which at
least one CPU stood still; or null, where such priority is not granted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import chain

from bench.process import emit, request

__all__ = ["Interval", "overlap", "union"]

Interval = tuple[float, float]
"""Began and ended, in seconds of ``time.perf_counter``."""

_TICK_SECONDS = 0.001
_LATE_SECONDS = 0.001
_PRIORITY = 50


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """What lies in any of them: ascending, and free of overlaps."""
    found: list[Interval] = []
    for began, ended in sorted(intervals):
        if found and began <= found[-1][1]:
            found[-1] = found[-1][0], max(ended, found[-1][1])
        else:
            found.append((began, ended))
    return found


def overlap(interval: Interval, others: Sequence[Interval]) -> float:
    """How many seconds of it lie in the others, which do not overlap."""
    began, ended = interval
    return sum(max(0.0, min(ended, end) - max(began, begin)) for begin, end in others)


def _watch(cpu: int, seconds: float, late: list[Interval]) -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    os.sched_setaffinity(0, {cpu})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        due = time.perf_counter() + _TICK_SECONDS
        time.sleep(_TICK_SECONDS)
        woke = time.perf_counter()
        if woke - due > _LATE_SECONDS:
            late.append((due, woke))


def main() -> None:
    seconds: float = request()["seconds"]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (AttributeError, PermissionError):  # macOS has no such call
        emit({"stood_still": None})
        return
    late: dict[int, list[Interval]] = {cpu: [] for cpu in os.sched_getaffinity(0)}
    threads = [
        threading.Thread(target=_watch, args=(cpu, seconds, intervals))
        for cpu, intervals in late.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emit({"stood_still": union(chain.from_iterable(late.values()))})


if __name__ == "__main__":
    main()
