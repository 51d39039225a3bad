"""Opening a store that was flushed and closed in order: how long, with nothing to replay.

What its log still holds is read all the same, to find where it ends: that time counts.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

import kvstore
from bench.bars import Bar
from bench.disk import disk_usage, evict
from bench.keys import KEY_BYTES, Values, make_key
from bench.process import Child
from bench.samples import Spread
from bench.tree_plan import Plan

__all__ = ["Opening", "judge_openings", "measure_openings"]

_VALUE_BYTES = 1000
_SECONDS_MAX = 0.2
_QUIET_SECONDS_MAX = 900.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Opening:
    """Times of each opening in a fresh process; ``cached``: with the files in the page cache.

    ``recovery_seconds`` is the store's own account; ``log_bytes`` of log were read in it, of which
    ``replayed_bytes`` of memtable came.
    """

    cached: bool
    table_bytes: int
    tables: int
    seconds: tuple[float, ...]
    recovery_seconds: tuple[float, ...]
    log_bytes: int
    replayed_bytes: int
    first_get_us: tuple[float, ...]


def measure_openings(
    directory: str, plan: Plan, seed: int, tell: Callable[[str], None]
) -> list[Opening]:
    """Fills a store as a program would, waits for its compaction, closes it, opens it again and
    again: with its files in the page cache, then, where they can be evicted, without.
    """
    place = os.path.join(directory, "open")
    values = Values(_VALUE_BYTES, seed)
    count = plan.open_bytes // (KEY_BYTES + _VALUE_BYTES)
    try:
        tell(f"filling a store of {plan.open_bytes / 1e6:,.0f} MB to open")
        _fill(place, count, values)
        key = make_key(random.Random(seed).randrange(count))
        asked = {"directory": place, "key": key.hex(), "value": values.of(key).hex()}
        openings = [_open_repeatedly(place, asked, plan.open_repetitions, cached=True)]
        if evict(place):
            openings.append(_open_repeatedly(place, asked, plan.open_repetitions, cached=False))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return openings


def _fill(place: str, count: int, values: Values) -> None:
    with kvstore.open(place, sync=False) as store:
        for number in range(count):
            key = make_key(number)
            store.put(key, values.of(key))
        store.flush()
        deadline = time.monotonic() + _QUIET_SECONDS_MAX
        while store.stats().pending_compaction_bytes:
            if time.monotonic() > deadline:
                raise RuntimeError(f"compaction did not end within {_QUIET_SECONDS_MAX:g} s")
            time.sleep(_POLL_SECONDS)


def _open_repeatedly(
    place: str, asked: dict[str, str], repetitions: int, *, cached: bool
) -> Opening:
    answers = []
    for _ in range(repetitions):
        if not cached:
            evict(place)
        with Child("bench.tree_open_child", asked) as child:
            answers.append(child.answer())
            child.wait()
    return Opening(
        cached,
        table_bytes=disk_usage(place)[1],
        tables=sum(name.endswith(".sst") for name in os.listdir(place)),
        seconds=tuple(answer["seconds"] for answer in answers),
        recovery_seconds=tuple(answer["recovery_seconds"] for answer in answers),
        log_bytes=max(answer["log_bytes"] for answer in answers),
        replayed_bytes=max(answer["replayed_bytes"] for answer in answers),
        first_get_us=tuple(answer["first_get_us"] for answer in answers),
    )


def judge_openings(openings: list[Opening]) -> list[Bar]:
    """The median, cached and not."""
    bars = []
    for opening in openings:
        kind = "cached" if opening.cached else "evicted"
        name = f"open of {opening.table_bytes / 1e6:,.0f} MB, {kind}"
        if opening.replayed_bytes:
            # A store that was flushed has nothing to replay: then this measures something else.
            detail = f"a memtable of {opening.replayed_bytes:,} B was replayed"
            bars.append(Bar(name, None, _SECONDS_MAX, detail, " s"))
        else:
            detail = (
                f"{min(opening.seconds):.4f} to {max(opening.seconds):.4f}; "
                f"{opening.log_bytes / 1e6:.1f} MB of log read, nothing replayed"
            )
            median = Spread.of(opening.seconds).median
            bars.append(Bar(name, median, _SECONDS_MAX, detail, " s"))
    return bars
