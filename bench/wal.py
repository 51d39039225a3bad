"""``python -m bench wal``: the write-ahead log against a bare C loop that writes the same bytes.

All sides write to files that were filled with zeros and synced beforehand, in one run, in turns of
a few batches, so that whatever the machine does meanwhile hits them all. What counts is the ratio
of times within a repetition; absolute figures drift.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from bench import wal_report
from bench.arguments import list_of, number, numbers
from bench.bare import BareLoops
from bench.environment import collect, is_volatile
from bench.report import WIDTH, print_environment
from bench.wal_framing import Framing, measure_framing
from bench.wal_measure import CaseResult, measure_case
from bench.wal_plan import ONE_CLIENT, Axes, Case, Effort
from bench.wal_replay import Replay, ReplayUnavailableError, measure_replay
from kvstore.wal import is_io_uring_available
from kvstore.wal.backends import ENVIRONMENT

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "the write-ahead log against a bare write + sync loop in C"
_BACKENDS = ("io_uring", "pwrite")
_PARTS = ("one-client", "matrix", "framing", "replay")


@dataclass(frozen=True)
class _Preset:
    axes: Axes
    matrix: Effort
    one_client: Effort
    framing_repetitions: int
    replay_entries: int
    replay_repetitions: int


_QUICK = _Preset(
    Axes((1, 64), (100, 1024), ("buffered", "direct"), (1, 4)),
    matrix=Effort(10, 25, 32 << 20),
    one_client=Effort(100, 25, 64 << 20),
    framing_repetitions=20,
    replay_entries=1_000_000,
    replay_repetitions=3,
)
_FULL = _Preset(
    Axes((1, 8, 64, 512), (100, 1024, 16384), ("buffered", "direct"), (1, 2, 4, 8)),
    matrix=Effort(30, 25, 96 << 20),
    one_client=Effort(300, 25, 96 << 20),
    framing_repetitions=60,
    replay_entries=1_000_000,
    replay_repetitions=5,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command. The axes default to those of the full or the quick run."""
    parser.add_argument("--quick", action="store_true", help="a small matrix, about 20 s")
    parser.add_argument(
        "--dir", default=".", help="where to write: a directory on the device to measure (here)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all results there too")
    parser.add_argument("--seed", type=int, default=1, help="of payloads and keys")
    parser.add_argument("--parts", type=list_of(_PARTS), default=_PARTS, help=", ".join(_PARTS))
    parser.add_argument("--backends", type=list_of(_BACKENDS), help="io_uring,pwrite")
    parser.add_argument("--entries", type=numbers, help="entries per batch: 1,8,64,512")
    parser.add_argument("--sizes", type=numbers, help="bytes per entry: 100,1024,16384")
    parser.add_argument("--io", type=list_of(("buffered", "direct")), help="buffered,direct")
    parser.add_argument("--in-flight", type=numbers, help="batches at a time: 1,2,4,8")
    parser.add_argument("--repetitions", type=number, help="slices of each side, per case")
    parser.add_argument("--slice-batches", type=number, help="batches in a slice, at most")
    parser.add_argument("--replay-entries", type=number, help="entries in the log to replay")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, runs the parts asked for, prints tables and bars; the exit status."""
    preset = _QUICK if arguments.quick else _FULL
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    Path(arguments.dir).mkdir(parents=True, exist_ok=True)
    with (
        _both_backends_allowed(console),
        tempfile.TemporaryDirectory(prefix="bench-wal-", dir=arguments.dir) as directory,
    ):
        if is_volatile(directory):
            console.print(f"warning: {arguments.dir} lies in memory: syncs cost nothing there")
        environment = collect(directory, arguments.seed)
        print_environment(console, environment)
        backends = arguments.backends or _BACKENDS
        if not is_io_uring_available() and "io_uring" in backends:
            console.print(f"io_uring left out: {environment['io_uring']}")
            backends = tuple(backend for backend in backends if backend != "io_uring")
        results = _Bench(arguments, preset, console, directory, backends).run()
    if arguments.json:
        report = {"format": 1, "environment": environment, **results}
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


@contextlib.contextmanager
def _both_backends_allowed(console: Console) -> Iterator[None]:
    """Sets the environment's override of the backend aside: both are compared here."""
    forced = os.environ.pop(ENVIRONMENT, None)
    if forced:
        console.print(f"{ENVIRONMENT}={forced} is not heeded; see --backends")
    try:
        yield
    finally:
        if forced is not None:
            os.environ[ENVIRONMENT] = forced


