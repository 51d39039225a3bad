"""Replay: the batches of a log segment, into the memtable."""

from __future__ import annotations

from kvstore.errors import CorruptionError
from kvstore.memtable import MemTable
from kvstore.native import ffi, lib
from kvstore.wal import Damage, LogReader
from kvstore.wal.format import ENTRY_HEADER_BYTES
from kvstore.wal.reader import EntryBlock

__all__ = ["replay"]

_OPERATIONS_MAX = 16384
_NO_BATCH = "the entry's checksum is right, but it holds no batch"


def replay(
    reader: LogReader, memtable: MemTable, path: str, *, after_lsn: int = 0, salvage: bool = False
) -> None:
    """Applies every batch behind ``after_lsn`` that ``reader`` yields. O(bytes).

    What the reader raises goes through; what came before it has been applied. So it is with an
    entry that holds no batch (``memtable.last_lsn`` is then that of the entry before); with
    ``salvage`` it is noted in ``reader.damage`` and passed over.
    """
    room = _OPERATIONS_MAX
    operations = ffi.new("int64_t[]", room * lib.KV_OP)
    done = ffi.new("size_t *")
    for block in reader.blocks():
        row, stop = _first_row(block, after_lsn), block.count
        while row < block.count:
            count = lib.kv_decode_batches(block.data, block.rows, row, stop, operations, room, done)
            if count < 0:
                stop = -1 - count  # what stands before it counts
                if stop == row:
                    _pass_over(_bad_row(block, row, path), reader, memtable, salvage=salvage)
                    row, stop = row + 1, block.count
                continue
            if count == 0 and done[0] == row:
                # One batch with more operations than there is room; the entry bounds them.
                room *= 8
                operations = ffi.new("int64_t[]", room * lib.KV_OP)
                continue
            memtable.load(block.data, ffi.unpack(operations, count * lib.KV_OP) if count else [])
            row = done[0]
            stop = block.count if row == stop else stop


def _first_row(block: EntryBlock, after_lsn: int) -> int:
    """The first row behind ``after_lsn``: LSNs are dense."""
    first_lsn: int = block.rows[2] if block.count else 0
    return min(max(after_lsn + 1 - first_lsn, 0), block.count)


def _bad_row(block: EntryBlock, row: int, path: str) -> Damage:
    start, end, lsn, *_ = ffi.unpack(block.rows + row * lib.KV_ROW, lib.KV_ROW)
    begin = block.offset + start - ENTRY_HEADER_BYTES
    return Damage(path, begin, block.offset + end, lsn, lsn, _NO_BATCH)


def _pass_over(bad: Damage, reader: LogReader, memtable: MemTable, *, salvage: bool) -> None:
    if not salvage:
        memtable.last_lsn = bad.lsn_first - 1
        raise CorruptionError(bad.path, bad.offset, bad.reason)
    reader.damage.append(bad)
