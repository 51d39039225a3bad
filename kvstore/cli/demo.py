"""``kvstore demo``: kill a writer again and again, and find everything that was acknowledged."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kvstore.cli.library import Library, find_library
from kvstore.cli.output import (
    bytes_text,
    duration_text,
    make_console,
    print_facts,
    print_heading,
    print_line,
    print_paragraph,
    printable,
)
from kvstore.cli.rounds import Plan, RoundResult, Verdict, run_round
from kvstore.errors import CorruptionError, FormatError, KVStoreError
from kvstore.native import CRC32C

__all__ = ["demo"]

_NAMED_MAX = 10
_INDENT = " " * 9


def demo(
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often to kill.")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=256, help="Writing threads.")] = 8,
    directory: Annotated[
        str | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="A new or empty directory for the store, kept afterwards. "
            "Default: a temporary one in the current directory.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Repeat the kill moments of an earlier run.")
    ] = None,
    files: Annotated[
        int | None, typer.Option(min=1, help="Write only so many files in a round.")
    ] = None,
) -> None:
    """Kill a writer at random moments and check that nothing is lost.

    Stores the files of the Python standard library, durably, from several threads of a child
    process. That gets SIGKILL in the middle of it; then the store is reopened and every
    file whose put had returned is compared byte for byte. The next round goes on in the same store.

    Exit status 1 when anything is lost or damaged; the store is kept then.
    """
    console = make_console()
    library = find_library(files)
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with _store_directory(console, directory) as path:
        _check_room(path, library, rounds)
        plan = Plan(path, library, threads, random.Random(seed))
        _introduce(console, plan, seed)
        results: list[RoundResult] = []
        for number in range(1, rounds + 1):
            result = _show_round(console, plan, number)
            results.append(result)
            if not result.verdict.good:
                _name_losses(console, result.verdict)
                raise _Kept
        _summarise(console, plan, results)


class _Kept(Exception):
    """The store is to be kept: what is wrong has been said."""


@contextlib.contextmanager
def _store_directory(console: Console, wish: str | None) -> Iterator[str]:
    """The directory as wished, or a temporary one, removed unless it is evidence."""
    try:
        if wish is not None:
            os.makedirs(wish, exist_ok=True)
            if os.listdir(wish):
                raise KVStoreError(f"{wish}: not empty; the demo needs a directory of its own")
        path = wish or tempfile.mkdtemp(prefix="kvstore-demo-", dir=os.getcwd())
    except OSError as error:
        place = wish or "the current directory"
        raise KVStoreError(f"{place}: cannot make a store here: {error.strerror}") from error
    keep = wish is not None
    try:
        yield path
    except (_Kept, CorruptionError, FormatError) as error:
        keep = True
        print_line(console, f"\nThe store is kept for inspection: {printable(path)}")
        if isinstance(error, _Kept):
            raise typer.Exit(1) from None
        raise
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def _check_room(path: str, library: Library, rounds: int) -> None:
    free, needed = shutil.disk_usage(path).free, rounds * library.total_bytes
    if free < needed:
        raise KVStoreError(
            f"{path}: {bytes_text(free)} free, but {rounds} rounds may need {bytes_text(needed)}; "
            "see --dir, --rounds, --files"
        )


def _introduce(console: Console, plan: Plan, seed: int) -> None:
    library = plan.library
    print_line(console, "kvstore demo: kill -9 and count", style="bold")
    console.print()
    print_facts(
        console,
        [
            (
                "Input",
                f"{len(library.names):,} files of the Python standard library, "
                f"{bytes_text(library.total_bytes)}",
            ),
            ("Store", printable(plan.directory)),
            ("Seed", str(seed)),
        ],
    )
    console.print()
    print_paragraph(
        console,
        f"In each round a child process puts every file, durably, from {plan.threads} threads, and "
        "reports each put that returned. It gets SIGKILL at a random moment. Then the store is "
        "reopened, and all files ever acknowledged are compared byte for byte.",
    )


def _show_round(console: Console, plan: Plan, number: int) -> RoundResult:
    total = len(plan.library.names)
    bar = Progress(
        TextColumn("Round {task.fields[number]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files acknowledged"),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    )
    with bar:
        task = bar.add_task("", total=total, number=number)
        result = run_round(plan, number, lambda done: bar.update(task, completed=done))
    console.print()
    label = f"Round {number}"
    for line in _round_lines(result, total):
        print_paragraph(console, line, first=f"{label:9}", rest=_INDENT)
        label = ""
    return result


def _round_lines(result: RoundResult, total: int) -> list[str]:
    load, recovery, verdict = result.load, result.recovery, result.verdict
    torn = "no torn tail"
    if recovery.torn_bytes:
        torn = f"a torn tail of {bytes_text(recovery.torn_bytes)} cut ({recovery.torn_reason})"
    arrived = len(verdict.survivors)
    more = "no unacknowledged one is there"
    if arrived:
        ones = "one is" if arrived == 1 else "ones are"
        more = f"{arrived} unacknowledged {ones} there too, whole"
    missing = len(verdict.lost) + len(verdict.damaged) + len(verdict.unknown)
    return [
        f"killed after {duration_text(load.seconds)}, {len(load.acknowledged):,} of {total:,} "
        "files acknowledged",
        f"recovered {recovery.entries:,} entries from {bytes_text(recovery.bytes)} of log in "
        f"{duration_text(recovery.seconds)}; {torn}",
        f"{verdict.intact:,} files intact, {missing} lost; {more}",
    ]


def _name_losses(console: Console, verdict: Verdict) -> None:
    kinds = (("LOST", verdict.lost), ("DAMAGED", verdict.damaged), ("UNKNOWN", verdict.unknown))
    console.print()
    for kind, keys in kinds:
        for key in keys[:_NAMED_MAX]:
            print_line(console, f"{kind:9}{printable(key)}", style="bold red")
        if len(keys) > _NAMED_MAX:
            print_line(console, f"{kind:9}and {len(keys) - _NAMED_MAX:,} more", style="bold red")


def _summarise(console: Console, plan: Plan, results: list[RoundResult]) -> None:
    stats = results[-1].stats
    acknowledged = sum(len(result.load.acknowledged) for result in results)
    seconds = sum(result.load.seconds for result in results)
    syncs = sum(result.load.syncs for result in results)
    counted = sum(result.load.counted for result in results)
    slowest = max((result.recovery for result in results), key=lambda report: report.seconds)
    rate = f"{acknowledged / seconds:,.0f} per second from {plan.threads} threads"
    shared = f", {counted / syncs:.1f} per sync" if syncs else ""
    print_heading(console, "Summary")
    print_facts(
        console,
        [
            ("Backend", f"{stats.backend} ({stats.backend_reason}); CRC-32C: {CRC32C}"),
            ("Durable puts", rate + shared),
            (
                "Recovery",
                f"{duration_text(slowest.seconds)} at most, "
                f"from {bytes_text(slowest.bytes)} of log",
            ),
            ("Torn bytes", f"{sum(result.recovery.torn_bytes for result in results):,}"),
        ],
    )
    print_line(
        console, f"  {'Lost':14}0 of {acknowledged:,} acknowledged files", style="bold green"
    )
