"""Targets: blocks, compressed blocks, index, filter, footer and properties, whole tables."""

from __future__ import annotations

import itertools
import struct
from contextlib import suppress

import zstandard
from xxhash import xxh3_64_intdigest

from kvstore.errors import KVStoreError
from kvstore.native import crc32c, ffi, lib
from kvstore.sstable import BlockCache, Cursor, Table, TableCheck, View
from kvstore.sstable.format import (
    FOOTER_BYTES,
    HEAD_BYTES,
    TRAILER_BYTES,
    Head,
    encode_part,
    part_seed,
)
from kvstore.sstable.parts import read_block
from tests.fuzz import parts
from tests.fuzz.parts import SALT, TableInput
from tests.support import table_oracle
from tests.support.table_oracle import Entry, TableError
from tests.support.wal import BytesFile

__all__ = ["block", "compressed", "filter_", "footer", "index", "table"]

_SEED = Head(SALT).seed
_U32 = struct.Struct("<I")
_PAIR = struct.Struct("<II")
_READ_ENTRIES = 50
_READS_MAX = 200
# What a reader need not hold a block against: it would have to work out what a builder does.
_NOT_CHECKED = {"hashes", "the longest prefix"}


def block(data: bytes) -> None:
    """A plain block, held against the oracle: what it accepts, and each key of it."""
    expected, refused = None, ""
    try:
        expected = table_oracle.decode_block(data)
    except (TableError, struct.error, IndexError) as error:
        refused = str(error)
    if lib.kv_block_check(data, len(data)):
        rows = _rows(data)
        assert rows == expected or refused in _NOT_CHECKED, refused
        _find_all(data, rows)
    else:
        assert expected is None


def _rows(plain: bytes) -> tuple[list[Entry], list[int]]:
    count = int.from_bytes(plain[:4], "little")
    prefix = ffi.new("uint64_t[2]")
    out = ffi.new("uint64_t[]", lib.KV_BLOCK_ROW * count)
    assert lib.kv_block_rows(plain, len(plain), 0, out, count, prefix, prefix + 1) == count
    start, length = prefix
    entries: list[Entry] = []
    numbers = iter(ffi.unpack(out, lib.KV_BLOCK_ROW * count))
    hashes = []
    for key, value, end, deleted, hashed in zip(*[numbers] * lib.KV_BLOCK_ROW, strict=True):
        assert key <= value <= end <= len(plain)
        whole = plain[start : start + length] + plain[key:value]
        entries.append((whole, None if deleted else plain[value:end]))
        hashes.append(hashed)
    return entries, hashes


def _find_all(plain: bytes, rows: tuple[list[Entry], list[int]]) -> None:
    place = ffi.new("uint64_t[2]")
    known = {(key, hashed) for (key, _), hashed in zip(*rows, strict=True)}
    for (key, value), hashed in zip(*rows, strict=True):
        status = lib.kv_block_find(plain, len(plain), key, len(key), hashed, place)
        assert status == (lib.KV_DELETED if value is None else lib.KV_FOUND)
        assert value is None or plain[place[0] : place[0] + place[1]] == value
        longer = key + b"\0"
        status = lib.kv_block_find(plain, len(plain), longer, len(longer), hashed, place)
        assert (status == lib.KV_ABSENT) == ((longer, hashed) not in known)


def compressed(data: bytes) -> None:
    """kind u8 | plain bytes u32 | stored bytes, read as a data block with a right checksum.

    A kind from 128 on is 128 less, and plain bytes what a Zstandard frame says of itself.
    """
    kind, plain_bytes = data[0] if data else 0, int.from_bytes(data[1:5], "little")
    if kind & 128:
        kind &= 127
        with suppress(zstandard.ZstdError):
            plain_bytes = zstandard.get_frame_parameters(data[5:]).content_size % 2**32
    body = data[5:] + struct.pack("<BI", kind, plain_bytes)
    part = body + _U32.pack(crc32c(body, part_seed(0, _SEED)))
    plain = read_block(BytesFile(part), 0, len(part), _SEED)
    assert len(plain) == plain_bytes
    assert lib.kv_block_check(plain, len(plain))


def footer(data: bytes) -> None:
    """A salt, properties and a footer (the last 52 bytes), with right checksums.

    The first 32 bytes of the file are head, and between it and the properties stand zeros: what the
    footer says may be so, for small numbers.
    """
    salt, fields = data[:16].ljust(16, b"\0"), data[-52:].rjust(52, b"\0")
    seed = Head(salt).seed
    middle = data[16:-52]
    properties_offset = min(int.from_bytes(fields[40:48], "little"), 4096)
    image = Head(salt).encode().ljust(properties_offset, b"\0")
    image += encode_part(middle, len(image), seed)
    image += fields + _U32.pack(crc32c(fields, seed)) + b"KVSTEND\n"
    opened = Table(BytesFile(image), smallest=None, largest=None, file_bytes=None)
    ends = opened.footer
    assert HEAD_BYTES < ends.data_end <= ends.index_offset < ends.properties_offset
    assert ends.properties_offset < len(image) - FOOTER_BYTES
    assert 1 <= len(opened.smallest) <= 65536
    assert opened.smallest <= opened.largest
    _check(opened)


