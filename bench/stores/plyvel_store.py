"""LevelDB through plyvel."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from bench.stores.base import (
    FILTER_BITS_PER_KEY,
    WRITE_BUFFER_BYTES,
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

__all__ = ["PlyvelStore", "spans_of"]

_LOG = "LOG"
_SETTLED_SECONDS = 2.0
# "2026/11/22-20:23:27.123456 140000000000000 Level-0 table #5: started"
_LINE = re.compile(r"(\d{4}/\d\d/\d\d-\d\d:\d\d:\d\d)(\.\d+) \S+ (.*)")


class PlyvelStore(Store):
    """Blocks in a cache of its own."""

    relaxed = "sync=False, the default: the log is written, not synced"

    def __init__(self, directory: str, settings: Settings) -> None:
        import plyvel

        self._directory, self._layout = directory, settings.layout
        self._durable = settings.durable
        self._db = plyvel.DB(
            directory,
            create_if_missing=True,
            compression=None,
            bloom_filter_bits=FILTER_BITS_PER_KEY,
            lru_cache_size=settings.cache_bytes,
            write_buffer_size=WRITE_BUFFER_BYTES,
        )

    def load(self, entries: Iterable[Entry]) -> None:
        for some in batches(entries):
            with self._db.write_batch() as batch:
                for key, value in some:
                    batch.put(key, value)
        self._db.compact_range()
        self._settle()

    def _settle(self) -> None:
        """Waits for what compact_range sets going: closed in the middle of it, every copy of the
        store would begin with compactions.
        """
        before: list[str] = []
        while (now := sorted(os.listdir(self._directory))) != before:
            before = now
            time.sleep(_SETTLED_SECONDS)

    def client(self) -> Client[Operation]:
        iterator = self._db.iterator

        def scan(key: bytes, length: int) -> int:
            with closing(iterator(start=key)) as entries:
                return count(islice(entries, length))

        db = self._db
        put: Callable[..., Any] = db.put
        delete: Callable[..., Any] = db.delete
        if self._durable:
            put, delete = _synced(put, delete)
        return client_of_values(db.get, put, delete, scan, self._layout)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def entries(self, reverse: bool) -> Iterator[Entry]:
        iterator: Iterator[Entry] = self._db.iterator(reverse=reverse)
        return iterator

    def close(self) -> None:
        self._db.close()

    def background(self) -> list[Span]:
        """From the log that it keeps for people."""
        path = Path(os.path.join(self._directory, _LOG))
        return list(spans_of(path.read_text(encoding="utf-8", errors="replace").splitlines()))


def _synced(
    put: Callable[..., Any], delete: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return (
        lambda key, value: put(key, value, sync=True),
        lambda key: delete(key, sync=True),
    )


def spans_of(lines: Iterable[str]) -> Iterator[Span]:
    """Those of LevelDB's log. One thread does it all, a flush perhaps amid a compaction."""
    flush_began = compaction_began = None
    for line in lines:
        matched = _LINE.match(line)
        if matched is None:
            continue
        moment, fraction, words = matched.groups()
        # The stamp is of local time.
        seconds = time.mktime(time.strptime(moment, "%Y/%m/%d-%H:%M:%S")) + float(fraction)
        if words.startswith("Level-0 table"):
            if words.endswith("started"):
                flush_began = seconds
            elif flush_began is not None:
                yield flush_began, seconds, "flush"
                flush_began = None
        elif words.startswith("Compacting"):
            compaction_began = seconds
        elif words.startswith("compacted to") and compaction_began is not None:
            yield compaction_began, seconds, "compaction"
            compaction_began = None
