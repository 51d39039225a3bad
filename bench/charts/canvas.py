"""What all charts have in common: their size, type, title, footer, and how they are saved."""

from __future__ import annotations

import contextlib
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.colours import FAINT, TEXT

__all__ = ["Picture", "add_words", "drawing", "footer", "panels", "save", "set_up_axes"]

INCHES_WIDE = 11.0
_PNG_DOTS_PER_INCH = 110
_FONT = "DejaVu Sans"  # which matplotlib brings along
_GRID, _EDGE = "#e3e6ea", "#c8cdd3"
_TOP_INCHES, _BOTTOM_INCHES = 1.2, 0.75
_SUBTITLE_CHARACTERS = 145
_LEFT_INCHES, _RIGHT_INCHES = 1.35, 0.2


@dataclass(frozen=True)
class Picture:
    """A chart that was saved as ``stem``.svg and ``stem``.png; ``words`` say what it shows."""

    stem: str
    title: str
    words: str


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """The settings that all charts are drawn with; ImportError without matplotlib."""
    import matplotlib as mpl

    # The same results give the same bytes.
    with mpl.rc_context({"font.family": _FONT, "svg.hashsalt": "kvstore"}):
        yield


def panels(
    count: int,
    columns: int,
    panel_inches: float,
    *,
    left_inches: float = _LEFT_INCHES,
    right_inches: float = _RIGHT_INCHES,
    between_inches: float = _LEFT_INCHES,
    above_inches: float = 0.5,
) -> tuple[Any, list[Any]]:
    """A figure and its ``count`` axes, row by row, each ``panel_inches`` high.

    Left of each panel is room for labels; ``right_inches`` are free right of the last column, and
    ``above_inches`` between rows, for ticks and headings.
    """
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    high = _TOP_INCHES + rows * panel_inches + (rows - 1) * above_inches + _BOTTOM_INCHES
    figure = Figure(figsize=(INCHES_WIDE, high), facecolor="white")
    free = INCHES_WIDE - left_inches - right_inches - (columns - 1) * between_inches
    wide = free / columns
    axes = []
    for number in range(count):
        row, column = divmod(number, columns)
        x = left_inches + column * (wide + between_inches)
        y = high - _TOP_INCHES - (row + 1) * panel_inches - row * above_inches
        axes.append(
            figure.add_axes((x / INCHES_WIDE, y / high, wide / INCHES_WIDE, panel_inches / high))
        )
    return figure, axes


def set_up_axes(
    axes: Any, heading: str = "", grid: str = "x", heading_left_points: float = 78.0
) -> None:
    """Plain: a faint grid across one axis, no box. The heading begins where the labels do."""
    axes.annotate(
        heading,
        xy=(0, 1),
        xycoords="axes fraction",
        xytext=(-heading_left_points, 6),
        textcoords="offset points",
        size=9,
        weight="bold",
        color=TEXT,
        annotation_clip=False,
    )
    axes.tick_params(labelsize=8, colors=TEXT, length=0)
    axes.grid(axis=grid, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == ("left" if grid == "x" else "bottom"))
        axes.spines[side].set_color(_EDGE)


def add_words(figure: Any, title: str, subtitle: str, note: str) -> None:
    """Title and subtitle at the top, ``note`` small at the bottom. There is room for a subtitle of
    three lines.
    """
    lines = (textwrap.fill(line, _SUBTITLE_CHARACTERS) for line in subtitle.splitlines())
    high = figure.get_size_inches()[1]
    left = 0.15 / INCHES_WIDE
    figure.text(left, 1 - 0.34 / high, title, size=13, weight="bold", color=TEXT)
    figure.text(left, 1 - 0.46 / high, "\n".join(lines), size=9, color=TEXT, va="top")
    figure.text(left, 0.1 / high, note, size=6.5, color=FAINT, linespacing=1.4)


def footer(environment: Mapping[str, str], engines: Sequence[str], command: str) -> str:
    """Machine and versions of ``engines``, in two lines."""
    device = ", ".join(environment.get("device", "").split(", ")[:3])  # its name and its cache
    machine = (
        f"{environment.get('cpu', 'unknown')} processors",
        environment.get("kernel", ""),
        f"{environment.get('file system', '')}, {device}",
        environment.get("python", ""),
    )
    versions = [f"{name} {environment[name]}" for name in engines if name in environment]
    last = (", ".join(versions), environment.get("date", "")[:10], f"python -m bench {command}")
    return "; ".join(filter(None, machine)) + "\n" + "; ".join(filter(None, last))


def save(figure: Any, directory: str, stem: str) -> None:
    """As SVG and as PNG."""
    for kind in ("svg", "png"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        path = os.path.join(directory, f"{stem}.{kind}")
        figure.savefig(path, dpi=_PNG_DOTS_PER_INCH, metadata=metadata)
