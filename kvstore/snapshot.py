"""Snapshot: a store as it was at one moment; and the merge of memtables and tables for a scan.

A snapshot is a TreeState and an LSN in its active memtable. It holds no lock and no file: what it
refers to lives as long as it does, also when flushes and compactions have replaced it. It costs the
memory of the memtables it pins and the disk space of the tables it pins, until it is closed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from kvstore.batch import check_key
from kvstore.errors import ClosedError
from kvstore.memtable import ABSENT, MemTable
from kvstore.native import BytesLike
from kvstore.sstable import Cursor
from kvstore.tree import Tree, TreeState

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Pin", "Snapshot", "scan", "scan_range"]

Entry = tuple[bytes, bytes]
Entries = list[tuple[bytes, bytes | None]]

_FIRST_CHUNK = 64
_CHUNK_GROWTH = 4
_CHUNK_MAX = 1024


class Pin:
    """Keeps one moment of a tree readable until ``close``."""

    def __init__(self, tree: Tree) -> None:
        state = tree.state
        self._state: TreeState | None = None  # until it is pinned
        self._lsn = state.memtable.open_snapshot()
        self._state = state

    @property
    def closed(self) -> bool:
        """Whether the moment was let go."""
        return self._state is None

    def close(self) -> None:
        """Lets the moment go. Idempotent."""
        state, self._state = self._state, None
        if state is not None:
            state.memtable.close_snapshot(self._lsn)

    def __del__(self) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """The value; None when there is none."""
        state = self._state
        assert state is not None
        value = state.memtable.get_at(key, self._lsn)
        for memtable in state.sealed:
            if value is not ABSENT:
                break
            value = memtable.get(key, ABSENT)
        return state.view.get(key) if value is ABSENT else value

    def count(self) -> int:
        """The number of keys. O(1) while there are no tables, then O(keys)."""
        state = self._state
        assert state is not None
        if not state.memtable.entry_count and not state.sealed:
            return state.view.cursor().count()
        return sum(map(len, self.chunks(None, None, reverse=False, first_chunk=_CHUNK_MAX)))

    def chunks(
        self, start: bytes | None, stop: bytes | None, *, reverse: bool, first_chunk: int
    ) -> Iterator[list[Entry]]:
        """Entries with start <= key < stop in order, in lists of growing length.

        ``first_chunk``: how many are likely to be wanted.
        """
        state = self._state
        assert state is not None
        sources: list[_Source] = []  # newest first
        for memtable in (state.memtable, *state.sealed):
            if memtable.entry_count:
                lsn = self._lsn if memtable is state.memtable else memtable.last_lsn
                sources.append(_MemorySource(memtable, lsn, start, stop, reverse=reverse))
        if state.view.tables:
            sources.append(_TableSource(state.view.cursor(start, stop, reverse=reverse)))
        size = first_chunk
        while sources:
            if len(sources) == 1:
                entries = sources[0].take_all(size)
            else:
                entries = _take_merged(sources, size, reverse=reverse)
            sources = [source for source in sources if source.entries or source.more]
            live = [entry for entry in entries if entry[1] is not None]
            if live:
                yield live  # type: ignore[misc]
            size = min(size * _CHUNK_GROWTH, _CHUNK_MAX)


class _Source:
    """Entries of one memtable, or of all tables, read ahead in lists."""

    def __init__(self) -> None:
        self.entries: Entries = []
        """Read, and not yet taken."""
        self.more = True

    def read(self, count: int) -> Entries:
        raise NotImplementedError

    def take_all(self, count: int) -> Entries:
        """What was read ahead, or else the next so many."""
        taken = self.entries or self.read(count)
        self.entries = []
        return taken

    def fill(self, count: int) -> None:
        if not self.entries and self.more:
            self.entries = self.read(count)

    def take_until(self, key: bytes, *, reverse: bool) -> Entries:
        """What of it comes no later than ``key``."""
        entries = self.entries
        if reverse:
            index = bisect_left(entries, True, key=lambda entry: entry[0] < key)
        else:
            index = bisect_right(entries, key, key=lambda entry: entry[0])
        self.entries = entries[index:]
        return entries[:index]


class _MemorySource(_Source):
    def __init__(
        self,
        memtable: MemTable,
        lsn: int,
        start: bytes | None,
        stop: bytes | None,
        *,
        reverse: bool,
    ) -> None:
        super().__init__()
        self._memtable, self._lsn = memtable, lsn
        self._start, self._stop, self._reverse = start, stop, reverse
        self._after: bytes | None = None

    def read(self, count: int) -> Entries:
        while True:
            entries, self._after = self._memtable.read_range(
                self._lsn,
                self._start,
                self._stop,
                after=self._after,
                reverse=self._reverse,
                keys_max=count,
            )
            self.more = self._after is not None
            if entries or not self.more:
                return entries


class _TableSource(_Source):
    def __init__(self, cursor: Cursor) -> None:
        super().__init__()
        self._cursor = cursor

    def read(self, count: int) -> Entries:
        entries = self._cursor.read(count)
        self.more = bool(entries)
        return entries  # type: ignore[return-value]


def _take_merged(sources: list[_Source], count: int, *, reverse: bool) -> Entries:
    """The next entries of all sources in order, the newest of each key: as many as are certain,
    which is up to where the first of them, when read further, could have something between."""
    for source in sources:
        source.fill(count)
    ends = [source.entries[-1][0] for source in sources if source.entries and source.more]
    bound = (max(ends) if reverse else min(ends)) if ends else None
    parts: list[Entries] = []
    for source in sources:
        if bound is None:
            part, source.entries = source.entries, []
        else:
            part = source.take_until(bound, reverse=reverse)
        if part:
            parts.append(part)
    if len(parts) == 1:
        return parts[0]
    newest: dict[bytes, bytes | None] = {}
    for part in reversed(parts):
        newest.update(part)
    return [(key, newest[key]) for key in sorted(newest, reverse=reverse)]


class Owner(Protocol):
    """The store that is read."""

    refusal: Callable[[str], Exception] | None
    """Why it can no longer be read; None while it can."""

    def check_open(self) -> None:
        """Raises what ``refusal`` says."""


def scan(
    pin: Pin,
    owner: Owner,
    start: bytes | None,
    stop: bytes | None,
    *,
    reverse: bool,
    limit: int | None,
) -> Iterator[Entry]:
    """One entry after the other, until the range or the limit ends; raises ClosedError when the
    pin or its store was closed meanwhile."""
    first = _FIRST_CHUNK if limit is None else max(1, min(limit, _CHUNK_MAX))
    left = limit
    for chunk in pin.chunks(start, stop, reverse=reverse, first_chunk=first):
        entries = chunk if left is None else chunk[:left]
        for entry in entries:
            if owner.refusal is not None or pin.closed:
                owner.check_open()
                raise ClosedError("the snapshot")
            yield entry
        if left is not None:
            left -= len(entries)
            if not left:
                return


class Snapshot:
    """The store as it was when ``KVStore.snapshot`` was called: ``get`` and ``scan`` show that
    moment, whatever is written, flushed or compacted meanwhile.

    A context manager; to be closed, since it keeps memory and disk space from being reused. Used
    after that, or after the store was closed, it raises ClosedError. Thread-safe.
    """

    def __init__(self, tree: Tree, owner: Owner) -> None:
        self._pin, self._owner = Pin(tree), owner

    def get(self, key: BytesLike, default: Any = None) -> Any:
        """The value of ``key`` at that moment, or ``default``."""
        self._check_open()
        value = self._pin.get(check_key(key))
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
        return scan(self._pin, self._owner, lower, upper, reverse=reverse, limit=limit)

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan())

    def __contains__(self, key: BytesLike) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        self._check_open()
        return self._pin.count()

    def close(self) -> None:
        """Lets go of the moment. Idempotent."""
        self._pin.close()

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
        self._owner.check_open()
        if self._pin.closed:
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