def index(data: bytes) -> None:
    """The first table of an input: its index, read through all ways that use it."""
    made = parts.parse(data)[0][0]
    opened = _open(made)
    if lib.kv_table_prepare(opened.c):
        raise opened.fault()
    count, place = lib.kv_table_blocks(opened.c), ffi.new("uint64_t[2]")
    assert count >= 1
    end = HEAD_BYTES
    for number in range(count):
        lib.kv_table_block_at(opened.c, number, place, place + 1)
        assert (place[0], place[1] > 0) == (end, True)
        end = place[0] + place[1] + TRAILER_BYTES
    assert end == opened.footer.data_end
    keys = _separators(opened, count)
    assert all(before < key for before, key in itertools.pairwise(keys))
    assert opened.smallest <= keys[0]
    assert keys[-1] == opened.largest
    view = View([[opened]], BlockCache(0))
    for key in keys:
        with suppress(KVStoreError):
            view.get(key)


def _separators(opened: Table, count: int) -> list[bytes]:
    begin = opened.footer.index_offset
    data = opened.map[begin : begin + opened.footer.index_length - TRAILER_BYTES]
    places = struct.unpack_from(f"<{count + 1}I", data, 4 + 8 * (count + 1))
    return [data[a:b] for a, b in itertools.pairwise(places)]


def filter_(data: bytes) -> None:
    """The first table of an input: its filter, held against the specification in Python."""
    tables, keys = parts.parse(data)
    made = tables[0]
    opened = _open(made)
    if parts.FILTER not in made.parts:
        return
    if lib.kv_table_prepare(opened.c):
        raise opened.fault()
    plain = made.parts[parts.FILTER][1]
    lines, probes = _PAIR.unpack_from(plain)
    for key in [*keys, opened.smallest, opened.largest]:
        hashed = xxh3_64_intdigest(key)
        line, bits = table_oracle.filter_positions(hashed & 0xFFFFFFFF, lines, probes)
        at = 64 + 64 * line
        has = all(plain[at + bit // 8] >> bit % 8 & 1 for bit in bits)
        expected = opened.smallest <= key <= opened.largest and has
        assert bool(lib.kv_table_may_contain(opened.c, key, len(key), hashed)) == expected


def table(data: bytes) -> None:
    """Tables in runs: opened, looked up in, scanned both ways, verified."""
    made, keys = parts.parse(data)
    runs: list[list[Table]] = [[] for _ in range(made[-1].run + 1)]
    raised: KVStoreError | None = None
    for one in made:
        try:
            runs[one.run].append(_open(one))
        except KVStoreError as error:  # noqa: PERF203 (each for itself)
            raised = error
    for opened in itertools.chain(*runs):
        _check(opened)
    view = View(runs, BlockCache(1 << 20))
    for key in keys:
        view.may_contain(key)
        with suppress(KVStoreError):
            view.get(key)
    low, high = min(keys, default=None), max(keys, default=None)
    for bounds in ((None, None), (low, high)):
        for reverse in (False, True):
            with suppress(KVStoreError):
                _scan(view.cursor(*bounds, reverse=reverse))
            with suppress(KVStoreError):
                view.cursor(*bounds, reverse=reverse).count()
    if raised is not None:
        raise raised


def _open(made: TableInput) -> Table:
    file = BytesFile(made.image(), "memory.sst")
    smallest, largest = made.bound(parts.SMALLEST), made.bound(parts.LARGEST)
    return Table(file, smallest=smallest, largest=largest, file_bytes=None)


def _scan(cursor: Cursor) -> list[Entry]:
    entries: list[Entry] = []
    for _ in range(_READS_MAX):
        some = cursor.read(_READ_ENTRIES)
        if not some:
            break
        entries += some
    return entries


def _check(opened: Table) -> None:
    """Verifies it. A table without findings is one to the oracle too, and reads as it says."""
    findings = list(TableCheck(opened).findings())
    assert all(0 <= finding.offset <= opened.size for finding in findings)
    sound, refused = _ask_oracle(opened.map[:])
    if sound is None:
        assert findings or refused in _NOT_CHECKED, f"verify finds nothing; {refused}"
        return
    if (opened.smallest, opened.largest) != (sound.smallest, sound.largest):
        assert findings, "the manifest says other bounds than the table"
        return
    assert not findings, findings
    live = [(key, value) for key, value in sound.entries if value is not None]
    view = View([[opened]], BlockCache(1 << 20))
    if len(live) < _READ_ENTRIES * _READS_MAX:
        assert _scan(view.cursor()) == live
        assert _scan(view.cursor(reverse=True)) == live[::-1]
    for key, value in sound.entries:
        assert view.get(key) == value


def _ask_oracle(image: bytes) -> tuple[table_oracle.Table | None, str]:
    """The table, or why it is none. The oracle knows no hostile bytes: they raise anything."""
    try:
        return table_oracle.decode(image), ""
    except Exception as error:
        return None, str(error)
