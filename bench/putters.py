"""The stores that threads write to: each put is durable when it returns.

Each is used as its experienced users would for that, and nothing is compressed. What else was tried
is in the docstrings. None is wrapped in a queue or a group commit of our making.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import kvstore
from bench.engines import OURS

__all__ = [
    "PUTTERS",
    "READERS",
    "SQLITE_CREATE",
    "SQLITE_DURABLE",
    "SQLITE_FILE",
    "SQLITE_PUT",
    "LogCounts",
    "Put",
    "Putter",
]

Put = Callable[[bytes, bytes], object]
Get = Callable[[bytes], bytes | None]

SQLITE_FILE = "kv.sqlite3"
SQLITE_DURABLE = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL")
SQLITE_CREATE = (
    "CREATE TABLE IF NOT EXISTS kv (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
)
SQLITE_PUT = "INSERT OR REPLACE INTO kv VALUES (?, ?)"
_SQLITE_GET = "SELECT value FROM kv WHERE key = ?"
_WRITE_BUFFER_BYTES = 64 << 20  # as large as our memtables
_MAP_BYTES = 16 << 30  # of address space; the file grows as it is written


@dataclass(frozen=True)
class LogCounts:
    """What a store of ours counts itself.

    ``syncs`` are those of the log. Each of ``edits``, of the manifest, takes one more.
    """

    syncs: int
    edits: int

    @classmethod
    def of(cls, stats: kvstore.StoreStats) -> LogCounts:
        return cls(stats.wal.syncs, stats.flushes + stats.compactions + stats.moves)


class Putter(Protocol):
    """A store in a directory of its own; ``backend`` is of our log, and "" for the others."""

    def __init__(self, directory: str, backend: str) -> None: ...

    def client(self) -> Put:
        """The put of one more client, called in the client's thread before the clock starts."""

    def log_counts(self) -> LogCounts | None:
        """None: it counts nothing itself."""

    def close(self) -> None: ...


class KVStorePutter:
    """Ours."""

    def __init__(self, directory: str, backend: str) -> None:
        self._db = kvstore.open(directory, wal_backend=backend)

    def client(self) -> Put:
        return self._db.put

    def log_counts(self) -> LogCounts | None:
        return LogCounts.of(self._db.stats())

    def close(self) -> None:
        self._db.close()


class PlyvelPutter:
    """LevelDB through plyvel: one of the waiting threads writes and syncs for them all."""

    def __init__(self, directory: str, backend: str) -> None:
        import plyvel

        del backend
        self._db = plyvel.DB(
            directory,
            create_if_missing=True,
            compression=None,
            write_buffer_size=_WRITE_BUFFER_BYTES,
        )

    def client(self) -> Put:
        put = self._db.put
        return lambda key, value: put(key, value, sync=True)

    def log_counts(self) -> LogCounts | None:
        return None

    def close(self) -> None:
        self._db.close()


class RocksdictPutter:
    """RocksDB through rocksdict, in raw mode.

    It holds the GIL while it syncs, so its group commit finds nobody to group. Recycled log files
    made no difference beyond the noise.
    """

    def __init__(self, directory: str, backend: str) -> None:
        import rocksdict

        del backend
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        durably = rocksdict.WriteOptions()
        durably.sync = True
        self._db = rocksdict.Rdict(directory, options)
        self._db.set_write_options(durably)

    def client(self) -> Put:
        put: Put = self._db.put
        return put

    def log_counts(self) -> LogCounts | None:
        return None

    def close(self) -> None:
        self._db.close()


class LmdbPutter:
    """LMDB, a transaction for each put, one writer at a time.

    A writable map, synced by msync, made no difference beyond the noise.
    """

    def __init__(self, directory: str, backend: str) -> None:
        import lmdb

        del backend
        self._env = lmdb.open(directory, map_size=_MAP_BYTES)

    def client(self) -> Put:
        begin = self._env.begin

        def put(key: bytes, value: bytes) -> None:
            with begin(write=True) as transaction:
                transaction.put(key, value)

        return put

    def log_counts(self) -> LogCounts | None:
        return None

    def close(self) -> None:
        self._env.close()


