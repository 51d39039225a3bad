"""What the benchmarks ask of a store, whichever engine it is.

A client is a handful of functions, each called with a key and one argument, so that the loop that
runs a script never asks what kind of operation it has before it:

    read(key, None)                        takes every field; counts a record that is not there
    read_missing(key, None)                counts a record that is there
    insert(key, record)                    the whole record, new or not
    update(key, (field, what it becomes))  one field
    read_modify_write(key, the same)       takes every field, then changes one
    scan(key, length)                      takes the entries from the key on; how many
    delete(key, None)

In a store that knows only values a record is one value, its fields one behind the other.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

__all__ = [
    "FILTER_BITS_PER_KEY",
    "WRITE_BUFFER_BYTES",
    "AsyncOperation",
    "AsyncStore",
    "Capable",
    "Client",
    "Entry",
    "Layout",
    "Misses",
    "Operation",
    "Settings",
    "Span",
    "Store",
    "batches",
    "client_of_values",
    "count",
]

Entry = tuple[bytes, bytes]
Operation = Callable[[bytes, Any], object]
AsyncOperation = Callable[[bytes, Any], Awaitable[object]]
Span = tuple[float, float, str]
"""When something in the background began and ended, in seconds since the epoch, and what it was."""

FILTER_BITS_PER_KEY = 10
WRITE_BUFFER_BYTES = 64 << 20  # as large as our memtables
_BATCH_ENTRIES = 1000

T = TypeVar("T")


@dataclass(frozen=True)
class Layout:
    """What a record is made of."""

    fields: int
    field_bytes: int

    @property
    def record_bytes(self) -> int:
        return self.fields * self.field_bytes

    @property
    def split(self) -> Callable[[bytes], Sequence[bytes]]:
        """Makes the fields of a record; of one of another length: struct.error."""
        return struct.Struct(f"{self.field_bytes}s" * self.fields).unpack


@dataclass(frozen=True)
class Settings:
    """How a store is opened.

    ``durable``: a write is durable when it returns; else the engine's usual way without a sync for
    each. ``data_bytes`` is what it is going to hold, roughly. ``cache_bytes``: for caches of its
    own; beside them there is the page cache.
    """

    durable: bool
    data_bytes: int
    cache_bytes: int
    layout: Layout


@dataclass
class Misses:
    """Reads that found nothing, and reads that found what should not be there; and how many entries
    scans gave out."""

    lost: int = 0
    unexpected: int = 0
    scanned: int = 0


@dataclass(frozen=True)
class Client(Generic[T]):
    """What one thread calls (``Operation``) or a task awaits (``AsyncOperation``); ``scan`` is None
    where there is no order to scan in.
    """

    read: T
    read_missing: T
    insert: T
    update: T
    read_modify_write: T
    scan: T | None
    delete: T
    misses: Misses


class Capable:
    """What an engine cannot do, in words; "" when it can."""

    cannot_sync: ClassVar[str] = ""
    cannot_scan: ClassVar[str] = ""
    cannot_share_threads: ClassVar[str] = ""
    cannot_share_processes: ClassVar[str] = "one process at a time"
    relaxed: ClassVar[str] = ""
    """Its way without a sync for each write."""
    skips_unchanged: ClassVar[bool] = False
    """Whether it writes nothing where a write changes nothing; then it has nothing to sync."""
    repetitions_max: ClassVar[int | None] = None
    """Where more would take too long; None: as many as are asked for."""

    def background(self) -> list[Span]:
        """Flushes and compactions since it was opened, as far as it tells; asked when closed."""
        return []


class Store(Capable, ABC):
    """A store in a directory of its own, which exists."""

    @abstractmethod
    def __init__(self, directory: str, settings: Settings) -> None: ...

    @abstractmethod
    def load(self, entries: Iterable[Entry]) -> None:
        """Writes entries by the fast path of the engine, in their order, and lets it settle."""

    @abstractmethod
    def client(self) -> Client[Operation]:
        """One more, made by the thread that is going to use it, before the clock starts."""

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """A whole record, to verify it."""

    @abstractmethod
    def entries(self, reverse: bool) -> Iterator[Entry]:
        """All of them, in order of their keys."""

    def own_syncs(self) -> int | None:
        """Syncs that only the engine can count; None: they are seen from outside."""
        return None

    @abstractmethod
    def close(self) -> None: ...


class AsyncStore(Capable, ABC):
    """The same for tasks: opened, used and closed in one loop."""

    @abstractmethod
    def __init__(self, directory: str, settings: Settings) -> None: ...

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    def client(self) -> Client[AsyncOperation]: ...

    @abstractmethod
    async def own_syncs(self) -> int | None: ...

    @abstractmethod
    async def close(self) -> None: ...


def client_of_values(
    get: Callable[[bytes], bytes | None],
    put: Callable[[bytes, bytes], object],
    delete: Callable[[bytes], object],
    scan: Operation | None,
    layout: Layout,
) -> Client[Operation]:
    """The client of a store that knows only values. The same few steps around each engine's calls,
    so that they cost all of them the same.
    """
    split, width, misses = layout.split, layout.field_bytes, Misses()

    def read(key: bytes, _argument: None) -> object:
        value = get(key)
        if value is None:
            misses.lost += 1
            return None
        return split(value)

    def read_missing(key: bytes, _argument: None) -> None:
        if get(key) is not None:
            misses.unexpected += 1

    def update(key: bytes, argument: tuple[int, bytes]) -> None:
        value = get(key)
        if value is None:
            misses.lost += 1
            return
        field, becomes = argument
        start = field * width
        put(key, value[:start] + becomes + value[start + width :])

    def read_modify_write(key: bytes, argument: tuple[int, bytes]) -> None:
        value = get(key)
        if value is None:
            misses.lost += 1
            return
        fields = list(split(value))
        fields[argument[0]] = argument[1]
        put(key, b"".join(fields))

    def remove(key: bytes, _argument: None) -> None:
        delete(key)

    return Client(read, read_missing, put, update, read_modify_write, scan, remove, misses)


def count(entries: Iterable[Entry]) -> int:
    """Takes keys and values, as a caller would, and counts them."""
    taken = 0
    for _key, _value in entries:
        taken += 1
    return taken


def batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Entries by the thousand, for engines that load by batches."""
    iterator = iter(entries)
    while batch := list(islice(iterator, _BATCH_ENTRIES)):
        yield batch
