"""Table files made by the oracle, opened by the reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.sstable import BlockCache, Cursor, Table, View
from tests.support import table_oracle
from tests.support.table_oracle import LZ4, PLAIN, ZSTD

__all__ = ["KINDS", "SMALL", "make_table", "make_view", "read_all", "write_table"]

KINDS = {"plain": (PLAIN,), "lz4": (LZ4,), "zstd": (ZSTD,), "mixed": (PLAIN, LZ4)}

# Several blocks, a tombstone, keys with and without a common prefix, in less than a KiB.
SMALL: dict[bytes, bytes | None] = {
    **{b"key%02d" % number: b"value" * (number % 4) for number in range(20)},
    b"key05": None,
    b"other": b"x" * 40,
}


def write_table(path: Path, entries: Mapping[bytes, bytes | None], **encoding: Any) -> Path:
    """A table file of these entries, in key order."""
    path.write_bytes(table_oracle.encode(sorted(entries.items()), **encoding))
    return path


def make_table(
    path: Path,
    entries: Mapping[bytes, bytes | None],
    fs: FileSystem | None = None,
    **encoding: Any,
) -> Table:
    """Such a file, opened."""
    write_table(path, entries, **encoding)
    return Table.open(fs or PosixFileSystem(), str(path), file_bytes=path.stat().st_size)


def make_view(
    directory: Path,
    runs: Iterable[Sequence[Mapping[bytes, bytes | None]]],
    *,
    cache_bytes: int = 1 << 20,
    fs: FileSystem | None = None,
    **encoding: Any,
) -> View:
    """A view of runs of tables, newest first."""
    made = [
        [
            make_table(directory / f"{run}-{number}.sst", entries, fs, **encoding)
            for number, entries in enumerate(tables)
        ]
        for run, tables in enumerate(runs)
    ]
    return View(made, BlockCache(cache_bytes))


def read_all(cursor: Cursor, entries_max: int = 1000) -> list[tuple[bytes, bytes]]:
    """What a cursor gives, to its end."""
    entries: list[tuple[bytes, bytes]] = []
    while some := cursor.read(entries_max):
        assert len(some) <= entries_max
        entries += some
    return entries
