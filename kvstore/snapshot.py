"""Snapshot: a store as it was at one moment; and the merge of memtables and tables for a scan.

A snapshot is a TreeState and an LSN in its active memtable. It holds no lock and no file: what it
refers to lives as long as it does, also when flushes and compactions have replaced it. It costs the
memory of the memtables it pins and the disk space of the tables it pins, until it is closed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from kvstore.access import Access, Entry, RunningScan
from kvstore.batch import check_key
from kvstore.errors import ClosedError
from kvstore.memtable import ABSENT, MemTable
from kvstore.native import BytesLike
from kvstore.sstable import Cursor, View
from kvstore.tree import Tree, TreeState

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Pin", "Snapshot", "end_scans", "scan", "scan_lists", "scan_range"]

Entries = list[tuple[bytes, bytes | None]]
Begun = tuple[View, list[Entry]] | None

_FIRST_CHUNK = 64
_CHUNK_GROWTH = 4
_CHUNK_MAX = 1024
_NOW = 1 << 63  # no LSN is that large


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
        self,
        start: bytes | None,
        stop: bytes | None,
        *,
        reverse: bool,
        first_chunk: int,
        begun: Begun = None,
    ) -> Chunks:
        """Entries with start <= key < stop in order; ``first_chunk``: how many are likely to be
        wanted. ``begun`` is that of Chunks."""
        return Chunks(
            self._pinned(),
            self._lsn,
            start,
            stop,
            reverse=reverse,
            size=first_chunk,
            begun=begun,
        )

    def memtables(self) -> list[MemTable]:
        """Those that a scan reads."""
        state = self._pinned()
        return [*state.sealed] if self._lsn is None else [state.memtable, *state.sealed]


class Chunks:
    """An iterator over the entries of a range, in lists of growing length, none empty.

    ``begun``: what was read of a view before, from the beginning of the range on. What it raises it
    may raise again: it goes on where it was, without a gap.
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
        begun: Begun = None,
    ) -> None:
        self._size, self._reverse = size, reverse
        self._memory = [(memtable, memtable.last_lsn) for memtable in state.sealed]  # newest first
        if lsn is not None:
            self._memory.insert(0, (state.memtable, lsn))
        self._start, self._stop = start, stop
        self._after: bytes | None = None
        """The last key that was handed out, or passed over; of the memtables."""
        self._tables = _TableLists(state.view, start, stop, reverse, begun)
        self._tables_left = bool(state.view.tables)
        self._tables_alone = not self._memory
        self._from_tables: Entries = []
        """Read, and not yet handed out."""

    def only_resident(self, only: bool) -> None:
        """From now on BlockingIOError is raised instead of waiting for the disk, or no longer."""
        self._tables.only_resident(only)

    def __iter__(self) -> Iterator[list[Entry]]:
        return self

    def __next__(self) -> list[Entry]:
        live = self._tables.read(self._size) if self._tables_alone else self._read_merged()
        if not live:
            raise StopIteration
        self._size = min(self._size * _CHUNK_GROWTH, _CHUNK_MAX)
        return live

    def _read_merged(self) -> list[Entry]:
        while self._memory or self._tables_left:
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
        if not self._from_tables and self._tables_left:
            self._from_tables = [*self._tables.read(self._size)]
            self._tables_left = bool(self._from_tables)
        tables, reverse = self._from_tables, self._reverse
        parts, bound = _read_memory(
            self._memory,
            self._start,
            self._stop,
            after=self._after,
            until=tables[-1][0] if tables else None,
            reverse=reverse,
            keys_max=self._size,
        )
        if bound is None:
            self._memory, self._from_tables = [], []
            return _newest_of([*parts, tables], reverse=reverse)
        taken = _count_until(tables, bound, reverse=reverse)
        self._after, self._from_tables = bound, tables[taken:]
        return _newest_of([*parts, tables[:taken]], reverse=reverse)


def _read_memory(
    memory: list[tuple[MemTable, int]],
    start: bytes | None,
    stop: bytes | None,
    *,
    after: bytes | None,
    until: bytes | None,
    reverse: bool,
    keys_max: int,
) -> tuple[list[Entries], bytes | None]:
    """What memtables have of a range behind ``after`` and up to ``until``, at those LSNs; and the
    key up to which that is all: ``until``, or one before it, when they have more than is wanted.
    """
    parts: list[Entries] = []
    bound = until
    for memtable, lsn in memory:
        part, last = memtable.read_range(
            lsn, start, stop, after=after, until=bound, reverse=reverse, keys_max=keys_max
        )
        bound = bound if last is None else last
        parts.append(part)
    if bound is not None and bound is not until:
        parts = [part[: _count_until(part, bound, reverse=reverse)] for part in parts]
    return parts, bound