class _Bench:
    """One run: what it was asked for and what came of it."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        preset: _Preset,
        console: Console,
        directory: str,
        backends: Sequence[str],
    ) -> None:
        self._arguments, self._preset, self._console = arguments, preset, console
        self._directory, self._backends = directory, backends
        self._axes = Axes(
            arguments.entries or preset.axes.entries,
            arguments.sizes or preset.axes.entry_size,
            arguments.io or preset.axes.io,
            arguments.in_flight or preset.axes.in_flight,
        )
        self._loops = BareLoops()
        self._random = random.Random(arguments.seed)

    def run(self) -> dict[str, Any]:
        parts: tuple[str, ...] = self._arguments.parts
        matrix: list[CaseResult] = []
        one_client: CaseResult | None = None
        framings: list[Framing] = []
        replay: Replay | str | None = None
        # Redrawn only when told to, between rounds: no thread of its own beside the measured one.
        with Progress(
            console=Console(stderr=True), auto_refresh=False, transient=True, disable=not _shown()
        ) as progress:
            cases = list(self._axes.cases()) if "matrix" in parts else []
            bar = progress.add_task("wal", total=len(cases) + len(parts) - ("matrix" in parts))

            def step(doing: str) -> None:
                progress.update(bar, description=doing, advance=1)
                progress.refresh()

            if "one-client" in parts:
                one_client = self._case(ONE_CLIENT, self._preset.one_client, progress.refresh)
                step("framing")
            if "framing" in parts:
                framings = self._framing()
                step("replay")
            if "replay" in parts:
                replay = self._replay()
                step("matrix")
            for case in cases:
                matrix.append(self._case(case, self._preset.matrix, progress.refresh))
                step(case.name)
        self._print(matrix, one_client, framings, replay)
        return {
            "one_client": _as_json(one_client) if one_client else None,
            "framing": [asdict(framing) for framing in framings],
            "replay": asdict(replay) if isinstance(replay, Replay) else replay,
            "matrix": [_as_json(result) for result in matrix],
            "left_out": [asdict(case) for case in self._axes.left_out()] if cases else [],
        }

    def _case(self, case: Case, effort: Effort, tick: Callable[[], None]) -> CaseResult:
        repetitions, batches = Effort(
            self._arguments.repetitions or effort.repetitions,
            self._arguments.slice_batches or effort.slice_batches,
            effort.side_bytes_max,
        ).slices(case)
        return measure_case(
            self._loops,
            self._directory,
            case,
            self._backends,
            self._random.randbytes(case.entry_size),
            repetitions=repetitions,
            slice_batches=batches,
            tick=tick,
        )

    def _framing(self) -> list[Framing]:
        repetitions = self._arguments.repetitions or self._preset.framing_repetitions
        return measure_framing(self._loops, self._directory, self._backends, repetitions)

    def _replay(self) -> Replay | str:
        entries = self._arguments.replay_entries or self._preset.replay_entries
        repetitions = self._preset.replay_repetitions
        try:
            return measure_replay(self._directory, entries, repetitions, self._arguments.seed)
        except ReplayUnavailableError as error:
            return str(error)

    def _print(
        self,
        matrix: list[CaseResult],
        one_client: CaseResult | None,
        framings: list[Framing],
        replay: Replay | str | None,
    ) -> None:
        self._console.print()
        if matrix:
            wal_report.print_cases(self._console, matrix, self._axes.left_out())
            self._console.print()
        if one_client:
            wal_report.print_one_client(self._console, one_client)
        wal_report.print_framing(self._console, framings)
        if replay is not None:
            wal_report.print_replay(self._console, replay)


def _as_json(result: CaseResult) -> dict[str, Any]:
    return {**asdict(result), "batch_bytes": result.case.batch_bytes}


def _shown() -> bool:
    return sys.stderr.isatty()
