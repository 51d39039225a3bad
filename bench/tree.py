"""``python -m bench tree``: the tables and their compaction against lmdb, rocksdict and plyvel.

Parts: get and scan (data in the cache, all engines in this process, in turns), load (sustained,
with compaction, each engine in a process of its own), open and queue (ours alone). What counts is
the ratio of times within a repetition; absolute figures drift.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import tree_report
from bench.arguments import number, one_of
from bench.bars import Bar, print_bars
from bench.engines import OURS, PEERS, installed
from bench.environment import collect, is_volatile
from bench.report import WIDTH, print_environment
from bench.rounds import Comparison
from bench.termination import terminated_in_order
from bench.tree_get import judge_gets, measure_gets
from bench.tree_load import LOAD_PEER, judge_loads, measure_loads
from bench.tree_open import judge_openings, measure_openings
from bench.tree_plan import FULL, LARGE, PARTS, QUICK, Plan
from bench.tree_queue import judge_queue, measure_queue
from bench.tree_readers import loaded
from bench.tree_scan import judge_scans, measure_scans

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "reads, sustained load, opening, a queue against lmdb, rocksdict and plyvel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "parts", nargs="*", type=one_of(PARTS), metavar="PART", help=f"{', '.join(PARTS)} (all)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, about a minute")
    parser.add_argument(
        "--large",
        action="store_true",
        help=f"read from {LARGE.name} too: 6 GB of disk and as much memory for each engine",
    )
    parser.add_argument(
        "--directory", default=".", help="where to write: a directory on the device to measure (.)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all results there too")
    parser.add_argument("--seed", type=int, default=1, help="of keys, values and their order")
    parser.add_argument("--load-keys", type=number, help="how many keys the load puts")
    parser.add_argument("--load-repetitions", type=number, help="how often, each engine")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, then each part's table and bars as it is done; the exit status.

    A bar that is not met is printed, and no error. Data that proves wrong is one: RuntimeError.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="bench-tree-", dir=arguments.directory) as directory,
    ):
        if is_volatile(directory):
            console.print(f"warning: {arguments.directory} lies in memory, not on a device")
        environment = collect(directory, arguments.seed, PEERS)
        print_environment(console, environment)
        bench = _Bench(_plan(arguments), console, directory, arguments.seed)
        bench.run(set(arguments.parts) or set(PARTS))
    console.print()
    print_bars(console, bench.bars)
    if arguments.json:
        report = {
            "format": 1,
            "environment": environment,
            **bench.results,
            "bars": [bar.as_json() for bar in bench.bars],
        }
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    return dataclasses.replace(
        plan,
        datasets=(*plan.datasets, LARGE) if arguments.large else plan.datasets,
        load_keys=arguments.load_keys or plan.load_keys,
        load_repetitions=arguments.load_repetitions or plan.load_repetitions,
    )


class _Bench:
    """One run: what came of each part, and the bars."""

    def __init__(self, plan: Plan, console: Console, directory: str, seed: int) -> None:
        self._plan, self._console = plan, console
        self._directory, self._seed = directory, seed
        self._progress = Console(stderr=True)
        self._peers = installed(PEERS)
        self.results: dict[str, Any] = {}
        self.bars: list[Bar] = []

    def run(self, parts: set[str]) -> None:
        for peer in PEERS:
            if peer not in self._peers:
                self._console.print(f"{peer} left out: it is not installed (extra: bench)")
        self._console.print()
        if parts & {"get", "scan"}:
            self._run_reads(parts)
        if "load" in parts:
            self._run_load()
        if "open" in parts:
            openings = measure_openings(self._directory, self._plan, self._seed, self._tell)
            tree_report.print_openings(self._console, openings)
            self.results["open"] = [dataclasses.asdict(opening) for opening in openings]
            self.bars += judge_openings(openings)
        if "queue" in parts:
            self._tell(f"queue of {self._plan.queue_pairs:,} pairs")
            queue = measure_queue(self._directory, self._plan)
            tree_report.print_queue(self._console, queue)
            self.results["queue"] = dataclasses.asdict(queue)
            self.bars += judge_queue(queue)

    def _run_reads(self, parts: set[str]) -> None:
        """Both parts on a dataset while it is loaded; no more than one is on the disk at a time."""
        gets: list[Comparison] = []
        scans: list[Comparison] = []
        names = (OURS, *self._peers)
        for dataset in self._plan.datasets:
            with loaded(
                self._directory, dataset, names, seed=self._seed, tell=self._tell
            ) as engines:
                if "get" in parts:
                    self._tell(f"gets from {dataset.name}")
                    gets += measure_gets(engines, dataset, self._plan, self._seed)
                if "scan" in parts:
                    self._tell(f"scans of {dataset.name}")
                    scans += measure_scans(engines, dataset, self._plan, self._seed)
        if gets:
            tree_report.print_comparisons(self._console, "get, data in the cache", gets)
            self.results["get"] = [comparison.as_json() for comparison in gets]
            self.bars += judge_gets(gets)
        if scans:
            tree_report.print_comparisons(self._console, "scan, data in the cache", scans)
            self.results["scan"] = [comparison.as_json() for comparison in scans]
            self.bars += judge_scans(scans)

    def _run_load(self) -> None:
        names = tuple(name for name in (OURS, *self._peers) if name in (OURS, LOAD_PEER))
        rounds = measure_loads(self._directory, names, self._plan, self._seed, self._tell)
        tree_report.print_loads(self._console, rounds)
        self.results["load"] = [[dataclasses.asdict(load) for load in loads] for loads in rounds]
        self.bars += judge_loads(rounds)

    def _tell(self, doing: str) -> None:
        self._progress.print(f"... {doing}", soft_wrap=True)
