"""Result files of ``ycsb`` and ``dbbench``, as they are read: the cases and what came of each.

A file is JSON of format 1: its environment, its plan, what was left out and why, and one cell for
each repetition of a case.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.colours import NOOP
from bench.engines import OURS
from bench.samples import Spread

__all__ = [
    "BENCHMARKS",
    "FORMAT",
    "MODES",
    "REPETITIONS_MIN",
    "Case",
    "Outcome",
    "ResultError",
    "Setting",
    "is_ours",
    "is_peer",
    "read_outcomes",
    "read_report",
    "settings_of",
]

FORMAT = 1
BENCHMARKS = ("ycsb", "dbbench")
MODES = ("sync", "relaxed")
REPETITIONS_MIN = 3
"""Of fewer nobody can say how far they lie apart."""


class ResultError(ValueError):
    """A file is no result that can be read; the text names it and says why."""


@dataclass(frozen=True)
class Setting:
    """What engines are compared in: the same for all of them.

    ``several_processes``: the clients are processes; else they are threads or tasks of one.
    ``target`` is the rate of an open loop, in operations per second; None: a closed one.
    ``memory_bytes``: what processes and their page cache are limited to; None: the machine.
    """

    records: int
    several_processes: bool
    clients: int
    mode: str
    target: float | None = None
    memory_bytes: int | None = None

    @property
    def text(self) -> str:
        """As a heading: "sync, 1,000,000 records, 4 clients"."""
        return f"{self.mode}, {self.text_without_mode}"

    @property
    def text_without_mode(self) -> str:
        """ "1,000,000 records, 4 clients"."""
        kind = "process" if self.several_processes else "client"
        plural = "" if self.clients == 1 else "es" if self.several_processes else "s"
        rate = "" if self.target is None else f", {self.target:,.0f} operations/s asked for"
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes >> 20:,} MiB of memory"
        return f"{self.records:,} records, {self.clients:,} {kind}{plural}{memory}{rate}"


@dataclass(frozen=True)
class Case:
    """One engine's workload in a setting."""

    benchmark: str
    workload: str
    engine: str
    clients_by: str
    setting: Setting

    @property
    def text(self) -> str:
        return f"{self.workload}, {self.engine}, {self.setting.text}"


@dataclass(frozen=True)
class Outcome:
    """The cells of a case, in the order of their repetitions."""

    case: Case
    cells: tuple[Mapping[str, Any], ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Operations per second of each repetition."""
        return tuple(cell["operations"] / cell["seconds"] for cell in self.cells)

    @property
    def rate(self) -> Spread:
        return Spread.of(self.rates)

    def latencies(self, kind: str, name: str) -> tuple[float, ...]:
        """``name`` ("p99_ns") of operations of ``kind`` ("ALL"), where a repetition has it."""
        return tuple(
            float(cell["latency"][kind][name])
            for cell in self.cells
            if kind in cell["latency"] and name in cell["latency"][kind]
        )


def is_ours(engine: str) -> bool:
    """Whether it is kvstore, by threads or by tasks."""
    return engine.partition(" ")[0] == OURS


def is_peer(engine: str) -> bool:
    """Whether it is a store, and not ours."""
    return not is_ours(engine) and engine != NOOP


def read_report(path: Path) -> dict[str, Any]:
    """The whole file. ResultError when it is none of ``BENCHMARKS`` in this format."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ResultError(f"{path} is not JSON: {error}") from error
    if not isinstance(report, dict) or report.get("benchmark") not in BENCHMARKS:
        raise ResultError(f"{path} is not a result of {' or '.join(BENCHMARKS)}")
    if report.get("format") != FORMAT:
        raise ResultError(f"{path} has format {report.get('format')!r}; this reads {FORMAT}")
    if not isinstance(report.get("cells"), list) or not report["cells"]:
        raise ResultError(f"{path} has no cells")
    return report


def read_outcomes(report: Mapping[str, Any]) -> list[Outcome]:
    """By case, in the order in which the file has them. ResultError when a cell lacks a field."""
    cells: dict[Case, list[Mapping[str, Any]]] = {}
    try:
        for cell in report["cells"]:
            if cell["operations"] < 1 or cell["seconds"] <= 0:
                raise ResultError(f"a cell of {cell['workload']} measured nothing")
            cells.setdefault(_case(report["benchmark"], cell), []).append(cell)
        return [
            Outcome(case, tuple(sorted(found, key=lambda cell: int(cell["repetition"]))))
            for case, found in cells.items()
        ]
    except (KeyError, TypeError) as error:
        raise ResultError(f"a cell is damaged: {error!r}") from error


def _case(benchmark: str, cell: Mapping[str, Any]) -> Case:
    setting = Setting(
        records=cell["records"],
        several_processes=cell["clients_by"] == "processes",
        clients=cell["clients"],
        mode=cell["mode"],
        target=cell.get("target"),
        memory_bytes=cell.get("memory_bytes"),
    )
    return Case(benchmark, cell["workload"], cell["engine"], cell["clients_by"], setting)


def settings_of(outcomes: Iterable[Outcome]) -> list[Setting]:
    """Each once: those in all of memory first, fewer records, threads and tasks, fewer clients,
    sync before relaxed.
    """
    found = dict.fromkeys(outcome.case.setting for outcome in outcomes)
    return sorted(
        found,
        key=lambda setting: (
            -(setting.memory_bytes or sys.maxsize),
            setting.records,
            setting.several_processes,
            setting.clients,
            MODES.index(setting.mode) if setting.mode in MODES else len(MODES),
            setting.target or 0.0,
        ),
    )
