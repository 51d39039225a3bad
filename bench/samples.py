"""Medians and spreads. Nothing here knows what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "percentile"]


def percentile(values: Sequence[float], fraction: float) -> float:
    """The smallest value that at least ``fraction`` (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


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
