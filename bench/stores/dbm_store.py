"""dbm of the standard library: what of GNU dbm, SQLite (from Python 3.13) and "dumb" is here."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.stores.base import Client, Entry, Operation, Settings, Store, client_of_values

__all__ = ["KIND", "DbmStore"]

_FILE = "kv"
_KINDS = ("gnu", "sqlite3", "dumb")


def _import_kind() -> tuple[str, Any]:
    for kind in _KINDS:
        with contextlib.suppress(ImportError):
            return kind, importlib.import_module(f"dbm.{kind}")
    raise ImportError("dbm has no kind here")


KIND, _module = _import_kind()
"""Which it is."""


class DbmStore(Store):
    """Nothing of it is safe among threads, so they share a lock; none scans from a key."""

    cannot_sync = "" if KIND == "gnu" else f"dbm.{KIND} never syncs"
    cannot_scan = f"dbm.{KIND} has no scan from a key"
    cannot_share_threads = "its connection is the thread's" if KIND == "sqlite3" else ""
    relaxed = {
        "gnu": 'opened with "c": the kernel writes when it likes',
        "sqlite3": "WAL, synchronous=OFF, as dbm.sqlite3 has it",
        "dumb": "all it has; what a crash leaves need not fit together",
    }[KIND]
    # dumb evaluates its index as Python, line by line: ten seconds to open a million records.
    repetitions_max = 1 if KIND == "dumb" else None

    def __init__(self, directory: str, settings: Settings) -> None:
        self._layout = settings.layout
        flags = "cs" if settings.durable else "c"
        self._db = _module.open(os.path.join(directory, _FILE), flags)
        self._lock = threading.Lock()

    def load(self, entries: Iterable[Entry]) -> None:
        db = self._db
        for key, value in entries:
            db[key] = value
        if KIND != "sqlite3":
            db.sync()

    def client(self) -> Client[Operation]:
        db, lock = self._db, self._lock

        def get(key: bytes) -> bytes | None:
            with lock:
                value: bytes | None = db.get(key)
                return value

        def put(key: bytes, value: bytes) -> None:
            with lock:
                db[key] = value

        def delete(key: bytes) -> None:
            with lock:
                if key in db:
                    del db[key]

        return client_of_values(get, put, delete, None, self._layout)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def entries(self, reverse: bool) -> Iterator[Entry]:
        """All keys sorted first, as it has no order of its own."""
        db: Any = self._db
        get: Callable[[bytes], bytes] = db.__getitem__
        for key in sorted(db.keys(), reverse=reverse):
            yield key, get(key)

    def close(self) -> None:
        self._db.close()
