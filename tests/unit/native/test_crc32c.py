"""CRC-32C: the processor's instruction and the portable table against crcmod."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore.native import CRC32C, crc32c, ffi, lib
from tests.support import oracle


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # the vectors of RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_vectors_hold_in_every_implementation(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    assert lib.kv_crc32c_portable(0, data, len(data)) == expected
    assert oracle.crc32c(data) == expected


@given(data=st.binary(max_size=300), crc=st.integers(0, 2**32 - 1))
def test_hardware_and_table_agree_with_crcmod_from_any_beginning(data: bytes, crc: int) -> None:
    expected = oracle.crc32c(data, crc)
    assert lib.kv_crc32c(crc, data, len(data)) == expected
    assert lib.kv_crc32c_portable(crc, data, len(data)) == expected


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_a_checksum_may_be_continued_at_any_cut(data: bytes, cut: int) -> None:
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_every_alignment_and_length_gives_the_same_checksum() -> None:
    data = random.Random(7).randbytes(160)
    for start in range(16):
        for length in range(100):
            expected = oracle.crc32c(data[start : start + length])
            part: Any = ffi.from_buffer(memoryview(data)[start:])
            assert lib.kv_crc32c(0, part, length) == expected
            assert lib.kv_crc32c_portable(0, part, length) == expected


def test_the_implementation_in_use_has_a_name() -> None:
    assert CRC32C in ("sse4.2", "armv8", "table")
