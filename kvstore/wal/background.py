"""BackgroundFlusher: bounds how long a relaxed write stays undurable, and marks an idle log."""

from __future__ import annotations

import contextlib

from kvstore.errors import KVStoreError
from kvstore.thread import BackgroundThread
from kvstore.wal.writer import PortableWalWriter

__all__ = ["BackgroundFlusher"]

_IDLE_SECONDS = 0.1
_TICK_SECONDS_MIN = 0.001


class BackgroundFlusher(BackgroundThread):
    """A thread that syncs a log ``interval_ms`` after a write that nobody waits for, at the latest,
    and writes a MARK when the log has been idle for 100 ms: until something is written behind the
    last batch, its damage could not be told from a torn tail.

    It looks twice an interval, and sleeps once the log is idle. What is queued when it is stopped
    is left to the log's own close.
    """

    def __init__(self, log: PortableWalWriter, interval_ms: float) -> None:
        super().__init__()
        self._log = log
        self._tick_seconds = max(interval_ms / 2000, _TICK_SECONDS_MIN)
        self.awake = False
        """Whether it looks after the log by itself; else a writer has to ``rouse`` it."""

    def _work(self) -> None:
        # A failed flush poisons the log, and the next write says so.
        with contextlib.suppress(KVStoreError):
            self._keep_flushing()

    def _keep_flushing(self) -> None:
        log = self._log
        self.awake = True
        last, idle_seconds, patience = 0, 0.0, self._tick_seconds
        while True:
            self._sleep(patience)
            if self._stopping:
                return
            if patience < 0:  # roused from idleness
                self.awake = True
                last, idle_seconds, patience = 0, 0.0, self._tick_seconds
                continue
            before, last = last, log.last_lsn
            if log.durable_lsn < before:
                log.sync()
            idle_seconds = idle_seconds + self._tick_seconds if last == before else 0.0
            if idle_seconds >= _IDLE_SECONDS and log.durable_lsn >= last:
                self.awake = False
                if log.last_lsn == last:
                    log.mark()
                    patience = -1  # until somebody writes
                else:  # somebody wrote and saw us awake
                    self.awake = True
