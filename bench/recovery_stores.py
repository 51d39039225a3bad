"""Stores that keep all they are given in their log, so that opening them has to replay it.

Their memory for what is not in tables yet is a multiple of what they are given; SQLite never moves
its log into the database.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import Protocol

import kvstore
from bench.engines import OURS
from bench.keys import KEY_BYTES, Values, random_keys

__all__ = ["LOGGED_STORES", "VALUE_BYTES", "LoggedStore", "keys_of"]

VALUE_BYTES = 100
_MEMORY_FACTOR = 4
_MEMORY_BYTES_MIN, _MEMORY_BYTES_MAX = 64 << 20, 16 << 30
_BATCH_ENTRIES = 1000


class LoggedStore(Protocol):
    """A store in a directory of its own that exists.

    ``ascending``: it is given its keys in their order.
    """

    ascending: bool

    def __init__(self, directory: str, data_bytes: int) -> None:
        """Opens it, which replays what its log has of ``data_bytes``."""

    def fill(self, keys: Iterator[bytes], values: Values) -> None:
        """Puts all, and makes it durable as one does at last; none of it is in a table then."""

    def get(self, key: bytes) -> bytes | None: ...

    def log_bytes(self) -> int:
        """How much log there was when it was opened."""


class KVStoreLogged:
    """Ours."""

    ascending = False

    def __init__(self, directory: str, data_bytes: int) -> None:
        self._db = kvstore.open(
            directory, sync=False, memtable_bytes_max=_memory_bytes(data_bytes), compression="none"
        )
        self.get = self._db.get

    def fill(self, keys: Iterator[bytes], values: Values) -> None:
        for key in keys:
            self._db.put(key, values.of(key))
        self._db.sync()

    def log_bytes(self) -> int:
        return self._db.recovery.bytes


class RocksdictLogged:
    """RocksDB through rocksdict; at the end of a recovery it writes a table, as is its default."""

    ascending = False

    def __init__(self, directory: str, data_bytes: int) -> None:
        import rocksdict

        self._log_bytes = _bytes_of(directory, ".log")
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        options.set_write_buffer_size(_memory_bytes(data_bytes))
        options.set_max_total_wal_size(_memory_bytes(data_bytes))
        self._db = rocksdict.Rdict(directory, options)
        self.get = self._db.get

    def fill(self, keys: Iterator[bytes], values: Values) -> None:
        for key in keys:
            self._db.put(key, values.of(key))
        self._db.flush_wal(True)

    def log_bytes(self) -> int:
        return self._log_bytes


class SqliteLogged:
    """SQLite with a write-ahead log that no checkpoint empties.

    Its keys ascend: in random order each of its transactions would write most pages again, and the
    log would be many times as large as what is in it.
    """

    ascending = True

    def __init__(self, directory: str, data_bytes: int) -> None:
        del data_bytes
        self._log_bytes = _bytes_of(directory, "-wal")
        self._db = sqlite3.connect(os.path.join(directory, "store.db"), isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

    def fill(self, keys: Iterator[bytes], values: Values) -> None:
        self._db.execute("BEGIN")
        for number, key in enumerate(keys, 1):
            self._db.execute("INSERT INTO entries VALUES (?, ?)", (key, values.of(key)))
            if number % _BATCH_ENTRIES == 0:
                self._db.execute("COMMIT")
                self._db.execute("BEGIN")
        self._db.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row = self._db.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def log_bytes(self) -> int:
        return self._log_bytes


LOGGED_STORES: dict[str, type[LoggedStore]] = {
    OURS: KVStoreLogged,
    "rocksdict": RocksdictLogged,
    "sqlite3": SqliteLogged,
}


def keys_of(engine: str, count: int, seed: int) -> list[bytes]:
    """The keys it is given, in order: the same for every engine."""
    joined = random_keys(count, seed)
    keys = [joined[first : first + KEY_BYTES] for first in range(0, len(joined), KEY_BYTES)]
    return sorted(keys) if LOGGED_STORES[engine].ascending else keys


def _memory_bytes(data_bytes: int) -> int:
    return min(max(_MEMORY_BYTES_MIN, _MEMORY_FACTOR * data_bytes), _MEMORY_BYTES_MAX)


def _bytes_of(directory: str, suffix: str) -> int:
    entries = os.scandir(directory)
    return sum(entry.stat().st_size for entry in entries if entry.name.endswith(suffix))
