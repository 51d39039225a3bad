"""Plain blocks: the kernels of block.c against the oracle."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.native import ffi, lib
from tests.support.table_oracle import Entry, TableError, decode_block, encode_block, hash32
from tests.support.table_strategies import entry_lists, keys

LONG: list[Entry] = [
    (b"k", b""),
    (b"k" * 65535, None),
    (b"k" * 65535 + b"a", b"one"),
    (b"k" * 65535 + b"b", b"two"),
]


def check(block: bytes) -> bool:
    return bool(lib.kv_block_check(block, len(block)))


def find(block: bytes, key: bytes, hash_: int | None = None) -> tuple[int, bytes]:
    out = ffi.new("uint64_t[2]")
    hash_ = hash32(key) if hash_ is None else hash_
    status = lib.kv_block_find(block, len(block), key, len(key), hash_, out)
    return status, block[out[0] : out[0] + out[1]] if status == lib.KV_FOUND else b""


def rows(
    block: bytes, max_rows: int = 100_000, first: int = 0
) -> tuple[int, list[Entry], list[int]]:
    at, length = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    out = ffi.new("uint64_t[]", lib.KV_BLOCK_ROW * min(max_rows, 4096))
    count = lib.kv_block_rows(block, len(block), first, out, max_rows, at, length)
    numbers = ffi.unpack(out, lib.KV_BLOCK_ROW * min(max(count - first, 0), max_rows))
    prefix = block[at[0] : at[0] + length[0]]
    entries: list[Entry] = []
    for i in range(0, len(numbers), lib.KV_BLOCK_ROW):
        key, value, end, deleted, _ = numbers[i : i + lib.KV_BLOCK_ROW]
        entries.append((prefix + block[key:value], None if deleted else block[value:end]))
    return count, entries, numbers[4 :: lib.KV_BLOCK_ROW]


def assert_reads(entries: list[Entry]) -> None:
    block = encode_block(entries)
    assert decode_block(block)[0] == entries
    assert check(block)
    assert rows(block) == (len(entries), entries, [hash32(key) for key, _ in entries])
    for key, value in entries:
        expected = (lib.KV_DELETED, b"") if value is None else (lib.KV_FOUND, value)
        assert find(block, key) == expected


@pytest.mark.parametrize("other", [b"key 1", b"key 123", b"key", b"kez 12", b"key 13"])
def test_of_keys_with_the_same_hash_only_the_whole_key_is_found(other: bytes) -> None:
    for entries in ([(b"key 12", b"value")], [(b"key 0", b""), (b"key 12", b"value")]):
        block = encode_block(list(entries))
        assert find(block, b"key 12") == (lib.KV_FOUND, b"value")
        assert find(block, other, hash32(b"key 12")) == (lib.KV_ABSENT, b"")


@settings(max_examples=60, deadline=None)
@given(entries=entry_lists(), others=st.lists(keys, max_size=20))
def test_a_block_reads_as_the_oracle_wrote_it(entries: list[Entry], others: list[bytes]) -> None:
    assert_reads(entries)
    block, known = encode_block(entries), dict(entries)
    for key in others:
        if key not in known:
            assert find(block, key)[0] == lib.KV_ABSENT
            assert find(block, key, hash32(entries[0][0]))[0] == lib.KV_ABSENT


def test_rows_begin_and_end_where_they_are_asked_to() -> None:
    entries: list[Entry] = [(b"key%d" % number, b"") for number in range(5)]
    block = encode_block(entries)
    for first in range(7):
        for count in range(7):
            assert rows(block, count, first)[:2] == (5, entries[first : first + count])


ONE = encode_block([(b"ab", b"xy")])  # prefix ab: head 8, hash 4, offsets 4, prefix 2, value 2


@pytest.mark.parametrize(
    ("at", "broken"),
    [
        (0, b"\0"),  # no entries
        (0, b"\2"),  # more than there are
        (0, b"\xff\xff\xff\xff"),
        (4, b"\5"),  # a prefix beyond the end
        (6, b"\4"),  # offsets wider than they are
        (7, b"\1"),
        (12, b"\x11"),  # a key that does not begin where the prefix ends
        (14, b"\x11"),  # a value before its key
        (14, b"\x15"),  # a value beyond the end
        (14, b"\x12\x80"),  # a tombstone with a value
    ],
)
def test_a_broken_block_is_refused(at: int, broken: bytes) -> None:
    assert check(ONE)
    assert not check(ONE[:at] + broken + ONE[at + len(broken) :])


def test_a_block_cut_short_is_refused() -> None:
    assert [check(ONE[:size]) for size in range(len(ONE))] == [False] * 18 + [True, True]


def test_keys_out_of_order_are_refused() -> None:
    block = encode_block([(b"a", b"1"), (b"b", b"2")])
    assert check(block)
    assert not check(block.replace(b"a1b2", b"b1a2"))
    assert not check(block.replace(b"a1b2", b"b1b2"))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), entries=entry_lists(12))
def test_a_mangled_block_is_refused_or_sound(data: st.DataObject, entries: list[Entry]) -> None:
    """Whatever passes the check can be read through without leaving the block, in order."""
    block = bytearray(encode_block(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(block) - 1, 24 + 8 * len(entries))))
        block[at] = data.draw(st.sampled_from([0, 1, 2, 4, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    mangled = bytes(block[: data.draw(st.integers(0, len(block)))])
    if not check(mangled):
        return
    count, entries, _ = rows(mangled)
    assert count == len(entries) >= 1
    assert all(a[0] < b[0] for a, b in pairwise(entries))
    assert all(1 <= len(key) <= 65536 for key, _ in entries)
    assert all(find(mangled, key, 1)[0] <= 0 for key, _ in entries)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), entries=entry_lists(8))
def test_the_check_is_the_oracles_but_for_hashes_and_longest_prefixes(
    data: st.DataObject, entries: list[Entry]
) -> None:
    block = bytearray(encode_block(entries))
    at = data.draw(st.sampled_from([*range(4), 6, 7, *range(8 + 4 * len(entries), len(block))]))
    block[at] ^= data.draw(st.integers(1, 255))
    try:
        decode_block(bytes(block))
        sound = True
    except TableError as error:
        sound = str(error) in ("hashes", "the longest prefix")
    except struct.error:  # the count points beyond the end
        sound = False
    assert check(bytes(block)) == sound
