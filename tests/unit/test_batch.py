"""WriteBatch and its encoding, against a decoder made from the specification alone."""

from __future__ import annotations

import doctest
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import LimitError, WriteBatch, batch
from kvstore.native import ffi, lib
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX

KEYS = st.binary(min_size=1, max_size=8) | st.sampled_from([b"a", b"b", bytes(KEY_BYTES_MAX)])
VALUES = st.none() | st.binary(max_size=40)
CHANGES = st.lists(st.tuples(KEYS, VALUES), max_size=12)
GIB = 1 << 30


def decode(payload: bytes) -> list[tuple[bytes, bytes | None]]:
    """The operations of a batch, by the docstring of kvstore/batch.py."""
    operations: list[tuple[bytes, bytes | None]] = []
    at = 0
    while at < len(payload):
        kind = payload[at]
        key_length = int.from_bytes(payload[at + 1 : at + 4], "little")
        (value_length,) = struct.unpack_from("<I", payload, at + 4)
        key = payload[at + 8 : at + 8 + key_length]
        at += 8 + key_length
        value = payload[at : at + value_length]
        at += value_length
        assert kind == 1 or (kind == 2 and not value)
        operations.append((key, value if kind == 1 else None))
    assert at == len(payload)
    return operations


def decode_natively(
    payloads: list[bytes], room: int = 1000
) -> list[tuple[bytes, bytes | None]] | int:
    """The same by the C kernel; a negative number where it refuses."""
    data = b"".join(payloads)
    rows = ffi.new("int64_t[]", max(1, len(payloads)) * lib.KV_ROW)
    at = 0
    for index, payload in enumerate(payloads):
        row = (at, at + len(payload), index + 1, lib.KV_CHECKED, 0)
        for column, number in enumerate(row):
            rows[index * lib.KV_ROW + column] = number
        at += len(payload)
    operations = ffi.new("int64_t[]", room * lib.KV_OP)
    done = ffi.new("size_t *")
    found: list[tuple[bytes, bytes | None]] = []
    row_number = 0
    while row_number < len(payloads):
        count = lib.kv_decode_batches(data, rows, row_number, len(payloads), operations, room, done)
        if count < 0:
            return count
        if count == 0 and done[0] == row_number:
            raise AssertionError("a batch does not fit")
        numbers = ffi.unpack(operations, count * lib.KV_OP) if count else []
        for i in range(0, len(numbers), lib.KV_OP):
            key, key_end, value_end = numbers[i : i + lib.KV_OP]
            value = data[key_end:value_end] if value_end >= 0 else None
            found.append((data[key:key_end], value))
        row_number = done[0]
    return found


def make(changes: list[tuple[bytes, bytes | None]]) -> WriteBatch:
    made = WriteBatch()
    for key, value in changes:
        if value is None:
            made.delete(key)
        else:
            made.put(key, value)
    return made


@given(CHANGES)
def test_what_is_encoded_is_what_was_collected(changes: list[tuple[bytes, bytes | None]]) -> None:
    made = make(changes)
    last = dict(changes)
    assert made.changes == last
    assert len(made) == len(last)
    assert dict(decode(made.encode())) == last
    assert len(decode(made.encode())) == len(last)


@given(st.lists(CHANGES, max_size=5), st.integers(12, 40))
def test_the_kernel_decodes_as_the_specification_says(
    batches: list[list[tuple[bytes, bytes | None]]], room: int
) -> None:
    payloads = [make(changes).encode() for changes in batches]
    assert decode_natively(payloads, room) == [op for p in payloads for op in decode(p)]


