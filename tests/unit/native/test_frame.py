"""Entry frames: the C that writes and scans them against the oracle."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kvstore.native import crc32c, ffi, lib
from tests.support import oracle
from tests.support.oracle import CHECKED, MARK, PAD, PLAIN, SEAL

SALT = bytes(range(16))
SEED = oracle.crc32c(SALT)

kinds = st.sampled_from([PLAIN, CHECKED, PAD, MARK, SEAL, 0x80, 0xFF])


def scan(
    data: bytes, lsn: int, rows_max: int = 64, seed: int = SEED
) -> tuple[Any, list[list[int]]]:
    state = ffi.new("kv_scan_state *", {"seed": seed, "lsn": lsn})
    rows = ffi.new("int64_t[]", rows_max * lib.KV_ROW)
    count = lib.kv_scan(state, data, len(data), rows, rows_max)
    numbers = ffi.unpack(rows, count * lib.KV_ROW)
    return state, [numbers[i : i + lib.KV_ROW] for i in range(0, len(numbers), lib.KV_ROW)]


@given(
    salt=st.binary(min_size=16, max_size=16),
    payload=st.binary(max_size=100),
    unsynced=st.integers(0, 2**32 - 1),
    lsn=st.integers(0, 2**56 - 1),
    kind=st.integers(0, 255),
)
@example(salt=SALT, payload=b"hi", unsynced=1, lsn=8, kind=CHECKED)
def test_a_header_written_in_c_is_the_oracles(
    salt: bytes, payload: bytes, unsynced: int, lsn: int, kind: int
) -> None:
    out = ffi.new("char[24]")
    payload_crc = crc32c(payload) if kind == CHECKED else 0
    lib.kv_frame_header(out, crc32c(salt), payload_crc, len(payload), unsynced, lsn, kind)
    assert bytes(ffi.buffer(out)) == oracle.encode_entry(salt, lsn, kind, payload, unsynced)[:24]


@given(
    entries=st.lists(
        st.tuples(kinds, st.binary(max_size=40), st.integers(0, 2**32 - 1)), max_size=8
    ),
    base=st.integers(1, 2**56 - 100),
    tail=st.binary(max_size=30),
)
def test_scanning_finds_just_what_the_oracle_wrote(
    entries: list[tuple[int, bytes, int]], base: int, tail: bytes
) -> None:
    data, expected = b"", []
    for lsn, (kind, payload, unsynced) in enumerate(entries, base):
        start = len(data) + 24
        expected.append([start, start + len(payload), lsn, kind, unsynced])
        data += oracle.encode_entry(SALT, lsn, kind, payload, unsynced)
    state, rows = scan(data + tail, base)
    assert rows == expected
    assert state.position == len(data)
    assert state.lsn == base + len(entries)
    assert state.stop == (lib.KV_STOP_HEADER if len(tail) >= 24 else lib.KV_STOP_END)


def test_scanning_goes_on_where_the_rows_were_full() -> None:
    data = b"".join(oracle.encode_entry(SALT, lsn, PLAIN, b"x" * lsn) for lsn in range(1, 8))
    state = ffi.new("kv_scan_state *", {"seed": SEED, "lsn": 1})
    rows = ffi.new("int64_t[]", 3 * lib.KV_ROW)
    found = []
    while (count := lib.kv_scan(state, data, len(data), rows, 3)) > 0:
        found += [rows[i * lib.KV_ROW + 2] for i in range(count)]
    assert found == list(range(1, 8))
    assert state.stop == lib.KV_STOP_END


@pytest.mark.parametrize("length", [2**30 + 1, 2**31, 2**32 - 1])
def test_a_length_beyond_the_limit_is_no_header_even_under_a_right_checksum(length: int) -> None:
    out = ffi.new("char[64]")
    lib.kv_frame_header(out, SEED, 0, length, 0, 1, PLAIN)
    state, rows = scan(bytes(ffi.buffer(out)), 1)
    assert rows == []
    assert state.stop == lib.KV_STOP_HEADER


def test_a_payload_beyond_the_data_asks_for_as_much_as_it_takes() -> None:
    whole = oracle.encode_entry(SALT, 1, CHECKED, b"p" * 1000)
    state, rows = scan(whole[:500], 1)
    assert rows == []
    assert (state.stop, state.need, state.position) == (lib.KV_STOP_MORE, len(whole), 0)


@pytest.mark.parametrize("lsn", [1, 2, 4, 100])
def test_an_entry_that_does_not_follow_the_one_before_it_stops_the_scan(lsn: int) -> None:
    first = oracle.encode_entry(SALT, 2, CHECKED, b"first")
    state, rows = scan(first + oracle.encode_entry(SALT, lsn, CHECKED, b"other"), 2)
    assert (state.stop, state.position, len(rows)) == (lib.KV_STOP_LSN, len(first), 1)


@pytest.mark.parametrize("kind", [0, 6, 7, 100, 127])
def test_an_unknown_kind_stops_the_scan_unless_its_top_bit_is_set(kind: int) -> None:
    state, rows = scan(oracle.encode_entry(SALT, 1, kind, b"x"), 1)
    assert (state.stop, rows) == (lib.KV_STOP_KIND, [])
    _, rows = scan(oracle.encode_entry(SALT, 1, kind | 0x80, b"x"), 1)
    assert len(rows) == 1


def test_zeros_and_another_salts_entries_never_validate() -> None:
    assert scan(bytes(4096), 0, seed=0)[0].stop == lib.KV_STOP_HEADER
    assert scan(bytes(4096), 0)[0].stop == lib.KV_STOP_HEADER
    other = oracle.encode_entry(b"another salt 16b", 1, CHECKED, b"hello")
    assert scan(other, 1)[0].stop == lib.KV_STOP_HEADER


@given(data=st.binary(max_size=400), start=st.integers(0, 420), lsn=st.integers(0, 2**63))
def test_arbitrary_bytes_are_scanned_and_searched_without_harm(
    data: bytes, start: int, lsn: int
) -> None:
    _, rows = scan(data, lsn)
    assert rows == []
    row = ffi.new("int64_t[]", lib.KV_ROW)
    assert lib.kv_find_entry(data, len(data), start, SEED, 0, 2**56, row) == -1


@given(gap=st.integers(0, 60), lsn=st.integers(5, 20), lsn_min=st.integers(0, 25))
def test_searching_finds_aligned_headers_of_the_wanted_lsns_only(
    gap: int, lsn: int, lsn_min: int
) -> None:
    data = bytes(gap) + oracle.encode_entry(SALT, lsn, CHECKED, b"found", 3)
    row = ffi.new("int64_t[]", lib.KV_ROW)
    found = lib.kv_find_entry(data, len(data), 0, SEED, lsn_min, 15, row)
    if gap % 8 == 0 and lsn_min <= lsn <= 15:
        assert found == gap
        assert ffi.unpack(row, lib.KV_ROW) == [gap + 24, gap + 29, lsn, CHECKED, 3]
    else:
        assert found == -1


@given(used=st.binary(max_size=20), zeros=st.integers(0, 20_000))
def test_used_bytes_end_with_the_last_that_is_not_zero(used: bytes, zeros: int) -> None:
    data = used + bytes(zeros)
    assert lib.kv_used_bytes(data, len(data)) == len(used.rstrip(b"\0"))


def encode_operations(operations: list[tuple[int, bytes, bytes]]) -> bytes:
    return b"".join(
        (kind | len(key) << 8).to_bytes(4, "little")
        + len(value).to_bytes(4, "little")
        + key
        + value
        for kind, key, value in operations
    )


def decode_batch(data: bytes, max_ops: int = 16) -> tuple[int, list[tuple[int, bytes, bytes]]]:
    rows = ffi.new("int64_t[]", [0, len(data), 1, CHECKED, 0])
    ops, done = ffi.new("int64_t[]", max_ops * lib.KV_OP), ffi.new("size_t *")
    count = lib.kv_decode_batches(data, rows, 0, 1, ops, max_ops, done)
    found = []
    for i in range(0, max(count, 0) * lib.KV_OP, lib.KV_OP):
        key, key_end, value_end = ops[i], ops[i + 1], ops[i + 2]
        kind = lib.KV_DELETE if value_end == -1 else lib.KV_PUT
        value_end = max(value_end, key_end)
        assert 0 <= key < key_end <= value_end <= len(data)
        found.append((kind, data[key:key_end], data[key_end:value_end]))
    return count, found


keys = st.binary(min_size=1, max_size=12)
operations = st.lists(
    st.one_of(
        st.tuples(st.just(1), keys, st.binary(max_size=12)),
        st.tuples(st.just(2), keys, st.just(b"")),
    ),
    max_size=8,
)


@given(operations=operations)
def test_a_batch_decodes_to_the_operations_it_was_made_of(
    operations: list[tuple[int, bytes, bytes]],
) -> None:
    assert decode_batch(encode_operations(operations)) == (len(operations), operations)


@given(operations=operations.filter(bool), cut=st.integers(1, 7))
def test_a_batch_cut_within_its_last_operation_is_malformed(
    operations: list[tuple[int, bytes, bytes]], cut: int
) -> None:
    assert decode_batch(encode_operations(operations)[:-cut])[0] == -1


@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_decode_to_operations_within_them_or_to_nothing(data: bytes) -> None:
    count, found = decode_batch(data, 64)
    assert count >= -1
    if count >= 0:
        assert encode_operations(found) == data


def test_a_batch_that_does_not_fit_is_not_split() -> None:
    data = encode_operations([(1, b"k%d" % i, b"v") for i in range(5)])
    assert decode_batch(data, 4) == (0, [])
    assert decode_batch(data, 5)[0] == 5


def test_random_damage_to_frames_is_never_scanned_as_an_entry() -> None:
    generator = random.Random(11)
    whole = b"".join(oracle.encode_entry(SALT, lsn, CHECKED, b"payload") for lsn in range(1, 5))
    for _ in range(2000):
        data = bytearray(whole)
        at = generator.randrange(len(data))
        data[at] ^= 1 << generator.randrange(8)
        entry, within = divmod(at, 32)
        _, rows = scan(bytes(data), 1)
        assert len(rows) == (4 if within == 31 else entry)  # the last byte only aligns
