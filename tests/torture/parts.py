"""The parts of a torture run: modules that break the store in one way each.

A part has ``GOAL``, how much of what is to be done, and ``chunk(index, directory)``, a piece of it
that depends on its index only: it works in the empty directory, returns what it did as a Counter,
and raises AssertionError for a loss. It may have ``unavailable()``: why nothing of it can be done
on this machine ("": it can).
"""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

MODULES = {
    "power_loss": "tests.crash.power_loss",
    "kills": "tests.crash.kills",
    "block_cuts": "tests.crash.block_cuts",
    "sweep": "tests.faults.sweep",
    "bit_rot": "tests.faults.bit_rot",
    "executions": "tests.fuzz.executions",
}


@dataclass(frozen=True)
class Part:
    """One of them. ``missing``: why it could not even be loaded, which is a failure; ``skipped``:
    why this machine cannot do it, which is not."""

    name: str
    module: str
    goal: dict[str, int]
    missing: str = ""
    skipped: str = ""

    def share_done(self, done: Counter[str]) -> float:
        """0.0 to 1.0 and beyond: that of the goal which is furthest behind."""
        return min(done[what] / wanted for what, wanted in self.goal.items())


def load(name: str, module: str, scale: float) -> Part:
    """The part, with ``scale`` times its goals, at least 1 of each."""
    try:
        loaded: Any = importlib.import_module(module)
        goal = {what: max(1, round(wanted * scale)) for what, wanted in loaded.GOAL.items()}
        skipped = loaded.unavailable() if hasattr(loaded, "unavailable") else ""
    except (ImportError, AttributeError) as error:
        return Part(name, module, {}, missing=f"{type(error).__name__}: {error}")
    return Part(name, module, goal, skipped=skipped)
