"""Latency: a panel for each kind of operation, with p50, p99 and p99.9 of each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.amounts import format_us
from bench.charts.canvas import Picture, add_words, drawing, footer, panels, save, set_up_axes
from bench.charts.captions import kind_name
from bench.charts.settings import engines_in_order, slug, why_left_out
from bench.colours import FAINT, NOOP, TEXT, style_of
from bench.outcomes import Outcome, Setting, is_ours, settings_of
from bench.samples import Spread
from bench.ycsb.script import Kind

__all__ = ["draw_latency"]

_ROW_INCHES = 0.2
_ROOM = 1.5
_NUMBERS_INCHES = 1.55
_COLUMN_POINTS = 36.0
_POINTS = (("p50_ns", "o"), ("p99_ns", "|"), ("p999_ns", "D"))

Percentiles = tuple[float, ...]


def draw_latency(
    report: Mapping[str, Any], outcomes: Sequence[Outcome], directory: str
) -> list[Picture]:
    """A chart for each setting, open loops too. ImportError without matplotlib."""
    pictures = []
    stores = [outcome for outcome in outcomes if outcome.case.engine != NOOP]
    with drawing():
        for setting in settings_of(stores):
            here = [outcome for outcome in stores if outcome.case.setting == setting]
            if rows := _percentiles(here):
                engines = engines_in_order(here)
                pictures.append(_draw(report, rows, engines, setting, directory))
    return pictures


def _percentiles(
    outcomes: Sequence[Outcome],
) -> dict[tuple[str, str], dict[str, Percentiles]]:
    """By (workload, kind of operation), by engine: medians of the repetitions, in us."""
    found: dict[tuple[str, str], dict[str, Percentiles]] = {}
    for outcome in outcomes:
        kinds = {kind for cell in outcome.cells for kind in cell["latency"]} - {"ALL"}
        for kind in sorted(kinds, key=lambda kind: Kind[kind]):
            samples = [outcome.latencies(kind, name) for name, _ in _POINTS]
            # Nothing at all has no place on a logarithmic scale.
            if not all(samples) or min(map(min, samples)) <= 0:
                continue
            medians = tuple(Spread.of(values).median / 1000 for values in samples)
            found.setdefault((outcome.case.workload, kind), {})[outcome.case.engine] = medians
    return found


def _draw(
    report: Mapping[str, Any],
    rows: Mapping[tuple[str, str], Mapping[str, Percentiles]],
    engines: Sequence[str],
    setting: Setting,
    directory: str,
) -> Picture:
    benchmark = report["benchmark"]
    figure, all_axes = panels(
        len(rows),
        2,
        _ROW_INCHES * len(engines) + 0.1,
        right_inches=_NUMBERS_INCHES,
        between_inches=1.35 + _NUMBERS_INCHES,
        above_inches=0.68,
    )
    for axes, ((workload, kind), by_engine) in zip(all_axes, rows.items(), strict=True):
        reasons = {name: why_left_out(report, name, workload, setting.mode) for name in engines}
        _draw_panel(axes, f"{workload}: {kind_name(kind)}", engines, by_engine, reasons)
    title = f"{benchmark}, {setting.mode}: latency"
    how = (
        "From one call to its return"
        if setting.target is None
        else "From when the operation was due, not from when it was begun, to its return"
    )
    add_words(
        figure,
        title,
        f"{setting.text_without_mode}.\nLeft is better; each panel has its own logarithmic scale. "
        f"{how}. Circle, bar, diamond: p50, p99, p99.9.",
        footer(report["environment"], engines, benchmark),
    )
    stem = f"{benchmark}-latency-{slug(setting)}"
    save(figure, directory, stem)
    return Picture(
        stem, f"{title}, {setting.text}", "p50, p99 and p99.9, a panel for each kind of operation."
    )


def _draw_panel(
    axes: Any,
    heading: str,
    engines: Sequence[str],
    by_engine: Mapping[str, Percentiles],
    reasons: Mapping[str, str],
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    set_up_axes(axes, heading)
    values = [value for percentiles in by_engine.values() for value in percentiles]
    axes.set_xscale("log")
    axes.set_xlim(min(values) / _ROOM, max(values) * _ROOM)
    axes.set_ylim(len(engines) - 0.4, -0.6)
    axes.set_yticks(range(len(engines)), engines)
    axes.xaxis.set_major_locator(LogLocator(base=10, numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_us(value)))
    for label, engine in zip(axes.get_yticklabels(), engines, strict=True):
        label.set_weight("bold" if is_ours(engine) else "normal")
    _add_numbers(axes, -1.0, ("p50", "p99", "p99.9"))
    for place, engine in enumerate(engines):
        if (percentiles := by_engine.get(engine)) is None:
            axes.annotate(
                reasons[engine],
                xy=(0, place),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                size=6.5,
                color=FAINT,
                va="center",
            )
            continue
        colour = style_of(engine).colour
        axes.plot((percentiles[0], percentiles[-1]), (place, place), color=colour, linewidth=1.6)
        for value, (_, marker) in zip(percentiles, _POINTS, strict=True):
            size = 9 if marker == "|" else 5
            axes.plot(value, place, marker=marker, color=colour, markersize=size, markeredgewidth=2)
        _add_numbers(axes, place, list(map(format_us, percentiles)), bold=is_ours(engine))


def _add_numbers(axes: Any, place: float, texts: Sequence[str], *, bold: bool = False) -> None:
    """In columns right of the panel, in the row at ``place``."""
    for column, text in enumerate(texts, 1):
        axes.annotate(
            text,
            xy=(1, place),
            xycoords=("axes fraction", "data"),
            xytext=(_COLUMN_POINTS * column, 0),
            textcoords="offset points",
            size=7,
            weight="bold" if bold else "normal",
            color=TEXT,
            ha="right",
            va="center",
            annotation_clip=False,
        )
