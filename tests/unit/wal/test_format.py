"""The format's specification: its worked example, the header block, what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError
from kvstore.wal import format as wal_format
from kvstore.wal.format import Predecessor, SegmentHeader, entry_bytes, last_vouched_lsn
from tests.support import oracle
from tests.support.oracle import CHECKED, Header, LogImage
from tests.support.wal import read_bytes

numbers = st.integers(1, 2**56 - 1)


def test_the_worked_example_is_what_the_oracle_and_the_reader_make_of_it() -> None:
    assert wal_format.__doc__ is not None
    match = re.search(r"LSN 8  ((?:[0-9a-f]+ )+[0-9a-f]+)\n", wal_format.__doc__)
    assert match is not None
    example = bytes.fromhex(match[1].replace(" ", ""))
    salt = bytes(range(16))
    assert oracle.encode_entry(salt, 8, CHECKED, b"hi", unsynced=1) == example

    image = LogImage(Header(salt=salt))
    for lsn in range(1, 7):
        image.add(CHECKED, b"entry %d" % lsn)
    lost = image.add(CHECKED, b"")
    image.erase(lost)
    image.data += example
    entries, end, _ = read_bytes(bytes(image.data))
    assert [entry.lsn for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert end.offset == lost.offset

    vouching = oracle.encode_entry(salt, 8, CHECKED, b"hi", unsynced=0)
    image.data[-len(example) :] = vouching
    with pytest.raises(CorruptionError) as caught:
        read_bytes(bytes(image.data))
    assert caught.value.offset == lost.offset


@given(
    log_id=st.binary(min_size=16, max_size=16),
    salt=st.binary(min_size=16, max_size=16),
    numbers_of=st.tuples(numbers, numbers),
    before=st.none() | st.tuples(numbers, numbers, numbers),
    recycled=st.booleans(),
)
def test_a_header_block_is_the_oracles_and_decodes_to_itself(
    log_id: bytes,
    salt: bytes,
    numbers_of: tuple[int, int],
    before: tuple[int, int, int] | None,
    recycled: bool,
) -> None:
    number, base_lsn = numbers_of
    predecessor = Predecessor(*before) if before else None
    header = SegmentHeader(log_id, number, base_lsn, salt, predecessor, recycled)
    block = header.encode()
    assert block == Header(salt, log_id, number, base_lsn, before or (0, 0, 0), recycled).encode()
    assert SegmentHeader.decode(block, "x.wal") == header
    assert header.seed == oracle.crc32c(salt)


def test_every_new_header_has_a_salt_of_its_own() -> None:
    salts = {SegmentHeader.make(bytes(16), 1, 1).salt for _ in range(100)}
    assert len(salts) == 100


def test_any_changed_byte_of_the_header_block_is_an_error() -> None:
    block = Header().encode()
    for at in range(len(block)):
        for change in (0x01, 0x80, 0xFF):
            damaged = block[:at] + bytes([block[at] ^ change]) + block[at + 1 :]
            with pytest.raises((CorruptionError, FormatError)):
                SegmentHeader.decode(damaged, "x.wal")


def test_a_damaged_header_says_what_it_expected() -> None:
    block = bytearray(Header().encode())
    block[50] ^= 1
    with pytest.raises(ChecksumMismatch) as caught:
        SegmentHeader.decode(bytes(block), "x.wal")
    assert (caught.value.path, caught.value.offset) == ("x.wal", 0)
    assert caught.value.expected == int.from_bytes(block[-4:], "little")
    assert caught.value.actual == oracle.crc32c(bytes(block[:-4]))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"", "empty"),
        (b"K", "cut short: 1 of"),
        (b"KVSTWAL\n", "cut short: 8 of"),
        (Header().encode()[:-1], "cut short: 4095 of"),
        (b"SQLite format 3\0" + bytes(5000), "not a kvstore log"),
        (bytes(4096), "not a kvstore log"),
        (b"x", "not a kvstore log"),
        (Header(version=2).encode(), "format version 2, .*reads up to 1.*upgrade"),
        (Header(version=0).encode(), "not known"),
        (Header(checksum_kind=9).encode(), "checksum kind 9"),
        (Header(header_bytes=512).encode(), "header size 512"),
    ],
)
def test_what_is_no_log_of_ours_is_refused_in_words(block: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        SegmentHeader.decode(block, "some/x.wal")
    assert caught.value.path == "some/x.wal"


def test_a_damaged_version_field_is_damage_not_a_newer_version() -> None:
    block = bytearray(SegmentHeader.make(bytes(16), 1, 1).encode())
    block[8] ^= 0x40
    with pytest.raises(ChecksumMismatch):
        SegmentHeader.decode(bytes(block), "x.wal")


def test_a_newer_version_is_named_even_when_its_checksum_is_another_kind() -> None:
    block = bytearray(Header(version=7).encode())
    block[-4:] = b"\0\0\0\0"
    with pytest.raises(FormatError, match="version 7"):
        SegmentHeader.decode(bytes(block), "x.wal")


@pytest.mark.parametrize("base_lsn", [0, 2**56, 2**64 - 1])
def test_a_base_lsn_that_no_log_can_have_is_refused(base_lsn: int) -> None:
    with pytest.raises(FormatError, match="base LSN"):
        SegmentHeader.decode(replace(Header(), base_lsn=base_lsn).encode(), "x.wal")


@given(payload_bytes=st.integers(0, 2**30))
def test_entry_sizes_are_the_oracles(payload_bytes: int) -> None:
    assert entry_bytes(payload_bytes) == oracle.entry_bytes(payload_bytes)


def test_an_entry_vouches_for_what_precedes_its_unsynced_ones() -> None:
    assert last_vouched_lsn(9, 0) == 8
    assert last_vouched_lsn(9, 8) == 0
    assert last_vouched_lsn(9, wal_format.NO_CLAIM) == 0
