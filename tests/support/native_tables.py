"""The kernels that read tables, called from tests as one would wish to call them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from kvstore.native import ffi, lib
from tests.support import table_oracle
from tests.support.table_oracle import Entry, Table, crc32c, hash32

__all__ = ["Damaged", "NativeMerge", "NativeTable", "NativeView"]


class Damaged(Exception):
    """A kernel answered KV_DAMAGED; ``fault`` says of which part."""

    def __init__(self, fault: Any) -> None:
        super().__init__(f"part {fault.part} at {fault.offset}, malformed {fault.malformed}")
        self.fault = fault


class NativeTable:
    """A table in memory, or with ``fd`` that of a file with the same bytes."""

    def __init__(self, data: bytes, parts: Table | None = None, *, fd: int = -1, **changed: int):
        parts = parts or table_oracle.decode(data)
        layout = {
            "fd": fd,
            "seed": crc32c(parts.salt),
            "size": len(data),
            "data_end": parts.data_end,
            "filter_offset": parts.filter_offset,
            "filter_length": parts.filter_length,
            "index_offset": parts.index_offset,
            "index_length": parts.index_length,
        }
        self.data = data
        self.parts = parts
        self._map = ffi.from_buffer(data)
        small, large = parts.smallest, parts.largest
        self.handle = ffi.gc(
            lib.kv_table_new(
                self._map,
                ffi.new("kv_table_layout *", layout | changed),
                small,
                len(small),
                large,
                len(large),
            ),
            lib.kv_table_free,
        )

    def fault(self) -> Any:
        fault = ffi.new("kv_table_fault *")
        lib.kv_table_fault_get(self.handle, fault)
        return fault

    def plain(self, block: int) -> bytes:
        return self.parts.blocks[block].plain

    def may_contain(self, key: bytes) -> bool:
        return bool(lib.kv_table_may_contain(self.handle, key, len(key), hash32(key)))


class NativeView:
    """Runs of tables, newest first."""

    def __init__(self, runs: Sequence[Sequence[NativeTable]]) -> None:
        self.tables = [table for run in runs for table in run]
        self.run_of = [i for i, run in enumerate(runs) for _ in run]
        ends = [sum(map(len, runs[: i + 1])) for i in range(len(runs))]
        self.stats = ffi.new("kv_view_stats *")
        self.handle = ffi.gc(
            lib.kv_view_new(
                ffi.new("kv_table *[]", [table.handle for table in self.tables]),
                ffi.new("uint32_t[]", ends),
                len(ends),
                self.stats,
            ),
            lib.kv_view_free,
        )

    def find(self, key: bytes) -> bytes | None:
        """The value; None when the key is absent or deleted."""
        found, after = ffi.new("kv_found *"), -1
        while True:
            lib.kv_view_find(self.handle, key, len(key), hash32(key), after, False, found)
            if found.status == lib.KV_DAMAGED:
                raise Damaged(self.tables[found.slot].fault())
            if found.status == lib.KV_FOUND:
                data = self.tables[found.slot].data
                return data[found.offset : found.offset + found.length]
            if found.status != lib.KV_NEED_BLOCK:
                assert found.status in (lib.KV_ABSENT, lib.KV_DELETED)
                return None
            plain, place = self.tables[found.slot].plain(found.block), ffi.new("uint64_t[2]")
            status = lib.kv_block_find(plain, len(plain), key, len(key), hash32(key), place)
            if status != lib.KV_ABSENT:
                return None if status == lib.KV_DELETED else plain[place[0] : place[0] + place[1]]
            after = found.slot

    def get(self, key: bytes) -> bytes | None:
        """As find does, by the copy where there is one."""
        out = ffi.new("char[]", lib.KV_VALUE_ROOM)
        length = lib.kv_view_get(self.handle, key, len(key), hash32(key), out)
        if length >= 0:
            return bytes(ffi.buffer(out, length))
        return None if length in (lib.KV_ABSENT, lib.KV_DELETED) else self.find(key)

    def scan(
        self,
        lower: bytes | None,
        upper: bytes | None,
        *,
        reverse: bool = False,
        out_bytes: int = 1 << 20,
        max_entries: int = 1000,
        only_resident: bool = False,
    ) -> tuple[int, list[Entry]]:
        """One call of kv_view_scan: (status, entries)."""
        chunk = ffi.new("kv_chunk *")
        out, lengths = ffi.new("char[]", out_bytes), ffi.new("uint32_t[]", 2 * max_entries)
        status = lib.kv_view_scan(
            self.handle,
            ffi.NULL if lower is None else lower,
            len(lower or b""),
            ffi.NULL if upper is None else upper,
            len(upper or b""),
            reverse,
            only_resident,
            out,
            out_bytes,
            lengths,
            max_entries,
            chunk,
        )
        return status, output_entries(chunk, out, out_bytes, lengths)

    def may_contain(self, key: bytes) -> bool:
        return bool(lib.kv_view_may_contain(self.handle, key, len(key), hash32(key)))


def output_entries(chunk: Any, out: Any, out_bytes: int, lengths: Any) -> list[Entry]:
    """What a kernel has written, held against what it says of it."""
    data, at = bytes(ffi.buffer(out, out_bytes)), 0
    entries: list[Entry] = []
    for i in range(chunk.count):
        key, value = lengths[2 * i], lengths[2 * i + 1]
        entries.append((data[at : at + key], data[at + key : at + key + value]))
        at += key + value
    assert at == chunk.bytes
    keys = {len(key) for key, _ in entries}
    values = {len(value or b"") for _, value in entries}
    for found, told in (keys, chunk.key_length), (values, chunk.value_length):
        assert told == (found.pop() if len(found) == 1 else -1)
    return entries


class NativeMerge:
    """A walk over a view; compressed blocks are given to it as it asks for them."""

    def __init__(
        self,
        view: NativeView,
        lower: bytes | None = None,
        upper: bytes | None = None,
        *,
        reverse: bool = False,
    ) -> None:
        self.view = view
        self.chunk = ffi.new("kv_chunk *")
        self.fed: dict[int, Any] = {}
        self.handle = ffi.gc(
            lib.kv_merge_new(
                view.handle,
                ffi.NULL if lower is None else lower,
                len(lower or b""),
                ffi.NULL if upper is None else upper,
                len(upper or b""),
                reverse,
            ),
            lib.kv_merge_free,
        )

    def feed(self) -> None:
        chunk = self.chunk
        plain = self.view.tables[chunk.slot].plain(chunk.block)
        # A copy, and the one before is overwritten: the merge may no longer look at it.
        run = self.view.run_of[chunk.slot]
        if run in self.fed:
            ffi.buffer(self.fed[run])[:] = b"\xee" * len(ffi.buffer(self.fed[run]))
        self.fed[run] = ffi.new("char[]", plain)
        assert not lib.kv_merge_feed(
            self.handle, chunk.slot, chunk.block, self.fed[run], len(plain)
        )

    def read(self, out_bytes: int = 1 << 20, max_entries: int = 1000) -> tuple[int, list[Entry]]:
        """One call: (status, entries)."""
        out, lengths = ffi.new("char[]", out_bytes), ffi.new("uint32_t[]", 2 * max_entries)
        status = lib.kv_merge_read(self.handle, out, out_bytes, lengths, max_entries, self.chunk)
        return status, output_entries(self.chunk, out, out_bytes, lengths)

    def entries(self, out_bytes: int = 1 << 20, max_entries: int = 1000) -> Iterator[Entry]:
        """All that is left; raises Damaged."""
        while True:
            status, entries = self.read(out_bytes, max_entries)
            yield from entries
            if status == lib.KV_END:
                return
            if status == lib.KV_DAMAGED:
                raise Damaged(self.view.tables[self.chunk.slot].fault())
            if status == lib.KV_NEED_BLOCK:
                self.feed()
            elif status == lib.KV_NEED_ROOM:
                assert not entries
                assert self.chunk.need > out_bytes
                out_bytes = self.chunk.need
            else:
                assert status in (lib.KV_FULL, lib.KV_MORE)
