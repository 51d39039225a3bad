"""Opening tables, reading their parts, and verifying them."""

from __future__ import annotations

import errno
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError, StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.native import lib
from kvstore.sstable import BlockCache, Finding, Table, TableCheck, compression
from kvstore.sstable.format import Footer, Head
from tests.support import table_oracle
from tests.support.damage import cut, extend, flip
from tests.support.faultfs import Fault, FaultFileSystem
from tests.support.table_files import KINDS, SMALL, make_table, write_table

FS = PosixFileSystem()
READS = Fault(operations=frozenset({"read"}))
each_kind = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)


def open_table(path: Path) -> Table:
    return Table.open(FS, str(path))


def findings_of(path: Path) -> list[Finding]:
    """All that is wrong with a table: what keeps it from being opened, or what verifying finds."""
    try:
        table = open_table(path)
    except CorruptionError as error:
        return [Finding(error.offset, error.reason)]
    return list(table.verify())


# ---- opening ----


def test_a_table_tells_its_properties_and_range(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, lsns=(7, 9), block_bytes=100, filter_bits=12)
    properties = table.properties()
    assert (properties.entries, properties.tombstones) == (len(SMALL), 1)
    assert (properties.first_lsn, properties.last_lsn) == (7, 9)
    assert (properties.block_bytes, properties.filter_bits_per_key) == (100, 12)
    assert (table.smallest, table.largest) == (min(SMALL), max(SMALL))
    assert table.properties() is properties


