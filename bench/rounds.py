"""Short operations of several engines, measured in turns, so that a drift hits them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.samples import Spread

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """The time of each engine's slices of ``operations`` operations, by repetition."""

    case: str
    operations: int
    elapsed_ns: dict[str, tuple[int, ...]]

    def microseconds(self, engine: str) -> Spread:
        """Of one operation."""
        return Spread.of([ns / self.operations / 1000 for ns in self.elapsed_ns[engine]])

    def ratio(self, engine: str, base: str) -> Spread:
        """Of the times within the same repetition."""
        pairs = zip(self.elapsed_ns[engine], self.elapsed_ns[base], strict=True)
        return Spread.of([own / other for own, other in pairs])

    def as_json(self) -> dict[str, Any]:
        spreads = {engine: vars(self.microseconds(engine)) for engine in self.elapsed_ns}
        return {**vars(self), "microseconds": spreads}


def compare(
    case: str, operations: int, sides: Mapping[str, Callable[[int], object]], repetitions: int
) -> Comparison:
    """Rounds A B C, B C A, C A B, ...; each side is called with the number of the round.

    Round 0 warms every side up and is not counted. The garbage collector is off while a clock runs.
    """
    names = list(sides)
    elapsed: dict[str, list[int]] = {name: [] for name in names}
    for number in range(repetitions + 1):
        first = number % len(names)
        gc.collect()
        gc.disable()
        try:
            for name in names[first:] + names[:first]:
                began = time.perf_counter_ns()
                sides[name](number)
                taken = time.perf_counter_ns() - began
                if number:
                    elapsed[name].append(taken)
        finally:
            gc.enable()
    return Comparison(case, operations, {name: tuple(taken) for name, taken in elapsed.items()})
