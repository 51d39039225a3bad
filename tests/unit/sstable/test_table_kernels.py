"""One table: its parts are checked before their first use, whatever is in the file."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from kvstore.native import ffi, lib
from tests.support import table_oracle
from tests.support.native_tables import Damaged, NativeMerge, NativeTable, NativeView
from tests.support.table_oracle import Entry, Table, crc32c, decode, encode, hash32, part
from tests.support.table_strategies import entry_lists

ENTRIES: list[Entry] = [
    (b"key%03d" % i, None if i % 5 == 0 else b"value" * (i % 4)) for i in range(24)
]
SMALL = encode(ENTRIES, block_bytes=150)
PARTS = decode(SMALL)


def replace_part(parts: Table, data: bytes, offset: int, length: int, stored: bytes) -> bytes:
    """The table with another part of the same length there, its checksum right."""
    new = part(stored, offset, parts.salt)
    assert len(new) == length
    return data[:offset] + new + data[offset + length :]


def index_of(data: bytes, parts: Table) -> bytes:
    return data[parts.index_offset : parts.index_offset + parts.index_length - 9]


def outcomes(table: NativeTable, entries: list[Entry]) -> set[str]:
    """What the gets of all entries came to; a wrong answer fails the test."""
    view = NativeView([[table]])

    def outcome(key: bytes, value: bytes | None) -> str:
        try:
            assert view.get(key) == value
        except Damaged:
            return "damaged"
        return "right"

    return {outcome(key, value) for key, value in entries}


@settings(max_examples=40, deadline=None)
@given(entries=entry_lists())
def test_blocks_are_where_the_oracle_put_them(entries: list[Entry]) -> None:
    table = NativeTable(encode(entries, block_bytes=100))
    assert lib.kv_table_blocks(table.handle) == 0
    assert lib.kv_table_prepare(table.handle) == 0
    assert lib.kv_table_blocks(table.handle) == len(table.parts.blocks)
    offset, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    for i, block in enumerate(table.parts.blocks):
        lib.kv_table_block_at(table.handle, i, offset, length)
        assert (offset[0], length[0]) == (block.offset, block.length - 9)
        assert lib.kv_table_check_block(table.handle, i) == 0
    assert table.fault().part == 0


@settings(max_examples=40, deadline=None)
@given(entries=entry_lists(), others=entry_lists())
def test_the_filter_knows_every_key_and_is_the_oracles(
    entries: list[Entry], others: list[Entry]
) -> None:
    data = encode(entries)
    table = NativeTable(data)
    filter_ = data[table.parts.filter_offset :]
    lines, probes = struct.unpack_from("<II", filter_)
    for key, _ in entries + others:
        line, bits = table_oracle.filter_positions(hash32(key), lines, probes)
        at = 64 + 64 * line
        held = all(filter_[at + bit // 8] >> bit % 8 & 1 for bit in bits)
        within = table.parts.smallest <= key <= table.parts.largest
        assert table.may_contain(key) == (held and within)


@pytest.mark.parametrize("kinds", [(0,), (1, 0, 2)], ids=["plain", "compressed"])
def test_with_any_byte_of_a_table_wrong_gets_are_right_or_say_damaged(kinds: tuple[int]) -> None:
    data = encode(ENTRIES, block_bytes=150, kinds=kinds)
    parts = decode(data)
    silent = []
    for at in range(32, parts.properties_offset):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        table = NativeTable(bytes(flipped), parts)
        if outcomes(table, ENTRIES) == {"right"}:
            silent.append(at)
        assert all(table.may_contain(key) for key, _ in ENTRIES)
    # Only the zeros before the filter belong to no part.
    assert silent == list(range(parts.data_end, parts.filter_offset))


def test_a_flipped_bit_is_reported_with_both_checksums() -> None:
    block = PARTS.blocks[1]
    flipped = bytearray(SMALL)
    flipped[block.offset + 20] ^= 4
    table = NativeTable(bytes(flipped), PARTS)
    assert lib.kv_table_check_block(table.handle, 1) == lib.KV_DAMAGED
    fault = table.fault()
    body = bytes(flipped[block.offset : block.offset + block.length - 4])
    seed = crc32c(struct.pack("<Q", block.offset), crc32c(PARTS.salt))
    stored = struct.unpack_from("<I", flipped, block.offset + block.length - 4)[0]
    assert (fault.part, fault.error, fault.malformed) == (lib.KV_PART_DATA, 0, 0)
    assert (fault.offset, fault.expected) == (block.offset, stored)
    assert fault.actual == crc32c(body, seed)


def test_a_part_at_another_place_or_of_another_table_is_damage() -> None:
    a, b = PARTS.blocks[0], PARTS.blocks[1]
    assert a.length == b.length, "the test wants two blocks that fit each other's place"
    moved = bytearray(SMALL)
    moved[b.offset : b.offset + b.length] = SMALL[a.offset : a.offset + a.length]
    table = NativeTable(bytes(moved), PARTS)
    assert lib.kv_table_check_block(table.handle, 1) == lib.KV_DAMAGED
    other = encode(ENTRIES, block_bytes=150, salt=b"another salt 16b")
    mixed = SMALL[: a.offset] + other[a.offset : a.offset + a.length] + SMALL[b.offset :]
    assert lib.kv_table_check_block(NativeTable(mixed, PARTS).handle, 0) == lib.KV_DAMAGED


def u32(value: int) -> Callable[[bytes, int], bytes]:
    return lambda old, at: old[:at] + struct.pack("<I", value % 2**32) + old[at + 4 :]


def u64(value: int) -> Callable[[bytes, int], bytes]:
    return lambda old, at: old[:at] + struct.pack("<Q", value % 2**64) + old[at + 8 :]


M = len(PARTS.blocks)
KEYS_AT = 4 + 8 * (M + 1)


@pytest.mark.parametrize(
    ("at", "change"),
    [
        (0, u32(0)),
        (0, u32(M - 1)),
        (0, u32(2**32 - 1)),
        (4, u64(0)),
        (12, u64(32)),  # a block without bytes
        (12, u64(2**63)),
        (12, u64(-1)),
        (20, u64(33)),  # not ascending
        (4 + 8 * M, u64(2**40)),  # data that ends elsewhere
        (KEYS_AT, u32(0)),
        (KEYS_AT + 4, u32(2**32 - 1)),
        (KEYS_AT + 4 * M, u32(2**31)),
        (KEYS_AT + 4 * (M + 1), u32(-1)),  # separators out of order
        (-4, u32(-1)),  # the last separator is not the largest key
    ],
)
def test_an_index_with_the_right_checksum_and_a_broken_structure_is_malformed(
    at: int, change: Callable[[bytes, int], bytes]
) -> None:
    index = index_of(SMALL, PARTS)
    broken = change(index, at % len(index))
    data = replace_part(PARTS, SMALL, PARTS.index_offset, PARTS.index_length, broken)
    table = NativeTable(data, PARTS)
    assert lib.kv_table_prepare(table.handle) == lib.KV_DAMAGED
    assert (table.fault().part, table.fault().malformed) == (lib.KV_PART_INDEX, 1)
    assert lib.kv_table_blocks(table.handle) == 0
    assert lib.kv_table_check_block(table.handle, 0) == lib.KV_DAMAGED


@pytest.mark.parametrize(
    ("at", "change"),
    [(0, u32(0)), (0, u32(2)), (0, u32(2**32 - 1)), (4, u32(0)), (4, u32(17)), (60, u32(1))],
)
def test_a_filter_with_a_broken_structure_is_malformed(
    at: int, change: Callable[[bytes, int], bytes]
) -> None:
    length = PARTS.filter_length
    old = SMALL[PARTS.filter_offset : PARTS.filter_offset + length - 9]
    data = replace_part(PARTS, SMALL, PARTS.filter_offset, length, change(old, at))
    table = NativeTable(data, PARTS)
    assert all(table.may_contain(key) for key, _ in ENTRIES)
    assert lib.kv_table_prepare(table.handle) == lib.KV_DAMAGED
    assert (table.fault().part, table.fault().malformed) == (lib.KV_PART_FILTER, 1)
    assert outcomes(table, ENTRIES) == {"damaged"}
    assert dict(NativeMerge(NativeView([[table]])).entries()) == {
        key: value for key, value in ENTRIES if value is not None
    }, "a scan needs no filter"


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(lambda block: bytes(len(block.plain)), id="zeros"),
        pytest.param(lambda block: b"\xff" * len(block.plain), id="ones"),
        pytest.param(lambda block: block.plain.replace(b"key", b"kez"), id="above-its-separator"),
        pytest.param(lambda block: block.plain.replace(b"key", b"kex"), id="below-the-one-before"),
    ],
)
def test_a_block_with_the_right_checksum_and_wrong_content_is_malformed(
    stored: Callable[[table_oracle.Block], bytes],
) -> None:
    block = PARTS.blocks[1]
    data = replace_part(PARTS, SMALL, block.offset, block.length, stored(block))
    table = NativeTable(data, PARTS)
    assert lib.kv_table_check_block(table.handle, 1) == lib.KV_DAMAGED
    assert (table.fault().part, table.fault().malformed) == (lib.KV_PART_DATA, 1)
    assert outcomes(table, block.entries) == {"damaged"}
    with pytest.raises(Damaged):
        list(NativeMerge(NativeView([[table]])).entries())


HOSTILE = [
    0,
    1,
    31,
    len(SMALL) - 1,
    len(SMALL),
    len(SMALL) + 1,
    2**32,
    2**63,
    2**64 - 64,
    2**64 - 1,
]


@pytest.mark.parametrize("name", ["data_end", "filter_offset", "filter_length", "index_offset",
                                  "index_length", "size"])  # fmt: skip
def test_a_layout_that_lies_is_damage(name: str) -> None:
    known = set()
    for value in HOSTILE:
        if name == "size" and value > len(SMALL):
            continue  # the size is the mapping's own
        table = NativeTable(SMALL, PARTS, **{name: value})
        if lib.kv_table_prepare(table.handle) == 0:
            known.add(value)
        elif name in ("filter_offset", "filter_length"):
            assert table.fault().part == lib.KV_PART_FILTER
        outcomes(table, ENTRIES)
        list_or_damage(table)
    allowed = {"filter_length": {0}, "size": {len(SMALL) - 1, len(SMALL)}}
    allowed["filter_offset"] = set()
    assert known == allowed.get(name, set())


def list_or_damage(table: NativeTable) -> list[Entry] | None:
    try:
        return list(NativeMerge(NativeView([[table]])).entries())
    except Damaged:
        return None


def test_parts_are_read_from_the_file_first(tmp_path: Path) -> None:
    """What the mapping shows is not what a read gives, as when a sector is bad: damage."""
    big = encode([(b"%04d" % i, b"x" * 900) for i in range(400)], block_bytes=200_000)
    path = tmp_path / "table"
    path.write_bytes(big)
    fd = os.open(path, os.O_RDWR)
    try:
        table = NativeTable(big, fd=fd)
        assert outcomes(table, table.parts.entries) == {"right"}
        os.pwrite(fd, b"\0", 100_000)
        assert lib.kv_table_check_block(table.handle, 0) == lib.KV_DAMAGED
        assert table.fault().error == 0
        os.truncate(path, 100_000)
        assert lib.kv_table_check_block(table.handle, 1) == lib.KV_DAMAGED
        assert table.fault().error == 5, "the end of the file inside a part is EIO"
        assert table.fault().offset == table.parts.blocks[1].offset
    finally:
        os.close(fd)
    assert lib.kv_table_check_block(table.handle, 1) == lib.KV_DAMAGED
    assert table.fault().error == 9, "EBADF"


@pytest.mark.parametrize("size", [65536 - 9, 65536 - 1, 65536, 65536 + 1, 65536 + 8, 65536 + 9])
def test_a_part_may_end_anywhere_in_a_piece_that_is_read(tmp_path: Path, size: int) -> None:
    entries: list[Entry] = [(b"k", b"v" * (size - 9 - 8 - 12 - 1))]
    data = encode(entries)
    assert decode(data).blocks[0].length == size
    (tmp_path / "table").write_bytes(data)
    fd = os.open(tmp_path / "table", os.O_RDONLY)
    try:
        assert outcomes(NativeTable(data, fd=fd), entries) == {"right"}
    finally:
        os.close(fd)


def test_a_block_beyond_the_last_is_no_block() -> None:
    table = NativeTable(SMALL, PARTS)
    assert lib.kv_table_check_block(table.handle, M) == -22
    offset, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    lib.kv_table_block_at(table.handle, M, offset, length)
    assert (offset[0], length[0]) == (0, 0)
