"""Pearson's test: whether draws can come from the distribution that they should come from."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["critical_value", "fits", "statistic"]

_Z_OF_ONE_IN_A_THOUSAND = 3.0902
_EXPECTED_MIN = 5.0


def statistic(counts: Sequence[int], shares: Sequence[float]) -> float:
    """How far the counts are from their shares of all draws. ValueError: a bin expects under 5,
    where the statistic does not follow its distribution.
    """
    draws = sum(counts)
    if min(shares) * draws < _EXPECTED_MIN:
        raise ValueError("too few draws for the smallest share")
    return sum(
        (count - share * draws) ** 2 / (share * draws)
        for count, share in zip(counts, shares, strict=True)
    )


def critical_value(degrees: int) -> float:
    """What one set of draws in a thousand exceeds: the approximation of Wilson and Hilferty."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _Z_OF_ONE_IN_A_THOUSAND * part**0.5) ** 3


def fits(counts: Sequence[int], shares: Sequence[float]) -> bool:
    """Whether the draws may be of these shares, which add up to 1."""
    assert abs(sum(shares) - 1) < 1e-9
    return statistic(counts, shares) < critical_value(len(counts) - 1)
