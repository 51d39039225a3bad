"""The concurrency benchmark's charts: throughput and the slow tail over the number of clients.

They are drawn from the report as it is in the JSON file, so that they can be drawn again.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.amounts import format_rate, format_us
from bench.charts.lines import Line, label_ends
from bench.colours import FAINT, STYLES, TEXT
from bench.engines import OURS

__all__ = ["draw"]

Point = tuple[int, float]

_INCHES = (8.0, 5.0)
_PNG_DOTS_PER_INCH = 150
_ROOM = 1.25
_FONT = "DejaVu Sans"  # which matplotlib brings along


@dataclass(frozen=True)
class _Chart:
    stem: str
    title: str
    subtitle: str
    value: Callable[[Mapping[str, Any]], float]
    text: Callable[[float], str]


@dataclass(frozen=True)
class _Line:
    side: str
    engine: str
    clients_by: str
    backend: str
    points: Sequence[Point]


def draw(report: Mapping[str, Any], directory: str) -> list[str]:
    """Draws two charts for each value size, as SVG and PNG; the files' names.

    Raises ImportError without matplotlib.
    """
    import matplotlib as mpl

    names = []
    # The same report gives the same bytes.
    settings = {"font.family": _FONT, "svg.hashsalt": "kvstore"}
    with mpl.rc_context(settings):
        for value_bytes in report["plan"]["value_bytes"]:
            cells = [cell for cell in report["cells"] if cell["value_bytes"] == value_bytes]
            for chart in _charts(value_bytes):
                if lines := _lines(cells, chart.value):
                    names += _draw_chart(chart, lines, _footer(report), directory)
    return names


def _charts(value_bytes: int) -> list[_Chart]:
    records = f"16 B random keys, {value_bytes} B values; every put is synced when it returns"
    return [
        _Chart(
            f"concurrency-{value_bytes}B",
            "Durable puts per second: higher is better",
            records,
            lambda cell: float(cell["median"]),
            format_rate,
        ),
        _Chart(
            f"concurrency-latency-{value_bytes}B",
            "Latency of durable puts, p99.9: lower is better",
            records,
            lambda cell: float(cell["latency_us"]["p99.9"]),
            format_us,
        ),
    ]


def _lines(
    cells: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float]
) -> list[_Line]:
    by_side: dict[tuple[str, str, str, str], list[Point]] = defaultdict(list)
    for cell in cells:
        key = (cell["side"], cell["engine"], cell["clients_by"], cell["backend"])
        if value(cell) > 0:  # nothing at all has no place on a logarithmic scale
            by_side[key].append((cell["clients"], value(cell)))
    return [_Line(*key, points) for key, points in by_side.items()]


def _draw_chart(chart: _Chart, lines: Sequence[_Line], footer: str, directory: str) -> list[str]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    axes = figure.add_axes((0.075, 0.175, 0.605, 0.68))
    _set_up_axes(axes, lines, chart.text)
    for line in lines:
        _draw_line(axes, line)
    ends = [
        Line(line.side, line.engine, line.points, line.engine == OURS and line.backend != "pwrite")
        for line in lines
    ]
    most_clients = max(line.points[-1][0] for line in lines)

    def text(value: float, clients: float) -> str:
        where = "" if clients == most_clients else f" at {clients:,}"
        return f"{chart.text(value)}{where}"

    label_ends(axes, ends, text)
    figure.text(0.015, 0.945, chart.title, size=13, weight="bold", color=TEXT)
    figure.text(0.015, 0.9, chart.subtitle, size=9, color=TEXT)
    figure.text(0.015, 0.02, footer, size=6.5, color=FAINT, linespacing=1.4)
    names = []
    for kind in ("svg", "png"):
        name = f"{chart.stem}.{kind}"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(os.path.join(directory, name), dpi=_PNG_DOTS_PER_INCH, metadata=metadata)
        names.append(name)
    return names


def _set_up_axes(axes: Any, lines: Sequence[_Line], text: Callable[[float], str]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    points = [point for line in lines for point in line.points]
    clients = sorted({point[0] for point in points})
    values = [point[1] for point in points]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # Explicit limits, so that the positions of the line ends are known before anything is drawn.
    axes.set_xlim(clients[0] / _ROOM, clients[-1] * _ROOM)
    axes.set_ylim(min(values) / _ROOM, max(values) * _ROOM)
    axes.xaxis.set_major_locator(FixedLocator(clients))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("clients at once", size=9, color=TEXT)
    axes.tick_params(labelsize=8.5, colors=TEXT, length=0)
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#c8cdd3")


def _draw_line(axes: Any, line: _Line) -> None:
    style, ours = STYLES[line.engine], line.engine == OURS
    second = line.backend == "pwrite"
    axes.plot(
        [point[0] for point in line.points],
        [point[1] for point in line.points],
        color=style.colour,
        marker="D" if ours and line.clients_by == "threads" else style.marker,
        markersize=5 if ours else 4,
        markerfacecolor="white" if second else style.colour,
        linewidth=2.6 if ours and not second else 1.4,
        linestyle=(0, (4, 2)) if second else "-",
        zorder=3 if ours else 2,
        clip_on=False,
    )


def _footer(report: Mapping[str, Any]) -> str:
    environment, plan = report["environment"], report["plan"]
    engines = dict.fromkeys(cell["engine"] for cell in report["cells"])
    versions = ", ".join(f"{engine} {environment[engine]}" for engine in engines)
    device = ", ".join(environment["device"].split(", ")[:3])  # its name and its write cache
    return (
        f"{environment['cpu']} processors; {environment['kernel']}; {environment['file system']}, "
        f"{device}; {environment['python']}\n"
        f"{versions}\n"
        f"{environment['loop']}; {plan['repetitions']} x {plan['seconds']:g} s, "
        f"{environment['date'][:10]}; python -m bench concurrency"
    )
