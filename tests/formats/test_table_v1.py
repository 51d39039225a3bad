"""Tables of format version 1 on the disk: what was written once reads back for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kvstore.fs import PosixFileSystem
from kvstore.sstable import BlockCache, Table, View
from kvstore.sstable.builder import SortedRun, TableBuilder
from tests.formats.generate_table_v1 import (
    BLOCK_BYTES,
    COMPRESSED_PATH,
    ENTRIES,
    FILTER_BITS,
    LSNS,
    PATH,
    SALT,
)
from tests.support import table_oracle
from tests.support.table_files import read_all

SHA256 = {
    PATH: "f2e7958d37550487a554e7e0e9ef7b9baaa79eb8e507db0b655a17f8d50e637e",
    COMPRESSED_PATH: "8f0a7349e9d47173457b7408eec05addbfead3e15008d87acb3cd1f0eae6f167",
}

both = pytest.mark.parametrize("path", [PATH, COMPRESSED_PATH], ids=lambda path: path.name)


def open_view(path: Path) -> View:
    return View([[Table.open(PosixFileSystem(), str(path))]], BlockCache(1 << 20))


@both
def test_the_checked_in_table_is_the_one_that_was_checked_in(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[path]


@both
def test_the_oracle_reads_it_as_listed(path: Path) -> None:
    table = table_oracle.decode(path.read_bytes())
    assert table.entries == ENTRIES
    assert (table.salt, table.lsns) == (SALT, LSNS)
    assert {block.kind for block in table.blocks} == ({0} if path == PATH else {0, 1, 2})
    assert {block.plain[6] for block in table.blocks} == {2, 4}


@both
def test_it_reads_back_as_listed(path: Path) -> None:
    view = open_view(path)
    assert read_all(view.cursor()) == [(key, value) for key, value in ENTRIES if value is not None]
    for key, value in ENTRIES:
        assert view.may_contain(key)
        assert view.get(key) == value
    properties = view.tables[0].properties()
    assert (properties.entries, properties.tombstones) == (len(ENTRIES), 10)
    assert (properties.first_lsn, properties.last_lsn) == LSNS
    assert (properties.smallest, properties.largest) == (ENTRIES[0][0], ENTRIES[-1][0])


def test_the_builder_still_writes_it_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "table-v1.sst"
    builder = TableBuilder(
        PosixFileSystem(),
        str(path),
        block_bytes=BLOCK_BYTES,
        filter_bits_per_key=FILTER_BITS,
        salt=SALT,
    )
    # Above a table with the same keys, so that every tombstone is kept.
    assert builder.add_run(SortedRun(dict(reversed(ENTRIES))), open_view(PATH), 1000)
    assert builder.finish(*LSNS)
    assert path.read_bytes() == PATH.read_bytes()
