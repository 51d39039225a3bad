"""Time to open after a kill by the size of the log: a line for each engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.amounts import format_bytes, format_us
from bench.charts.canvas import Picture, add_words, drawing, footer, panels, save, set_up_axes
from bench.charts.lines import Line, draw_lines, label_ends
from bench.colours import TEXT
from bench.outcomes import is_ours
from bench.samples import Spread

__all__ = ["draw_recovery"]

_PANEL_INCHES = 3.6
_ROOM = 1.25


def draw_recovery(report: Mapping[str, Any], directory: str) -> list[Picture]:
    """One chart. ImportError without matplotlib."""
    cells = report["cells"]
    engines = list(dict.fromkeys(cell["engine"] for cell in cells))
    lines = [
        Line(
            engine,
            engine,
            sorted(
                (cell["log_bytes"], 1e6 * Spread.of(cell["seconds"]).median)
                for cell in cells
                if cell["engine"] == engine
            ),
            is_ours(engine),
        )
        for engine in engines
    ]
    title = "Time to open after kill -9, by the size of the log: lower is better"
    with drawing():
        figure, (axes,) = panels(1, 1, _PANEL_INCHES, left_inches=0.9, right_inches=2.3)
        _draw_axes(axes, lines)
        add_words(
            figure,
            title,
            "Everything is in the log, nothing in a table; its files in the page cache; with a "
            "first get. 16 B keys, 100 B values.\nsqlite3 is given them in ascending order. lmdb "
            "has no log, and nothing to recover.",
            footer(report["environment"], engines, "recovery"),
        )
        save(figure, directory, "recovery")
    return [Picture("recovery", title, "A line for each engine, on logarithmic scales.")]


def _draw_axes(axes: Any, lines: list[Line]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    points = [point for line in lines for point in line.points]
    set_up_axes(axes, grid="y")
    for direction, set_scale, set_limits in (
        (0, axes.set_xscale, axes.set_xlim),
        (1, axes.set_yscale, axes.set_ylim),
    ):
        values = [point[direction] for point in points]
        set_scale("log")
        set_limits(min(values) / _ROOM, max(values) * _ROOM)
    for axis, text in ((axes.xaxis, format_bytes), (axes.yaxis, format_us)):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value)))
    axes.set_xlabel("size of the log", size=8, color=TEXT)
    draw_lines(axes, lines)
    label_ends(axes, lines, lambda value, size: f"{format_us(value)} for {format_bytes(size)}")
