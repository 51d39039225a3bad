"""TableCheck: every byte of a table read again and held against the format's rules."""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from operator import lt
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest

from kvstore.errors import CorruptionError, KVStoreError, StorageIOError
from kvstore.native import ffi, lib
from kvstore.sstable.format import FOOTER_BYTES, HEAD_BYTES, TRAILER_BYTES, decode_ends
from kvstore.sstable.parts import check_plain_part, read_block

if TYPE_CHECKING:
    from kvstore.sstable.reader import Table

__all__ = ["Finding", "TableCheck"]

_HASH_MASK = 0xFFFFFFFF
_PAIR = struct.Struct("<II")
_BLOCK_HEAD = struct.Struct("<IH")
_PORTION_ENTRIES = 4096
_PORTION_BYTES = 1 << 20
Findings = Iterator["Finding"]


class Finding(NamedTuple):
    """Something wrong in a table: where, in bytes from the start of the file, and what."""

    offset: int
    reason: str


class _Entries(NamedTuple):
    """Some of a block's entries, column by column."""

    keys: list[bytes]
    hashes: list[int]
    value_bytes: int
    tombstones: int


class TableCheck:
    """Checks an open table, once. ``blocks`` and ``entries`` count what was found sound.

    Holds one block in memory. Not thread-safe, though the table may be read meanwhile.
    """

    def __init__(self, table: Table) -> None:
        self.blocks = 0
        self.entries = 0
        self._table = table
        self._filter_sound = False
        self._unsound_blocks = 0
        self._tombstones = self._key_bytes = self._value_bytes = 0
        self._first_key = b""

    def findings(self) -> Findings:
        """What is wrong, as it is come upon. About a microsecond an entry.

        Bytes are read from the file; only the index is looked up in the mapping once its bytes have
        proved right. Raises FormatError when a package that decompresses is not installed.
        """
        yield from self._check_ends()
        yield from self._check_filter()
        index_sound = yield from self._check_index()
        if index_sound:
            yield from self._check_blocks()
        yield from self._check_properties(counted=index_sound and not self._unsound_blocks)

    # ---- the small parts ----

    def _check_ends(self) -> Findings:
        table = self._table
        file, size = table.file, table.size
        try:
            if file.size() != size:
                yield Finding(min(size, file.size()), f"the size is no longer {size} bytes")
            ends = decode_ends(
                file.pread(HEAD_BYTES, 0),
                file.pread(FOOTER_BYTES, size - FOOTER_BYTES),
                table.path,
                size,
            )
            if ends != (table.head, table.footer):
                yield Finding(0, "head and footer are no longer those of the file that was opened")
        except KVStoreError as error:
            yield _finding(error, 0)

    def _check_filter(self) -> Findings:
        table, footer = self._table, self._table.footer
        if not footer.filter_length:
            return
        begin, end = footer.gap()
        try:
            if any(table.file.pread(end - begin, begin)):
                yield Finding(begin, "the bytes between data and filter are not zero")
            place = footer.filter_offset, footer.filter_length
            check_plain_part(table.file, *place, table.seed, "the filter")
            self._filter_sound = True
        except (CorruptionError, StorageIOError) as error:
            yield _finding(error, footer.filter_offset)

    def _check_properties(self, *, counted: bool) -> Findings:
        """``counted``: whether the counts are of the whole table."""
        table = self._table
        offset = table.footer.properties_offset
        try:
            found = table.read_properties()
        except (CorruptionError, StorageIOError) as error:
            yield _finding(error, offset)
            return
        if (found.smallest, found.largest) != (table.smallest, table.largest):
            yield Finding(offset, "smallest and largest key are not those that the manifest says")
        if not counted:
            return
        for what, said, is_so in (
            ("entries", found.entries, self.entries),
            ("tombstones", found.tombstones, self._tombstones),
            ("data blocks", found.data_blocks, self.blocks),
            ("key bytes", found.key_bytes, self._key_bytes),
            ("value bytes", found.value_bytes, self._value_bytes),
        ):
            if said != is_so:
                yield Finding(offset, f"the properties say {said} {what}, and there are {is_so}")

    def _check_index(self) -> Generator[Finding, None, bool]:
        """Returns whether the blocks can be found by it. The filter's structure is checked too."""
        table = self._table
        place = table.footer.index_offset, table.footer.index_length
        try:
            check_plain_part(table.file, *place, table.seed, "the index")
        except (CorruptionError, StorageIOError) as error:
            yield _finding(error, table.footer.index_offset)
            return False
        if lib.kv_table_prepare(table.c):
            # The index comes first. What is wrong with the filter may have been said before.
            index_sound = lib.kv_table_blocks(table.c) > 0
            if self._filter_sound or not index_sound:
                yield _finding(table.fault(), table.footer.index_offset)
            self._filter_sound = False
            return index_sound
        return True

    # ---- data ----

    def _check_blocks(self) -> Findings:
        table = self._table
        place = ffi.new("uint64_t[2]")
        count = lib.kv_table_blocks(table.c)
        before = b""  # below every key
        for block in range(count):
            separator = self._separator(block, count)
            lib.kv_table_block_at(table.c, block, place, place + 1)
            offset, stored_bytes = place
            try:
                plain = read_block(table.file, offset, stored_bytes + TRAILER_BYTES, table.seed)
            except (CorruptionError, StorageIOError) as error:
                self._unsound_blocks += 1
                yield _finding(error, offset)
            else:
                reasons = self._check_block(plain, before, separator)
                if block == 0 and not reasons and self._first_key != table.smallest:
                    reasons = ["the first key is not the smallest that the manifest says"]
                self._unsound_blocks += bool(reasons)
                for reason in reasons:
                    yield Finding(offset, reason)
            before = separator
        if before != table.largest:
            yield Finding(table.footer.index_offset, "the last separator is not the largest key")

    def _check_block(self, plain: bytes, before: bytes, separator: bytes) -> list[str]:
        """What is wrong in a block whose keys are to lie between two separators."""
        first = last = b""  # below every key
        ascending = hashes_right = filter_knows = True
        entries = tombstones = key_bytes = value_bytes = 0
        for found in _portions(plain):
            keys = found.keys
            digests = [xxh3_64_intdigest(key) for key in keys]
            ascending = ascending and last < keys[0] and all(map(lt, keys, keys[1:]))
            if [digest & _HASH_MASK for digest in digests] != found.hashes:
                hashes_right = False
            elif self._filter_sound and not self._filter_knows(keys, digests):
                filter_knows = False
            first, last = first or keys[0], keys[-1]
            entries += len(keys)
            tombstones += found.tombstones
            key_bytes += sum(map(len, keys))
            value_bytes += found.value_bytes
        reasons = []
        if not ascending:
            reasons.append("keys do not ascend")
        if not before < first or not last <= separator:
            reasons.append("keys are not within the index's separators")
        if not hashes_right:
            reasons.append("a hash is not that of its key")
        elif not filter_knows:
            reasons.append("the filter denies a key")
        if not reasons:
            self.blocks += 1
            self.entries += entries
            self._first_key = self._first_key or first
            self._tombstones += tombstones
            self._key_bytes += key_bytes
            self._value_bytes += value_bytes
        return reasons

    def _filter_knows(self, keys: list[bytes], digests: list[int]) -> bool:
        c, may_contain = self._table.c, lib.kv_table_may_contain
        return all(
            may_contain(c, key, len(key), digest) for key, digest in zip(keys, digests, strict=True)
        )

    def _separator(self, block: int, count: int) -> bytes:
        """The one behind data block ``block``, from an index that was found sound."""
        data, begin = self._table.map, self._table.footer.index_offset
        key, end = _PAIR.unpack_from(data, begin + 4 + 8 * (count + 1) + 4 * block)
        return data[begin + key : begin + end]