@given(CHANGES, st.data())
def test_a_batch_cut_short_is_refused(
    changes: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    payload = make(changes).encode()
    whole = {0}
    for key, value in decode(payload):
        whole.add(max(whole) + 8 + len(key) + len(value or b""))
    cut = data.draw(st.integers(0, len(payload)))
    decoded = decode_natively([b"", payload[:cut]])
    if cut in whole:
        assert decoded == decode(payload[:cut])
    else:
        assert decoded == -2  # row 1 is the malformed one


@given(st.binary(max_size=60))
def test_garbage_is_refused_or_means_the_same_to_both_decoders(garbage: bytes) -> None:
    decoded = decode_natively([garbage])
    if isinstance(decoded, int):
        assert decoded == -1
    else:
        assert decoded == decode(garbage)


@pytest.mark.parametrize(
    "malformed",
    [
        "00 010000 00000000 6b",  # no such type
        "03 010000 00000000 6b",
        "01 000000 00000000",  # no key
        "01 010001 00000000" + "00" * 65537,  # key too long
        "02 010000 01000000 6b 68",  # a delete with a value
        "01 010000 ffffffff 6b 68",  # a value that would reach beyond the end
    ],
)
def test_what_the_specification_rules_out_is_refused(malformed: str) -> None:
    assert decode_natively([bytes.fromhex(malformed)]) == -1


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(batch).failed == 0
    made = make([(b"k", b"hi"), (b"x", None)])
    example = "01 010000 02000000 6b 6869   02 010000 00000000 78"
    assert made.encode() == bytes.fromhex(example)


def test_a_single_operation_is_encoded_as_a_batch_of_one() -> None:
    assert batch.encode_put(b"k", b"hi") == make([(b"k", b"hi")]).encode()
    assert batch.encode_delete(b"k") == make([(b"k", None)]).encode()


def test_the_last_change_to_a_key_counts() -> None:
    made = make([(b"k", b"1"), (b"k", None), (b"k", b"2")])
    assert decode(made.encode()) == [(b"k", b"2")]


def test_changes_is_a_copy() -> None:
    made = make([(b"k", b"1")])
    made.changes.clear()
    assert len(made) == 1


def test_a_cleared_batch_is_as_new() -> None:
    made = make([(b"k", b"1")])
    made.clear()
    assert (len(made), made.encode(), made.changes) == (0, b"", {})
    assert repr(made) == "<WriteBatch of 0 changes>"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_will_do_and_is_copied(kind: type) -> None:
    key, value = bytearray(b"key"), bytearray(b"value")
    made = WriteBatch()
    made.put(kind(key), kind(value))
    made.delete(kind(bytearray(b"gone")))
    key[:], value[:] = b"xxx", b"xxxxx"
    assert made.changes == {b"key": b"value", b"gone": None}


def test_a_view_of_numbers_counts_as_its_bytes() -> None:
    made = WriteBatch()
    made.put(memoryview(struct.pack("<HH", 1, 2)).cast("H"), memoryview(b"abcd")[::2])
    assert made.changes == {b"\1\0\2\0": b"ac"}


@pytest.mark.parametrize("wrong", ["text", 5, None, 1.0, ["a"], object()])
def test_what_is_not_bytes_like_is_a_type_error(wrong: object) -> None:
    made = WriteBatch()
    with pytest.raises(TypeError, match=type(wrong).__name__):
        made.put(wrong, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=type(wrong).__name__):
        made.put(b"k", wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=type(wrong).__name__):
        made.delete(wrong)  # type: ignore[arg-type]
    assert not len(made)


def test_keys_have_their_limits() -> None:
    made = WriteBatch()
    made.put(b"k", b"")
    made.put(bytes(KEY_BYTES_MAX), b"")
    for wrong in (b"", bytes(KEY_BYTES_MAX + 1)):
        with pytest.raises(LimitError, match=f"1 to {KEY_BYTES_MAX} bytes, not {len(wrong)}"):
            made.put(wrong, b"")
        with pytest.raises(LimitError):
            made.delete(wrong)
    assert len(made) == 2


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_value_that_is_too_large_is_refused_without_copying_it(kind: type) -> None:
    # Zeros that nobody touches take no memory; a copy would.
    huge = kind(bytes(VALUE_BYTES_MAX + 1))
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=f"at most {VALUE_BYTES_MAX} bytes"):
            WriteBatch().put(b"k", huge)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_batch_holds_one_gibibyte_encoded() -> None:
    half = bytes(VALUE_BYTES_MAX - 9)
    made = WriteBatch()
    made.put(b"1", half)
    made.put(b"2", half)  # 2 * (8 + 1 + 2**29 - 9): to the byte
    with pytest.raises(LimitError, match=f"at most {GIB} bytes"):
        made.delete(b"3")
    assert len(made) == 2


def test_what_a_later_change_replaces_does_not_count() -> None:
    value = bytes(VALUE_BYTES_MAX)
    made = WriteBatch()
    for _ in range(5):
        made.put(b"k", value)
    made.put(b"k", b"small")
    made.put(b"other", value)
    assert len(made) == 2
