"""kvstore: an embedded, ordered, crash-safe key-value store.

>>> import kvstore, tempfile
>>> with kvstore.open(tempfile.mkdtemp()) as db:
...     db.put(b"apple", b"red")  # durable when it returns
...     with db.batch() as batch:  # all or nothing
...         batch.put(b"banana", b"yellow")
...         batch.delete(b"apple")
...     list(db.scan(prefix=b"b"))
[(b'banana', b'yellow')]

``kvstore.open_async`` is the same for asyncio. ``kvstore.wal`` holds the write-ahead log, usable
alone; ``kvstore.errors`` the tree of exceptions.
"""

from typing import TYPE_CHECKING, Any

from kvstore.batch import WriteBatch
from kvstore.errors import (
    BackendUnavailableError,
    ChecksumMismatch,
    ClosedError,
    CorruptionError,
    DiskFullError,
    ForkedError,
    FormatError,
    KVStoreError,
    LimitError,
    LockedError,
    PoisonedError,
    ReadOnlyError,
    StorageIOError,
)
from kvstore.options import Options
from kvstore.recovery import RecoveryReport, VerifyReport
from kvstore.snapshot import Snapshot
from kvstore.stats import LevelStats, StoreStats
from kvstore.store import KVStore, open, verify
from kvstore.wal import (
    IoUringConfig,
    IoUringStatsSnapshot,
    PortableWalWriter,
    is_io_uring_available,
)

if TYPE_CHECKING:
    from kvstore.aio import AsyncKVStore, AsyncSnapshot, open_async

__version__ = "0.1.0"

__all__ = [
    "AsyncKVStore",
    "AsyncSnapshot",
    "BackendUnavailableError",
    "ChecksumMismatch",
    "ClosedError",
    "CorruptionError",
    "DiskFullError",
    "ForkedError",
    "FormatError",
    "IoUringConfig",
    "IoUringStatsSnapshot",
    "KVStore",
    "KVStoreError",
    "LevelStats",
    "LimitError",
    "LockedError",
    "Options",
    "PoisonedError",
    "PortableWalWriter",
    "ReadOnlyError",
    "RecoveryReport",
    "Snapshot",
    "StorageIOError",
    "StoreStats",
    "VerifyReport",
    "WriteBatch",
    "is_io_uring_available",
    "open",
    "open_async",
    "verify",
]


def __getattr__(name: str) -> Any:
    # asyncio takes 60 ms to import, so only who wants it has it imported.
    if name in {"AsyncKVStore", "AsyncSnapshot", "open_async"}:
        from kvstore import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
