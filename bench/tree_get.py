"""Point reads of data that is in the cache."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from bench.bars import Bar
from bench.engines import OURS, Engine
from bench.keys import draw_numbers, make_key
from bench.rounds import Comparison, compare
from bench.tree_plan import Dataset, Plan

__all__ = ["judge_against", "judge_gets", "measure_gets"]

_RATIO_MAX = 1.0


def measure_gets(
    engines: dict[str, Engine], dataset: Dataset, plan: Plan, seed: int
) -> Iterator[Comparison]:
    """Uniform and zipfian, of keys that are there and of keys between them that are not."""
    for distribution in ("uniform", "zipfian"):
        rounds = plan.get_repetitions + 1
        numbers = draw_numbers(distribution, dataset.keys, rounds * plan.lookups, seed)
        for presence, first in (("present", 0), ("missing", dataset.keys)):
            # Other keys in each round, so that they are not found in the processor's caches.
            keys = [make_key(first + number) for number in numbers]
            batches = [
                keys[number : number + plan.lookups] for number in range(0, len(keys), plan.lookups)
            ]
            wanted = plan.lookups if presence == "present" else 0
            sides = {
                name: functools.partial(_get_batch, engine, batches, wanted)
                for name, engine in engines.items()
            }
            case = f"{dataset.name}, {distribution}, {presence}"
            yield compare(case, plan.lookups, sides, plan.get_repetitions)


def _get_batch(engine: Engine, batches: list[list[bytes]], wanted: int, number: int) -> None:
    found = engine.get_each(batches[number])
    if found != wanted:
        raise RuntimeError(f"found {found} of {wanted} keys")


def judge_gets(comparisons: list[Comparison]) -> list[Bar]:
    """Against lmdb, case by case."""
    return [judge_against("get", comparison, "lmdb") for comparison in comparisons]


def judge_against(what: str, comparison: Comparison, peer: str) -> Bar:
    """Whether ours takes less time than ``peer``: the median of the ratios."""
    name = f"{what}, {comparison.case}: time to that of {peer}"
    if peer not in comparison.elapsed_ns:
        return Bar(name, None, _RATIO_MAX, f"no {peer} here", "x")
    ratio = comparison.ratio(OURS, peer)
    ours, other = (comparison.microseconds(side).median for side in (OURS, peer))
    detail = f"{ratio.lower_quartile:.2f}-{ratio.upper_quartile:.2f}; {ours:.2f} us, {other:.2f} us"
    return Bar(name, ratio.median, _RATIO_MAX, detail, "x")
