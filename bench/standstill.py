"""When the whole machine stood still: a virtual one, say, that its host does not let run.

Asked: seconds. A thread on each CPU, which the system prefers to all others (SCHED_FIFO), does
nothing but sleep a millisecond at a time; what all of them slept too long is nobody's doing in this
system. Answers once: the intervals; or null, where such priority is not granted.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from bench.process import emit, request

__all__ = ["Interval", "common", "overlap"]

Interval = tuple[float, float]
"""Began and ended, in seconds of ``time.perf_counter``."""

_TICK_SECONDS = 0.001
_LATE_SECONDS = 0.001
_PRIORITY = 50


def common(left: Sequence[Interval], right: Sequence[Interval]) -> list[Interval]:
    """What lies in both; each ascending, and free of overlaps."""
    found = []
    i = j = 0
    while i < len(left) and j < len(right):
        began, ended = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if began < ended:
            found.append((began, ended))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
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
    except PermissionError:
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
    first, *others = late.values()
    for intervals in others:
        first = common(first, intervals)
    emit({"stood_still": first})


if __name__ == "__main__":
    main()