def test_a_range_from_the_manifest_needs_no_properties(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    where = open_table(path).footer.properties_offset
    flip(path, where)
    table = Table.open(FS, str(path), smallest=b"a", largest=b"z")
    assert (table.smallest, table.largest) == (b"a", b"z")
    with pytest.raises(ChecksumMismatch) as caught:
        table.properties()
    assert (caught.value.path, caught.value.offset) == (str(path), where)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_block_longer_than_any_can_be_is_not_read(tmp_path: Path, beyond: int) -> None:
    path, salt = tmp_path / "table.sst", b"0123456789abcdef"
    block_bytes = 2**31 - 1 + 9 + beyond
    end = 32 + block_bytes
    index = table_oracle.part(table_oracle.encode_index([32, end], [b"k"]), end, salt)
    at = end + len(index)
    properties = table_oracle.part(
        struct.pack("<7Q2I", 1, 0, 1, 1, 0, 1, 1, 1, 0) + 2 * (struct.pack("<I", 1) + b"k"),
        at,
        salt,
    )
    footer = Footer(end, 0, 0, end, len(index), at).encode(table_oracle.crc32c(salt))
    with path.open("wb") as file:  # sparse
        file.write(Head(salt).encode())
        file.seek(end)
        file.write(index + properties + footer)
    table = open_table(path)
    assert lib.kv_table_prepare(table.c) == (lib.KV_DAMAGED if beyond else 0)


@pytest.mark.parametrize("difference", [-1, 1, 4096])
def test_a_file_of_another_size_than_the_manifest_says_is_refused(
    tmp_path: Path, difference: int
) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    size = path.stat().st_size
    with pytest.raises(CorruptionError, match=f"{size} bytes") as caught:
        Table.open(FS, str(path), file_bytes=size + difference)
    assert caught.value.path == str(path)
    assert caught.value.offset == min(size, size + difference)


def test_a_table_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    whole = path.read_bytes()
    for size in [*range(100), *range(100, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises((CorruptionError, FormatError)):
            open_table(path)


def test_a_table_of_a_newer_version_is_no_damage(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    data = bytearray(path.read_bytes())
    data[8:10] = data[-16:-14] = b"\2\0"
    data[-12:-8] = struct.pack(
        "<I", table_oracle.crc32c(bytes(data[-64:-12]), open_table(path).seed)
    )
    path.write_bytes(data)
    with pytest.raises(FormatError, match="version 2"):
        open_table(path)


def test_a_missing_table_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(StorageIOError) as caught:
        open_table(tmp_path / "missing.sst")
    assert caught.value.errno == errno.ENOENT


# ---- files are let go of ----


def test_the_file_is_closed_with_the_last_reference(tmp_path: Path) -> None:
    fs = FaultFileSystem()
    table = make_table(tmp_path / "table.sst", SMALL, fs)
    c = table.c
    assert fs.open_files == 1
    del table
    assert lib.kv_table_prepare(c) == 0
    assert fs.open_files == 1
    del c
    assert fs.open_files == 0


def test_a_table_that_is_refused_leaves_no_file_open(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    cut(path, 50)
    fs = FaultFileSystem()
    with pytest.raises(CorruptionError):
        Table.open(fs, str(path))
    assert fs.open_files == 0
    for fail_at in range(4):
        fs = FaultFileSystem(fail_at, Fault(operations=frozenset({"read", "map"})))
        with pytest.raises(StorageIOError):
            Table.open(fs, str(write_table(path, SMALL)))
        assert fs.open_files == 0


def test_a_table_is_read_after_its_name_is_gone(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL)
    (tmp_path / "table.sst").unlink()
    assert list(table.verify()) == []


# ---- blocks ----


@each_kind
def test_blocks_are_read_as_they_were_made(tmp_path: Path, kinds: tuple[int, ...]) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, block_bytes=100, kinds=kinds)
    expected = table_oracle.decode((tmp_path / "table.sst").read_bytes()).blocks
    assert lib.kv_table_prepare(table.c) == 0
    assert lib.kv_table_blocks(table.c) == len(expected) > 2
    for number, block in enumerate(expected):
        assert table.read_block(number) == block.plain


def test_a_cached_block_is_not_read_again(tmp_path: Path) -> None:
    fs = FaultFileSystem()
    table = make_table(tmp_path / "table.sst", SMALL, fs, kinds=KINDS["lz4"])
    other = Table.open(fs, table.path)
    cache = BlockCache(1 << 20)
    for each in (table, other):
        assert lib.kv_table_prepare(each.c) == 0
    plain = table.read_block(0, cache)
    reads = fs.log.count("read")
    assert table.read_block(0, cache) == plain
    assert fs.log.count("read") == reads
    other.read_block(0, cache)  # a table of its own, even of the same file
    assert fs.log.count("read") == reads + 1
    assert (cache.hits, cache.misses) == (1, 2)


def test_a_damaged_block_is_never_cached(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, kinds=KINDS["zstd"])
    assert lib.kv_table_prepare(table.c) == 0
    flip(tmp_path / "table.sst", 40)
    cache = BlockCache(1 << 20)
    for _ in range(2):
        with pytest.raises(ChecksumMismatch) as caught:
            table.read_block(0, cache)
        assert (caught.value.path, caught.value.offset) == (table.path, 32)
    assert len(cache) == 0


@pytest.mark.parametrize("kind", ["lz4", "zstd"])
def test_a_block_that_cannot_be_decompressed_is_damage(tmp_path: Path, kind: str) -> None:
    with mock.patch.object(table_oracle, "_store", return_value=b"no such thing"):
        table = make_table(tmp_path / "table.sst", SMALL, kinds=KINDS[kind])
    assert lib.kv_table_prepare(table.c) == 0
    with pytest.raises(CorruptionError, match="decompressed") as caught:
        table.read_block(0)
    assert (caught.value.path, caught.value.offset) == (table.path, 32)


def test_a_codec_that_is_not_installed_is_named(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, kinds=KINDS["lz4"])
    assert lib.kv_table_prepare(table.c) == 0
    missing = compression.CodecMissing("lz4")
    with mock.patch.object(compression, "_codec", side_effect=missing):
        with pytest.raises(FormatError, match="package lz4") as caught:
            table.read_block(0)
        with pytest.raises(FormatError, match="package lz4"):
            list(table.verify())
    assert caught.value.path == table.path


# ---- faults ----


class UnreadableFileSystem(PosixFileSystem):
    """C reads what it is given as a descriptor, and that is a directory's."""

    def __init__(self, directory: Path) -> None:
        self.descriptor = os.open(directory, os.O_RDONLY)

    def open_read_only(self, path: str) -> Any:
        file = super().open_read_only(path)
        file.fileno = lambda: self.descriptor  # type: ignore[method-assign]
        return file


def test_a_failed_read_is_told_with_path_offset_and_errno(tmp_path: Path) -> None:
    fs = UnreadableFileSystem(tmp_path)
    try:
        table = make_table(tmp_path / "table.sst", SMALL, fs)
        assert lib.kv_table_prepare(table.c) == lib.KV_DAMAGED
        error = table.fault()
    finally:
        os.close(fs.descriptor)
    assert isinstance(error, StorageIOError)
    assert (error.errno, error.filename) == (errno.EISDIR, table.path)
    assert f"the index at offset {table.footer.index_offset}" in str(error)


def test_a_wrong_checksum_is_told_with_both_values(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    where = open_table(path).footer.index_offset
    flip(path, where)
    table = open_table(path)
    assert lib.kv_table_prepare(table.c) == lib.KV_DAMAGED
    error = table.fault()
    assert isinstance(error, ChecksumMismatch)
    assert (error.path, error.offset) == (str(path), where)
    assert error.expected != error.actual


def test_a_malformed_part_is_told_as_such(tmp_path: Path) -> None:
    with mock.patch.object(table_oracle, "encode_index", return_value=bytes(100)):
        table = make_table(tmp_path / "table.sst", SMALL)
    assert lib.kv_table_prepare(table.c) == lib.KV_DAMAGED
    error = table.fault()
    assert isinstance(error, CorruptionError)
    assert not isinstance(error, ChecksumMismatch)
    assert (error.path, error.offset) == (table.path, table.footer.index_offset)
    assert "malformed" in error.reason


# ---- verifying ----


@each_kind
@pytest.mark.parametrize("filter_bits", [0, 10])
def test_a_sound_table_has_no_findings(
    tmp_path: Path, kinds: tuple[int, ...], filter_bits: int
) -> None:
    entries = {os.urandom(1 + n % 40): None if n % 7 == 0 else bytes(n) for n in range(400)}
    table = make_table(tmp_path / "table.sst", entries, kinds=kinds, filter_bits=filter_bits)
    check = TableCheck(table)
    assert list(check.findings()) == []
    assert (check.blocks, check.entries) == (table.properties().data_blocks, len(entries))


def test_a_table_of_one_large_entry_is_verified(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", {b"k" * 65536: bytes(1 << 20)})
    assert list(table.verify()) == []


def test_verifying_takes_little_more_memory_than_a_block(tmp_path: Path) -> None:
    """Here the keys take 60 MB, and the block that they share their prefix in, 80 kB: no builder
    makes such a one."""
    entries = {b"p" * 60_000 + b"%04d" % number: b"" for number in range(1000)}
    with lie("_cut", lambda entries, _: [entries]):
        check = TableCheck(make_table(tmp_path / "table.sst", entries))
    del entries
    tracemalloc.start()
    try:
        assert list(check.findings()) == []
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (check.blocks, check.entries) == (1, 1000)
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize("wrong", [0, 6, 7, 19])
def test_verifying_looks_at_each_portion_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    monkeypatch.setattr("kvstore.sstable.check._PORTION_ENTRIES", 7)
    entries = {b"key%02d" % number: b"" for number in range(20)}
    path = write_table(tmp_path / "table.sst", entries)
    check = TableCheck(open_table(path))
    assert list(check.findings()) == []
    assert (check.blocks, check.entries) == (1, 20)
    hashed = b"key%02d" % wrong
    with lie("hash32", lambda key: REAL_HASH(key) ^ (key == hashed)):
        write_table(path, entries, filter_bits=0)
    assert [(at, "hash" in reason) for at, reason in findings_of(path)] == [(32, True)]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [KINDS["plain"], KINDS["mixed"]], ids=["plain", "mixed"])
def test_verifying_finds_a_flip_of_every_byte(tmp_path: Path, kinds: tuple[int, ...]) -> None:
    path = write_table(tmp_path / "table.sst", SMALL, block_bytes=100, kinds=kinds)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        flip(path, offset, bit=offset % 8)
        found = findings_of(path)
        assert found, f"byte {offset}"
        assert all(0 <= at < len(whole) and reason for at, reason in found)
        path.write_bytes(whole)
    assert findings_of(path) == []


def test_verifying_reads_the_disk_again(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, block_bytes=100)
    path = tmp_path / "table.sst"
    assert list(table.verify()) == []
    whole = path.read_bytes()
    for offset in range(0, len(whole), 5):
        with path.open("r+b") as file:  # in place, as a disk does it
            file.seek(offset)
            file.write(bytes([whole[offset] ^ 1]))
        assert list(table.verify()), f"byte {offset}"
        path.write_bytes(whole)
    extend(path, b"more")
    assert list(table.verify())


def test_verifying_goes_on_behind_a_damaged_block(tmp_path: Path) -> None:
    table = make_table(tmp_path / "table.sst", SMALL, block_bytes=100)
    blocks = table_oracle.decode((tmp_path / "table.sst").read_bytes()).blocks
    assert len(blocks) > 3
    for block in (blocks[0], blocks[2]):
        flip(tmp_path / "table.sst", block.offset + 10)
    check = TableCheck(table)
    assert [at for at, _ in check.findings()] == [blocks[0].offset, blocks[2].offset]
    assert check.blocks == len(blocks) - 2


def test_a_read_error_is_a_finding(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    fs = FaultFileSystem(None, READS)
    table = Table.open(fs, str(path))
    assert list(table.verify()) == []
    reads = range(fs.count, 2 * fs.count)
    assert len(reads) > 5
    for fail_at in reads:
        fs.fail_at = fail_at
        fs.count = reads.start
        found = list(table.verify())
        if fs.failures:
            assert any("read failed" in finding.reason for finding in found)
        fs.failures = 0


def lie(name: str, replacement: Any) -> Any:
    """A table made with one of the oracle's functions replaced: every checksum is right."""
    return mock.patch.object(table_oracle, name, replacement)


REAL_PROPERTIES = table_oracle._properties
REAL_HASH = table_oracle.hash32


def _other_properties(position: int) -> Any:
    def make(*arguments: Any) -> bytes:
        data = bytearray(REAL_PROPERTIES(*arguments))
        data[8 * position] += 1
        return bytes(data)

    return make


def _no_hash_of_key07(key: bytes) -> int:
    return REAL_HASH(key) ^ (key == b"key07")


LIES = {
    "entries": ("_properties", _other_properties(0), "entries"),
    "tombstones": ("_properties", _other_properties(1), "tombstones"),
    "data blocks": ("_properties", _other_properties(2), "data blocks"),
    "key bytes": ("_properties", _other_properties(3), "key bytes"),
    "value bytes": ("_properties", _other_properties(4), "value bytes"),
    "hash": ("hash32", _no_hash_of_key07, "hash"),
    "filter": ("encode_filter", lambda keys, lines, probes: struct.pack("<II", lines, probes)
               + bytes(56 + 64 * lines), "filter denies"),
    "filter head": ("encode_filter", lambda keys, lines, probes: bytes(64 + 64 * lines), "filter"),
    "separator too high": ("_separator", lambda last, following: following, "separators"),
    "separator too low": ("_separator", lambda last, following: last[:-1] + b"!", "separators"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("kinds", [KINDS["plain"], KINDS["lz4"]], ids=["plain", "lz4"])
def test_verifying_finds_what_is_wrong_under_a_right_checksum(
    tmp_path: Path, name: str, kinds: tuple[int, ...]
) -> None:
    function, replacement, said = LIES[name]
    with lie(function, replacement):
        path = write_table(tmp_path / "table.sst", SMALL, block_bytes=100, kinds=kinds)
    found = findings_of(path)
    assert found
    assert any(said in reason or "malformed" in reason for _, reason in found), found


def test_verifying_finds_keys_out_of_order_in_a_block(tmp_path: Path) -> None:
    entries = sorted(SMALL.items())
    entries[2:4] = entries[3:1:-1]
    path = tmp_path / "table.sst"
    path.write_bytes(table_oracle.encode(entries))
    assert [at for at, _ in findings_of(path)] == [32]


@pytest.mark.parametrize(
    ("smallest", "largest"), [(b"a", b"other"), (b"key00", b"z"), (b"key01", b"other")]
)
def test_verifying_finds_another_range_than_the_manifest_says(
    tmp_path: Path, smallest: bytes, largest: bytes
) -> None:
    path = write_table(tmp_path / "table.sst", SMALL)
    table = Table.open(FS, str(path), smallest=smallest, largest=largest)
    assert list(table.verify())
