"""What every benchmark prints: its environment, quartiles, verdicts."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from bench.samples import Spread

__all__ = ["WIDTH", "format_quartiles", "print_environment", "verdict"]

WIDTH = 150  # that the widest table needs, for output that is no terminal


def print_environment(console: Console, environment: dict[str, str]) -> None:
    """Label and text, one per line, however wide."""
    width = max(map(len, environment))
    for label, text in environment.items():
        console.print(Text(f"{label:>{width}}  {text}"), soft_wrap=True)


def format_quartiles(spread: Spread, digits: int = 2) -> str:
    """Where the middle half of the measurements lies."""
    return f"{spread.lower_quartile:.{digits}f}-{spread.upper_quartile:.{digits}f}"


def verdict(met: bool) -> Text:
    """What a bar's line ends with."""
    return Text("met", style="green") if met else Text("NOT MET", style="bold red")
