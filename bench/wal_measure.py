"""Running one case: every side in turn, the order rotated, and what came of it."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.bare import BareLoops, Slice
from bench.samples import Spread, percentile
from bench.wal_plan import Case
from bench.wal_sides import BareSide, KVStoreSide, Side

__all__ = ["CaseResult", "SideResult", "measure_case"]


@dataclass(frozen=True)
class SideResult:
    """One side of one case. Ratios are to the bare loop's time in the same repetition."""

    side: str
    strategy: str
    latency_us_p50: float
    latency_us_p99: float
    latency_us_mean: float
    entries_per_second: float
    payload_mb_per_second: float
    ratio: Spread
    ratios: tuple[float, ...]
    batches: int
    bytes_written: int
    syncs: int

    @property
    def syncs_per_batch(self) -> float:
        return self.syncs / self.batches


@dataclass(frozen=True)
class CaseResult:
    """``bare`` is the better of the bare loops, ``other_bare`` the rest of them."""

    case: Case
    repetitions: int
    slice_batches: int
    bare: SideResult
    other_bare: tuple[SideResult, ...]
    kvstore: tuple[SideResult, ...]

    def rows(self) -> tuple[SideResult, ...]:
        return (*self.kvstore, self.bare, *self.other_bare)


def measure_case(
    loops: BareLoops,
    directory: str,
    case: Case,
    backends: Sequence[str],
    payload: bytes,
    *,
    repetitions: int,
    slice_batches: int,
    tick: Callable[[], None],
) -> CaseResult:
    """Rounds A B C, B C A, C A B, ...; a first round, not counted, warms every side up.

    ``tick`` is called between rounds, never while the clock runs. The garbage collector is off.
    """
    batches = (repetitions + 1) * slice_batches
    with contextlib.ExitStack() as stack:
        sides: list[Side] = []
        for backend in backends:
            path = os.path.join(directory, f"{backend}.wal")
            sides.append(KVStoreSide(backend, path, case, payload=payload, batches=batches))
            stack.callback(sides[-1].close)
        for strategy in loops.strategies():
            path = os.path.join(directory, f"bare-{strategy}.wal")
            sides.append(
                BareSide(loops, path, case, payload=payload, batches=batches, strategy=strategy)
            )
            stack.callback(sides[-1].close)
        for side in sides:
            side.run(slice_batches)
        before = {side.name: side.counters() for side in sides}
        slices: dict[str, list[Slice]] = {side.name: [] for side in sides}
        for repetition in range(repetitions):
            _one_round(sides, repetition, slice_batches, slices)
            tick()
        counted = {
            side.name: {
                name: value - before[side.name][name] for name, value in side.counters().items()
            }
            for side in sides
        }
        strategies = {side.name: side.strategy() for side in sides}

    bare_names = [side.name for side in sides if isinstance(side, BareSide)]
    # The better one of the two is the bar, by its median: as kvstore chooses.
    best = min(bare_names, key=lambda name: Spread.of(_elapsed(slices[name])).median)
    results = {
        name: _summarize(case, (name, strategies[name]), taken, slices[best], counted[name])
        for name, taken in slices.items()
    }
    return CaseResult(
        case,
        repetitions,
        slice_batches,
        bare=results[best],
        other_bare=tuple(results[name] for name in bare_names if name != best),
        kvstore=tuple(results[side.name] for side in sides if side.name not in bare_names),
    )


def _one_round(
    sides: list[Side], repetition: int, slice_batches: int, slices: dict[str, list[Slice]]
) -> None:
    first = repetition % len(sides)
    gc.collect()
    gc.disable()
    try:
        for side in sides[first:] + sides[:first]:
            slices[side.name].append(side.run(slice_batches))
    finally:
        gc.enable()


def _elapsed(slices: list[Slice]) -> list[float]:
    return [taken.elapsed_ns for taken in slices]


def _summarize(
    case: Case,
    side: tuple[str, str],
    slices: list[Slice],
    bare: list[Slice],
    counted: dict[str, int],
) -> SideResult:
    latencies = [ns / 1000 for taken in slices for ns in taken.latency_ns]
    ratios = tuple(own / base for own, base in zip(_elapsed(slices), _elapsed(bare), strict=True))
    per_slice = len(slices[0].latency_ns)
    seconds = Spread.of(_elapsed(slices)).median / 1e9
    entries_per_second = per_slice * case.entries / seconds
    return SideResult(
        side=side[0],
        strategy=side[1],
        latency_us_p50=percentile(latencies, 0.5),
        latency_us_p99=percentile(latencies, 0.99),
        latency_us_mean=sum(latencies) / len(latencies),
        entries_per_second=entries_per_second,
        payload_mb_per_second=entries_per_second * case.entry_size / 1e6,
        ratio=Spread.of(ratios),
        ratios=ratios,
        batches=len(latencies),
        bytes_written=counted["bytes"],
        syncs=counted["syncs"],
    )
