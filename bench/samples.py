"""Medians and spreads. Nothing here knows what was measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Spread", "percentile", "percentiles_of_counts", "rounded_counts"]

_ROUNDED_BITS = 10


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that at least ``fraction`` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def percentiles_of_counts(counts: Mapping[int, int], fractions: Sequence[float]) -> list[int]:
    """The same of each fraction, ascending, of values that are given by how often they occur."""
    ordered = sorted(counts)
    total = sum(counts.values())
    found = []
    position, reached = 0, counts[ordered[0]]
    for fraction in fractions:
        while reached < fraction * total:
            position += 1
            reached += counts[ordered[position]]
        found.append(ordered[position])
    return found


def rounded_counts(values: Iterable[int]) -> Counter[int]:
    """How often each value from 0 on occurs, rounded to 10 significant bits: by at most 0.1%.

    Such counts are small, and those of several runs are merged by addition.
    """
    rounded: Counter[int] = Counter()
    for value, count in Counter(values).items():
        shift = max(0, value.bit_length() - _ROUNDED_BITS)
        half = (1 << shift) >> 1
        rounded[(value + half) >> shift << shift] += count
    return rounded


@dataclass(frozen=True)
class Spread:
    """The middle of some measurements and where half of them lie."""

    median: float
    lower_quartile: float
    upper_quartile: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; the median of an even number is the mean of the middle two."""
        ordered = sorted(values)
        half = len(ordered) // 2
        median = (ordered[half] + ordered[-1 - half]) / 2
        return cls(median, percentile(ordered, 0.25), percentile(ordered, 0.75))
