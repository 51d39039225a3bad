"""Where labels go that would lie on each other."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["nudge"]


def nudge(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions at least ``gap`` apart, as near to the ``wanted`` ones as can be (least squares).

    They keep their order, equal ones that in which they come, and stay between ``low`` and
    ``high`` if all fit there; else they go on beyond ``high``. O(n log n).
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Less the room that those below need, what is looked for must only not decrease: the pool
    # adjacent violators algorithm finds it. A pool is (sum, count).
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        total, count = wanted[index] - rank * gap, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before, members = pools.pop()
            total, count = total + before, count + members
        pools.append((total, count))
    highest = max(low, high - (len(wanted) - 1) * gap)
    levels = [min(max(total / count, low), highest) for total, count in pools for _ in range(count)]
    placed = [0.0] * len(wanted)
    for rank, (index, level) in enumerate(zip(order, levels, strict=True)):
        placed[index] = level + rank * gap
    return placed
