"""Replay: the batches of a log segment, into the memtable."""

from __future__ import annotations

from kvstore.errors import CorruptionError
from kvstore.memtable import MemTable
from kvstore.native import ffi, lib
from kvstore.wal import LogReader

__all__ = ["replay"]

_OPERATIONS_MAX = 16384


def replay(reader: LogReader, memtable: MemTable, path: str) -> None:
    """Applies every batch that ``reader`` yields. O(bytes).

    What the reader raises goes through; what came before it has been applied.
    """
    room = _OPERATIONS_MAX
    operations = ffi.new("int64_t[]", room * lib.KV_OP)
    done = ffi.new("size_t *")
    for block in reader.blocks():
        row = 0
        while row < block.count:
            count = lib.kv_decode_batches(
                block.data, block.rows, row, block.count, operations, room, done
            )
            if count < 0:
                raise CorruptionError(
                    path,
                    block.offset + block.rows[(-1 - count) * lib.KV_ROW],
                    "the entry's checksum is right, but it holds no batch",
                )
            if count == 0 and done[0] == row:
                # One batch with more operations than there is room; the entry bounds them.
                room *= 8
                operations = ffi.new("int64_t[]", room * lib.KV_OP)
                continue
            memtable.load(block.data, ffi.unpack(operations, count * lib.KV_OP) if count else [])
            row = done[0]
