"""sqlite3: a column for each field, each statement a transaction."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator

from bench.stores.base import Client, Entry, Misses, Operation, Settings, Store, batches

__all__ = ["SqliteStore"]

_FILE = "kv.sqlite3"
_TIMEOUT_SECONDS = 60.0
# By its documentation a table without rowids is for rows below a twentieth of a page, 4,096 bytes.
_SMALL_RECORD_BYTES = 200


class SqliteStore(Store):
    """A write-ahead log. Readers have a connection each and do not wait for anyone; the threads
    write by one connection under a lock: with one each they wait for each other by sleeping.
    """

    cannot_share_processes = ""
    skips_unchanged = True
    relaxed = "WAL, synchronous=NORMAL: synced by checkpoints"

    def __init__(self, directory: str, settings: Settings) -> None:
        self._path = os.path.join(directory, _FILE)
        self._settings = settings
        self._lock = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        fields = settings.layout.fields
        self._columns = [f"field{number}" for number in range(fields)]
        self._insert = f"INSERT OR REPLACE INTO kv VALUES (?{', ?' * fields})"
        self._select = f"SELECT {', '.join(self._columns)} FROM kv WHERE key = ?"
        self._writer = self._connect()
        self._writer.execute("PRAGMA journal_mode=WAL")
        columns = ", ".join(f"{name} BLOB NOT NULL" for name in self._columns)
        small = settings.layout.record_bytes <= _SMALL_RECORD_BYTES
        self._writer.execute(
            f"CREATE TABLE IF NOT EXISTS kv (key BLOB NOT NULL PRIMARY KEY, {columns})"
            + (" WITHOUT ROWID" if small else "")
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        synchronous = "FULL" if self._settings.durable else "NORMAL"
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute(f"PRAGMA cache_size={-(self._settings.cache_bytes >> 10)}")
        return connection

    def load(self, entries: Iterable[Entry]) -> None:
        split = self._settings.layout.split
        for some in batches(entries):
            self._writer.execute("BEGIN")
            self._writer.executemany(self._insert, [(key, *split(value)) for key, value in some])
            self._writer.execute("COMMIT")
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def client(self) -> Client[Operation]:
        reader = self._connect()
        self._readers.append(reader)  # a list's append is atomic
        misses = Misses()
        read, read_missing, scan = self._reading(reader, misses)
        insert, update, read_modify_write, delete = self._writing(read, misses)
        return Client(read, read_missing, insert, update, read_modify_write, scan, delete, misses)

    def _reading(self, reader: sqlite3.Connection, misses: Misses) -> tuple[Operation, ...]:
        """read, read_missing, scan."""
        query, select = reader.execute, self._select
        ranged = "SELECT * FROM kv WHERE key >= ? ORDER BY key LIMIT ?"

        def read(key: bytes, _argument: None) -> object:
            row = query(select, (key,)).fetchone()
            if row is None:
                misses.lost += 1
            return row

        def read_missing(key: bytes, _argument: None) -> None:
            if query(select, (key,)).fetchone() is not None:
                misses.unexpected += 1

        def scan(key: bytes, length: int) -> int:
            return len(query(ranged, (key, length)).fetchall())

        return read, read_missing, scan

    def _writing(self, read: Operation, misses: Misses) -> tuple[Operation, ...]:
        """insert, update, read_modify_write, delete."""
        execute, lock = self._writer.execute, self._lock
        split, insert_row = self._settings.layout.split, self._insert
        updates = [f"UPDATE kv SET {name} = ? WHERE key = ?" for name in self._columns]

        def insert(key: bytes, record: bytes) -> None:
            with lock:
                execute(insert_row, (key, *split(record)))

        def update(key: bytes, argument: tuple[int, bytes]) -> None:
            with lock:
                changed = execute(updates[argument[0]], (argument[1], key)).rowcount
            if not changed:
                misses.lost += 1

        def read_modify_write(key: bytes, argument: tuple[int, bytes]) -> None:
            read(key, None)
            with lock:
                execute(updates[argument[0]], (argument[1], key))

        def delete(key: bytes, _argument: None) -> None:
            with lock:
                execute("DELETE FROM kv WHERE key = ?", (key,))

        return insert, update, read_modify_write, delete

    def get(self, key: bytes) -> bytes | None:
        row = self._writer.execute(self._select, (key,)).fetchone()
        return None if row is None else b"".join(row)

    def entries(self, reverse: bool) -> Iterator[Entry]:
        order = "DESC" if reverse else "ASC"
        for key, *fields in self._writer.execute(f"SELECT * FROM kv ORDER BY key {order}"):
            yield key, b"".join(fields)

    def close(self) -> None:
        for connection in (*self._readers, self._writer):
            connection.close()
