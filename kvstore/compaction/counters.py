"""Counters: what flushes and compactions have done since the store was opened."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.memtable import MemTable
from kvstore.sstable import TableInfo

__all__ = ["Counters"]


@dataclass
class Counters:
    """Written by the background worker alone; read by anyone."""

    flushes: int = 0
    flush_bytes: int = 0
    compactions: int = 0
    moves: int = 0
    compaction_bytes_read: int = 0
    compaction_bytes_written: int = 0
    tombstones_dropped: int = 0

    def flushed(self, memtable: MemTable, info: TableInfo | None) -> None:
        """A memtable became a table (None: nothing of it had to be kept)."""
        self.flushes += 1
        self.flush_bytes += info.file_bytes if info else 0
        kept = info.properties.tombstones if info else 0
        self.tombstones_dropped += memtable.entry_count - len(memtable) - kept

    def compacted(self, bytes_read: int, bytes_written: int, tombstones_dropped: int) -> None:
        """Tables were merged."""
        self.compactions += 1
        self.compaction_bytes_read += bytes_read
        self.compaction_bytes_written += bytes_written
        self.tombstones_dropped += tombstones_dropped
