"""BackgroundFlusher: bounds how long a relaxed write stays undurable, and marks an idle log."""

from __future__ import annotations

import _thread
import contextlib
import threading

from kvstore.errors import KVStoreError
from kvstore.wal.writer import PortableWalWriter

__all__ = ["BackgroundFlusher"]

_IDLE_SECONDS = 0.1
_TICK_SECONDS_MIN = 0.001


class BackgroundFlusher:
    """A thread that syncs a log ``interval_ms`` after a write that nobody waits for, at the latest,
    and writes a MARK when the log has been idle for 100 ms: until something is written behind the
    last batch, its damage could not be told from a torn tail.

    The thread begins with the first write, looks twice an interval, and sleeps once the log is
    idle. Writers meet plain locks only: unlike Event and Thread.start, those have no state that a
    KeyboardInterrupt could leave half changed.
    """

    def __init__(self, log: PortableWalWriter, interval_ms: float) -> None:
        self._log = log
        self._tick_seconds = max(interval_ms / 2000, _TICK_SECONDS_MIN)
        self.awake = False
        """Whether it looks after the log by itself; else a writer has to ``rouse`` it."""
        self._stopping = False
        self._wake = threading.Lock()  # held: nothing has happened
        self._wake.acquire()
        self._running = threading.Lock()  # held by the thread
        self._thread_id = 0

    def rouse(self) -> None:
        """After a write that found it not ``awake``. Thread-safe."""
        if not self._running.locked() and not self._stopping:
            # Two that come at once begin two threads; one ends at once. While the interpreter ends
            # none can begin, and close() flushes.
            with contextlib.suppress(RuntimeError):
                _thread.start_new_thread(self._run, ())
        with contextlib.suppress(RuntimeError):  # roused already
            self._wake.release()

    def stop(self) -> None:
        """Ends the thread; what is queued is left to the log's own close. Idempotent."""
        self._stopping = True
        with contextlib.suppress(RuntimeError):
            self._wake.release()
        # The garbage collector may close a forgotten store from within this very thread.
        if self._thread_id != _thread.get_ident():
            with self._running:
                pass

    def _run(self) -> None:
        if not self._running.acquire(blocking=False):
            return
        self._thread_id = _thread.get_ident()
        try:
            self._keep_flushing()
        except KVStoreError:
            pass  # a failed flush poisons the log, and the next write says so
        finally:
            self._thread_id = 0
            self._running.release()

    def _keep_flushing(self) -> None:
        log = self._log
        self.awake = True
        last, idle_seconds, patience = 0, 0.0, self._tick_seconds
        while True:
            self._wake.acquire(timeout=patience)
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
