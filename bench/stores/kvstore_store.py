"""Ours, called by threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import kvstore
from bench.stores.base import (
    FILTER_BITS_PER_KEY,
    Client,
    Entry,
    Operation,
    Settings,
    Span,
    Store,
    batches,
    client_of_values,
    count,
)
from kvstore.compaction import worker

__all__ = ["RELAXED", "SPANS", "KVStoreStore", "options_of", "ring_syncs", "watch"]

RELAXED = "sync=False: durable within 10 ms"
SPANS: list[Span] = []
"""What ``watch`` has noted so far."""


class KVStoreStore(Store):
    """Plain tables are mapped: the page cache is the cache."""

    relaxed = RELAXED

    def __init__(self, directory: str, settings: Settings) -> None:
        self._layout = settings.layout
        self._db = kvstore.open(directory, **options_of(settings))

    def load(self, entries: Iterable[Entry]) -> None:
        for some in batches(entries):
            with self._db.batch(sync=False) as batch:
                for key, value in some:
                    batch.put(key, value)
        self._db.flush()
        self._db.compact()

    def client(self) -> Client[Operation]:
        scan_entries = self._db.scan

        def scan(key: bytes, length: int) -> int:
            return count(scan_entries(key, limit=length))

        db = self._db
        return client_of_values(db.get, db.put, db.delete, scan, self._layout)

    def get(self, key: bytes) -> bytes | None:
        return self._db.get(key)

    def entries(self, reverse: bool) -> Iterator[Entry]:
        return self._db.scan(reverse=reverse)

    def own_syncs(self) -> int | None:
        return ring_syncs(self._db.stats())

    def close(self) -> None:
        self._db.close()

    def background(self) -> list[Span]:
        return list(SPANS)


def options_of(settings: Settings) -> dict[str, Any]:
    """What kvstore.open and open_async are called with."""
    return {
        "sync": settings.durable,
        "filter_bits_per_key": FILTER_BITS_PER_KEY,
        "compression": "none",
    }


def ring_syncs(stats: kvstore.StoreStats) -> int | None:
    """Syncs of the log that go through the ring, where no preloaded library sees them."""
    return stats.wal.syncs if stats.backend == "io_uring" else None


def watch() -> None:
    """From here on the spans of all flushes and compactions of this process are noted.

    For a process of its own, before a store is opened: a store counts them but does not say when
    they were, so the two generators that do the work are wrapped. That is one step more for each of
    theirs, which take a millisecond.
    """

    def timed(work: Callable[..., Iterator[Any]], what: str) -> Callable[..., Iterator[Any]]:
        def steps(*arguments: Any) -> Iterator[Any]:
            began = time.time()
            try:
                yield from work(*arguments)
            finally:
                SPANS.append((began, time.time(), what))

        return steps

    for name, what in (("flush", "flush"), ("compact", "compaction")):
        setattr(worker, name, timed(getattr(worker, name), what))
