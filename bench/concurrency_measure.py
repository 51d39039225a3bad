"""Runs the measurements of durable puts, holds durability equal, merges the repetitions."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from bench.concurrency_plan import Plan, Run, Side
from bench.process import Child, ChildFailedError
from bench.samples import Spread, percentiles_of_counts
from bench.sync_counter import durable_syncs, preloading
from kvstore.wal.backends import ENVIRONMENT

__all__ = ["Cell", "check_durability", "measure", "merge"]

_FRACTIONS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_EDITS_UNDER_WAY_MAX = 2


@dataclass(frozen=True)
class Cell:
    """One side with so many clients, over all repetitions.

    ``puts_per_second`` is one figure for each; latencies are those of all of them together;
    ``puts_per_sync`` is None where syncs are not counted. ``syncs`` are those seen from outside, by
    kind, ``log_syncs`` those that our log counts.
    """

    side: str
    engine: str
    clients_by: str
    backend: str
    clients: int
    value_bytes: int
    puts_per_second: tuple[float, ...]
    latency_us: dict[str, float]
    puts_per_sync: float | None
    syncs: dict[str, int] | None
    log_syncs: int | None

    @property
    def rate(self) -> float:
        """Puts per second: the median."""
        return Spread.of(self.puts_per_second).median

    def as_json(self) -> dict[str, Any]:
        rounded = {
            "puts_per_second": [round(rate, 1) for rate in self.puts_per_second],
            "median": round(self.rate, 1),
        }
        return asdict(self) | rounded


def measure(
    directory: str,
    plan: Plan,
    sides: Sequence[Side],
    *,
    library: str | None,
    loop: str,
    seed: int,
    tell: Callable[[str], None],
) -> list[Cell]:
    """All cells, by value size, clients and side. ``library`` counts syncs; None: not counted.

    RuntimeError: a put that was acknowledged is lost, or cannot have been durable when it was.
    """
    environment = preloading(library)
    environment.pop(ENVIRONMENT, None)  # both backends are measured, whatever it says
    answers: dict[tuple[int, int, Side], list[dict[str, Any]]] = {}
    runs = list(plan.runs(sides))
    for number, run in enumerate(runs, 1):
        tell(
            f"{number} of {len(runs)}: {run.side.name}, {run.clients} clients, "
            f"{run.value_bytes} B, repetition {run.repetition + 1}"
        )
        asked = {
            **asdict(run.side),
            "clients": run.clients,
            "value_bytes": run.value_bytes,
            "warmup_seconds": plan.warmup_seconds,
            "seconds": plan.seconds,
            "keys": plan.keys(run),
            "loop": loop,
            "seed": seed + run.repetition,
        }
        answer = _run_once(directory, run.side.name, asked, environment)
        check_durability(run, answer)
        answers.setdefault((run.value_bytes, run.clients, run.side), []).append(answer)
    return [
        merge(value_bytes, clients, side, answers[value_bytes, clients, side])
        for value_bytes, clients, side in product(plan.value_bytes, plan.clients, sides)
    ]


def _run_once(
    directory: str, name: str, asked: dict[str, Any], environment: dict[str, str]
) -> dict[str, Any]:
    place = os.path.join(directory, "store")
    os.mkdir(place)
    try:
        with Child("bench.concurrency_child", asked | {"directory": place}, environment) as child:
            answer = child.answer()
            child.wait()
    except ChildFailedError as error:
        raise RuntimeError(f"{name}, {asked['clients']} clients: {error}") from error
    finally:
        shutil.rmtree(place)
        os.sync()  # what this one left to be written is not the next one's to wait for
    return answer


def check_durability(run: Run, answer: dict[str, Any]) -> None:
    """RuntimeError when the syncs are too few for what was acknowledged as durable.

    A client has one put under way, so a sync makes at most one put of each client durable.
    """
    side, seen, log = run.side, answer["syncs"], answer["log"]
    syncs = _syncs_of(side, seen, log)
    if syncs is not None and answer["acknowledged"] > run.clients * syncs:
        raise RuntimeError(
            f"{side.name}: {answer['acknowledged']:,} puts of {run.clients} clients with "
            f"{syncs:,} syncs: some were not durable when they returned"
        )
    if side.backend == "pwrite" and seen is not None:
        # Files and directories are synced by fsync, but by the log and the manifest never.
        by_logs = seen["fdatasync"] + seen["sync_write"]
        if not log["syncs"] <= by_logs <= log["syncs"] + log["edits"] + _EDITS_UNDER_WAY_MAX:
            raise RuntimeError(
                f"{side.name} counts {log['syncs']:,} syncs of its log and {log['edits']} of its "
                f"manifest; {by_logs:,} were seen"
            )


def merge(value_bytes: int, clients: int, side: Side, answers: Sequence[dict[str, Any]]) -> Cell:
    """One cell from the answers of all repetitions."""
    latencies: Counter[int] = Counter()
    for answer in answers:
        for nanoseconds, count in answer["latency_counts"]:
            latencies[nanoseconds] += count
    found = percentiles_of_counts(latencies, list(_FRACTIONS.values()))
    acknowledged = sum(answer["acknowledged"] for answer in answers)
    seen = _total([answer["syncs"] for answer in answers])
    own = _total([answer["log"] for answer in answers])
    syncs = _syncs_of(side, seen, own)
    return Cell(
        side.name,
        side.engine,
        side.clients_by,
        side.backend,
        clients,
        value_bytes,
        tuple(answer["puts"] / answer["seconds"] for answer in answers),
        {name: ns / 1000 for name, ns in zip(_FRACTIONS, found, strict=True)},
        round(acknowledged / syncs, 3) if syncs else None,
        seen,
        own["syncs"] if own else None,
    )


def _syncs_of(
    side: Side, seen: Mapping[str, int] | None, own: Mapping[str, int] | None
) -> int | None:
    """The count that holds for a side: no library sees what goes through the ring, but the log
    counts all of its syncs. None: not counted.
    """
    if side.backend == "io_uring":
        assert own is not None
        return own["syncs"]
    return None if seen is None else durable_syncs(seen)


def _total(counts: Sequence[Mapping[str, int] | None]) -> dict[str, int] | None:
    """Their sum; None when there are none."""
    total: Counter[str] = Counter()
    for each in counts:
        if each is None:
            return None
        total.update(each)
    return dict(total)
