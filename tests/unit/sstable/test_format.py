"""The table format's specification: its worked example, its small parts, what they refuse."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError
from kvstore.sstable import format as table_format
from kvstore.sstable.format import (
    FOOTER_BYTES,
    HEAD_BYTES,
    KIND_PLAIN,
    TRAILER_BYTES,
    Footer,
    Head,
    Properties,
    check_gap,
    decode_ends,
    decode_part,
    encode_part,
)
from tests.support import table_oracle

SALT = bytes(range(16))
EXAMPLE = [(b"apple", b"red"), (b"apricot", None)]

PROPERTIES = Properties(
    entries=2,
    tombstones=1,
    data_blocks=1,
    key_bytes=12,
    value_bytes=3,
    first_lsn=7,
    last_lsn=8,
    block_bytes=4096,
    filter_bits_per_key=10,
    smallest=b"apple",
    largest=b"apricot",
)


def example() -> bytes:
    return table_oracle.encode(EXAMPLE, salt=SALT, lsns=(7, 8))


def listed_example() -> bytes:
    """The bytes that the docstring lists."""
    assert table_format.__doc__ is not None
    rows = re.findall(
        r"^ +(\d+)  (?:(\d+) zeros|((?:[0-9a-f]{2} )*[0-9a-f]{2}))(?:  |$)",
        table_format.__doc__.partition("Example:")[2],
        re.MULTILINE,
    )
    listed = b""
    for offset, zeros, row in rows:
        assert int(offset) == len(listed)
        listed += bytes(int(zeros)) if zeros else bytes.fromhex(row)
    return listed


def test_the_worked_example_is_what_the_oracle_makes_and_reads() -> None:
    assert listed_example() == example()
    assert table_oracle.decode(listed_example()).entries == EXAMPLE


def test_the_worked_example_decodes_to_what_it_says() -> None:
    data = listed_example()
    head, footer = decode_ends(data[:HEAD_BYTES], data[-FOOTER_BYTES:], "t", len(data))
    assert head == Head(SALT)
    assert footer == Footer(78, 128, 137, 265, 44, 309)
    assert footer.gap() == (78, 128)
    part = data[309:-FOOTER_BYTES]
    plain, kind, size = decode_part(part, "t", 309, head.seed, "the properties")
    assert (kind, size) == (KIND_PLAIN, len(plain))
    assert Properties.decode(plain, "t", 309) == PROPERTIES
    assert head.encode() + data[HEAD_BYTES:-FOOTER_BYTES] + footer.encode(head.seed) == data
    assert encode_part(PROPERTIES.encode(), 309, head.seed) == part


@settings(max_examples=30, deadline=None)
@given(
    numbers=st.tuples(*[st.integers(0, 2**63)] * 4),
    keys=st.tuples(st.binary(min_size=1, max_size=40), st.binary(min_size=1, max_size=40)),
)
def test_properties_decode_to_what_was_encoded(
    numbers: tuple[int, int, int, int], keys: tuple[bytes, bytes]
) -> None:
    key_bytes, value_bytes, *lsns = numbers
    made = replace(
        PROPERTIES,
        key_bytes=key_bytes,
        value_bytes=value_bytes,
        first_lsn=min(lsns),
        last_lsn=max(lsns),
        smallest=min(keys),
        largest=max(keys),
    )
    assert Properties.decode(made.encode(), "t", 0) == made


def test_every_flipped_bit_of_head_and_footer_is_reported_as_damage() -> None:
    data = example()
    for at in (*range(HEAD_BYTES), *range(len(data) - FOOTER_BYTES, len(data))):
        for bit in range(8):
            bad = bytearray(data)
            bad[at] ^= 1 << bit
            with pytest.raises(CorruptionError) as caught:
                decode_ends(bytes(bad[:HEAD_BYTES]), bytes(bad[-FOOTER_BYTES:]), "t", len(bad))
            assert caught.value.path == "t"
            assert caught.value.offset in range(HEAD_BYTES) or caught.value.offset == 402


def test_every_flipped_bit_of_a_part_is_reported_as_damage() -> None:
    seed = Head(SALT).seed
    part = encode_part(PROPERTIES.encode(), 309, seed)
    for at in range(len(part)):
        for bit in range(8):
            bad = bytearray(part)
            bad[at] ^= 1 << bit
            with pytest.raises(ChecksumMismatch, match="the properties") as caught:
                decode_part(bytes(bad), "t", 309, seed, "the properties")
            assert caught.value.offset == 309
            assert caught.value.expected != caught.value.actual


def test_a_part_of_another_place_or_table_is_not_taken_for_this_one() -> None:
    part = encode_part(b"stored", 100, Head(SALT).seed)
    for offset, salt in ((101, SALT), (100, bytes(16))):
        with pytest.raises(ChecksumMismatch):
            decode_part(part, "t", offset, Head(salt).seed, "a part")


def test_a_part_with_a_right_checksum_and_an_impossible_trailer_is_damage() -> None:
    for kind, plain in ((3, 6), (KIND_PLAIN, 7)):
        part = table_oracle.part(b"stored", 100, SALT, kind, plain)
        with pytest.raises(CorruptionError, match="not possible"):
            decode_part(part, "t", 100, Head(SALT).seed, "a part")
    with pytest.raises(CorruptionError, match="cut short"):
        decode_part(b"12345678", "t", 100, Head(SALT).seed, "a part")


@pytest.mark.parametrize("size", range(200))
def test_properties_cut_short_are_damage(size: int) -> None:
    whole = replace(PROPERTIES, smallest=b"a" * 60, largest=b"b" * 68).encode()
    assert len(whole) == 200
    with pytest.raises(CorruptionError, match="malformed"):
        Properties.decode(whole[:size], "t", 5)


@pytest.mark.parametrize(
    "change",
    [
        {"smallest": b"b"},
        {"smallest": b""},
        {"largest": b"b" * 65537},
        {"data_blocks": 0},
        {"data_blocks": 3},
        {"tombstones": 3},
        {"first_lsn": 9},
    ],
)
def test_properties_that_no_table_has_are_damage(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError, match="malformed"):
        Properties.decode(replace(PROPERTIES, **change).encode(), "t", 5)
    with pytest.raises(CorruptionError, match="malformed"):
        Properties.decode(PROPERTIES.encode() + b"\0", "t", 5)


@pytest.mark.parametrize(
    "change",
    [
        {"data_end": 41},
        {"data_end": 129},
        {"filter_offset": 64},
        {"filter_offset": 192},
        {"filter_length": 73},
        {"filter_length": 138},
        {"filter_length": 0},
        {"index_offset": 266},
        {"index_length": 9},
        {"index_length": 45},
        {"properties_offset": 402},
        {"properties_offset": 310},
        {"index_length": 2**64 - 1},
    ],
)
def test_a_footer_of_places_that_cannot_be_is_damage(change: dict[str, int]) -> None:
    data, head = example(), Head(SALT)
    footer = Footer.decode(data[-FOOTER_BYTES:], "t", len(data), head.seed)
    with pytest.raises(CorruptionError, match="cannot stand so"):
        Footer.decode(replace(footer, **change).encode(head.seed), "t", len(data), head.seed)


def test_properties_longer_than_two_keys_can_make_them_are_not_read() -> None:
    data, head = example(), Head(SALT)
    footer = Footer.decode(data[-FOOTER_BYTES:], "t", len(data), head.seed)
    longest = 64 + 2 * (4 + 65536) + 9
    size = footer.properties_offset + longest + FOOTER_BYTES
    assert Footer.decode(data[-FOOTER_BYTES:], "t", size, head.seed) == footer
    with pytest.raises(CorruptionError, match="cannot stand so"):
        Footer.decode(data[-FOOTER_BYTES:], "t", size + 1, head.seed)


def test_a_footer_without_a_filter_has_no_gap() -> None:
    data = table_oracle.encode(EXAMPLE, salt=SALT, filter_bits=0)
    _, footer = decode_ends(data[:HEAD_BYTES], data[-FOOTER_BYTES:], "t", len(data))
    assert footer.filter_length == 0
    assert footer.gap() == (78, 78)


def test_what_is_no_table_is_a_format_error() -> None:
    for data in (b"", b"KVST", b"KVSTSST\n\1", b"some text\n" * 20, bytes(200)):
        with pytest.raises(FormatError):
            decode_ends(data[:HEAD_BYTES], data[-FOOTER_BYTES:], "t", len(data))


def test_a_table_cut_short_is_damage() -> None:
    data = example()
    for size in range(HEAD_BYTES, len(data)):
        cut = data[:size]
        with pytest.raises(CorruptionError):
            decode_ends(cut[:HEAD_BYTES], cut[-FOOTER_BYTES:], "t", size)


def test_a_newer_version_is_a_format_error_that_asks_for_an_upgrade() -> None:
    data = bytearray(example())
    data[8:10] = data[-16:-14] = b"\2\0"
    with pytest.raises(FormatError, match="upgrade"):
        decode_ends(bytes(data[:HEAD_BYTES]), bytes(data[-FOOTER_BYTES:]), "t", len(data))


def test_an_unknown_checksum_kind_is_a_format_error() -> None:
    data = example()
    footer = bytearray(data[-FOOTER_BYTES:])
    footer[50] = 2
    crc = table_oracle.crc32c(bytes(footer[:52]), Head(SALT).seed)
    footer[52:56] = crc.to_bytes(4, "little")
    with pytest.raises(FormatError, match="checksum kind 2"):
        decode_ends(data[:HEAD_BYTES], bytes(footer), "t", len(data))


def test_a_gap_that_is_not_zero_is_damage() -> None:
    check_gap(bytes(50), "t", 78)
    check_gap(b"", "t", 78)
    for at in range(50):
        with pytest.raises(CorruptionError):
            check_gap(bytes(at) + b"\1" + bytes(49 - at), "t", 78)


def test_random_bytes_are_refused_with_an_error_of_ours() -> None:
    source = random.Random(1)
    for _ in range(300):
        data = source.randbytes(source.randrange(300))
        with pytest.raises((FormatError, CorruptionError)):
            decode_ends(data[:HEAD_BYTES], data[-FOOTER_BYTES:], "t", len(data))
        with pytest.raises(CorruptionError):
            decode_part(data, "t", 0, 0, "a part")
        with pytest.raises(CorruptionError):
            Properties.decode(data, "t", 0)


def test_a_trailer_takes_nine_bytes() -> None:
    assert len(encode_part(b"", 0, 0)) == TRAILER_BYTES == 9
