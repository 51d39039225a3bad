"""Targets: log files, write batches, and the recovery scan over several segments."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, cast

from kvstore.errors import CorruptionError, KVStoreError
from kvstore.fs import FileSystem
from kvstore.manifest import Version
from kvstore.memtable import MemTable
from kvstore.paths import format_segment
from kvstore.recovery.replay import replay
from kvstore.recovery.scan import LogState, list_segments, read_log
from kvstore.wal import LogEnd, LogReader
from tests.fuzz import squeezed
from tests.fuzz.memory import MemoryFileSystem
from tests.fuzz.sections import split
from tests.support import oracle
from tests.support.wal import BytesFile

__all__ = ["batch", "log", "recovery"]

_MODES = ("tolerate_torn_tail", "strict", "point_in_time", "salvage")
_SEGMENTS_MAX = 4
_HEADER = oracle.Header()
_HEADER_BLOCK = _HEADER.encode()
_OPERATION = struct.Struct("<II")


def log(data: bytes) -> None:
    """A squeezed log file, read as it is and salvaged; held against the pure-Python decoder."""
    _, image = squeezed.expand(data)
    _salvage(image)
    try:
        expected = oracle.decode(image)
    except oracle.NotALog:
        expected = None
    found, outcome = _read(image)
    if expected is None:
        assert isinstance(outcome, KVStoreError), "the oracle takes it for no log"
        raise outcome
    assert found == expected.user_entries(), outcome
    if isinstance(outcome, KVStoreError):
        assert isinstance(outcome, CorruptionError)
        assert outcome.offset == expected.corrupt_at
        raise outcome
    end = outcome
    assert expected.corrupt_at is None
    assert (end.offset, end.sealed) == (expected.end_offset, expected.sealed)
    assert 0 <= end.torn_bytes <= len(image) - end.offset


def _read(image: bytes) -> tuple[list[tuple[int, bytes]], LogEnd | KVStoreError]:
    """The users' entries, and what they end with."""
    found: list[tuple[int, bytes]] = []
    try:
        reader = LogReader(BytesFile(image))
        found.extend((entry.lsn, entry.payload) for entry in reader.entries())
    except KVStoreError as error:
        return found, error
    assert reader.end is not None
    return found, reader.end


def _salvage(image: bytes) -> None:
    with suppress(KVStoreError):
        reader = LogReader(BytesFile(image), salvage=True)
        lsns = [entry.lsn for entry in reader.entries()]
        assert lsns == sorted(set(lsns))
        for damage in reader.damage:
            assert squeezed.FIELDS_BYTES < damage.offset <= damage.end_offset <= len(image)


def batch(data: bytes) -> None:
    """The payload of a log entry whose checksum is right, replayed into a memtable."""
    entry = oracle.encode_entry(_HEADER.salt, 1, oracle.CHECKED, data)
    memtable = MemTable()
    expected = _decode_batch(data)
    try:
        replay(LogReader(BytesFile(_HEADER_BLOCK + entry)), memtable, "memory.wal")
    except CorruptionError:
        assert expected is None
        assert not memtable.entries
        raise
    assert expected is not None
    assert dict(memtable.entries) == expected


def _decode_batch(data: bytes) -> dict[bytes, bytes | None] | None:
    """By the specification in kvstore/batch.py alone; None when it is none."""
    changes: dict[bytes, bytes | None] = {}
    at = 0
    while at < len(data):
        if len(data) - at < _OPERATION.size:
            return None
        first, value_bytes = _OPERATION.unpack_from(data, at)
        kind, key_bytes = first & 0xFF, first >> 8
        at += _OPERATION.size
        sound = kind == 1 or (kind == 2 and not value_bytes)
        if not sound or not 1 <= key_bytes <= 65536 or key_bytes + value_bytes > len(data) - at:
            return None
        key = data[at : at + key_bytes]
        at += key_bytes + value_bytes
        changes[key] = data[at - value_bytes : at] if kind == 1 else None
    return changes


def recovery(data: bytes) -> None:
    """Sections, each a squeezed segment; the first tag is the mode. Read twice it is the same."""
    sections = split(data)[:_SEGMENTS_MAX]
    files = {}
    for index, (_, body) in enumerate(sections):
        _, image = squeezed.expand(body)
        number = int.from_bytes(image[32:40], "little")
        name = format_segment(number if 1 <= number <= 999 else index + 1)
        files[name] = image
    mode = _MODES[sections[0][0] % len(_MODES)] if sections else _MODES[0]
    fs = cast(FileSystem, MemoryFileSystem(files))
    first = _recover(fs, mode)
    assert _recover(fs, mode) == first
    state, entries = first
    if mode == "tolerate_torn_tail":
        assert not state.damage
        begins = [int.from_bytes(files[name][40:48], "little") for name in sorted(files)]
        ends = [last_lsn for _, last_lsn in state.finished]
        assert begins[1:] == [last_lsn + 1 for last_lsn in ends[:-1]]
        # What reads without damage, reads the same in every mode but the strict one.
        assert _recover(fs, "salvage")[1] == _recover(fs, "point_in_time")[1] == entries


def _recover(fs: FileSystem, mode: str) -> tuple[LogState, dict[Any, Any]]:
    memtable = MemTable()
    state = read_log(fs, list_segments(fs, "d"), mode, memtable, Version.EMPTY)
    return state, dict(memtable.entries)
