"""Pressure: what holds writers back when flush and compaction cannot keep up.

    slow   level 0 has grown to L0_SLOW_TABLES: writes are let in at SLOW_BYTES_PER_SECOND
    stop   a memtable is full while the one before it is still being flushed, or level 0 has grown
           to L0_STOP_TABLES: writes wait

So memory is bounded by two memtables, and what a read has to look at by the tables of level 0. A
writer that meets a failure of the background gets it as an error instead: PoisonedError, or
DiskFullError after one more attempt that it has asked for itself.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from kvstore.compaction.picker import L0_SLOW_TABLES, L0_STOP_TABLES
from kvstore.errors import DiskFullError, PoisonedError
from kvstore.tree import SEALED_MAX, Tree

if TYPE_CHECKING:
    from kvstore.compaction.worker import BackgroundWorker

__all__ = ["SLOW_BYTES_PER_SECOND", "Pressure"]

SLOW_BYTES_PER_SECOND = 16 << 20
_SLOW_SLEEP_SECONDS = 0.001
_POLL_SECONDS = 0.001


class Pressure:
    """Whether writers must wait, and the waiting. Thread-safe; the counters are nearly so."""

    def __init__(self, tree: Tree, worker: BackgroundWorker) -> None:
        self.closed = False
        """True when a writer has to call ``wait`` before it writes."""
        self.slowdowns = 0
        self.stops = 0
        self.stall_seconds = 0.0
        self._tree, self._worker = tree, worker
        self._owed_bytes = 0
        self._lock = threading.Lock()

    def update(self) -> None:
        """To be called after each change of the tree, or of the worker's fortune. O(1)."""
        self.closed = self._worker.error is not None or self._stopped() or self._slowed()

    def _slowed(self) -> bool:
        return len(self._tree.state.version.levels[0]) >= L0_SLOW_TABLES

    def _stopped(self) -> bool:
        state = self._tree.state
        full = state.memtable.bytes_used >= self._tree.options.memtable_bytes_max
        return (full and len(state.sealed) >= SEALED_MAX) or (
            len(state.version.levels[0]) >= L0_STOP_TABLES
        )

    def wait(self, entry_bytes: int, check: Callable[[], None]) -> None:
        """Returns when an entry of so many bytes may be written.

        ``check`` raises when there is no sense in waiting any longer (the store was closed). Raises
        PoisonedError, DiskFullError.
        """
        self.meet_failure(check)
        began = time.monotonic()
        if self._stopped():
            self.stops += 1
            while self._stopped():
                check()
                self.meet_failure(check)
                self._worker.serve()
                time.sleep(_POLL_SECONDS)
        elif self._slowed():
            with self._lock:
                self._owed_bytes += entry_bytes
                due = self._owed_bytes >= SLOW_BYTES_PER_SECOND * _SLOW_SLEEP_SECONDS
                seconds = self._owed_bytes / SLOW_BYTES_PER_SECOND
                self._owed_bytes = 0 if due else self._owed_bytes
            if due:
                self.slowdowns += 1
                time.sleep(seconds)
        self.stall_seconds += time.monotonic() - began
        self.update()

    def meet_failure(self, check: Callable[[], None]) -> None:
        """Raises what the background failed with, if it did; a full disk is tried once more."""
        worker = self._worker
        error = worker.error
        if isinstance(error, DiskFullError):
            attempt = worker.begun + 1  # not one under way, which may have met the disk before
            while worker.ended < attempt and worker.error is not None:
                check()
                worker.serve()
                time.sleep(_POLL_SECONDS)
            error = worker.error
        if isinstance(error, DiskFullError):
            raise copy.copy(error) from error
        if isinstance(error, PoisonedError):
            error = error.cause  # a flush met the log's failure
        if error is not None:
            raise PoisonedError(self._tree.directory, error) from error
