"""One colour for each engine, the same in every chart.

Ours are the strong ones, two blues. Those of the peers are muted, and differ in lightness as well
as in hue, so that they can be told apart without seeing all colours; each has a marker of its own
too. What is no store is grey.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.engines import OURS

__all__ = ["FAINT", "NOOP", "OURS_ASYNC", "STYLES", "TEXT", "Style", "style_of"]

OURS_ASYNC = f"{OURS} (asyncio)"
NOOP = "no-op"
TEXT = "#24292f"
FAINT = "#8c959f"


@dataclass(frozen=True)
class Style:
    """A colour, and a marker as matplotlib names it."""

    colour: str
    marker: str


STYLES = {
    OURS: Style("#0057b8", "o"),
    OURS_ASYNC: Style("#62a8ff", "*"),
    "plyvel": Style("#b3541e", "s"),
    "rocksdict": Style("#7a6a9e", "^"),
    "lmdb": Style("#5aa786", "D"),
    "sqlite3": Style("#c9a227", "v"),
    "diskcache": Style("#9aa0a6", "P"),
    "aiosqlite": Style("#a03a63", "X"),
    "dbm": Style("#4d3f47", "p"),
    NOOP: Style("#d0d4d9", "."),
}


def style_of(engine: str) -> Style:
    """Its style; that of what is no store for an engine that has none."""
    return STYLES.get(engine, STYLES[NOOP])
