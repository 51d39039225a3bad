"""What the child of a run, or its several processes, measured becomes a cell of the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.load.histogram import describe, encode
from bench.load.plan import Plan, Run
from bench.load.subject import SYNC
from bench.load.tape import SERIES_SECONDS
from bench.stores import NOOP, capable
from bench.sync_counter import durable_syncs

__all__ = ["ALL", "check", "make_cell", "set_generator_cost"]

ALL = "ALL"
_UNCHANGED_SHARE_MAX = 0.05  # a field becomes what it is one time in forty
_SUMMED = (
    "operations",
    "acknowledged",
    "writes",
    "verified",
    "missed",
    "unexpected",
    "scanned",
    "to_scan",
)
_SCANNED_MIN = 0.9  # of what was asked for: near the end there is less


def make_cell(
    plan: Plan, run: Run, answers: Sequence[dict[str, Any]], bytes_written: int | None
) -> dict[str, Any]:
    """One cell, plain data. ``bytes_written`` to the device meanwhile; None: not known."""
    cell: dict[str, Any] = {
        "workload": run.task.name,
        "engine": run.engine,
        "mode": run.setting.mode,
        "clients_by": run.clients_by,
        "clients": run.setting.clients,
        "records": plan.records,
        "repetition": run.repetition + 1,
        "target": run.setting.target,
        "memory_bytes": run.setting.memory_bytes,
        **{name: sum(answer[name] for answer in answers) for name in _SUMMED},
        "not_reached": sum(answer["not_reached"] for answer in answers),
        "seconds": round(max(answer["seconds"] for answer in answers), 6),
        "latency": _latency(answers),
        "syncs": _total([answer["syncs"] for answer in answers]),
        "memory": _total([answer["memory"] for answer in answers]),
        "cpu_seconds": _rounded(_total([answer["cpu_seconds"] for answer in answers])),
        "bytes_written": bytes_written,
        "disk_bytes": answers[0]["disk_bytes"],
        "series": {"interval_seconds": SERIES_SECONDS, "operations": _series(answers)},
        "compactions": answers[0]["compactions"],
        "generator_ns_per_operation": None,
    }
    return cell


def check(cell: Mapping[str, Any], *, may_miss: bool) -> None:
    """RuntimeError when syncs are too few for what was acknowledged as durable, or when a record
    was not found that had to be there (or the other way round), or when scans gave too little.

    A client has one write under way, so a sync makes at most one write of each client durable.
    ``may_miss``: what one client reads another may still be inserting.
    """
    name = f"{cell['engine']}, {cell['workload']}, {cell['mode']}"
    if cell["engine"] == NOOP:
        return
    if (cell["missed"] and not may_miss) or cell["unexpected"]:
        raise RuntimeError(
            f"{name}: {cell['missed']:,} records were not found, {cell['unexpected']:,} found that "
            "are not there"
        )
    if cell["scanned"] < _SCANNED_MIN * cell["to_scan"]:
        raise RuntimeError(f"{name}: scans gave {cell['scanned']:,} entries of {cell['to_scan']:,}")
    if cell["mode"] != SYNC or cell["syncs"] is None:
        return
    # Of an engine that counts those of its log, they are what has to be enough.
    syncs = cell["syncs"].get("log", durable_syncs(cell["syncs"]))
    needed = cell["writes"]
    if capable(cell["engine"]).skips_unchanged:
        needed -= int(_UNCHANGED_SHARE_MAX * needed)
    if needed > cell["clients"] * syncs:
        raise RuntimeError(
            f"{name}: {cell['writes']:,} writes of {cell['clients']} clients with {syncs:,} syncs: "
            "some were not durable when they returned"
        )


def set_generator_cost(cells: Sequence[dict[str, Any]]) -> None:
    """In each cell what the no-op engine took for an operation of the same script and clients."""
    costs: dict[tuple[Any, ...], float] = {}
    for cell in cells:
        if cell["engine"] == NOOP and cell["operations"] and cell["target"] is None:
            cost = 1e9 * cell["seconds"] / cell["operations"]
            key = (cell["workload"], cell["clients"])
            costs[key] = min(cost, costs.get(key, cost))
    for cell in cells:
        cost_or_none = costs.get((cell["workload"], cell["clients"]))
        if cost_or_none is not None:
            cell["generator_ns_per_operation"] = round(cost_or_none, 1)


def _latency(answers: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    by_kind: dict[str, Counter[int]] = {}
    for answer in answers:
        for kind, pairs in answer["latency_counts"].items():
            counts = by_kind.setdefault(kind, Counter())
            for ns, times in pairs:
                counts[ns] += times
    if by_kind:
        by_kind[ALL] = sum(by_kind.values(), Counter())
    return {kind: describe(counts) | {"hdr": encode(counts)} for kind, counts in by_kind.items()}


def _series(answers: Sequence[dict[str, Any]]) -> list[int]:
    total: Counter[int] = Counter()
    for answer in answers:
        for interval, operations in enumerate(answer["series"]):
            total[interval] += operations
    return [total[interval] for interval in range(max(total, default=-1) + 1)]


def _total(counts: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Their sum; None when one is not known."""
    total: Counter[str] = Counter()
    for each in counts:
        if each is None:
            return None
        for name, number in each.items():
            total[name] += number  # type: ignore[assignment]
    return dict(total)


def _rounded(seconds: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if seconds is None else {name: round(s, 4) for name, s in seconds.items()}
