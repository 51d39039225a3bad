"""Throughput by workload: a panel for each workload, a bar for each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.amounts import format_rate
from bench.charts.canvas import Picture, add_words, drawing, footer, panels, save, set_up_axes
from bench.charts.captions import caption
from bench.charts.settings import engines_in_order, slug, why_left_out
from bench.colours import FAINT, NOOP, TEXT, style_of
from bench.outcomes import Outcome, Setting, is_ours, settings_of
from bench.samples import Spread

__all__ = ["draw_throughput"]

_BAR_INCHES = 0.2
_ROOM_FOR_LABEL = 1.28


def draw_throughput(
    report: Mapping[str, Any], outcomes: Sequence[Outcome], directory: str
) -> list[Picture]:
    """A chart for each setting of a closed loop. ImportError without matplotlib."""
    pictures = []
    stores = [outcome for outcome in outcomes if outcome.case.engine != NOOP]
    with drawing():
        for setting in settings_of(stores):
            if setting.target is None:
                here = [outcome for outcome in stores if outcome.case.setting == setting]
                pictures.append(_draw(report, here, setting, directory))
    return pictures


def _draw(
    report: Mapping[str, Any], outcomes: Sequence[Outcome], setting: Setting, directory: str
) -> Picture:
    benchmark = report["benchmark"]
    workloads = list(dict.fromkeys(outcome.case.workload for outcome in outcomes))
    engines = engines_in_order(outcomes)
    figure, all_axes = panels(len(workloads), 3, _BAR_INCHES * len(engines) + 0.1)
    for axes, workload in zip(all_axes, workloads, strict=True):
        rates = {
            outcome.case.engine: outcome.rate
            for outcome in outcomes
            if outcome.case.workload == workload
        }
        reasons = {
            engine: why_left_out(report, engine, workload, setting.mode) for engine in engines
        }
        _draw_panel(axes, workload, engines, rates, reasons)
    title = f"{benchmark}, {setting.mode}: operations per second"
    add_words(
        figure,
        title,
        f"{setting.text_without_mode}.\nLonger is better; each panel has its own scale. Medians "
        "of the repetitions; the thin line spans the middle half of them.",
        footer(report["environment"], engines, benchmark),
    )
    stem = f"{benchmark}-throughput-{slug(setting)}"
    save(figure, directory, stem)
    return Picture(
        stem,
        f"{title}, {setting.text}",
        "Bars of operations per second, a panel for each workload.",
    )


def _draw_panel(
    axes: Any,
    workload: str,
    engines: Sequence[str],
    rates: Mapping[str, Spread],
    reasons: Mapping[str, str],
) -> None:
    set_up_axes(axes, caption(workload))
    highest = max(spread.upper_quartile for spread in rates.values())
    axes.set_xlim(0, highest * _ROOM_FOR_LABEL)
    axes.set_ylim(len(engines) - 0.4, -0.6)
    axes.set_yticks(range(len(engines)), engines)
    axes.xaxis.set_visible(False)  # every bar says what it is
    for label, engine in zip(axes.get_yticklabels(), engines, strict=True):
        label.set_weight("bold" if is_ours(engine) else "normal")
    for place, engine in enumerate(engines):
        if engine not in rates:
            axes.text(highest * 0.01, place, reasons[engine], size=6.5, color=FAINT, va="center")
            continue
        spread = rates[engine]
        axes.barh(place, spread.median, height=0.72, color=style_of(engine).colour)
        quartiles = (spread.lower_quartile, spread.upper_quartile)
        axes.plot(quartiles, (place, place), color=TEXT, linewidth=0.9, solid_capstyle="butt")
        axes.text(
            max(spread.upper_quartile, spread.median) + highest * 0.02,
            place,
            format_rate(spread.median),
            size=8,
            weight="bold" if is_ours(engine) else "normal",
            color=TEXT,
            va="center",
        )
