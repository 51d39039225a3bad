"""``python -m bench growth``: what a get, a put and a short scan cost as the data grows.

For each size every engine is loaded with the same sorted entries and compacted; then they take
turns, in one process, with gets and scans at random keys, and at last with puts over random ones,
relaxed: each by itself, none synced. Data and caches are in memory at every size.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.amounts import format_count
from bench.arguments import list_of, number, numbers
from bench.engines import OURS, PEERS, Engine, count_entries, installed
from bench.environment import collect, is_volatile
from bench.keys import Values, draw_uniform, make_key
from bench.report import WIDTH, format_quartiles, print_environment
from bench.rounds import Comparison, compare
from bench.samples import Spread
from bench.termination import terminated_in_order
from bench.tree_plan import Dataset
from bench.tree_readers import check_sample, loaded

__all__ = ["OPERATIONS", "SUMMARY", "Plan", "add_arguments", "measure_growth", "run"]

SUMMARY = "cost of get, put and scan with 10^5 to 10^7 records (about five minutes)"
OPERATIONS = ("get", "scan", "put")
REPORT = "growth.json"
SCAN_ENTRIES = 50
VALUE_BYTES = 100
_RESULTS = Path(__file__).with_name("results")
_ENGINES = (OURS, "rocksdict", "lmdb")
_SAMPLE = 1000


@dataclass(frozen=True)
class Plan:
    """``operations`` has how many of each kind an engine does before it is another's turn."""

    records: tuple[int, ...]
    engines: tuple[str, ...]
    operations: dict[str, int]
    repetitions: int


FULL = Plan(
    (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000),
    _ENGINES,
    {"get": 50_000, "scan": 2_000, "put": 100_000},
    5,
)
QUICK = Plan((10_000, 100_000), _ENGINES, {"get": 10_000, "scan": 500, "put": 10_000}, 3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command. What is not given is that of the full or the quick run."""
    parser.add_argument("--quick", action="store_true", help="up to 10^5 records, some seconds")
    parser.add_argument(
        "--directory", default=".", help="where to write: a directory on the device to measure (.)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where {REPORT} goes (bench/{_RESULTS.name}; of a quick run: nowhere)",
    )
    engines = (OURS, *PEERS)
    parser.add_argument("--engines", type=list_of(engines), help=",".join(engines))
    parser.add_argument("--records", type=numbers, help=",".join(map(str, FULL.records)))
    parser.add_argument("--repetitions", type=number, help="of each measurement")
    parser.add_argument("--seed", type=int, default=1, help="of keys, values and their order")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, then a table; the exit status. Wrong data is a RuntimeError."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    progress = Console(stderr=True)
    output = arguments.output or (None if arguments.quick else _RESULTS)
    plan = _plan(arguments, console)
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="bench-growth-", dir=arguments.directory) as directory,
    ):
        if is_volatile(directory):
            console.print(f"warning: {arguments.directory} lies in memory, not on a device")
        environment = collect(directory, arguments.seed, PEERS)
        print_environment(console, environment)
        cells = []
        for records, comparison in measure_growth(
            directory,
            plan,
            seed=arguments.seed,
            tell=lambda doing: progress.print(f"... {doing}", soft_wrap=True),
        ):
            cells += _cells(records, comparison)
    _print_table(console, plan, cells)
    if output is not None:
        del environment["directory"]  # the report is published, and this says nothing there
        report = {
            "format": 1,
            "benchmark": "growth",
            "environment": environment,
            "plan": {**vars(plan), "scan_entries": SCAN_ENTRIES, "value_bytes": VALUE_BYTES},
            "cells": cells,
        }
        output.mkdir(parents=True, exist_ok=True)
        (output / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {output / REPORT}", soft_wrap=True)
    return 0


def measure_growth(
    directory: str, plan: Plan, *, seed: int, tell: Callable[[str], None]
) -> Iterator[tuple[int, Comparison]]:
    """(records, comparison of the engines) for each size and operation, the smallest size first."""
    for records in plan.records:
        dataset = Dataset(records, VALUE_BYTES)
        with loaded(directory, dataset, plan.engines, seed=seed, tell=tell) as engines:
            for operation in OPERATIONS:
                tell(f"{operation}, {records:,} records")
                count = plan.operations[operation]
                keys = _draw_keys(records, (plan.repetitions + 1) * count, seed)
                batches = [keys[first : first + count] for first in range(0, len(keys), count)]
                newer = Values(VALUE_BYTES, seed + 1)
                sides = {
                    name: functools.partial(_run_batch, engine, operation, batches, newer)
                    for name, engine in engines.items()
                }
                yield records, compare(operation, count, sides, plan.repetitions)
                if operation == "put":
                    for name, engine in engines.items():
                        check_sample(name, engine.get, keys[-_SAMPLE:], newer)


def _draw_keys(records: int, count: int, seed: int) -> list[bytes]:
    return [make_key(drawn) for drawn in draw_uniform(records, count, random.Random(seed))]


def _run_batch(
    engine: Engine, operation: str, batches: Sequence[Sequence[bytes]], newer: Values, turn: int
) -> None:
    keys = batches[turn]
    if operation == "put":
        engine.put_each(newer.pairs(keys))
    elif operation == "get":
        if (found := engine.get_each(keys)) != len(keys):
            raise RuntimeError(f"found {found} of {len(keys)} keys")
    else:
        entries = sum(engine.scan(key, SCAN_ENTRIES, False, count_entries) for key in keys)
        if entries > SCAN_ENTRIES * len(keys) or entries < len(keys):
            raise RuntimeError(f"{entries} entries in {len(keys)} scans")


def _plan(arguments: argparse.Namespace, console: Console) -> Plan:
    plan = QUICK if arguments.quick else FULL
    wanted = arguments.engines or plan.engines
    here = (OURS, *installed(PEERS))
    for engine in wanted:
        if engine not in here:
            console.print(f"{engine} left out: it is not installed (extra: bench)")
    return Plan(
        tuple(sorted(arguments.records or plan.records)),
        tuple(engine for engine in wanted if engine in here),
        plan.operations,
        arguments.repetitions or plan.repetitions,
    )


def _cells(records: int, comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {
            "records": records,
            "operation": comparison.case,
            "engine": engine,
            "operations": comparison.operations,
            "microseconds": [round(ns / comparison.operations / 1000, 4) for ns in elapsed],
        }
        for engine, elapsed in comparison.elapsed_ns.items()
    ]


def _print_table(console: Console, plan: Plan, cells: Sequence[dict[str, Any]]) -> None:
    table = Table(title="microseconds: median (quartiles)", title_justify="left", box=SIMPLE)
    table.add_column("operation", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for records in plan.records:
        table.add_column(format_count(records), justify="right")
    for operation in OPERATIONS:
        for engine in plan.engines:
            spreads = [
                Spread.of(cell["microseconds"])
                for cell in cells
                if (cell["operation"], cell["engine"]) == (operation, engine)
            ]
            texts = [f"{spread.median:.2f} ({format_quartiles(spread)})" for spread in spreads]
            table.add_row(operation, engine, *texts)
        table.add_section()
    console.print(table)
