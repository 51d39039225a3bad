"""The background of a store: flushing memtables, compacting tables, holding writers back."""

from kvstore.compaction.picker import level_bytes_target, pending_bytes
from kvstore.compaction.worker import BackgroundWorker, CompactionRequest

__all__ = [
    "BackgroundWorker",
    "CompactionRequest",
    "level_bytes_target",
    "pending_bytes",
]