class SqlitePutter:
    """sqlite3: one connection that the threads share under a lock, a transaction for each put.

    A connection per thread had the same throughput with 1 to 256 threads, but those wait by
    sleeping: p99.9 was 1.2 s instead of 0.05 s with 16. So had execute and commit as two turns.
    """

    def __init__(self, directory: str, backend: str) -> None:
        del backend
        self._connection = _open_sqlite(directory)
        self._lock = threading.Lock()

    def client(self) -> Put:
        lock, execute = self._lock, self._connection.execute

        def put(key: bytes, value: bytes) -> None:
            with lock:
                execute(SQLITE_PUT, (key, value))

        return put

    def log_counts(self) -> LogCounts | None:
        return None

    def close(self) -> None:
        self._connection.close()


class DiskcachePutter:
    """diskcache, evicting nothing: SQLite with a connection per thread.

    FanoutCache, its answer to many writers, was slower with any number of threads; so was a lock
    around the one cache, with 16 and more.
    """

    def __init__(self, directory: str, backend: str) -> None:
        import diskcache

        del backend
        self._cache = diskcache.Cache(
            directory, sqlite_synchronous=2, eviction_policy="none", cull_limit=0
        )

    def client(self) -> Put:
        put = self._cache.set
        self._cache.get(b"")  # opens the thread's connection
        return lambda key, value: put(key, value, retry=True)

    def log_counts(self) -> LogCounts | None:
        return None

    def close(self) -> None:
        self._cache.close()


PUTTERS: dict[str, type[Putter]] = {
    OURS: KVStorePutter,
    "plyvel": PlyvelPutter,
    "rocksdict": RocksdictPutter,
    "lmdb": LmdbPutter,
    "sqlite3": SqlitePutter,
    "diskcache": DiskcachePutter,
}


def _open_sqlite(directory: str) -> sqlite3.Connection:
    """Autocommit: each statement is a transaction, durable when it returns."""
    connection = sqlite3.connect(
        os.path.join(directory, SQLITE_FILE), isolation_level=None, check_same_thread=False
    )
    for statement in (*SQLITE_DURABLE, SQLITE_CREATE):
        connection.execute(statement)
    return connection


@contextlib.contextmanager
def _reading_kvstore(directory: str) -> Iterator[Get]:
    with kvstore.open(directory) as db:
        yield db.get


@contextlib.contextmanager
def _reading_plyvel(directory: str) -> Iterator[Get]:
    import plyvel

    with contextlib.closing(plyvel.DB(directory)) as db:
        yield db.get


@contextlib.contextmanager
def _reading_rocksdict(directory: str) -> Iterator[Get]:
    import rocksdict

    with contextlib.closing(rocksdict.Rdict(directory, rocksdict.Options(raw_mode=True))) as db:
        yield db.get


@contextlib.contextmanager
def _reading_lmdb(directory: str) -> Iterator[Get]:
    import lmdb

    with lmdb.open(directory, map_size=_MAP_BYTES) as env, env.begin() as transaction:
        yield transaction.get


@contextlib.contextmanager
def _reading_sqlite(directory: str) -> Iterator[Get]:
    with contextlib.closing(_open_sqlite(directory)) as connection:

        def get(key: bytes) -> bytes | None:
            row = connection.execute(_SQLITE_GET, (key,)).fetchone()
            return row[0] if row else None

        yield get


@contextlib.contextmanager
def _reading_diskcache(directory: str) -> Iterator[Get]:
    import diskcache

    with diskcache.Cache(directory) as cache:
        yield cache.get


READERS: dict[str, Callable[[str], contextlib.AbstractContextManager[Get]]] = {
    OURS: _reading_kvstore,
    "plyvel": _reading_plyvel,
    "rocksdict": _reading_rocksdict,
    "lmdb": _reading_lmdb,
    "sqlite3": _reading_sqlite,
    "diskcache": _reading_diskcache,
    "aiosqlite": _reading_sqlite,
}
