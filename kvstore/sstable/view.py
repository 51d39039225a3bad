"""View: many tables as one ordered set of entries; point reads. Merge and Cursor: reads in order.

Tables stand in runs, newest first: what a newer run says of a key hides what older ones say.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from itertools import accumulate
from struct import Struct
from typing import Any, NoReturn

from xxhash import xxh3_64_intdigest

from kvstore.errors import KVStoreError, LimitError
from kvstore.native import ffi, lib
from kvstore.sstable.cache import BlockCache
from kvstore.sstable.reader import Table

__all__ = ["NOT_RESIDENT", "Cursor", "Get", "Merge", "View"]

_FOUND, _DELETED, _DAMAGED = lib.KV_FOUND, lib.KV_DELETED, lib.KV_DAMAGED
_NULL = ffi.NULL
_merge_new, _merge_read, _merge_free = lib.kv_merge_new, lib.kv_merge_read, lib.kv_merge_free
_view_scan = lib.kv_view_scan
_NEED_BLOCK, _NEED_ROOM = lib.KV_NEED_BLOCK, lib.KV_NEED_ROOM
_MORE, _END, _NOT_RESIDENT = lib.KV_MORE, lib.KV_END, lib.KV_NOT_RESIDENT
_HASH_MASK = 0xFFFFFFFF

_OUTPUT_BYTES = 256 << 10
_ENTRIES_MAX = 4096
_COUNT_STEP = 65536
_POOL_MAX = 8
_STRUCTS_MAX = 1024
_ALIKE_MIN = 4


Entries = Mapping[bytes, bytes | None]
Get = Callable[[bytes], Any]
"""The value of a key, of type bytes; None when there is none."""

NOT_RESIDENT: Any = object()
"""Instead of a value: it may have to be read from the disk."""


class View:
    """Immutable: the tables of one moment, kept open as long as anything of the view is in use.

    ``runs`` are newest first; the tables within a run are in key order and disjoint. ``stats``
    (kv_view_stats *) may be shared by many views. Thread-safe: lookups take no lock.

    ``get(key)`` is the value of a key of type bytes, or None when it is absent or deleted. Raises
    CorruptionError or StorageIOError, with path and offset, when the answer cannot be known.
    ``get_resident(key)`` is the same, or NOT_RESIDENT when it might have to wait for the disk.
    O(runs * log n), and no more than one data block is read for each run.
    """

    __slots__ = ("_find", "_stats", "c", "cache", "get", "get_resident", "run_of", "tables")

    get: Get
    get_resident: Get

    def __init__(
        self, runs: Sequence[Sequence[Table]], cache: BlockCache, stats: Any = None
    ) -> None:
        filled = [tuple(run) for run in runs if run]
        tables = tuple(table for run in filled for table in run)
        if len(tables) > lib.KV_SLOTS_MAX:
            raise LimitError(f"{len(tables)} tables; a view has at most {lib.KV_SLOTS_MAX}")
        self.tables = tables
        self.run_of = tuple(number for number, run in enumerate(filled) for _ in run)
        """The run of each slot."""
        self.cache = cache
        pointers = ffi.new("kv_table *[]", [table.c for table in tables])
        ends = ffi.new("uint32_t[]", list(accumulate(map(len, filled))))
        c = lib.kv_view_new(pointers, ends, len(filled), ffi.NULL if stats is None else stats)
        if not c:
            raise MemoryError
        # Freed by C alone: Ctrl-C can stop a destructor in Python. The view needs its tables only
        # while it is used, and whoever has ``c`` has them too.
        self.c = ffi.gc(c, lib.kv_view_free)
        self._stats = stats
        # Neither refers to the view itself: a cycle would keep its files open until a collection.
        # Both keep what C points to: ``get`` may outlive the view, while another thread is in it.
        self._find = partial(_find, self.c, tables, cache, stats)
        self.get = self.make_get(({},), None)
        self.get_resident = self.make_get_resident(({},), None)

    def make_get(self, newer: tuple[Entries, ...], absent: Any) -> Get:
        """A ``get`` that first asks the dicts that are ``newer``, newest first, at least one: None
        stands for a deleted key there. ``absent``: something that is no value."""
        find = self._find
        return _make_getter(self.c, lib.kv_view_get, lambda key, _: find(key), newer, absent)

    def make_get_resident(self, newer: tuple[Entries, ...], absent: Any) -> Get:
        """The same, but NOT_RESIDENT when it might have to wait for the disk."""
        find = self._find

        def find_resident(key: bytes, status: int) -> Any:
            return NOT_RESIDENT if status == _NOT_RESIDENT else find(key, only_resident=True)

        return _make_getter(self.c, lib.kv_view_get_resident, find_resident, newer, absent)

    def fetch(self, key: bytes) -> None:
        """Has all that a look-up of ``key`` needs read from the disk: ``get`` reads the pages only
        that it touches, and ``get_resident`` wants whole blocks."""
        lib.kv_view_fetch(self.c, key, len(key), xxh3_64_intdigest(key))

    def may_contain(self, key: bytes) -> bool:
        """False when surely no table has an entry of ``key``. Reads no data block."""
        hashed = xxh3_64_intdigest(key)
        return bool(lib.kv_view_may_contain(self.c, key, len(key), hashed))

    def cursor(
        self, start: bytes | None = None, stop: bytes | None = None, reverse: bool = False
    ) -> Cursor:
        """The entries with start <= key < stop (None: no bound), in order or backwards."""
        return Cursor(self, start, stop, reverse)

    def first(
        self,
        start: bytes | None,
        stop: bytes | None,
        entries_max: int,
        *,
        reverse: bool,
        only_resident: bool = False,
    ) -> tuple[list[tuple[bytes, bytes]], bool]:
        """The first of the entries that a cursor would give, and whether those are all.

        In a third of the time of a cursor, which most scans, being short, then need not have. What
        this cannot give (damage, a compressed block, a long value, what is not resident) is left to
        a cursor that begins behind: then fewer come, or none. Interrupted, it has lost nothing.
        """
        try:
            output = _outputs.pop()
        except IndexError:
            output = _Output(_OUTPUT_BYTES)
        chunk = output.chunk
        status = _view_scan(
            self.c,
            _NULL if start is None else start,
            0 if start is None else len(start),
            _NULL if stop is None else stop,
            0 if stop is None else len(stop),
            reverse,
            only_resident,
            output.bytes,
            output.size,
            output.lengths,
            entries_max if entries_max < _ENTRIES_MAX else _ENTRIES_MAX,
            chunk,
        )
        count = chunk.count
        entries = _entries(output, count) if count else []
        if len(_outputs) < _POOL_MAX:
            _outputs.append(output)
        return entries, status == _END


# Where the kernel copies values to: the memory, and what Python slices it by. As many as there are
# threads in the kernel at the same time.
_value_buffers: list[tuple[Any, Any]] = []


def _make_getter(
    c: Any,
    view_get: Callable[..., int],
    find: Callable[[bytes, int], Any],
    newer: tuple[Entries, ...],
    absent: Any,
) -> Get:
    # Everything that the hot path needs is a local of this closure: no attribute is looked up.
    newest, others = newer[0], newer[1:]
    digest = xxh3_64_intdigest
    take, give_back = _value_buffers.pop, _value_buffers.append

    def get(key: bytes) -> bytes | None:
        if newest:
            value = newest.get(key, absent)
            if value is not absent:
                return value  # type: ignore[no-any-return]
        for other in others:
            value = other.get(key, absent)
            if value is not absent:
                return value  # type: ignore[no-any-return]
        try:
            pair = take()
        except IndexError:
            pair = _new_value_buffer()
        out, memory = pair
        length = view_get(c, key, len(key), digest(key), out)
        if length >= 0:
            found: bytes = memory[:length]
            give_back(pair)
            return found
        give_back(pair)
        return None if length >= _DELETED else find(key, length)

    return get


def _new_value_buffer() -> tuple[Any, Any]:
    out = ffi.new("char[]", lib.KV_VALUE_ROOM)
    return out, ffi.buffer(out)


def _find(
    c: Any,
    tables: tuple[Table, ...],
    cache: BlockCache,
    _stats: Any,
    key: bytes,
    *,
    only_resident: bool = False,
) -> Any:
    """What the hot path cannot do: long values, compressed blocks, damage."""
    found = ffi.new("kv_found *")
    position = ffi.new("uint64_t[2]")
    hashed = xxh3_64_intdigest(key)
    after_slot = -1
    while True:
        lib.kv_view_find(c, key, len(key), hashed, after_slot, only_resident, found)
        status = found.status
        if status == _FOUND:
            start = found.offset
            value: bytes = tables[found.slot].map[start : start + found.length]
            return value
        if status == _DAMAGED:
            raise tables[found.slot].fault()
        if status == _NOT_RESIDENT:
            return NOT_RESIDENT
        if status != _NEED_BLOCK:
            return None
        plain = tables[found.slot].read_block(found.block, cache)
        status = lib.kv_block_find(plain, len(plain), key, len(key), hashed & _HASH_MASK, position)
        if status == _FOUND:
            start, length = position
            return plain[start : start + length]
        if status == _DELETED:
            return None
        after_slot = found.slot


class Merge:
    """The entries of a view with lower <= key < upper in order, or backwards, for a C kernel.

    Whoever runs the kernel on ``c`` gives ``resolve`` what it stopped for. Not thread-safe.
    """

    __slots__ = ("_fed", "_taken", "c", "view")

    def __init__(
        self,
        view: View,
        lower: bytes | None = None,
        upper: bytes | None = None,
        reverse: bool = False,
    ) -> None:
        self.view = view
        self._fed: dict[int, bytes] = {}
        # Of a cursor: whether the kernel may have moved past entries that nobody was given.
        self._taken = False
        c = _merge_new(
            view.c,
            _NULL if lower is None else lower,
            0 if lower is None else len(lower),
            _NULL if upper is None else upper,
            0 if upper is None else len(upper),
            reverse,
        )
        if not c:
            raise MemoryError
        self.c = ffi.gc(c, _merge_free)

    def resolve(self, status: int, chunk: Any) -> None:
        """Answers KV_NEED_BLOCK, so that the kernel can go on; raises what else stopped it."""
        if status == _NEED_BLOCK:
            self._feed(chunk.slot, chunk.block)
        else:
            self._raise(status, chunk)

    def _feed(self, slot: int, block: int) -> None:
        view = self.view
        plain = view.tables[slot].read_block(block, view.cache)
        # The kernel asked for it, so it is done with the block of this run that was here before.
        # Kept before it is given: Ctrl-C may come between the two.
        self._fed[view.run_of[slot]] = plain
        status = lib.kv_merge_feed(self.c, slot, block, plain, len(plain))
        if status < 0:
            raise MemoryError if status == -errno.ENOMEM else RuntimeError(f"feed: {status}")

    def _raise(self, status: int, chunk: Any) -> NoReturn:
        if status == _DAMAGED:
            raise self.view.tables[chunk.slot].fault()
        if status == _NOT_RESIDENT:
            raise BlockingIOError(errno.EAGAIN, "not in memory")
        if status == -errno.ENOMEM:
            raise MemoryError
        raise RuntimeError(f"a merge stopped with status {status}")


class _Output:
    """Where a kernel writes entries: room for ``size`` bytes, and for the lengths of some."""

    __slots__ = ("buffer", "bytes", "chunk", "lengths", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = ffi.new("char[]", size)
        self.buffer: Any = ffi.buffer(self.bytes)  # slices of it are bytes
        self.memory = memoryview(self.buffer)
        self.lengths = ffi.new("uint32_t[]", 2 * _ENTRIES_MAX)
        self.chunk = ffi.new("kv_chunk *")


# Taken for one call at a time, so as many are enough as there are threads that read at once.
_outputs: list[_Output] = []
_structs: dict[tuple[int, int], Struct] = {}


class Cursor(Merge):
    """Reads the live entries of a merge piece by piece. Not thread-safe.

    It shows the tables as they are, for good, and keeps them open until it is dropped.
    """

    __slots__ = ()

    def only_resident(self, only: bool) -> None:
        """From now on BlockingIOError is raised instead of waiting for the disk, or no longer;
        nothing is lost by it."""
        lib.kv_merge_only_resident(self.c, only)

    def read(self, entries_max: int) -> list[tuple[bytes, bytes]]:
        """The next entries, at least one and at most ``entries_max``; none at the end.

        Raises CorruptionError or StorageIOError when it comes to damage, and again if it is called
        again: it never goes on over it. After what else cut a call short (MemoryError, Ctrl-C) it
        goes on when nothing was lost, else every further call is a KVStoreError. O(log runs) an
        entry.
        """
        if self._taken:
            self._refuse()
        entries_max = min(entries_max, _ENTRIES_MAX)
        try:
            output = _outputs.pop()
        except IndexError:
            output = _Output(_OUTPUT_BYTES)
        chunk = output.chunk
        self._taken = True
        status = _merge_read(self.c, output.bytes, output.size, output.lengths, entries_max, chunk)
        count = chunk.count
        entries = _entries(output, count) if count else []
        if count < entries_max and status != _END:
            self._read_on(entries, status, entries_max, output)
        if len(_outputs) < _POOL_MAX:
            _outputs.append(output)
        self._taken = False
        return entries

    def _read_on(
        self, entries: list[tuple[bytes, bytes]], status: int, entries_max: int, output: _Output
    ) -> None:
        """Deals with what stopped the kernel, until there are entries, or the end."""
        while status != _END:
            chunk = output.chunk
            self._taken = bool(entries)
            if status == _NEED_BLOCK and len(entries) < entries_max:
                try:
                    self.resolve(status, chunk)
                except KVStoreError:
                    # Met again by the next call: what comes before the damage is whole.
                    if not entries:
                        raise
                    return
            elif entries:
                return
            elif status == _NEED_ROOM:
                output = _Output(chunk.need)
                chunk = output.chunk
            elif status != _MORE:
                self.resolve(status, chunk)
            left = entries_max - len(entries)
            self._taken = True
            status = _merge_read(self.c, output.bytes, output.size, output.lengths, left, chunk)
            if chunk.count:
                entries += _entries(output, chunk.count)

    def _refuse(self) -> NoReturn:
        raise KVStoreError("a scan was cut short between a read and its result; begin it again")

    def count(self) -> int:
        """How many entries are left; reads them all. About 20 ns an entry, without the GIL.

        Raises as ``read`` does; cut short, it cannot be asked again.
        """
        if self._taken:
            self._refuse()
        chunk = ffi.new("kv_chunk *")
        count = ffi.new("uint64_t *")
        self._taken = True
        while True:
            status = lib.kv_merge_count(self.c, _COUNT_STEP, count, chunk)
            if status == _END:
                self._taken = False
                total: int = count[0]
                return total
            if status != _MORE:
                self.resolve(status, chunk)


def _entries(output: _Output, count: int) -> list[tuple[bytes, bytes]]:
    chunk = output.chunk
    key_length, value_length = chunk.key_length, chunk.value_length
    if count == 1:
        buffer = output.buffer
        return [(buffer[:key_length], buffer[key_length : key_length + value_length])]
    if key_length >= 0 <= value_length and count >= _ALIKE_MIN:
        # Many stores have keys and values of one length each: 25 ns an entry instead of 65.
        layout = _structs.get((key_length, value_length)) or _make_struct(key_length, value_length)
        return list(layout.iter_unpack(output.memory[: count * layout.size]))
    # Of all ways to cut bytes by a list of lengths this is the fastest: the loop is in C.
    pieces = map(BytesIO(output.memory[: chunk.bytes]).read, ffi.unpack(output.lengths, 2 * count))
    return list(zip(pieces, pieces, strict=True))


def _make_struct(key_length: int, value_length: int) -> Struct:
    if len(_structs) >= _STRUCTS_MAX:
        _structs.clear()
    layout = _structs[key_length, value_length] = Struct(f"{key_length}s{value_length}s")
    return layout
