"""The write-ahead log: usable alone, with nothing else of kvstore.

``PortableWalWriter`` writes one file, ``LogReader`` reads it back, ``SegmentedWalWriter`` goes on
from file to file. The format is specified in ``kvstore.wal.format``.
"""

from kvstore.wal.backends import is_io_uring_available
from kvstore.wal.config import IoUringConfig
from kvstore.wal.core import READY_MAX
from kvstore.wal.reader import Damage, Entry, LogEnd, LogReader
from kvstore.wal.segments import FULL, LATER, TOO_LARGE, SegmentedWalWriter
from kvstore.wal.stats import IoUringStatsSnapshot
from kvstore.wal.writer import PortableWalWriter

__all__ = [
    "FULL",
    "LATER",
    "READY_MAX",
    "TOO_LARGE",
    "Damage",
    "Entry",
    "IoUringConfig",
    "IoUringStatsSnapshot",
    "LogEnd",
    "LogReader",
    "PortableWalWriter",
    "SegmentedWalWriter",
    "is_io_uring_available",
]
