"""Snapshot: a store as it was at one moment; and the merge of memtables and tables for a scan.

A snapshot is a TreeState and an LSN in its active memtable. It holds no lock and no file: what it
refers to lives as long as it does, also when flushes and compactions have replaced it. It costs the
memory of the memtables it pins and the disk space of the tables it pins, until it is closed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from kvstore.access import Access, Entry, RunningScan
from kvstore.batch import check_key
from kvstore.errors import ClosedError
from kvstore.memtable import ABSENT, MemTable
from kvstore.native import BytesLike
from kvstore.tree import Tree, TreeState

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Pin", "Snapshot", "end_scans", "scan", "scan_range"]

Entries = list[tuple[bytes, bytes | None]]

_FIRST_CHUNK = 64
_CHUNK_GROWTH = 4
_CHUNK_MAX = 1024


class Pin:
    """Keeps one moment of a tree readable until ``close``."""

    __slots__ = ("_lsn", "state")

    def __init__(self, tree: Tree) -> None:
        self.state: TreeState | None = None  # until it is pinned, and after close
        state = tree.state
        # What comes into a memtable that is empty now is not looked at.
        self._lsn = state.memtable.open_snapshot() if state.memtable.entry_count else None
        self.state = state

    def close(self) -> None:
        """Lets the moment go. Idempotent."""
        state, self.state = self.state, None
        if state is not None and self._lsn is not None:
            state.memtable.close_snapshot(self._lsn)

    def _pinned(self) -> TreeState:
        state = self.state
        if state is None:
            raise ClosedError("the snapshot")
        return state

    def get(self, key: bytes) -> bytes | None:
        """The value; None when there is none."""
        state = self._pinned()
        value = self._get_memory(state, key)
        return state.view.get(key) if value is ABSENT else value  # type: ignore[no-any-return]

    def get_resident(self, key: bytes) -> Any:
        """The same, or NOT_RESIDENT when that might have to be read from the disk."""
        state = self._pinned()
        value = self._get_memory(state, key)
        return state.view.get_resident(key) if value is ABSENT else value

    def fetch(self, key: bytes) -> bytes | None:
        """``get`` of a key that was NOT_RESIDENT: the next ``get_resident`` finds it in memory."""
        self._pinned().view.fetch(key)
        return self.get(key)

    def _get_memory(self, state: TreeState, key: bytes) -> Any:
        value = ABSENT if self._lsn is None else state.memtable.get_at(key, self._lsn)
        for memtable in state.sealed:
            if value is not ABSENT:
                break
            value = memtable.get(key, ABSENT)
        return value

    def count(self) -> int:
        """The number of keys. O(keys)."""
        state = self._pinned()
        if self._lsn is None and not state.sealed:
            return state.view.cursor().count()
        return sum(map(len, self.chunks(None, None, reverse=False, first_chunk=_CHUNK_MAX)))

    def chunks(
        self, start: bytes | None, stop: bytes | None, *, reverse: bool, first_chunk: int
    ) -> Chunks:
        """Entries with start <= key < stop in order; ``first_chunk``: how many are likely to be
        wanted."""
        return Chunks(self._pinned(), self._lsn, start, stop, reverse=reverse, size=first_chunk)

    def memtables(self) -> list[MemTable]:
        """Those that a scan reads."""
        state = self._pinned()
        return [*state.sealed] if self._lsn is None else [state.memtable, *state.sealed]


class Chunks:
    """An iterator over the entries of a range, in lists of growing length, none empty.

    What it raises it may raise again: it goes on where it was, without a gap.
    """

    def __init__(
        self,
        state: TreeState,
        lsn: int | None,
        start: bytes | None,
        stop: bytes | None,
        *,
        reverse: bool,
        size: int,
    ) -> None:
        self._size, self._reverse = size, reverse
        self._memory = [(memtable, memtable.last_lsn) for memtable in state.sealed]  # newest first
        if lsn is not None:
            self._memory.insert(0, (state.memtable, lsn))
        self._start, self._stop = start, stop
        self._after: bytes | None = None
        """The last key that was handed out, or passed over; of the memtables."""
        self._tables = state.view.cursor(start, stop, reverse) if state.view.tables else None
        self._tables_alone = not self._memory
        self._from_tables: Entries = []
        """Read, and not yet handed out."""

    def only_resident(self, only: bool) -> None:
        """From now on BlockingIOError is raised instead of waiting for the disk, or no longer."""
        if self._tables is not None:
            self._tables.only_resident(only)

    def __iter__(self) -> Iterator[list[Entry]]:
        return self

    def __next__(self) -> list[Entry]:
        live = self._read_tables() if self._tables_alone else self._read_merged()
        if not live:
            raise StopIteration
        self._size = min(self._size * _CHUNK_GROWTH, _CHUNK_MAX)
        return live

    def _read_tables(self) -> list[Entry]:
        return self._tables.read(self._size) if self._tables is not None else []

    def _read_merged(self) -> list[Entry]:
        while self._memory or self._tables is not None:
            merged = self._take_merged()
            if live := [entry for entry in merged if entry[1] is not None]:
                return live  # type: ignore[return-value]
            self._size = min(self._size * _CHUNK_GROWTH, _CHUNK_MAX)  # many are deleted here
        return []

    def _take_merged(self) -> Entries:
        """The next entries in order, the newest of each key: those up to the last that was read
        from the tables, or up to where a memtable has more keys than are wanted at once.

        Memtables are asked for that range only: they often have few of its keys.
        """
        if not self._from_tables and self._tables is not None:
            self._from_tables = [*self._tables.read(self._size)]
            if not self._from_tables:
                self._tables = None
        bound = self._from_tables[-1][0] if self._from_tables else None
        parts: list[Entries] = []
        for memtable, lsn in self._memory:
            part, last = memtable.read_range(
                lsn,
                self._start,
                self._stop,
                after=self._after,
                until=bound,
                reverse=self._reverse,
                keys_max=self._size,
            )
            bound = bound if last is None else last
            parts.append(part)
        parts.append(self._from_tables)
        if bound is None:
            merged = _newest_of(parts, reverse=self._reverse)
            self._memory, self._from_tables = [], []
            return merged
        parts = [part[: _count_until(part, bound, reverse=self._reverse)] for part in parts]
        merged = _newest_of(parts, reverse=self._reverse)
        self._after, self._from_tables = bound, self._from_tables[len(parts[-1]) :]
        return merged


def _count_until(entries: Entries, key: bytes, *, reverse: bool) -> int:
    """How many of them come no later than ``key``."""
    if not entries or entries[-1][0] == key:
        return len(entries)
    if reverse:
        return bisect_left(entries, True, key=lambda entry: entry[0] < key)
    return bisect_right(entries, key, key=lambda entry: entry[0])


def _newest_of(parts: list[Entries], *, reverse: bool) -> Entries:
    """All entries of lists in order, those of the first ones before others of the same key."""
    parts = [part for part in parts if part]
    if len(parts) == 1:
        return parts[0]
    newest: dict[bytes, bytes | None] = {}
    for part in reversed(parts):
        newest.update(part)
    return [(key, newest[key]) for key in sorted(newest, reverse=reverse)]


def scan(
    access: Access,
    source: Tree | Pin,
    start: bytes | None,
    stop: bytes | None,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[Entry]:
    """One entry after the other, until the range or the limit ends; raises ClosedError when the
    store, or the pin, was closed meanwhile.

    Of a tree, the moment when the first entry is asked for. No Python runs for an entry but the
    caller's: it comes from a list (half the time of a generator's). So whoever closes the store
    empties the list, the iterator asks for the next one, and is told.
    """
    return chain.from_iterable(_scan(access, source, start, stop, reverse=reverse, limit=limit))


def _scan(
    access: Access,
    source: Tree | Pin,
    start: bytes | None,
    stop: bytes | None,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[list[Entry]]:
    access.check_open()
    pin = source if isinstance(source, Pin) else Pin(source)
    running = RunningScan(pin)
    access.scans.add(running)
    try:
        first = _FIRST_CHUNK if limit is None else max(1, min(limit, _CHUNK_MAX))
        chunks = pin.chunks(start, stop, reverse=reverse, first_chunk=first)
        yield from _give_out(access, pin, running, chunks, limit)
    finally:
        access.scans.discard(running)
        if pin is not source:
            pin.close()


def _give_out(
    access: Access,
    pin: Pin,
    running: RunningScan,
    chunks: Iterator[list[Entry]],
    left: int | None,
) -> Iterator[list[Entry]]:
    for chunk in chunks:
        entries = chunk if left is None else chunk[:left]
        if left is not None:
            left -= len(entries)
        running.entries = entries
        if access.refusal is None and pin.state is not None:
            yield entries
        if access.refusal is not None or pin.state is None:
            break
        if left is not None and left <= 0:
            return
    if access.refusal is not None or pin.state is None:
        # What was read while somebody closed it may lack entries.
        access.check_open()
        raise ClosedError("the snapshot")


def end_scans(access: Access, pin: Pin | None = None) -> None:
    """Has the running scans (of ``pin``, or all) meet that what they read was closed."""
    for running in list(access.scans):
        if pin is None or running.pin is pin:
            running.entries.clear()


class Snapshot:
    """The store as it was when ``KVStore.snapshot`` was called: ``get`` and ``scan`` show that
    moment, whatever is written, flushed or compacted meanwhile.

    A context manager; to be closed, since it keeps memory and disk space from being reused. Used
    after that, or after the store was closed, it raises ClosedError. Thread-safe.
    """

    def __init__(self, tree: Tree, access: Access) -> None:
        self._access = access
        self._pin = Pin(tree)

    def __del__(self) -> None:
        if hasattr(self, "_pin"):  # else Ctrl-C came while it was made
            self._pin.close()

    def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key`` at that moment, or ``default``."""
        self._check_open()
        value = self._pin.get(check_key(key))
        self._check_open()  # else another thread may have let go what was being read
        return default if value is None else value

    def scan(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[Entry]:
        """(key, value) pairs at that moment, as ``KVStore.scan`` gives them."""
        self._check_open()
        lower, upper = scan_range(start, stop, prefix, limit)
        return scan(self._access, self._pin, lower, upper, reverse=reverse, limit=limit)

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan())

    def __contains__(self, key: BytesLike) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        self._check_open()
        count = self._pin.count()
        self._check_open()  # else what was counted may have been let go meanwhile
        return count

    def close(self) -> None:
        """Lets go of the moment. Idempotent."""
        self._pin.close()
        end_scans(self._access, self._pin)

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        self._access.check_open()
        if self._pin.state is None:
            raise ClosedError("the snapshot")


def scan_range(
    start: BytesLike | None, stop: BytesLike | None, prefix: BytesLike | None, limit: int | None
) -> tuple[bytes | None, bytes | None]:
    """The bounds of a scan: those given, narrowed to the keys that begin with ``prefix``."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    lower = None if start is None else bytes(memoryview(start))
    upper = None if stop is None else bytes(memoryview(stop))
    if prefix is not None:
        first = bytes(memoryview(prefix))
        lower = first if lower is None else max(lower, first)
        # The first key behind all with the prefix: its last byte that can be raised, raised.
        trimmed = first.rstrip(b"\xff")
        if trimmed:
            behind = trimmed[:-1] + bytes([trimmed[-1] + 1])
            upper = behind if upper is None else min(upper, behind)
    return lower, upper
