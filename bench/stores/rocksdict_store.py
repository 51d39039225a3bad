"""RocksDB through rocksdict, in raw mode: bytes as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

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

__all__ = ["RocksdictStore", "spans_of"]

_LOG = "LOG"
_MARK = "EVENT_LOG_v1 "


class RocksdictStore(Store):
    """The write-ahead log on, blocks in a cache of its own."""

    relaxed = "sync=False, the default: the log is written, not synced"

    def __init__(self, directory: str, settings: Settings) -> None:
        import rocksdict

        self._directory, self._layout = directory, settings.layout
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        options.set_write_buffer_size(WRITE_BUFFER_BYTES)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(FILTER_BITS_PER_KEY, False)
        blocks.set_block_cache(rocksdict.Cache(settings.cache_bytes))
        options.set_block_based_table_factory(blocks)
        self._db = rocksdict.Rdict(directory, options)
        self._make_batch = rocksdict.WriteBatch
        writing = rocksdict.WriteOptions()
        writing.sync = settings.durable
        self._db.set_write_options(writing)

    def load(self, entries: Iterable[Entry]) -> None:
        for some in batches(entries):
            batch = self._make_batch(raw_mode=True)
            for key, value in some:
                batch.put(key, value)
            self._db.write(batch)
        self._db.flush()
        self._db.compact_range(None, None)

    def client(self) -> Client[Operation]:
        items = self._db.items

        def scan(key: bytes, length: int) -> int:
            return count(islice(items(from_key=key), length))

        db = self._db
        return client_of_values(db.get, db.put, db.delete, scan, self._layout)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def entries(self, reverse: bool) -> Iterator[Entry]:
        items: Iterator[Entry] = self._db.items(backwards=reverse)
        return items

    def close(self) -> None:
        self._db.close()

    def background(self) -> list[Span]:
        """From the log that it keeps for people, where each event is a line of JSON."""
        path = Path(os.path.join(self._directory, _LOG))
        return list(spans_of(path.read_text(encoding="utf-8", errors="replace").splitlines()))


def spans_of(lines: Iterable[str]) -> Iterator[Span]:
    """Those of RocksDB's log."""
    begun: dict[tuple[str, int], float] = {}
    for line in lines:
        _, mark, text = line.partition(_MARK)
        if not mark:
            continue
        event = json.loads(text)
        what, _, moment = str(event.get("event", "")).rpartition("_")
        if what not in ("flush", "compaction"):
            continue
        seconds = event["time_micros"] / 1e6
        if moment == "started":
            begun[what, event["job"]] = seconds
        elif moment == "finished" and (what, event["job"]) in begun:
            yield begun.pop((what, event["job"])), seconds, what
