"""``python -m bench report``: one page of HTML, and charts, from the results that are there.

It reads the JSON files of ycsb, dbbench, concurrency, recovery and growth; those that are missing
are named. The table of ratios goes to stdout as Markdown too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from bench import page, page_tables
from bench.charts.canvas import Picture
from bench.charts.growth import draw_growth
from bench.charts.latency import draw_latency
from bench.charts.recovery import draw_recovery
from bench.charts.throughput import draw_throughput
from bench.charts.timeline import draw_timelines
from bench.colours import NOOP
from bench.concurrency_charts import draw as draw_concurrency
from bench.outcomes import Outcome, ResultError, read_outcomes, read_report
from bench.ratios import markdown_tables, ratios_to_best_peer

__all__ = ["INPUTS", "SUMMARY", "add_arguments", "publish", "run"]

SUMMARY = "one page of HTML with charts and tables from the results that are there"
PAGE = "report.html"
CHARTS = "charts"
_RESULTS = Path(__file__).with_name("results")
_BAD_INPUT = 2

INPUTS = {
    "ycsb.json": "python -m bench ycsb",
    "ycsb-10M.json": "python -m bench ycsb --records 10000000, kvstore and rocksdict",
    "dbbench.json": "python -m bench dbbench",
    "concurrency-100B.json": "python -m bench concurrency --values 100",
    "recovery.json": "python -m bench recovery",
    "growth.json": "python -m bench growth",
}
"""What is looked for, and what makes it."""
_WORKLOADS_OF = ("ycsb.json", "ycsb-10M.json", "dbbench.json")

_METHOD = (
    "Equal durability. In sync runs every write is durable before its call returns, whichever "
    "engine it is: syncs are counted by a preloaded library (those of kvstore's log by the log "
    "itself, as io_uring's pass by no library), and shown per write. In relaxed "
    "runs each engine does without a sync per write in its usual way. The two are never compared "
    "with each other.",
    "Everything is prepared before the clock starts: keys, values, and which operation comes "
    "next. All engines are asked for the same operations in the same order.",
    "Repetitions are interleaved: each engine has its first before any has its second, so that "
    "what else the machine does hits all of them. Figures are medians, and the quartiles beside "
    "them tell how far repetitions lie apart. A warm-up comes first and is not counted.",
    "Closed loops: a client waits for an operation before it begins the next. Open loops (those "
    "with a rate that is asked for): latency counts from when an operation was due, so that a "
    "store that stands still is not forgiven the operations that had to wait.",
    "After each run the data is checked: of 10,000 of the loaded records and 10,000 of those "
    "inserted each has to be there, with a value of its own; after one client, the one that was "
    "given last.",
    "Compression is off everywhere, Bloom filters have 10 bits per key where there are such.",
)


@dataclass(frozen=True)
class _Inputs:
    """By file name: ``reports`` as they are; ``outcomes`` of ycsb and dbbench."""

    reports: Mapping[str, dict[str, Any]]
    outcomes: Mapping[str, list[Outcome]]

    @property
    def missing(self) -> list[str]:
        return [name for name in INPUTS if name not in self.reports]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--input", type=Path, default=_RESULTS, metavar="DIR", help="where the results are"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"where {PAGE} and {CHARTS}/ go (as --input)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Writes page and charts, prints the ratios; 2 when there is no result, or a damaged one."""
    errors = Console(stderr=True)
    try:
        table = publish(arguments.input, arguments.output or arguments.input)
    except ResultError as error:
        errors.print(Text(str(error)), soft_wrap=True)
        return _BAD_INPUT
    except ImportError as error:
        errors.print(Text(f"charts cannot be drawn: {error} (extra: bench)"), soft_wrap=True)
        return _BAD_INPUT
    sys.stdout.write(table)
    written = (arguments.output or arguments.input) / PAGE
    errors.print(Text(f"written: {written}"), soft_wrap=True)
    return 0


def publish(results: Path, output: Path) -> str:
    """Writes page and charts into ``output``; the tables of ratios as Markdown.

    Raises ResultError when there is nothing to show, or a file is damaged; ImportError without
    matplotlib.
    """
    inputs = _read(results)
    if not inputs.reports:
        raise ResultError(f"{results} has none of {', '.join(INPUTS)}")
    charts = output / CHARTS
    charts.mkdir(parents=True, exist_ok=True)
    parts = [*_introduction(inputs), *_results(inputs, charts), *_details(inputs)]
    text = page.document("kvstore and other stores, measured", parts)
    (output / PAGE).write_text(text, encoding="utf-8")
    ratios = [
        ratio for outcomes in inputs.outcomes.values() for ratio in ratios_to_best_peer(outcomes)
    ]
    return markdown_tables(ratios)


