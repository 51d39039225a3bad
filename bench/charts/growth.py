"""Cost per operation as the data grows: a panel for each operation, a line for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.amounts import format_count, format_us
from bench.charts.canvas import Picture, add_words, drawing, footer, panels, save, set_up_axes
from bench.charts.lines import Line, draw_lines, label_ends
from bench.colours import TEXT
from bench.outcomes import is_ours
from bench.samples import Spread

__all__ = ["draw_growth"]

_PANEL_INCHES = 3.0
_ROOM = 1.15
_HEADINGS = {"get": "get", "scan": "scan of {} entries", "put": "put, relaxed"}


def draw_growth(report: Mapping[str, Any], directory: str) -> list[Picture]:
    """One chart. ImportError without matplotlib."""
    cells = report["cells"]
    operations = list(dict.fromkeys(cell["operation"] for cell in cells))
    with drawing():
        figure, all_axes = panels(
            len(operations),
            3,
            _PANEL_INCHES,
            left_inches=0.7,
            right_inches=1.35,
            between_inches=1.8,
        )
        for axes, operation in zip(all_axes, operations, strict=True):
            here = [cell for cell in cells if cell["operation"] == operation]
            heading = _HEADINGS.get(operation, operation).format(report["plan"]["scan_entries"])
            _draw_panel(axes, heading, here)
        title = "Microseconds per operation as the data grows: lower is better"
        add_words(
            figure,
            title,
            f"16 B random keys, {report['plan']['value_bytes']} B values, all in memory; one "
            "thread. Medians of the repetitions.",
            footer(report["environment"], _engines(cells), "growth"),
        )
        save(figure, directory, "growth")
    return [Picture("growth", title, "A line for each engine, a panel for each operation.")]


def _engines(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(cell["engine"] for cell in cells))


def _draw_panel(axes: Any, heading: str, cells: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    lines = []
    for engine in _engines(cells):
        points = [
            (cell["records"], Spread.of(cell["microseconds"]).median)
            for cell in cells
            if cell["engine"] == engine
        ]
        lines.append(Line(engine, engine, sorted(points), is_ours(engine)))
    sizes = sorted({point[0] for line in lines for point in line.points})
    set_up_axes(axes, heading, grid="y", heading_left_points=30)
    axes.set_xscale("log")
    axes.set_xlim(sizes[0] / _ROOM, sizes[-1] * _ROOM)
    axes.set_ylim(0, _ROOM * max(point[1] for line in lines for point in line.points))
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} us"))
    axes.set_xlabel("records", size=8, color=TEXT)
    draw_lines(axes, lines)
    label_ends(axes, lines, lambda value, _: format_us(value))
