"""One colour for each engine, the same in every chart.

Ours is the one strong colour. Those of the peers are muted, and differ in lightness as well as in
hue, so that they can be told apart without seeing all colours; each has a marker of its own too.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.engines import OURS

__all__ = ["FAINT", "STYLES", "TEXT", "Style"]

TEXT = "#24292f"
FAINT = "#8c959f"


@dataclass(frozen=True)
class Style:
    """A colour, and a marker as matplotlib names it."""

    colour: str
    marker: str


STYLES = {
    OURS: Style("#0057b8", "o"),
    "plyvel": Style("#b3541e", "s"),
    "rocksdict": Style("#7a6a9e", "^"),
    "lmdb": Style("#5aa786", "D"),
    "sqlite3": Style("#c9a227", "v"),
    "diskcache": Style("#9aa0a6", "P"),
    "aiosqlite": Style("#c26a8a", "X"),
}
