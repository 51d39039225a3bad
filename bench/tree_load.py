"""The sustained load: random keys, relaxed, while compaction runs; ours against rocksdict."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.bars import Bar
from bench.engines import OURS
from bench.process import Child
from bench.samples import Spread
from bench.tree_plan import Plan
from kvstore import Options

__all__ = ["LOAD_PEER", "VALUE_BYTES", "Load", "judge_loads", "measure_loads"]

LOAD_PEER = "rocksdict"
VALUE_BYTES = 100
_SPEED_RATIO_MIN = 1.5
_OTHER_MEMORY_BYTES = 64 << 20


@dataclass(frozen=True)
class Load:
    """One load of one engine.

    ``answer`` is what its process measured; memory is in bytes, ``anonymous_peak`` beyond what the
    process had before it opened the store, both None where /proc does not say.
    """

    engine: str
    memtable_bytes: int
    answer: dict[str, Any]
    anonymous_peak: int | None
    resident_peak: int | None

    @property
    def puts_per_second(self) -> float:
        return float(self.answer["puts_per_second"])


def measure_loads(
    directory: str, names: Sequence[str], plan: Plan, seed: int, tell: Callable[[str], None]
) -> list[list[Load]]:
    """For each repetition the load of each engine; who begins changes."""
    rounds = []
    for repetition in range(plan.load_repetitions):
        first = repetition % len(names)
        loads = {}
        for name in (*names[first:], *names[:first]):
            tell(f"load of {plan.load_keys:,} keys into {name}, round {repetition + 1}")
            loads[name] = _load_once(directory, name, plan, seed + repetition)
        rounds.append([loads[name] for name in names])
    return rounds


def _load_once(directory: str, name: str, plan: Plan, seed: int) -> Load:
    place = os.path.join(directory, f"load-{name}")
    os.mkdir(place)
    asked = {
        "engine": name,
        "directory": place,
        "keys": plan.load_keys,
        "value_bytes": VALUE_BYTES,
        "memtable_bytes": plan.load_memtable_bytes,
        "seed": seed,
    }
    try:
        with Child("bench.tree_load_child", asked) as child:
            before = child.answer()["anonymous_before"]
            with child.sampled() as samples:
                child.answer()
            answer = child.answer()
    finally:
        shutil.rmtree(place)
    return Load(
        name,
        plan.load_memtable_bytes,
        answer,
        anonymous_peak=max(s.anonymous for s in samples) - before if samples else None,
        resident_peak=max(s.peak for s in samples) if samples else None,
    )


def judge_loads(rounds: list[list[Load]]) -> list[Bar]:
    """Speed: the median of the ratios within a round. Memory: the worst of all rounds."""
    ours = [load for loads in rounds for load in loads if load.engine == OURS]
    peers = [load for loads in rounds for load in loads if load.engine == LOAD_PEER]
    name = f"load, puts/s to those of {LOAD_PEER}"
    if peers:
        ratio = Spread.of(
            [a.puts_per_second / b.puts_per_second for a, b in zip(ours, peers, strict=True)]
        )
        detail = f"{ratio.lower_quartile:.2f}-{ratio.upper_quartile:.2f}, {len(ours)} rounds"
        speed = Bar(name, ratio.median, _SPEED_RATIO_MIN, detail, "x", at_least=True)
    else:
        speed = Bar(name, None, _SPEED_RATIO_MIN, f"no {LOAD_PEER} here", "x", at_least=True)
    return [speed, _judge_memory(ours)]


def _judge_memory(ours: list[Load]) -> Bar:
    cache = Options().block_cache_bytes
    limit = 2 * ours[0].memtable_bytes + cache + _OTHER_MEMORY_BYTES
    peaks = [load.anonymous_peak for load in ours if load.anonymous_peak is not None]
    name = "load, memory beyond that of the process before (two memtables + caches + 64 MiB)"
    if not peaks:
        return Bar(name, None, limit >> 20, "no /proc here or too short", " MiB")
    return Bar(name, max(peaks) / (1 << 20), limit >> 20, "RssAnon, most of all rounds", " MiB")
