"""Sorted tables: immutable files of keys in order; making them, and reading many of them as one."""

from kvstore.sstable.builder import SortedRun, TableBuilder, TableInfo
from kvstore.sstable.cache import BlockCache
from kvstore.sstable.check import Finding, TableCheck
from kvstore.sstable.compression import check_available
from kvstore.sstable.reader import Table
from kvstore.sstable.view import NOT_RESIDENT, Cursor, Get, Merge, View

__all__ = [
    "NOT_RESIDENT",
    "BlockCache",
    "Cursor",
    "Finding",
    "Get",
    "Merge",
    "SortedRun",
    "Table",
    "TableBuilder",
    "TableCheck",
    "TableInfo",
    "View",
    "check_available",
]