class _TableLists:
    """The entries of a view in a range, list by list: the first without a cursor, which most scans
    then need not have.
    """

    __slots__ = (
        *("_begun", "_cursor", "_ended", "_is_begun", "_only_resident"),
        *("_reverse", "_start", "_stop", "_view"),
    )

    def __init__(
        self,
        view: View,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        begun: Begun,
    ) -> None:
        self._view, self._start, self._stop, self._reverse = view, start, stop, reverse
        self._begun = begun[1] if begun is not None and begun[0] is view else None
        self._is_begun = self._only_resident = False
        self._ended = not view.tables
        self._cursor: Cursor | None = None

    def only_resident(self, only: bool) -> None:
        self._only_resident = only
        if self._cursor is not None:
            self._cursor.only_resident(only)

    def read(self, entries_max: int) -> list[Entry]:
        """The next entries, at least one and at most ``entries_max`` but for those that were begun
        with; none at the end. Raises as Cursor.read does.
        """
        if self._ended:
            return []
        if not self._is_begun:
            entries = self._read_first(entries_max) if self._begun is None else self._begun
            self._is_begun = True
            if entries:
                last = entries[-1][0]
                if self._reverse:
                    self._stop = last
                else:
                    self._start = last + b"\0"
            if entries or self._ended:
                return entries
        if self._cursor is None:
            self._cursor = self._view.cursor(self._start, self._stop, self._reverse)
            self._cursor.only_resident(self._only_resident)
        return self._cursor.read(entries_max)

    def _read_first(self, entries_max: int) -> list[Entry]:
        entries, self._ended = self._view.first(
            self._start,
            self._stop,
            entries_max,
            reverse=self._reverse,
            only_resident=self._only_resident,
        )
        return entries


def _count_until(
    entries: Sequence[tuple[bytes, bytes | None]], key: bytes, *, reverse: bool
) -> int:
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
    return chain.from_iterable(
        scan_lists(access, source, start, stop, reverse=reverse, limit=limit)
    )


def scan_lists(
    access: Access,
    source: Tree | Pin,
    start: bytes | None,
    stop: bytes | None,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[list[Entry]]:
    """The lists that ``scan`` takes its entries from."""
    if access.refusal is not None:
        access.refuse()
    if limit == 0:
        return
    size = _FIRST_CHUNK if limit is None else min(limit, _CHUNK_MAX)
    pin: Pin | None = None
    running = RunningScan(source)
    access.scans.add(running)
    try:
        if isinstance(source, Pin):
            chunks = source.chunks(start, stop, reverse=reverse, first_chunk=size)
        else:
            state = source.state
            entries, are_all, read = _first_list(state, start, stop, reverse=reverse, size=size)
            if are_all or (limit is not None and len(entries) >= limit):
                # Most scans end here, and need neither a pin nor a cursor.
                running.entries = entries = entries[:limit]
                if access.refusal is None:
                    yield entries
                if access.refusal is not None:
                    access.refuse()
                return
            pin = Pin(source)
            chunks = pin.chunks(
                start, stop, reverse=reverse, first_chunk=size, begun=(state.view, read)
            )
        yield from _give_out(access, source, running, chunks, limit)
    finally:
        access.scans.discard(running)
        if pin is not None:
            pin.close()


def _first_list(
    state: TreeState, start: bytes | None, stop: bytes | None, *, reverse: bool, size: int
) -> tuple[list[Entry], bool, list[Entry]]:
    """The first entries of a range at one moment of this call; whether those are all; and what was
    read from the tables for it.

    The moment need not be pinned: the memtable that is written to is read once, and everything else
    never changes.
    """
    tables, are_all = state.view.first(start, stop, size, reverse=reverse)
    if not state.recent and not state.sealed:
        return tables, are_all, tables
    if not tables and not are_all:
        return [], False, tables  # whatever it is that a cursor has to deal with
    until = None if are_all else tables[-1][0]
    parts, bound = _read_memory(
        [(memtable, _NOW) for memtable in (state.memtable, *state.sealed)],
        start,
        stop,
        after=None,
        until=until,
        reverse=reverse,
        keys_max=size,
    )
    if not any(parts) and bound is until:
        return tables, are_all, tables
    older = tables if bound is None else tables[: _count_until(tables, bound, reverse=reverse)]
    newest = _newest_of([*parts, [*older]], reverse=reverse)
    return [(key, value) for key, value in newest if value is not None], bound is None, tables


def _give_out(
    access: Access,
    source: Tree | Pin,
    running: RunningScan,
    chunks: Iterator[list[Entry]],
    left: int | None,
) -> Iterator[list[Entry]]:
    for chunk in chunks:
        entries = chunk if left is None else chunk[:left]
        if left is not None:
            left -= len(entries)
        running.entries = entries
        if access.refusal is None and source.state is not None:
            yield entries
        if access.refusal is not None or source.state is None:
            break
        if left is not None and left <= 0:
            return
    if access.refusal is not None or source.state is None:
        # What was read while somebody closed it may lack entries.
        access.check_open()
        raise ClosedError("the snapshot")


def end_scans(access: Access, pin: Pin | None = None) -> None:
    """Has the running scans (of ``pin``, or all) meet that what they read was closed."""
    for running in list(access.scans):
        if pin is None or running.source is pin:
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
