"""``python -m bench stall``: how long an event loop stands still while tasks read from the disk.

A store is filled, closed, dropped from the page cache and opened again; then tasks get random keys,
and some scan, while one task sleeps a millisecond over and over and notes how much later it woke.
For comparison the same with the synchronous API called in the loop. What a CPU stood still
meanwhile (bench/standstill.py) is told, and taken off: the loop could do nothing about it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import kvstore
from bench.arguments import number
from bench.bars import Bar, print_bars
from bench.disk import evict
from bench.environment import collect, is_volatile
from bench.keys import KEY_BYTES, Values, make_key
from bench.process import Child
from bench.report import WIDTH, print_environment
from bench.samples import percentile
from bench.standstill import Interval, overlap
from bench.termination import terminated_in_order

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "how long an event loop stands still while its tasks read from the disk"

_STALL_MS_MAX = 5.0
_VALUE_BYTES = 1000
_TASKS = 16
_SCAN_ONE_IN = 20
_SCAN_ENTRIES = 50
_TICK_SECONDS = 0.001
_START_SECONDS = 1.0

Read = Callable[[bytes, bool], Awaitable[None]]


@dataclass(frozen=True)
class Stalls:
    """How much later than due the loop came to its timer, and what it read meanwhile.

    ``machine_ms``: what of that a CPU stood still, which is taken off all but ``p999_whole_ms``;
    None: not known, and so in it.
    """

    side: str
    seconds: float
    reads: int
    machine_ms: float | None
    p50_ms: float
    p99_ms: float
    p999_ms: float
    p999_whole_ms: float
    max_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--megabytes", type=number, default=2000, help="of data (2000)")
    parser.add_argument("--seconds", type=number, default=10, help="of each side (10)")
    parser.add_argument("--directory", default=".", help="where to write (.)")
    parser.add_argument("--json", metavar="FILE", help="write all results there too")
    parser.add_argument("--seed", type=int, default=1, help="of keys and their order")


def run(arguments: argparse.Namespace) -> int:
    """Prints the environment, the stalls of both sides and the bar; the exit status."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    Path(arguments.directory).mkdir(parents=True, exist_ok=True)
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="bench-stall-", dir=arguments.directory) as directory,
    ):
        if is_volatile(directory):
            console.print(f"warning: {arguments.directory} lies in memory, not on a device")
        environment = collect(directory, arguments.seed)
        print_environment(console, environment)
        console.print()
        keys = arguments.megabytes * 1_000_000 // (KEY_BYTES + _VALUE_BYTES)
        _fill(directory, keys, arguments.seed)
        found: list[Stalls] = []
        for side in (_asynchronous, _synchronous):
            if not evict(directory):
                raise RuntimeError("this system cannot be asked to drop files from its cache")
            generator = random.Random(arguments.seed + len(found))
            stalls = asyncio.run(side(directory, keys, arguments.seconds, generator))
            found.append(stalls)
            console.print(
                f"{stalls.side}: {stalls.reads:,} reads in {stalls.seconds:.1f} s; the loop came "
                f"later by {stalls.p50_ms:.2f} ms (p50), {stalls.p99_ms:.2f} (p99), "
                f"{stalls.p999_ms:.2f} (p99.9), {stalls.max_ms:.1f} at most; {_of_machine(stalls)}"
            )
    console.print()
    ours = found[0]
    name = "stall of the loop at p99.9, reads from the disk"
    detail = f"{ours.reads:,} reads, {arguments.megabytes:,} MB"
    bar = Bar(name, ours.p999_ms, _STALL_MS_MAX, detail, " ms")
    print_bars(console, [bar])
    if arguments.json:
        report: dict[str, Any] = {
            "format": 1,
            "environment": environment,
            "stalls": [dataclasses.asdict(stalls) for stalls in found],
            "bars": [bar.as_json()],
        }
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _of_machine(stalls: Stalls) -> str:
    if stalls.machine_ms is None:
        return "with what the machine itself stood still (telling that apart takes root)"
    whole = f"{stalls.p999_whole_ms:.2f} (p99.9) with that"
    return f"without the {stalls.machine_ms:.0f} ms that a CPU stood still; {whole}"


def _fill(directory: str, keys: int, seed: int) -> None:
    values = Values(_VALUE_BYTES, seed)
    with kvstore.open(directory, sync=False) as db:
        for key in map(make_key, range(keys)):
            db.put(key, values.of(key))
        db.compact()


async def _asynchronous(
    directory: str, keys: int, seconds: int, generator: random.Random
) -> Stalls:
    async with kvstore.open_async(directory) as db:

        async def read(key: bytes, scan: bool) -> None:
            if scan:
                async for _ in db.scan(key, limit=_SCAN_ENTRIES):
                    pass
            elif await db.get(key) is None:
                raise RuntimeError("a key is gone")

        return await _measure("asyncio", read, keys, seconds, generator)


async def _synchronous(directory: str, keys: int, seconds: int, generator: random.Random) -> Stalls:
    with kvstore.open(directory) as db:

        async def read(key: bytes, scan: bool) -> None:
            if scan:
                for _ in db.scan(key, limit=_SCAN_ENTRIES):
                    pass
            elif db.get(key) is None:
                raise RuntimeError("a key is gone")

        return await _measure("synchronous calls in the loop", read, keys, seconds, generator)


async def _measure(
    side: str, read: Read, keys: int, seconds: int, generator: random.Random
) -> Stalls:
    ticks: list[Interval] = []
    reads = 0

    async def reader() -> None:
        nonlocal reads
        while time.perf_counter() < end:
            key = make_key(generator.randrange(keys))
            await read(key, generator.randrange(_SCAN_ONE_IN) == 0)
            reads += 1
            await asyncio.sleep(0)  # a turn for others after each read, as a server's tasks give

    async def tick() -> None:
        while time.perf_counter() < end:
            due = time.perf_counter() + _TICK_SECONDS
            await asyncio.sleep(_TICK_SECONDS)
            ticks.append((due, time.perf_counter()))

    with Child("bench.standstill", {"seconds": seconds + _START_SECONDS}) as child:
        await asyncio.sleep(_START_SECONDS)
        began = time.perf_counter()
        end = began + seconds
        await asyncio.gather(tick(), *(reader() for _ in range(_TASKS)))
        took = time.perf_counter() - began
        stood_still: list[Interval] | None = child.answer()["stood_still"]
    machine = [overlap(one, stood_still or ()) for one in ticks]
    late_ms = [
        (woke - due - stood) * 1000 for (due, woke), stood in zip(ticks, machine, strict=True)
    ]
    return Stalls(
        side=side,
        seconds=took,
        reads=reads,
        machine_ms=None if stood_still is None else 1000 * sum(machine),
        p50_ms=percentile(late_ms, 0.5),
        p99_ms=percentile(late_ms, 0.99),
        p999_ms=percentile(late_ms, 0.999),
        p999_whole_ms=percentile([1000 * (woke - due) for due, woke in ticks], 0.999),
        max_ms=max(late_ms),
    )
