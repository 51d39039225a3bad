"""``python -m bench compare OLD.json NEW.json``: what changed between two runs of ycsb or dbbench.

For each case that both have: operations per second of the new run to those of the old (of an open
loop, whose rate is given, the p99 latency of the old to the new), so that above 1 is faster. Its
spread goes from the worst pair of repetitions to the best. There is a verdict only when even these
agree, and by more than machines drift between two runs (``--drift``): when all repetitions of one
run beat all of the other. By chance that happens to one case of 126 with five repetitions on both
sides, and to one of ten with three. Engines that have not changed tell how far the machine has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.outcomes import (
    REPETITIONS_MIN,
    Case,
    Outcome,
    ResultError,
    read_outcomes,
    read_report,
)
from bench.report import WIDTH
from bench.samples import Spread

__all__ = ["SUMMARY", "Change", "add_arguments", "compare", "different_labels", "run"]

SUMMARY = "what changed between two results of ycsb or dbbench, with no verdict within noise"
_DRIFT_PERCENT = 10.0
_BAD_INPUT = 2
_FASTER, _SLOWER, _NO_VERDICT = "faster", "slower", "no verdict"
_COLOURS = {_FASTER: "green", _SLOWER: "bold red", _NO_VERDICT: ""}
# That these differ between two runs goes without saying.
_ALWAYS_DIFFERENT = ("date", "load", "directory", "loading_seconds")


@dataclass(frozen=True)
class Change:
    """``old`` and ``new``: of each repetition, operations per second, or p99 in us of an open loop.

    ``ratio`` is that of the medians, between ``lowest`` and ``highest`` of any pair; above 1 the
    new run is faster.
    """

    case: Case
    old: tuple[float, ...]
    new: tuple[float, ...]
    ratio: float
    lowest: float
    highest: float

    def verdict(self, drift_percent: float = _DRIFT_PERCENT) -> str:
        """ "faster", "slower", or "no verdict": within noise, or of too few repetitions."""
        if min(len(self.old), len(self.new)) < REPETITIONS_MIN:
            return _NO_VERDICT
        margin = 1 + drift_percent / 100
        if self.lowest > 1 and self.ratio > margin:
            return _FASTER
        if self.highest < 1 and self.ratio < 1 / margin:
            return _SLOWER
        return _NO_VERDICT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("old", type=Path, metavar="OLD.json")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument(
        "--drift",
        type=float,
        default=_DRIFT_PERCENT,
        metavar="PERCENT",
        help=f"smaller changes get no verdict, however steady ({_DRIFT_PERCENT:g})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints one line for each case; 0, or 2 when the files cannot be compared."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    try:
        old, new = read_report(arguments.old), read_report(arguments.new)
        if old["benchmark"] != new["benchmark"]:
            raise ResultError(
                f"{arguments.old} is of {old['benchmark']}, {arguments.new} of {new['benchmark']}"
            )
        before, after = read_outcomes(old), read_outcomes(new)
        changes = compare(before, after)
    except ResultError as error:
        Console(stderr=True).print(Text(str(error)), soft_wrap=True)
        return _BAD_INPUT
    for label, was, now in different_labels(old, new):
        console.print(Text(f"warning: {label} was {was}, is {now}"), soft_wrap=True)
    _print_changes(console, changes, arguments.drift)
    _print_unmatched(console, before, after)
    return 0


def compare(old: Sequence[Outcome], new: Sequence[Outcome]) -> list[Change]:
    """Of each case that both have, in the order of the new one. ResultError as reading them."""
    before = {outcome.case: outcome for outcome in old}
    return [_change(before[outcome.case], outcome) for outcome in new if outcome.case in before]


def different_labels(
    old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, object, object]]:
    """(label, old, new) of what differs in the environment and the plan."""
    found: list[tuple[str, object, object]] = []
    for part in ("environment", "plan"):
        was, now = old.get(part, {}), new.get(part, {})
        found += [
            (label, was.get(label, "not said"), now.get(label, "not said"))
            for label in dict.fromkeys((*was, *now))
            if label not in _ALWAYS_DIFFERENT and was.get(label) != now.get(label)
        ]
    return found


def _change(old: Outcome, new: Outcome) -> Change:
    if new.case.setting.target is None:
        was, now = old.rates, new.rates
        slow, fast = was, now
    else:
        # Less time is faster: the ratio is turned over.
        was, now = (
            tuple(ns / 1000 for ns in outcome.latencies("ALL", "p99_ns")) for outcome in (old, new)
        )
        slow, fast = now, was
        if not was or not now:
            raise ResultError(f"{new.case.text} has no latency")
    return Change(
        new.case,
        was,
        now,
        ratio=Spread.of(fast).median / Spread.of(slow).median,
        lowest=min(fast) / max(slow),
        highest=max(fast) / min(slow),
    )


def _print_changes(console: Console, changes: Sequence[Change], drift: float) -> None:
    table = Table(box=SIMPLE)
    for heading in ("workload", "engine", "setting"):
        table.add_column(heading, no_wrap=heading != "setting")
    for heading in ("old", "new", "ratio", "worst-best pair"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for change in changes:
        verdict = change.verdict(drift)
        table.add_row(
            Text(change.case.workload),
            Text(change.case.engine),
            Text(change.case.setting.text),
            _median(change.old, change.case),
            _median(change.new, change.case),
            f"{change.ratio:.2f}",
            f"{change.lowest:.2f}-{change.highest:.2f}",
            Text(verdict, style=_COLOURS[verdict]),
        )
    console.print(table)
    counts = [change.verdict(drift) for change in changes]
    console.print(
        f"{len(changes)} cases: {counts.count(_FASTER)} faster, {counts.count(_SLOWER)} slower, "
        f"{counts.count(_NO_VERDICT)} without a verdict (repetitions overlap, fewer than "
        f"{REPETITIONS_MIN} of them, or less than {drift:g}%); above 1 the new run is faster",
        soft_wrap=True,
    )


def _median(values: Sequence[float], case: Case) -> str:
    unit = "/s" if case.setting.target is None else " us"
    return f"{Spread.of(values).median:,.0f}{unit}"


def _print_unmatched(console: Console, old: Sequence[Outcome], new: Sequence[Outcome]) -> None:
    for name, these, others in (("old", old, new), ("new", new, old)):
        known = {outcome.case for outcome in others}
        for outcome in these:
            if outcome.case not in known:
                console.print(Text(f"only in the {name}: {outcome.case.text}"), soft_wrap=True)
