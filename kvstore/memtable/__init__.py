"""The sorted in-memory table."""

from kvstore.memtable.table import MemTable

__all__ = ["MemTable"]
