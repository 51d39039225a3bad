"""The codec of version edits."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, FormatError, LimitError
from kvstore.manifest import LEVELS, TableMeta, VersionEdit
from kvstore.manifest import edit as edit_module
from kvstore.paths import NUMBER_MAX
from kvstore.wal.format import LSN_MAX
from tests.support.tables import table

_u64 = st.integers(0, 2**64 - 1)
_keys = st.binary(min_size=1, max_size=20)
_numbers = st.integers(1, NUMBER_MAX)
_places = st.tuples(st.integers(0, LEVELS - 1), _numbers)


@st.composite
def _tables(draw: st.DrawFn) -> TableMeta:
    entries = draw(st.integers(1, 2**64 - 1))
    first, last = sorted([draw(st.integers(0, LSN_MAX)), draw(st.integers(0, LSN_MAX))])
    smallest, largest = sorted([draw(_keys), draw(_keys)])
    return TableMeta(
        number=draw(_numbers),
        bytes=draw(_u64),
        entries=entries,
        tombstones=draw(st.integers(0, entries)),
        key_bytes=draw(_u64),
        value_bytes=draw(_u64),
        first_lsn=first,
        last_lsn=last,
        smallest=smallest,
        largest=largest,
    )


_edits = st.builds(
    VersionEdit,
    added=st.lists(st.tuples(st.integers(0, LEVELS - 1), _tables()), max_size=3).map(tuple),
    removed=st.lists(_places, max_size=3).map(tuple),
    flushed_lsn=st.none() | st.integers(0, LSN_MAX),
    log_number=st.none() | st.integers(0, NUMBER_MAX),
    newest_segment=st.none() | st.integers(0, NUMBER_MAX),
    next_table=st.none() | _numbers,
    log_id=st.none() | st.binary(min_size=16, max_size=16),
    snapshot=st.booleans(),
)

FULL = VersionEdit(
    added=((0, table(7, b"a", b"c")), (3, table(8, b"d", b"dd"))),
    removed=((0, 5), (1, 6)),
    flushed_lsn=900,
    log_number=2,
    newest_segment=3,
    next_table=9,
    log_id=bytes(range(16)),
    snapshot=True,
)


def record(tag: int, body: bytes = b"") -> bytes:
    return struct.pack("<BI", tag, len(body)) + body


def decode(data: bytes) -> VersionEdit:
    return VersionEdit.decode(data, "MANIFEST-000001", 4120)


@given(_edits)
@settings(max_examples=60, deadline=None)
def test_an_edit_decodes_to_what_was_encoded(edit: VersionEdit) -> None:
    assert decode(edit.encode()) == edit


def test_the_worked_example_of_the_specification_holds() -> None:
    assert edit_module.__doc__ is not None
    example = edit_module.__doc__.split("the newest::")[1]
    flushed = table(
        7, b"a", b"c", entries=3, tombstones=1, key_bytes=3, value_bytes=10, first_lsn=1, last_lsn=3
    )
    edit = VersionEdit(
        added=((0, flushed),), flushed_lsn=3, log_number=2, newest_segment=2, next_table=8
    )
    assert edit.encode() == bytes.fromhex(example)


def test_an_edit_cut_short_is_damage_or_a_shorter_edit() -> None:
    data = FULL.encode()
    whole = set()
    at = 0
    while at < len(data):
        whole.add(at)
        at += 5 + struct.unpack_from("<I", data, at + 1)[0]
    for size in range(len(data)):
        if size in whole:
            assert decode(data[:size]).encode() == data[:size]
        else:
            with pytest.raises(CorruptionError) as caught:
                decode(data[:size])
            assert (caught.value.path, caught.value.offset >= 4120) == ("MANIFEST-000001", True)


@given(st.binary(max_size=120) | _edits.map(VersionEdit.encode), st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_an_edit_or_a_typed_error(data: bytes, draw: st.DataObject) -> None:
    if data:
        at = draw.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    try:
        edit = decode(data)
    except (CorruptionError, FormatError):
        return
    # One spelling only: what was accepted is what would be written, but for what is ignored.
    assert data.startswith(edit.encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (record(0), "record 0"),
        (record(1, b"x"), "with a body"),
        (record(2, bytes(15)), "log id of 15"),
        (record(3, bytes(7)), "has 7 bytes"),
        (record(3, (LSN_MAX + 1).to_bytes(8, "little")), "flushed_lsn is"),
        (record(6, bytes(8)), "next_table is 0"),
        (record(3, bytes(8)) * 2, "record 3 behind record 3"),
        (record(4, bytes(8)) + record(3, bytes(8)), "record 3 behind record 4"),
        (record(7, bytes(8)), "removal of 8"),
        (record(7, b"\7" + bytes([1] + [0] * 7)), "level 7"),
        (record(7, bytes(9)), "no table's number"),
        (record(8, bytes(68)), "table of 68"),
        (b"\3\xff\xff\xff\xff", "longer than the edit"),
        (record(128) + record(1), "record 1 behind record 128"),
    ],
)
def test_malformed_records_are_damage(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason):
        decode(data)


def test_an_unknown_record_with_the_top_bit_is_ignored() -> None:
    assert decode(FULL.encode() + record(128, b"later") + record(255)) == FULL


def test_an_unknown_record_without_it_is_of_a_newer_version() -> None:
    with pytest.raises(FormatError, match="newer version"):
        decode(FULL.encode() + record(9, b"later"))


@pytest.mark.parametrize(
    "change",
    [
        {"number": 0},
        {"number": NUMBER_MAX + 1},
        {"bytes": 2**64},
        {"bytes": -1},
        {"entries": 0},
        {"tombstones": 101},
        {"key_bytes": 2**64},
        {"first_lsn": 801},
        {"last_lsn": LSN_MAX + 1},
        {"smallest": b""},
        {"largest": b"z" * 65537},
        {"smallest": b"d"},
    ],
)
def test_a_table_out_of_range_is_refused_when_encoded(change: dict[str, Any]) -> None:
    edit = VersionEdit(added=((0, replace(table(7, b"a", b"c"), **change)),))
    with pytest.raises(LimitError):
        edit.encode()


@pytest.mark.parametrize(
    "edit",
    [
        VersionEdit(flushed_lsn=-1),
        VersionEdit(flushed_lsn=LSN_MAX + 1),
        VersionEdit(next_table=0),
        VersionEdit(log_number=NUMBER_MAX + 1),
        VersionEdit(log_id=b"short"),
        VersionEdit(removed=((7, 1),)),
        VersionEdit(added=((-1, table(1, b"a", b"b")),)),
    ],
)
def test_an_edit_out_of_range_is_refused_when_encoded(edit: VersionEdit) -> None:
    with pytest.raises(LimitError):
        edit.encode()


def test_a_damaged_table_is_refused_when_decoded() -> None:
    data = bytearray(VersionEdit(added=((0, table(7, b"a", b"c")),)).encode())
    data[-1] = ord("A")  # the largest key
    with pytest.raises(CorruptionError, match="smallest key is larger") as caught:
        decode(bytes(data))
    assert caught.value.offset == 4120
