"""The sorted in-memory table."""

from kvstore.memtable.table import ABSENT, ENTRY_BYTES, MemTable

__all__ = ["ABSENT", "ENTRY_BYTES", "MemTable"]