def _portions(plain: bytes) -> Iterator[_Entries]:
    """All of a block whose structure was checked, some entries at a time: their keys take much more
    memory than the block when they share a long prefix."""
    count, prefix_bytes = _BLOCK_HEAD.unpack_from(plain)
    width = lib.KV_BLOCK_ROW
    most = min(count, _PORTION_ENTRIES, _PORTION_BYTES // (prefix_bytes + 1))
    rows = ffi.new("uint64_t[]", most * width)
    prefix_place = ffi.new("uint64_t[2]")
    for begin in range(0, count, most):
        size = min(most, count - begin)
        lib.kv_block_rows(plain, len(plain), begin, rows, size, prefix_place, prefix_place + 1)
        start, length = prefix_place
        yield _portion(plain, plain[start : start + length], ffi.unpack(rows, size * width))


def _portion(plain: bytes, prefix: bytes, numbers: list[int]) -> _Entries:
    width = lib.KV_BLOCK_ROW
    starts, values, ends, deleted, hashes = (numbers[column::width] for column in range(width))
    return _Entries(
        keys=[prefix + plain[a:b] for a, b in zip(starts, values, strict=True)],
        hashes=hashes,
        value_bytes=sum(ends) - sum(values),
        tombstones=sum(deleted),
    )


def _finding(error: KVStoreError, offset: int) -> Finding:
    """An error as a finding; ``offset`` where it has none of its own."""
    if isinstance(error, CorruptionError):
        return Finding(error.offset, error.reason)
    return Finding(offset, str(error))
