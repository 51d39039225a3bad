"""What a run prints at its end: throughput, ratios to the best peer, what an operation costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.load.plan import LeftOut
from bench.outcomes import Outcome, Setting, settings_of
from bench.ratios import ratios_to_best_peer
from bench.samples import Spread
from bench.stores import NOOP
from bench.sync_counter import durable_syncs

__all__ = ["print_all", "short", "short_count"]


def print_all(
    console: Console, outcomes: Sequence[Outcome], left_out: Sequence[LeftOut], tasks: Sequence[str]
) -> None:
    """Three tables for each setting, then what was left out."""
    for setting in settings_of(outcomes):
        here = [outcome for outcome in outcomes if outcome.case.setting == setting]
        _print_throughput(console, setting, here, tasks)
        _print_ratios(console, setting, here)
        _print_costs(console, setting, here, tasks)
    for one in left_out:
        console.print(
            f"left out: {one.engine}, {one.workload}, {one.mode}: {one.why}", soft_wrap=True
        )


def short(number: float) -> str:
    """Three digits: 12.3, 456, 1.23k, 45.6M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return _three_digits(number / size) + unit
    return _three_digits(number)


def short_count(number: int) -> str:
    """In a file's name: 10M, 100k, 1234."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def _three_digits(number: float) -> str:
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"


def _print_throughput(
    console: Console, setting: Setting, outcomes: Sequence[Outcome], tasks: Sequence[str]
) -> None:
    engines = list(dict.fromkeys(outcome.case.engine for outcome in outcomes))
    engines.sort(key=lambda engine: engine == NOOP)
    by_case = {(outcome.case.workload, outcome.case.engine): outcome for outcome in outcomes}
    table = _table(console, f"operations/s, median (quartiles): {setting.text}")
    table.add_column("workload", no_wrap=True)
    for engine in engines:
        table.add_column(engine, justify="right")
    for task in tasks:
        row = [by_case.get((task, engine)) for engine in engines]
        if any(row):
            table.add_row(task, *("" if outcome is None else _rate(outcome) for outcome in row))
    console.print(table)


def _rate(outcome: Outcome) -> str:
    spread = outcome.rate
    if len(outcome.cells) == 1:
        return short(spread.median)
    quartiles = f"{short(spread.lower_quartile)}-{short(spread.upper_quartile)}"
    return f"{short(spread.median)}\n({quartiles})"


def _print_ratios(console: Console, setting: Setting, outcomes: Sequence[Outcome]) -> None:
    ratios = ratios_to_best_peer(outcomes)
    if not ratios:
        return
    table = _table(console, f"ours to the best peer, median (quartiles) of ratios: {setting.text}")
    for heading in ("workload", "engine", "ratio"):
        table.add_column(heading, no_wrap=True)
    for ratio in ratios:
        table.add_row(ratio.workload, ratio.engine, ratio.text)
    console.print(table)


def _print_costs(
    console: Console, setting: Setting, outcomes: Sequence[Outcome], tasks: Sequence[str]
) -> None:
    table = _table(console, f"latency and resources, medians: {setting.text}")
    table.add_column("workload", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for heading in (
        *("p50 us", "p99 us", "p99.9 us", "syncs/write", "CPU us/op", "written B/op"),
        *("memory MiB", "disk MiB", "verified", "generator us/op"),
    ):
        table.add_column(heading, justify="right")
    for task in tasks:
        head = task
        for outcome in outcomes:
            if outcome.case.workload == task:
                table.add_row(head, outcome.case.engine, *_costs(outcome))
                head = ""
        table.add_section()
    console.print(table)


def _costs(outcome: Outcome) -> Iterator[str]:
    for name in ("p50_ns", "p99_ns", "p999_ns"):
        yield _median([ns / 1000 for ns in outcome.latencies("ALL", name)])
    cells = outcome.cells
    yield _median([share for cell in cells if (share := _syncs_per_write(cell)) is not None])
    yield _median(
        [1e6 * sum(cell["cpu_seconds"].values()) / cell["acknowledged"] for cell in cells]
    )
    yield _median(
        [
            cell["bytes_written"] / cell["acknowledged"]
            for cell in cells
            if cell["bytes_written"] is not None
        ]
    )
    yield _median([cell["memory"]["anonymous"] / (1 << 20) for cell in cells if cell["memory"]])
    yield _median([cell["disk_bytes"] / (1 << 20) for cell in cells])
    yield f"{sum(cell['verified'] for cell in cells):,}"
    yield _median(
        [
            cell["generator_ns_per_operation"] / 1000
            for cell in cells
            if cell["generator_ns_per_operation"] is not None
        ]
    )


def _syncs_per_write(cell: Mapping[str, Any]) -> float | None:
    if cell["syncs"] is None or not cell["writes"]:
        return None
    return durable_syncs(cell["syncs"]) / int(cell["writes"])


def _median(values: Sequence[float]) -> str:
    return short(Spread.of(values).median) if values else ""


def _table(console: Console, title: str) -> Table:
    console.print(Text(title, style="italic"), soft_wrap=True)  # a title would be wrapped
    return Table(box=SIMPLE)
