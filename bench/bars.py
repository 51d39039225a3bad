"""A bar: a figure that was measured, the limit it is held against, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from bench.report import verdict

__all__ = ["Bar", "print_bars"]


@dataclass(frozen=True)
class Bar:
    """``value`` is to be at most ``limit`` (with ``at_least``: at least).

    No value: ``detail`` says why it was not judged.
    """

    name: str
    value: float | None
    limit: float
    detail: str
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """None when not judged."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def as_json(self) -> dict[str, Any]:
        return {**vars(self), "met": self.met}


def print_bars(console: Console, bars: Iterable[Bar]) -> None:
    """One line each, in order."""
    for bar in bars:
        wanted = f"at {'least' if bar.at_least else 'most'} {bar.limit:g}{bar.unit}"
        if bar.value is None:
            console.print(
                Text(f"bar: {bar.name}: not judged, {bar.detail} ({wanted})"), soft_wrap=True
            )
        else:
            line = f"bar: {bar.name}: {bar.value:.3g}{bar.unit} ({bar.detail}), {wanted}: "
            assert bar.met is not None
            console.print(Text(line) + verdict(bar.met), soft_wrap=True)
