"""``python -m bench recovery``: how long a store takes to open after a kill, by size of its log.

A process puts so many entries, relaxed, that the log has the size wanted, syncs, and is killed
with SIGKILL. Others open copies of what it left, with nothing of it in a table and all of it in the
page cache, and get one key. A store with the usual memtable of 64 MiB never has so long a log: this
is what raising ``memtable_bytes_max`` costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.amounts import format_bytes
from bench.arguments import list_of, number, numbers
from bench.engines import OURS, installed
from bench.environment import collect, is_volatile
from bench.keys import KEY_BYTES
from bench.process import Child
from bench.recovery_stores import LOGGED_STORES, VALUE_BYTES
from bench.report import WIDTH, format_quartiles, print_environment
from bench.samples import Spread
from bench.termination import terminated_in_order

__all__ = ["REPORT", "SUMMARY", "add_arguments", "measure_recovery", "run"]

SUMMARY = "time to open after a kill, by size of the log: ours, rocksdict, sqlite3"
REPORT = "recovery.json"
_RESULTS = Path(__file__).with_name("results")
_FULL_MEGABYTES, _QUICK_MEGABYTES = (16, 64, 256, 1024), (2, 8)
_REPETITIONS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command. What is not given is that of the full or the quick run."""
    parser.add_argument("--quick", action="store_true", help="small logs, some seconds")
    parser.add_argument(
        "--directory", default=".", help="where to write: a directory on the device to measure (.)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where {REPORT} goes (bench/{_RESULTS.name}; of a quick run: nowhere)",
    )
    engines = tuple(LOGGED_STORES)
    parser.add_argument("--engines", type=list_of(engines), help=",".join(engines))
    parser.add_argument(
        "--megabytes", type=numbers, help=f"of entries: {','.join(map(str, _FULL_MEGABYTES))}"
    )
    parser.add_argument("--repetitions", type=number, default=_REPETITIONS, help="of each opening")
    parser.add_argument("--seed", type=int, default=1, help="of keys and values")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, then a table; the exit status. Lost data is a ChildFailedError."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    progress = Console(stderr=True)
    output = arguments.output or (None if arguments.quick else _RESULTS)
    default = _QUICK_MEGABYTES if arguments.quick else _FULL_MEGABYTES
    megabytes = sorted(arguments.megabytes or default)
    engines = _engines(arguments.engines or tuple(LOGGED_STORES), console)
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="bench-recovery-", dir=arguments.directory) as directory,
    ):
        if is_volatile(directory):
            console.print(f"warning: {arguments.directory} lies in memory, not on a device")
        environment = collect(directory, arguments.seed, ("rocksdict",))
        environment["sqlite3"] = sqlite3.sqlite_version
        print_environment(console, environment)
        cells = measure_recovery(
            directory,
            engines,
            megabytes,
            repetitions=arguments.repetitions,
            seed=arguments.seed,
            tell=lambda doing: progress.print(f"... {doing}", soft_wrap=True),
        )
    _print_table(console, cells)
    if output is not None:
        del environment["directory"]  # the report is published, and this says nothing there
        report = {
            "format": 1,
            "benchmark": "recovery",
            "environment": environment,
            "plan": {"megabytes": megabytes, "repetitions": arguments.repetitions},
            "cells": cells,
        }
        output.mkdir(parents=True, exist_ok=True)
        (output / REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        console.print(f"written: {output / REPORT}", soft_wrap=True)
    return 0


def measure_recovery(
    directory: str,
    engines: Sequence[str],
    megabytes: Sequence[int],
    *,
    repetitions: int,
    seed: int,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A cell for each engine and size, the smallest first; ChildFailedError when data was lost."""
    cells = []
    for size in megabytes:
        entries = size * 1_000_000 // (KEY_BYTES + VALUE_BYTES)
        for engine in engines:
            tell(f"{engine}, {size} MB of entries")
            place = os.path.join(directory, engine)
            os.mkdir(place)
            try:
                asked = {"engine": engine, "entries": entries, "seed": seed}
                _ask(asked, "fill", place)
                answers = [_open_copy(asked, place) for _ in range(repetitions)]
            finally:
                shutil.rmtree(place)
            data_bytes = entries * (KEY_BYTES + VALUE_BYTES)
            log_bytes = min(answer["log_bytes"] for answer in answers)
            if log_bytes < data_bytes:
                raise RuntimeError(f"{engine} had only {log_bytes:,} B in its log")
            cells.append(
                {
                    "engine": engine,
                    "entries": entries,
                    "data_bytes": data_bytes,
                    "log_bytes": log_bytes,
                    "seconds": [round(answer["seconds"], 5) for answer in answers],
                    "memory_bytes": [answer["memory_bytes"] for answer in answers],
                }
            )
    return cells


def _open_copy(asked: dict[str, Any], place: str) -> dict[str, Any]:
    """Opening changes the files, and each opening is to find the same."""
    copy = f"{place}-copy"
    try:
        shutil.copytree(place, copy)
        _sync_files(copy)
        return _ask(asked, "open", copy)
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _sync_files(place: str) -> None:
    """What was killed had synced its log: who opens it has nothing to wait for."""
    for entry in (*os.scandir(place), Path(place)):
        fd = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _ask(asked: dict[str, Any], task: str, place: str) -> dict[str, Any]:
    """What the child answers, which is killed then."""
    with Child("bench.recovery_child", {**asked, "task": task, "directory": place}) as child:
        return child.answer()


def _engines(wanted: Sequence[str], console: Console) -> list[str]:
    here = (OURS, *installed(LOGGED_STORES))
    for engine in wanted:
        if engine not in here:
            console.print(f"{engine} left out: it is not installed (extra: bench)")
    return [engine for engine in wanted if engine in here]


def _print_table(console: Console, cells: Sequence[dict[str, Any]]) -> None:
    table = Table(title="open after a kill, and a first get", title_justify="left", box=SIMPLE)
    table.add_column("engine", no_wrap=True)
    for heading in ("entries", "their bytes", "log", "seconds (quartiles)", "log MB/s", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in cells:
        spread = Spread.of(cell["seconds"])
        memory = [count for count in cell["memory_bytes"] if count is not None]
        table.add_row(
            cell["engine"],
            f"{cell['entries']:,}",
            format_bytes(cell["data_bytes"]),
            format_bytes(cell["log_bytes"]),
            f"{spread.median:.3f} ({format_quartiles(spread, 3)})",
            f"{cell['log_bytes'] / spread.median / 1e6:,.0f}",
            format_bytes(max(memory)) if memory else "-",
        )
    console.print(table)
