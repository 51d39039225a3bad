"""BackgroundFlusher: bounds how long a relaxed write stays undurable, and marks an idle log."""

from __future__ import annotations

import contextlib
import threading

from kvstore.errors import KVStoreError
from kvstore.wal.writer import PortableWalWriter

__all__ = ["BackgroundFlusher"]

_IDLE_SECONDS = 0.1


class BackgroundFlusher:
    """A thread that syncs a log ``interval_ms`` after a relaxed write, and writes a MARK when the
    log has been idle for 100 ms: until something is written behind the last batch, its damage could
    not be told from a torn tail. The thread begins with the first write and sleeps while there are
    none.
    """

    def __init__(self, log: PortableWalWriter, interval_ms: float) -> None:
        self._log = log
        self._interval_seconds = interval_ms / 1000
        self._awake = False
        self._relaxed = False
        self._stopping = False
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._start_lock = threading.Lock()
        self._started = False
        self._thread = threading.Thread(target=self._run, name="kvstore-flush", daemon=True)

    def wrote(self) -> None:
        """After a durable write. Cheap, thread-safe."""
        if not self._awake:
            self._awake = True
            self._rouse()

    def wrote_relaxed(self) -> None:
        """After a write that is to be made durable soon. Cheap, thread-safe."""
        if not self._relaxed:
            self._relaxed = True
            self._rouse()

    def _rouse(self) -> None:
        self._wake.set()
        if not self._started:
            self._start()

    def _start(self) -> None:
        with self._start_lock:
            if not self._started and not self._stopping:
                # While the interpreter ends no thread can begin; close() will flush.
                with contextlib.suppress(RuntimeError):
                    self._thread.start()
                    self._started = True

    def stop(self) -> None:
        """Ends the thread; what is queued is left to the log's own close. Idempotent."""
        with self._start_lock:
            self._stopping = True
        self._stop.set()
        self._wake.set()
        if self._started:
            self._thread.join()

    def _run(self) -> None:
        # A failed flush poisons the log; the next write says so, and there is nothing left to do
        # here.
        try:
            self._keep_flushing()
        except KVStoreError:
            return

    def _keep_flushing(self) -> None:
        log = self._log
        seen = -1
        while not self._stopping:
            if self._relaxed:
                self._stop.wait(self._interval_seconds)
                # Before the sync: who writes during it asks again.
                self._relaxed = False
                log.sync()
            elif log.last_lsn != seen:
                seen = log.last_lsn
                self._wake.wait(_IDLE_SECONDS)
                self._wake.clear()
            else:
                self._awake = False
                if log.last_lsn != seen or self._relaxed:
                    continue  # somebody wrote before seeing that we are about to sleep
                if log.mark():
                    seen = log.last_lsn
                self._wake.wait()
                self._wake.clear()
