"""Who writes durably, by how many clients, for how long; decided beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from bench.engines import OURS

__all__ = ["BACKENDS", "FULL", "PEERS", "QUICK", "SIDES", "Plan", "Run", "Side"]

BACKENDS = ("io_uring", "pwrite")
_KEYS_PER_CLIENT_AND_SECOND = 50_000


@dataclass(frozen=True)
class Side:
    """An engine, who calls it ("threads" or "asyncio"), and for ours the backend of the log.

    ``keys_per_second`` that are made for it; when they do not last, the measured time ends early.
    """

    engine: str
    clients_by: str
    backend: str = ""
    keys_per_second: int = 50_000

    @property
    def name(self) -> str:
        if self.engine == OURS:
            return f"{OURS} {self.clients_by}, {self.backend}"
        return self.engine


SIDES = (
    *(Side(OURS, by, backend, 300_000) for by in ("asyncio", "threads") for backend in BACKENDS),
    Side("plyvel", "threads", keys_per_second=150_000),
    Side("rocksdict", "threads"),
    Side("lmdb", "threads"),
    Side("sqlite3", "threads"),
    Side("diskcache", "threads"),
    Side("aiosqlite", "asyncio", keys_per_second=150_000),
)
PEERS = tuple(side.engine for side in SIDES if side.engine != OURS)


@dataclass(frozen=True)
class Run:
    """One measurement: a fresh store in a fresh process."""

    side: Side
    clients: int
    value_bytes: int
    repetition: int


@dataclass(frozen=True)
class Plan:
    """Every side with every number of clients, each so long after a warm-up that is not counted."""

    clients: tuple[int, ...]
    value_bytes: tuple[int, ...]
    repetitions: int
    seconds: float
    warmup_seconds: float

    def runs(self, sides: Sequence[Side]) -> Iterator[Run]:
        """A repetition is all sides in turns, A B C, the next one B C A: a drift hits them all."""
        for value_bytes, repetition, clients in product(
            self.value_bytes, range(self.repetitions), self.clients
        ):
            first = repetition % len(sides)
            for side in (*sides[first:], *sides[:first]):
                yield Run(side, clients, value_bytes, repetition)

    def keys(self, run: Run) -> int:
        """How many keys are made for a run."""
        rate = min(run.side.keys_per_second, run.clients * _KEYS_PER_CLIENT_AND_SECOND)
        # One more for each client that puts beyond the end.
        return int(rate * (self.warmup_seconds + self.seconds)) + run.clients


QUICK = Plan((1, 16, 64, 256), (100,), repetitions=1, seconds=0.4, warmup_seconds=0.1)
FULL = Plan((1, 4, 16, 64, 256, 1024), (100, 1000), repetitions=3, seconds=1.6, warmup_seconds=0.25)
