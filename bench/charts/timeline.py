"""Throughput over time: a row for each engine, its flushes and compactions behind the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.amounts import format_rate
from bench.charts.canvas import Picture, add_words, drawing, footer, panels, save, set_up_axes
from bench.charts.captions import caption
from bench.charts.settings import engines_in_order, slug
from bench.colours import NOOP, TEXT, style_of
from bench.outcomes import Outcome, Setting, is_ours, settings_of

__all__ = ["draw_timelines"]

_ROW_INCHES = 0.75
_CHARTS_MAX = 2  # of a benchmark: those with most compactions
_POINTS_MIN, _POINTS_MAX = 8, 240
_TIMES_AS_LONG_MAX = 5
_SHADES = {"flush": "#f0dfb0", "compaction": "#c5cbd3"}


def draw_timelines(
    report: Mapping[str, Any], outcomes: Sequence[Outcome], directory: str
) -> list[Picture]:
    """Of the workloads in which stores compact most, relaxed, where runs were long enough to show
    more than a few points. ImportError without matplotlib.
    """
    stores = [
        outcome
        for outcome in outcomes
        if outcome.case.engine != NOOP
        and outcome.case.setting.target is None
        and len(outcome.cells[0]["series"]["operations"]) >= _POINTS_MIN
    ]
    with drawing():
        return [_draw(report, here, directory) for here in _most_compacted(stores)[:_CHARTS_MAX]]


def _most_compacted(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Groups of one workload and setting, by how much is compacted in them; one per workload."""
    groups: dict[tuple[str, Setting], list[Outcome]] = {}
    for setting in settings_of(outcomes):
        for outcome in outcomes:
            if outcome.case.setting == setting and setting.mode == "relaxed":
                groups.setdefault((outcome.case.workload, setting), []).append(outcome)
    counts = {key: sum(map(_count_compactions, group)) for key, group in groups.items()}
    best: dict[str, tuple[str, Setting]] = {}
    for key in sorted(groups, key=lambda key: -counts[key]):
        if counts[key]:
            best.setdefault(key[0], key)
    return [groups[key] for key in best.values()]


def _count_compactions(outcome: Outcome) -> int:
    return len(outcome.cells[0].get("compactions") or ())


def _seconds(outcome: Outcome) -> float:
    return float(outcome.cells[0]["seconds"])


def _draw(report: Mapping[str, Any], outcomes: Sequence[Outcome], directory: str) -> Picture:
    benchmark, case = report["benchmark"], outcomes[0].case
    longest = max(_seconds(outcome) for outcome in outcomes if _count_compactions(outcome))
    shown = [each for each in outcomes if _seconds(each) <= _TIMES_AS_LONG_MAX * longest]
    engines = engines_in_order(shown)
    figure, all_axes = panels(len(engines), 1, _ROW_INCHES, left_inches=1.85, above_inches=0.14)
    by_engine = {outcome.case.engine: outcome for outcome in shown}
    seconds = max(map(_seconds, shown))
    for axes, engine in zip(all_axes, engines, strict=True):
        _draw_row(axes, by_engine[engine], seconds, last=axes is all_axes[-1])
    title = f"{benchmark} {case.workload}, {case.setting.mode}: operations per second over time"
    telling = [name for name in engines if _count_compactions(by_engine[name])]
    slow = [name for name in engines_in_order(outcomes) if name not in engines]
    too_slow = f" Not shown, as they take much longer: {', '.join(slow)}." if slow else ""
    add_words(
        figure,
        title,
        f"{caption(case.workload)}; {case.setting.text_without_mode}.\n"
        "First repetition; each row has its own scale. Yellow: a flush, "
        f"grey: a compaction, as told by {' and '.join(telling)}.{too_slow}",
        footer(report["environment"], engines, benchmark),
    )
    stem = f"{benchmark}-time-{case.workload}-{slug(case.setting)}"
    save(figure, directory, stem)
    return Picture(
        stem,
        f"{title}, {case.setting.text}",
        "A curve for each engine, compactions shaded behind it.",
    )


def _draw_row(axes: Any, outcome: Outcome, seconds: float, *, last: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    cell, engine = outcome.cells[0], outcome.case.engine
    set_up_axes(axes, grid="y")
    times, rates = _curve(cell["series"]["interval_seconds"], cell["series"]["operations"])
    for begin, end, kind in cell.get("compactions") or ():
        axes.axvspan(
            max(0.0, begin),
            min(seconds, end),
            color=_SHADES.get(kind, _SHADES["compaction"]),
            linewidth=0,
        )
    axes.plot(times, rates, color=style_of(engine).colour, linewidth=1.4)
    axes.set_xlim(0, seconds)
    axes.set_ylim(0, 1.15 * max(rates))
    axes.yaxis.set_major_locator(MaxNLocator(2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_rate(value)))
    axes.xaxis.set_visible(last)
    if last:
        axes.set_xlabel("seconds", size=8, color=TEXT)
    axes.annotate(
        engine,
        xy=(0, 0.5),
        xycoords="axes fraction",
        xytext=(-122, 0),
        textcoords="offset points",
        size=8,
        weight="bold" if is_ours(engine) else "normal",
        color=TEXT,
        va="center",
        annotation_clip=False,
    )


def _curve(interval: float, operations: Sequence[int]) -> tuple[list[float], list[float]]:
    """Points at the middle of intervals, several put together where there are very many.

    The last interval is seldom a whole one: it is left out.
    """
    together = max(1, len(operations) // _POINTS_MAX)
    whole = operations[:-1] if len(operations) > 1 else operations
    together = min(together, len(whole))
    firsts = range(0, len(whole) - together + 1, together)
    times = [interval * (first + together / 2) for first in firsts]
    rates = [sum(whole[first : first + together]) / (together * interval) for first in firsts]
    return times, rates
