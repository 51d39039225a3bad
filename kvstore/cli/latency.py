"""What a durable 4 KiB write costs in a directory, one sync strategy beside the other.

Every strategy goes through the log's own C core, one entry of exactly one block at a time, so the
figures differ by the strategy and by nothing else. Files are filled with zeros beforehand (what
kvstore does), but for one that grows. All take turns: a device that is slow for a moment is slow
for all of them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kvstore.errors import KVStoreError, StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.native import lib
from kvstore.wal import IoUringConfig, PortableWalWriter
from kvstore.wal.core import IO_URING, PWRITE, LogCore
from kvstore.wal.format import ENTRY_HEADER_BYTES
from kvstore.wal.writer import SPARE_BYTES

__all__ = ["Latency", "Measurements", "OwnAppend", "Strategy", "measure", "possible_strategies"]

BLOCK = 4096
OPERATIONS = 200
_TURNS = 4
_TURN_SECONDS_MAX = 0.25  # so that a slow disk costs seconds, not minutes
_TURN_OPERATIONS_MIN = 3
_WARM_UP = 24  # more than the 16 rounds in which a log tries out its device
_PAYLOAD = bytes(BLOCK - ENTRY_HEADER_BYTES)


@dataclass(frozen=True)
class Strategy:
    """A way to make a block durable: ``engine`` writes it, ``sync`` makes it stay."""

    engine: str
    sync: str
    direct: bool = False
    preallocated: bool = True

    def __str__(self) -> str:
        how = "write, fdatasync" if self.sync == "fdatasync" else self.sync
        extra = (", O_DIRECT" if self.direct else "") + ("" if self.preallocated else ", growing")
        return f"{self.engine}: {how}{extra}"


@dataclass(frozen=True)
class Latency:
    """What one write took; ``problem`` when after ``operations`` of them one failed."""

    operations: int
    median_us: float
    p99_us: float
    problem: str | None = None


@dataclass(frozen=True)
class OwnAppend:
    """What kvstore chose by itself, and what its durable append of a block took."""

    backend: str
    backend_reason: str
    sync_strategy: str
    latency: Latency


@dataclass(frozen=True)
class Measurements:
    """The strategies, and kvstore itself, measured at the same time."""

    strategies: tuple[tuple[Strategy, Latency], ...]
    own: OwnAppend


def possible_strategies(*, io_uring: bool, rwf_dsync: bool, direct: bool) -> list[Strategy]:
    """What can be compared where so much works."""
    engines = ["pwrite", *(["io_uring"] if io_uring else [])]
    syncs = [*(["RWF_DSYNC"] if rwf_dsync else []), "fdatasync"]
    growing = Strategy("pwrite", "fdatasync", preallocated=False)
    buffered = [Strategy(engine, sync) for engine in engines for sync in syncs]
    past_cache = [Strategy(engine, sync, direct=True) for engine in engines for sync in syncs]
    return [growing, *buffered, *(past_cache if direct else ())]


def measure(scratch: str, strategies: list[Strategy], config: IoUringConfig) -> Measurements:
    """Writes OPERATIONS blocks in each way, fewer on a slow device: about a second each at most."""
    with contextlib.ExitStack() as stack:
        rows = [
            (strategy, _Series(_open_core(stack, os.path.join(scratch, f"block-{row}"), strategy)))
            for row, strategy in enumerate(strategies)
        ]
        log = stack.enter_context(PortableWalWriter(os.path.join(scratch, "own.wal"), config))
        own = _Series(lambda: log.append_and_commit(_PAYLOAD))
        own.take_turn(_WARM_UP)
        own.times.clear()
        for _ in range(_TURNS):
            for series in (*(series for _, series in rows), own):
                series.take_turn(OPERATIONS // _TURNS)
        return Measurements(
            tuple((strategy, series.latency()) for strategy, series in rows),
            OwnAppend(log.backend, log.backend_reason, log.sync_strategy, own.latency()),
        )


def _open_core(stack: contextlib.ExitStack, path: str, strategy: Strategy) -> Callable[[], int]:
    """A function that makes one block durable with ``strategy`` in a new file at ``path``."""
    fs = PosixFileSystem()
    limit = OPERATIONS * BLOCK + SPARE_BYTES
    file = stack.enter_context(contextlib.closing(fs.open(path, create=True)))
    if strategy.preallocated:
        file.preallocate(0, limit)
    file.sync()
    if strategy.direct:
        file = stack.enter_context(contextlib.closing(fs.open(path, direct=True)))
    dsync = strategy.sync == "RWF_DSYNC"
    core = LogCore(
        IoUringConfig.minimal(),
        IO_URING if strategy.engine == "io_uring" else PWRITE,
        name=path,
        sync_strategy=lib.KV_SYNC_DSYNC if dsync else lib.KV_SYNC_FDATASYNC,
    )
    stack.callback(core.close)
    core.attach(file, direct=strategy.direct, seed=1, base=0, position=0, limit=limit, lsn=1)
    log, length, kind = core.log, len(_PAYLOAD), lib.KV_PLAIN
    return lambda: core.check(lib.kv_log_append_commit(log, _PAYLOAD, length, kind, 0))


@dataclass
class _Series:
    write: Callable[[], int]
    times: list[float] = field(default_factory=list)
    problem: str | None = None

    def take_turn(self, operations: int) -> None:
        """Writes so many blocks, unless the time is up or a write failed before."""
        deadline = time.perf_counter() + _TURN_SECONDS_MAX
        for number in range(operations):
            began = time.perf_counter()
            late = number >= _TURN_OPERATIONS_MIN and began > deadline
            if late or self.problem is not None:
                return
            try:
                self.write()
            except StorageIOError as error:
                self.problem = f"{error.operation} failed: {error.strerror}"
            except KVStoreError as error:
                self.problem = str(error)
            else:
                self.times.append(time.perf_counter() - began)

    def latency(self) -> Latency:
        ranked = sorted(self.times)

        def at(fraction: float) -> float:
            rank = min(int(fraction * len(ranked)), len(ranked) - 1)
            return round(ranked[rank] * 1e6, 1) if ranked else 0.0

        return Latency(len(ranked), at(0.5), at(0.99), self.problem)
