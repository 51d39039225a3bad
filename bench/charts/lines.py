"""Lines whose names stand at their ends: one glance tells which is which, without a legend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.colours import style_of
from bench.labels import nudge
from bench.outcomes import is_ours

__all__ = ["Line", "draw_lines", "label_ends"]

_LABEL_POINTS = 8.0
_LABEL_GAP_POINTS = 11.0
_LABEL_OFFSET_POINTS = 18


@dataclass(frozen=True)
class Line:
    """``points`` are (x, y), x ascending, in the colour of ``engine``; ``bold``: its label."""

    label: str
    engine: str
    points: Sequence[tuple[float, float]]
    bold: bool


def draw_lines(axes: Any, lines: Sequence[Line]) -> None:
    """Each with its engine's colour and marker, ours above the others."""
    for line in lines:
        style, ours = style_of(line.engine), is_ours(line.engine)
        axes.plot(
            [point[0] for point in line.points],
            [point[1] for point in line.points],
            color=style.colour,
            marker=style.marker,
            markersize=5 if ours else 4,
            linewidth=2.6 if ours else 1.4,
            zorder=3 if ours else 2,
            clip_on=False,
        )


def label_ends(axes: Any, lines: Sequence[Line], text: Callable[[float, float], str]) -> None:
    """A label right of the last point of each line, with a thin line to it.

    The limits of the axes have to be set. ``text`` is of the last point's value, and its place.
    """
    points_per_pixel = 72 / axes.figure.dpi
    ends = [axes.transData.transform(line.points[-1]) * points_per_pixel for line in lines]
    box = axes.get_window_extent()
    heights = nudge(
        [place[1] for place in ends],
        _LABEL_GAP_POINTS,
        box.y0 * points_per_pixel - _LABEL_GAP_POINTS,
        box.y1 * points_per_pixel + _LABEL_GAP_POINTS,
    )
    right = box.x1 * points_per_pixel
    for line, place, height in zip(lines, ends, heights, strict=True):
        x, value = line.points[-1]
        colour = style_of(line.engine).colour
        axes.annotate(
            f"{line.label}  {text(value, x)}",
            xy=line.points[-1],
            xytext=(right - place[0] + _LABEL_OFFSET_POINTS, height - place[1]),
            textcoords="offset points",
            size=_LABEL_POINTS,
            weight="bold" if line.bold else "normal",
            color=colour,
            verticalalignment="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkA": 1,
                "shrinkB": 4,
            },
            annotation_clip=False,
        )
