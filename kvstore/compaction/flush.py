"""Flush: a sealed memtable becomes a sorted table of level 0, and its log is given up.

    sort the entries       in C; Python only hands them over
    build the table        a tombstone is left out when no table holds its key: a queue that puts
                           and deletes leaves nothing behind
    finish                 synced, renamed to its name, directory synced
    wait for the log       the table may hold no write that a crash could take from the log
    install                the edit durable in the manifest, then the table visible
    release                log segments that nobody needs any more

A crash between any two leaves the state before or after ``install``; the rest is done on opening.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Protocol

from kvstore.compaction.counters import Counters
from kvstore.manifest import TableMeta, VersionEdit
from kvstore.memtable import MemTable
from kvstore.sstable import SortedRun, TableBuilder, TableInfo
from kvstore.tree import Tree, open_table

__all__ = ["Log", "describe", "flush", "new_builder"]

_STEP_ENTRIES = 8192


class Log(Protocol):
    """What a flush asks of the write-ahead log."""

    @property
    def segment_number(self) -> int:
        """The newest segment; 0: there never was one."""

    def commit(self, lsn: int) -> None:
        """Returns when everything up to ``lsn`` is durable."""

    def first_needed(self, lsn: int) -> int:
        """The first segment that holds, or will hold, anything behind ``lsn``."""

    def release(self, first_needed: int) -> None:
        """Gives up the segments before that one."""


def flush(
    tree: Tree, log: Log, memtable: MemTable, counters: Counters
) -> Generator[None, None, None]:
    """Flushes the oldest sealed memtable, in steps: between two of them others can work.

    Raises StorageIOError (DiskFullError), PoisonedError; the memtable is then still there, and
    another flush may be tried. Closing the iterator undoes what was begun.
    """
    tree.ensure_manifest()
    number = tree.new_number()
    try:
        with contextlib.closing(_build(tree, number, memtable)) as steps:
            info = yield from steps
        added = [describe(number, info)] if info else []
        built = {meta.number: open_table(tree.fs, tree.directory, meta) for meta in added}
        log.commit(memtable.covered_lsn)
    except BaseException:
        tree.remove([number])
        raise
    first_needed = log.first_needed(memtable.covered_lsn)
    edit = VersionEdit(
        added=tuple((0, meta) for meta in added),
        flushed_lsn=memtable.covered_lsn,
        log_number=first_needed,
        newest_segment=log.segment_number,
        next_table=tree.next_table,
    )
    tree.install(edit, built=built, flushed=memtable)
    counters.flushed(memtable, info)
    log.release(first_needed)


def _build(tree: Tree, number: int, memtable: MemTable) -> Generator[None, None, TableInfo | None]:
    builder = new_builder(tree, number)
    try:
        run = SortedRun(memtable.entries)
        below = tree.state.view
        yield
        while not builder.add_run(run, below, _STEP_ENTRIES):
            yield
        return builder.finish(memtable.first_lsn, memtable.last_lsn)
    finally:
        builder.abandon()  # nothing once it is finished


def new_builder(tree: Tree, number: int) -> TableBuilder:
    """A builder of table ``number``, as the options say."""
    options = tree.options
    return TableBuilder(
        tree.fs,
        tree.table_path(number),
        block_bytes=options.block_bytes,
        filter_bits_per_key=options.filter_bits_per_key,
        compression=options.compression,
    )


def describe(number: int, info: TableInfo) -> TableMeta:
    """What the manifest says of a table."""
    properties = info.properties
    return TableMeta(
        number=number,
        bytes=info.file_bytes,
        entries=properties.entries,
        tombstones=properties.tombstones,
        key_bytes=properties.key_bytes,
        value_bytes=properties.value_bytes,
        first_lsn=properties.first_lsn,
        last_lsn=properties.last_lsn,
        smallest=properties.smallest,
        largest=properties.largest,
    )
