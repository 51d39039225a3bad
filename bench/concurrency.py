"""``python -m bench concurrency``: durable puts by many clients at once, against six peers.

Each measurement is of a fresh store in a fresh process, the sides in turns. A client puts, waits
until that is durable, and puts again. Syncs are counted by a library that is preloaded into every
process, and a side with too few of them for what it acknowledged is an error; so is a lost key.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.arguments import list_of, number, numbers
from bench.bars import print_bars
from bench.concurrency_bars import judge
from bench.concurrency_charts import draw
from bench.concurrency_measure import measure
from bench.concurrency_plan import BACKENDS, FULL, PEERS, QUICK, SIDES, Plan, Side
from bench.concurrency_report import print_cells
from bench.engines import OURS, installed
from bench.environment import collect, is_volatile
from bench.report import WIDTH, print_environment
from bench.sync_counter import build_counter
from bench.termination import terminated_in_order
from kvstore.wal import is_io_uring_available
from kvstore.wal.backends import ENVIRONMENT

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "durable puts by 1 to 1024 clients, threads and asyncio, against six peers"
_LOOPS = ("asyncio", "uvloop")
_RESULTS = Path(__file__).with_name("results")
_REPORT = "concurrency.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command. What is not given is that of the full or the quick run."""
    parser.add_argument("--quick", action="store_true", help="small, about half a minute")
    parser.add_argument(
        "--directory", default=".", help="where to write: a directory on the device to measure (.)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where {_REPORT} and the charts go (bench/{_RESULTS.name}; of a quick run: nowhere)",
    )
    parser.add_argument(
        "--redraw", action="store_true", help=f"only draw the charts of {_REPORT} again"
    )
    engines = (OURS, *PEERS)
    parser.add_argument("--engines", type=list_of(engines), help=",".join(engines))
    parser.add_argument("--clients", type=numbers, help=",".join(map(str, FULL.clients)))
    parser.add_argument("--values", type=numbers, help="bytes: 100,1000")
    parser.add_argument("--repetitions", type=number, help="of each measurement")
    parser.add_argument("--seconds", type=float, help="that each measurement takes")
    parser.add_argument("--loop", choices=_LOOPS, default="asyncio", help="that runs the tasks")
    parser.add_argument("--seed", type=int, default=1, help="of keys and values")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, one table per value size and the bars; the exit status.

    A bar that is not met is printed, and no error. What is not durable or lost is: RuntimeError.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    output = arguments.output or (None if arguments.quick else _RESULTS)
    if arguments.redraw:
        where = arguments.output or _RESULTS
        report = json.loads((where / _REPORT).read_text(encoding="utf-8"))
        _draw(console, report, where)
        return 0
    if arguments.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        console.print("uvloop is not installed (extra: bench)")
        return 2
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(
            prefix="bench-concurrency-", dir=arguments.directory
        ) as directory,
    ):
        report = _measure(arguments, console, directory)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report, indent=1)
        (output / _REPORT).write_text(text + "\n", encoding="utf-8")
        console.print(f"written: {output / _REPORT}", soft_wrap=True)
        _draw(console, report, output)
    return 0


def _measure(arguments: argparse.Namespace, console: Console, directory: str) -> dict[str, Any]:
    """The report."""
    if is_volatile(directory):
        console.print(f"warning: {arguments.directory} lies in memory, not on a device")
    environment = collect(directory, arguments.seed, (*PEERS, "uvloop"))
    environment["sqlite3"] = sqlite3.sqlite_version
    environment["loop"] = f"tasks run by {arguments.loop}"
    library = None
    try:
        library = build_counter(directory)
        environment["syncs"] = "counted by a preloaded library"
    except RuntimeError as error:
        environment["syncs"] = f"not counted: {error}"
    if sys.platform != "linux":
        library, environment["syncs"] = None, "not counted: nothing is preloaded here"
    print_environment(console, environment)
    plan, sides = _plan(arguments), _sides(arguments, console)
    progress = Console(stderr=True)
    cells = measure(
        directory,
        plan,
        sides,
        library=library,
        loop=arguments.loop,
        seed=arguments.seed,
        tell=lambda doing: progress.print(f"... {doing}", soft_wrap=True),
    )
    console.print()
    print_cells(console, cells)
    del environment["directory"]  # the report is published, and this says nothing there
    bars = judge(cells, "io_uring" if is_io_uring_available() else "pwrite")
    console.print()
    print_bars(console, bars)
    return {
        "format": 1,
        "environment": environment,
        "plan": dataclasses.asdict(plan),
        "cells": [cell.as_json() for cell in cells],
        "bars": [bar.as_json() for bar in bars],
    }


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    return dataclasses.replace(
        plan,
        clients=arguments.clients or plan.clients,
        value_bytes=arguments.values or plan.value_bytes,
        repetitions=arguments.repetitions or plan.repetitions,
        seconds=arguments.seconds or plan.seconds,
    )


def _sides(arguments: argparse.Namespace, console: Console) -> list[Side]:
    """Those asked for; what is not here is named."""
    wanted = arguments.engines or (OURS, *PEERS)
    here = (OURS, *installed(PEERS))
    for engine in wanted:
        if engine not in here:
            console.print(f"{engine} left out: it is not installed (extra: bench)")
    if os.environ.get(ENVIRONMENT):
        console.print(f"{ENVIRONMENT}={os.environ[ENVIRONMENT]} is not heeded")
    backends: tuple[str, ...] = BACKENDS
    if not is_io_uring_available():
        console.print("io_uring left out: see above")
        backends = tuple(backend for backend in BACKENDS if backend != "io_uring")
    return [
        side
        for side in SIDES
        if side.engine in wanted and side.engine in here and side.backend in ("", *backends)
    ]


def _draw(console: Console, report: dict[str, Any], directory: Path) -> None:
    try:
        names = draw(report, str(directory))
    except ImportError as error:
        console.print(f"charts not drawn: {error} (extra: bench)")
        return
    console.print(f"drawn: {', '.join(str(directory / name) for name in names)}", soft_wrap=True)
