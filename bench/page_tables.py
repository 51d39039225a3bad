"""The tables of the report: ratios, every case with its spread, what each engine's modes mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.amounts import format_bytes, format_rate, format_us
from bench.charts.captions import caption
from bench.charts.settings import engines_in_order
from bench.colours import NOOP
from bench.outcomes import MODES, REPETITIONS_MIN, Outcome, settings_of
from bench.page import Cell, fold, table
from bench.ratios import Ratio, by_heading, columns_of
from bench.samples import Spread
from bench.sync_counter import durable_syncs

__all__ = [
    "case_tables",
    "engine_table",
    "environment_table",
    "generator_cost",
    "left_out_table",
    "ratio_tables",
    "syncs_per_write",
]

_NOTHING = "-"
_PERCENTILES = ("p50_ns", "p99_ns", "p999_ns", "max_ns")


def ratio_tables(ratios: Sequence[Ratio]) -> str:
    """One for each number of records and clients; a row for each workload, a column for each mode
    and engine of ours. Blue: ahead, orange: behind, by more than the middle half of repetitions.
    """
    return "\n".join(
        _ratio_table(heading, members) for heading, members in by_heading(ratios).items()
    )


def _ratio_table(heading: str, ratios: Sequence[Ratio]) -> str:
    columns = columns_of(ratios)
    cells: dict[tuple[str, str, str], Cell] = {
        (ratio.workload, ratio.setting.mode, ratio.engine): (ratio.text, _side(ratio))
        for ratio in ratios
    }
    headings = [heading, *(f"{who}, {mode}" for mode, who in columns)]
    workloads = dict.fromkeys(ratio.workload for ratio in ratios)
    rows = [
        [caption(workload), *(cells.get((workload, *column), _NOTHING) for column in columns)]
        for workload in workloads
    ]
    return table(headings, rows)


def _side(ratio: Ratio) -> str:
    if ratio.repetitions < REPETITIONS_MIN:
        return ""
    if ratio.spread.lower_quartile > 1:
        return "ahead"
    return "behind" if ratio.spread.upper_quartile < 1 else ""


def engine_table(report: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """What sync and relaxed mean for each engine, as counted and in words."""
    ways = report.get("plan", {}).get("relaxed", {})
    rows: list[list[Cell]] = []
    for engine in engines_in_order(outcomes):
        counts = [
            _range(
                [
                    per_write
                    for outcome in outcomes
                    if (outcome.case.engine, outcome.case.setting.mode) == (engine, mode)
                    and (per_write := syncs_per_write(outcome)) is not None
                ]
            )
            for mode in MODES
        ]
        version = report["environment"].get(engine.partition(" ")[0], "")
        rows.append([engine, version, *counts, (str(ways.get(engine, _NOTHING)), "words")])
    return table(
        ["engine", "version", "sync: syncs per write", "relaxed: syncs per write", "relaxed means"],
        rows,
    )


def syncs_per_write(outcome: Outcome) -> float | None:
    """The median of the repetitions; None where nothing was written or nothing counts."""
    counts = [
        durable_syncs(cell["syncs"]) / cell["writes"]
        for cell in outcome.cells
        if cell.get("syncs") is not None and cell.get("writes")
    ]
    return Spread.of(counts).median if counts else None


def _range(values: Sequence[float]) -> str:
    if not values:
        return _NOTHING
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


def left_out_table(reports: Iterable[Mapping[str, Any]]) -> str:
    """What could not be run, each with its reason."""
    rows: list[list[Cell]] = [
        [
            report["benchmark"],
            *(
                (str(left_out.get(name) or "all"), "label")
                for name in ("engine", "workload", "mode")
            ),
            (str(left_out["why"]), "words"),
        ]
        for report in reports
        for left_out in report.get("left_out", ())
    ]
    return table(["benchmark", "engine", "workload", "mode", "why"], rows) if rows else ""


def generator_cost(outcomes: Sequence[Outcome]) -> str:
    """Of the engine that does nothing: what is not the stores' in every figure, in words."""
    costs = [
        1e9 * outcome.case.setting.clients / outcome.rate.median
        for outcome in outcomes
        if outcome.case.engine == NOOP and outcome.case.setting.clients == 1
    ]
    if not costs:
        return "The cost of the loop around the stores was not measured in this run."
    return (
        f"The loop around the stores, measured with a store that does nothing, takes "
        f"{min(costs):,.0f} to {max(costs):,.0f} ns of each operation; it is in every figure."
    )


def environment_table(environment: Mapping[str, str]) -> str:
    """Label and text."""
    return table(["what", "is"], [[label, (text, "words")] for label, text in environment.items()])


def case_tables(outcomes: Sequence[Outcome]) -> str:
    """Every case, a table for each setting, folded."""
    headings = ["workload", "engine", "operations/s", "quartiles", "runs"]
    headings += ["mean", "p50", "p99", "p99.9", "max"]
    headings += ["syncs per write", "CPU us per operation", "written B per operation"]
    headings += ["memory", "peak", "disk", "due, not done"]
    parts = []
    for setting in settings_of(outcomes):
        here = [outcome for outcome in outcomes if outcome.case.setting == setting]
        rows = [_case_row(outcome) for outcome in here]
        parts.append(fold(setting.text, table(headings, rows)))
    return "\n".join(parts)


def _case_row(outcome: Outcome) -> list[Cell]:
    rate, cells = outcome.rate, outcome.cells
    per_write = syncs_per_write(outcome)
    cpu = _median(_cpu_us(cell) for cell in cells)
    written = _median(
        cell["bytes_written"] / _acknowledged(cell)
        for cell in cells
        if cell.get("bytes_written") is not None
    )
    not_reached = sum(cell.get("not_reached") or 0 for cell in cells) / len(cells)
    memory = [cell["memory"] for cell in cells if cell.get("memory")]
    disk = _median(cell["disk_bytes"] for cell in cells if cell.get("disk_bytes") is not None)
    latencies = [outcome.latencies("ALL", name) for name in ("mean_ns", *_PERCENTILES)]
    return [
        outcome.case.workload,
        (outcome.case.engine, "label"),
        f"{rate.median:,.0f}",
        f"{format_rate(rate.lower_quartile)}-{format_rate(rate.upper_quartile)}",
        str(len(cells)),
        *(format_us(Spread.of(found).median / 1000) if found else _NOTHING for found in latencies),
        _NOTHING if per_write is None else f"{per_write:.3g}",
        _NOTHING if cpu is None else f"{cpu:,.2f}",
        _NOTHING if written is None else f"{written:,.0f}",
        _bytes(_median(each["anonymous"] for each in memory)),
        _bytes(_median(each["peak"] for each in memory)),
        _bytes(disk),
        f"{not_reached:,.0f}" if not_reached else _NOTHING,
    ]


def _cpu_us(cell: Mapping[str, Any]) -> float:
    seconds = cell["cpu_seconds"]["user"] + cell["cpu_seconds"]["system"]
    return float(1e6 * seconds / _acknowledged(cell))


def _acknowledged(cell: Mapping[str, Any]) -> int:
    """What resources were used for: the operations of the warm-up too."""
    return int(cell.get("acknowledged") or cell["operations"])


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return Spread.of(found).median if found else None


def _bytes(count: float | None) -> str:
    return _NOTHING if count is None else format_bytes(count)
