"""LMDB, a transaction for each operation, one writer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from bench.stores.base import (
    Client,
    Entry,
    Layout,
    Misses,
    Operation,
    Settings,
    Store,
    batches,
    count,
)

__all__ = ["LmdbStore"]

_SPARE_BYTES = 1 << 30
Begin = Callable[..., Any]


class LmdbStore(Store):
    """The map is the cache. A read transaction that is kept would show old data, so each operation
    has its own; an update reads and writes in one.
    """

    cannot_share_processes = ""
    relaxed = "sync=False, metasync=False: the kernel writes when it likes"

    def __init__(self, directory: str, settings: Settings) -> None:
        import lmdb

        self._layout = settings.layout
        self._env = lmdb.open(
            directory,
            map_size=4 * settings.data_bytes + _SPARE_BYTES,  # address space, not disk
            sync=settings.durable,
            metasync=settings.durable,
            readahead=settings.cache_bytes >= settings.data_bytes,  # its advice for large data
            max_readers=1024,
        )

    def load(self, entries: Iterable[Entry]) -> None:
        for some in batches(entries):
            with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(some)
        self._env.sync(True)

    def client(self) -> Client[Operation]:
        misses = Misses()
        read, read_missing, scan = _readers(self._env.begin, self._layout, misses)
        insert, update, read_modify_write, delete = _writers(self._env.begin, self._layout, misses)
        return Client(read, read_missing, insert, update, read_modify_write, scan, delete, misses)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def entries(self, reverse: bool) -> Iterator[Entry]:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            if reverse:
                yield from cursor.iterprev()
            else:
                yield from cursor.iternext()

    def close(self) -> None:
        self._env.close()


def _readers(begin: Begin, layout: Layout, misses: Misses) -> tuple[Operation, ...]:
    """read, read_missing, scan."""
    split = layout.split

    def read(key: bytes, _argument: None) -> object:
        with begin() as transaction:
            value = transaction.get(key)
        if value is None:
            misses.lost += 1
            return None
        return split(value)

    def read_missing(key: bytes, _argument: None) -> None:
        with begin() as transaction:
            if transaction.get(key) is not None:
                misses.unexpected += 1

    def scan(key: bytes, length: int) -> int:
        with begin() as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(key):
                return 0
            return count(islice(cursor.iternext(), length))

    return read, read_missing, scan


def _writers(begin: Begin, layout: Layout, misses: Misses) -> tuple[Operation, ...]:
    """insert, update, read_modify_write, delete."""
    split, width = layout.split, layout.field_bytes

    def insert(key: bytes, record: bytes) -> None:
        with begin(write=True) as transaction:
            transaction.put(key, record)

    def update(key: bytes, argument: tuple[int, bytes]) -> None:
        field, becomes = argument
        start = field * width
        with begin(write=True) as transaction:
            value = transaction.get(key)
            if value is None:
                misses.lost += 1
                return
            transaction.put(key, value[:start] + becomes + value[start + width :])

    def read_modify_write(key: bytes, argument: tuple[int, bytes]) -> None:
        with begin(write=True) as transaction:
            value = transaction.get(key)
            if value is None:
                misses.lost += 1
                return
            fields = list(split(value))
            fields[argument[0]] = argument[1]
            transaction.put(key, b"".join(fields))

    def delete(key: bytes, _argument: None) -> None:
        with begin(write=True) as transaction:
            transaction.delete(key)

    return insert, update, read_modify_write, delete
