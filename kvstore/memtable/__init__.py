"""The sorted in-memory table."""

from kvstore.memtable.table import ABSENT, MemTable

__all__ = ["ABSENT", "MemTable"]
