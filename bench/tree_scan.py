"""Range reads of data that is in the cache: short ones from a random place, and all of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from bench.bars import Bar
from bench.engines import OURS, Engine, count_entries
from bench.keys import draw_numbers, make_key
from bench.rounds import Comparison, compare
from bench.samples import Spread
from bench.tree_get import judge_against
from bench.tree_plan import Dataset, Plan

__all__ = ["SCAN_ENTRIES", "judge_scans", "measure_scans"]

SCAN_ENTRIES = 50
_REVERSE_RATIO_MAX = 1.3
_DIRECTIONS = ("forward", "reverse")


def measure_scans(
    engines: dict[str, Engine], dataset: Dataset, plan: Plan, seed: int
) -> Iterator[Comparison]:
    """Short scans forward, reverse, then full ones; times of a short scan, of a full scan's entry.

    They begin at keys that are not there, so that all engines agree on where backwards begins.
    """
    rounds = plan.scan_repetitions + 1
    numbers = draw_numbers("uniform", dataset.keys, rounds * plan.scans, seed)
    starts = [make_key(dataset.keys + number) for number in numbers]
    batches = [starts[number : number + plan.scans] for number in range(0, len(starts), plan.scans)]
    for direction in _DIRECTIONS:
        reverse = direction == "reverse"
        _check_alike(engines, starts[0], reverse)
        sides = {
            name: functools.partial(_scan_batch, engine, batches, reverse)
            for name, engine in engines.items()
        }
        case = f"{dataset.name}, {SCAN_ENTRIES} entries, {direction}"
        yield compare(case, plan.scans, sides, plan.scan_repetitions)
    for direction in _DIRECTIONS:
        sides = {
            name: functools.partial(_scan_all, engine, dataset.keys, direction == "reverse")
            for name, engine in engines.items()
        }
        case = f"{dataset.name}, entry of all, {direction}"
        yield compare(case, dataset.keys, sides, plan.full_scan_repetitions)


def _scan_batch(engine: Engine, batches: list[list[bytes]], reverse: bool, number: int) -> None:
    scan, entries = engine.scan, 0
    for start in batches[number]:
        entries += scan(start, SCAN_ENTRIES, reverse, count_entries)
    if entries > SCAN_ENTRIES * len(batches[number]):
        raise RuntimeError(f"{entries} entries in {len(batches[number])} scans")


def _scan_all(engine: Engine, entries: int, reverse: bool, _number: int) -> None:
    found = engine.scan(None, None, reverse, count_entries)
    if found != entries:
        raise RuntimeError(f"found {found} of {entries} entries")


def _check_alike(engines: dict[str, Engine], start: bytes, reverse: bool) -> None:
    found = {
        name: engine.scan(start, SCAN_ENTRIES, reverse, list) for name, engine in engines.items()
    }
    for name, entries in found.items():
        if entries != found[OURS]:
            raise RuntimeError(f"{name} and {OURS} differ in the {SCAN_ENTRIES} from {start!r} on")


def judge_scans(comparisons: list[Comparison]) -> list[Bar]:
    """Each case against lmdb and rocksdict; then reverse against forward, of ours."""
    bars = [
        judge_against("scan", comparison, peer)
        for comparison in comparisons
        for peer in ("lmdb", "rocksdict")
    ]
    for forward, reverse in zip(comparisons[::2], comparisons[1::2], strict=True):
        pairs = zip(reverse.elapsed_ns[OURS], forward.elapsed_ns[OURS], strict=True)
        ratio = Spread.of([backwards / onwards for backwards, onwards in pairs])
        detail = f"{ratio.lower_quartile:.2f}-{ratio.upper_quartile:.2f}"
        name = f"scan, {reverse.case}: time to that of forward"
        bars.append(Bar(name, ratio.median, _REVERSE_RATIO_MAX, detail, "x"))
    return bars