def _read(results: Path) -> _Inputs:
    reports: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, list[Outcome]] = {}
    for name in INPUTS:
        path = results / name
        if not path.exists():
            continue
        if name in _WORKLOADS_OF:
            reports[name] = read_report(path)
            outcomes[name] = read_outcomes(reports[name])
        else:
            try:
                reports[name] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ResultError(f"{path} is not JSON: {error}") from error
    return _Inputs(reports, outcomes)


def _introduction(inputs: _Inputs) -> list[str]:
    parts = [
        page.paragraph(
            "Embedded key-value stores for Python, each through the package that Python programs "
            "use it by: YCSB's core workloads A to F (records of ten fields of 100 bytes), the "
            "cases of RocksDB's db_bench (16 byte keys, 100 byte values), durable writes by many "
            "clients, opening after a crash, and what an operation costs as the data grows."
        ),
    ]
    if inputs.missing:
        parts += [
            page.paragraph("Not in this report, because its result is not there:"),
            page.bullets(f"{name}, of {INPUTS[name]}" for name in inputs.missing),
        ]
    for name, outcomes in inputs.outcomes.items():
        if ratios := ratios_to_best_peer(outcomes):
            parts += [
                page.heading(f"kvstore to the best peer: {_title(name)}"),
                page.paragraph(
                    "Operations per second of kvstore to those of the fastest other store in that "
                    "workload, named behind: the median of the ratios within a repetition, and "
                    "their quartiles. Above 1 kvstore is faster. Blue: ahead, orange: behind, "
                    "white: the quartiles lie on both sides, or there are fewer than three "
                    "repetitions."
                ),
                page_tables.ratio_tables(ratios),
            ]
    return parts


def _title(name: str) -> str:
    return {
        "ycsb.json": "YCSB",
        "ycsb-10M.json": "YCSB, 10 million records",
        "dbbench.json": "db_bench",
    }[name]


def _results(inputs: _Inputs, charts: Path) -> list[str]:
    """The charts, those of what was measured."""
    parts = []
    for name, outcomes in inputs.outcomes.items():
        report = inputs.reports[name]
        for what, draw in (
            ("throughput by workload", draw_throughput),
            ("latency", draw_latency),
            ("throughput over time", draw_timelines),
        ):
            if pictures := draw(report, outcomes, str(charts)):
                parts.append(page.heading(f"{_title(name)}: {what}"))
                parts += _pictures(pictures, charts)
    if concurrency := inputs.reports.get("concurrency-100B.json"):
        parts.append(page.heading("Durable writes by concurrency"))
        parts += _concurrency_pictures(concurrency)
    for name, what, draw_one in (
        ("recovery.json", "Opening after a kill", draw_recovery),
        ("growth.json", "As the data grows", draw_growth),
    ):
        if name in inputs.reports:
            parts.append(page.heading(what))
            parts += _pictures(draw_one(inputs.reports[name], str(charts)), charts)
    return parts


def _pictures(pictures: Sequence[Picture], charts: Path) -> list[str]:
    return [
        page.picture(charts / f"{picture.stem}.png", f"{picture.title}. {picture.words}")
        for picture in pictures
    ]


def _concurrency_pictures(report: Mapping[str, Any]) -> list[str]:
    """They have files of their own, which ``bench concurrency`` writes."""
    with tempfile.TemporaryDirectory() as directory:
        return [
            page.picture(Path(directory, name), f"Durable puts by the number of clients: {name}")
            for name in draw_concurrency(report, directory)
            if name.endswith(".png")
        ]


def _details(inputs: _Inputs) -> list[str]:
    reports = [inputs.reports[name] for name in inputs.outcomes]
    parts = [page.heading("How it was measured"), page.bullets(_METHOD)]
    for name, outcomes in inputs.outcomes.items():
        stores = [outcome for outcome in outcomes if outcome.case.engine != NOOP]
        parts += [
            page.heading(f"{_title(name)}: what sync and relaxed mean", 3),
            page.paragraph(
                "Counted are all syncs of a process, those of its tables and of new files too, to "
                "the writes it acknowledged. " + page_tables.generator_cost(outcomes)
            ),
            page_tables.engine_table(inputs.reports[name], stores),
        ]
    if reports:
        parts.append(page.heading("Left out, and why"))
        parts.append(page_tables.left_out_table(reports) or page.paragraph("Nothing."))
    for name, outcomes in inputs.outcomes.items():
        parts += [
            page.heading(f"{_title(name)}: every figure"),
            page.paragraph(
                "Medians of the repetitions; memory: what the process has that no file backs; "
                "peak: the most that was ever resident, mapped files too; CPU: user and system, of "
                "the whole process; due, not done: what an open loop asked for and did not get."
            ),
            page_tables.case_tables(outcomes),
        ]
    parts.append(page.heading("Where it was measured"))
    for name, report in inputs.reports.items():
        parts.append(page.fold(name, page_tables.environment_table(report["environment"])))
    return parts
