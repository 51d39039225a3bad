"""What ``python -m bench ycsb`` and ``python -m bench dbbench`` have in common: nearly all."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.arguments import list_of, number
from bench.environment import collect, is_volatile
from bench.load import histogram, tables
from bench.load.plan import PROCESSES, THREADS, Plan
from bench.load.presets import MODES, make_plan
from bench.load.results import Results, write_histograms
from bench.load.session import Session
from bench.load.subject import Subject, subject_of
from bench.outcomes import read_outcomes
from bench.report import WIDTH, print_environment
from bench.stores import NAMES
from bench.stores.dbm_store import KIND
from bench.sync_counter import build_counter
from bench.termination import terminated_in_order

__all__ = ["add_arguments", "run"]

_RESULTS = Path(__file__).parent.with_name("results")
_USUAL_RECORDS = 1_000_000
_DISTRIBUTIONS = ("rocksdict", "plyvel", "lmdb", "diskcache", "hdrhistogram")


def add_arguments(parser: argparse.ArgumentParser, tasks: tuple[str, ...]) -> None:
    """Arguments of either command. What is not given is that of the preset."""
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small, about half a minute")
    size.add_argument("--full", action="store_true", help="that of the report: an hour")
    parser.add_argument(
        "--directory", default=".", help="where to write: a directory on the device to measure (.)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where JSON and CSV go (with --full: bench/{_RESULTS.name}; else: nowhere)",
    )
    parser.add_argument("--hdr", metavar="DIR", type=Path, help="histograms as .hdr logs go there")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the JSON of a run that was cut off"
    )
    parser.add_argument("--engines", type=list_of(NAMES), help=",".join(NAMES))
    parser.add_argument("--workloads", type=list_of(tasks), help=",".join(tasks))
    parser.add_argument("--modes", type=list_of(MODES), help=",".join(MODES))
    parser.add_argument("--records", type=number, help="that a store is loaded with (1,000,000)")
    parser.add_argument("--operations", type=number, help="of each cell, at most")
    parser.add_argument("--seconds", type=float, help="that each cell takes, at most")
    parser.add_argument("--load-seconds", type=float, help="the same on an empty store")
    parser.add_argument("--repetitions", type=number, help="of each cell")
    parser.add_argument("--clients", type=number, help="at the same time")
    parser.add_argument("--by", choices=(THREADS, PROCESSES), help="what they are (threads)")
    parser.add_argument(
        "--target", type=float, help="operations per second of an open loop (a closed one)"
    )
    parser.add_argument("--cache", metavar="MIB", type=number, help="of an engine's own caches")
    parser.add_argument(
        "--memory-limit",
        metavar="MIB",
        type=number,
        help="of a process and the page cache of its files together: data above the cache",
    )
    parser.add_argument("--seed", type=int, default=1, help="of keys, values and their order")


def run(arguments: argparse.Namespace, benchmark: str, options: dict[str, Any]) -> int:
    """Measures, prints tables, writes files; the exit status.

    RuntimeError: something was lost, or was not durable when it was to be.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    subject = subject_of(benchmark, arguments.seed, options)
    plan = make_plan(arguments, subject)
    for engine in plan.absent:
        console.print(f"{engine} left out: it is not installed (extra: bench)")
    output = arguments.output or (_RESULTS if arguments.full else None)
    path = _json_path(output, benchmark, plan) if output else None
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(
            prefix=f"bench-{benchmark}-", dir=arguments.directory
        ) as directory,
    ):
        results = _measure(arguments, console, subject, plan, directory=directory, path=path)
    console.print()
    outcomes = read_outcomes(results.as_json()) if results.cells else []
    tables.print_all(console, outcomes, results.left_out, [task.name for task in plan.tasks])
    if path is not None:
        results.write_csv(path.with_suffix(".csv"))
        console.print(f"written: {path}, {path.with_suffix('.csv').name}", soft_wrap=True)
    if arguments.hdr:
        if histogram.available():
            files = write_histograms(results.histograms, arguments.hdr)
            console.print(f"written: {files} histograms in {arguments.hdr}", soft_wrap=True)
        else:
            console.print("no histograms: hdrhistogram is not installed (extra: bench)")
    return 0


def _measure(
    arguments: argparse.Namespace,
    console: Console,
    subject: Subject,
    plan: Plan,
    *,
    directory: str,
    path: Path | None,
) -> Results:
    if is_volatile(directory):
        console.print(f"warning: {arguments.directory} lies in memory, not on a device")
    environment = collect(directory, arguments.seed, _DISTRIBUTIONS)
    environment["sqlite3"] = sqlite3.sqlite_version
    environment["dbm"] = f"dbm.{KIND}"
    environment["bytes written"] = "to the device, by everybody, until all is synced"
    library = _build_counter(directory, environment)
    print_environment(console, environment)
    del environment["directory"]  # the result is published, and this says nothing there
    data_bytes = plan.records * (subject.key_bytes + subject.layout.record_bytes)
    minutes = plan.seconds_estimated(data_bytes) / 60
    console.print(f"\nestimated: {minutes:.0f} minutes for {plan.cells:,} cells\n")
    resumed = None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = _resumed(arguments, path, plan)
    results = Results(subject.name, environment, plan, path=path, resumed=resumed)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        bar = progress.add_task("", total=plan.cells)

        def tell(doing: str, done: int, total: int) -> None:
            progress.update(bar, description=doing, completed=done, total=total)

        session = Session(plan, subject, directory, results, library=library, tell=tell)
        session.run()
        progress.update(bar, completed=plan.cells)
    results.finish()
    return results


def _build_counter(directory: str, environment: dict[str, str]) -> str | None:
    """The library that counts syncs; None where there can be none, which the environment says."""
    if sys.platform != "linux":
        environment["syncs"] = "not counted: nothing is preloaded here"
        return None
    try:
        library = build_counter(directory)
    except RuntimeError as error:
        environment["syncs"] = f"not counted: {error}"
        return None
    environment["syncs"] = "counted by a preloaded library; those of io_uring by the log itself"
    return library


def _resumed(arguments: argparse.Namespace, path: Path, plan: Plan) -> dict[str, Any] | None:
    """The result that was cut off, if it is to be gone on with and is of the same plan."""
    if not arguments.resume or not path.exists():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(plan.as_json()))
    report["plan"].pop("loading_seconds", None)
    if report["plan"] != asked:
        raise SystemExit(f"{path} is of another plan: it cannot be gone on with")
    return report


def _json_path(output: Path, benchmark: str, plan: Plan) -> Path:
    if plan.records == _USUAL_RECORDS:
        return output / f"{benchmark}.json"
    return output / f"{benchmark}-{tables.short_count(plan.records)}.json"
