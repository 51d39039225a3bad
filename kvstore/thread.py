"""BackgroundThread: work that goes on beside the writers."""

from __future__ import annotations

import _thread
import contextlib
import threading

__all__ = ["BackgroundThread"]


class BackgroundThread:
    """A thread that begins when it is first roused, and is roused from its sleep from then on.

    A subclass does its work in ``_work`` until ``_stopping``, and sleeps by ``_sleep``. Whoever
    rouses it meets plain locks only: unlike Event and Thread.start, those have no state that a
    KeyboardInterrupt could leave half changed.
    """

    def __init__(self) -> None:
        self._stopping = False
        self._roused = threading.Lock()  # held: nothing has happened
        self._roused.acquire()
        self._running = threading.Lock()  # held by the thread
        self._thread_id = 0
        self._unable = False  # to begin a thread

    def rouse(self) -> None:
        """Has it look for work, now. Cheap, thread-safe."""
        if not self._running.locked() and not self._stopping:
            # Two that come at once begin two threads; one ends at once. While the interpreter ends
            # none can begin, and what is left to do is left to close, or to the next opener.
            try:
                _thread.start_new_thread(self._run, ())
                self._unable = False
            except RuntimeError:
                self._unable = True
        with contextlib.suppress(RuntimeError):  # roused already
            self._roused.release()

    def stop(self) -> None:
        """Ends the thread when it looks next; returns when it has ended. Idempotent."""
        self._stopping = True
        with contextlib.suppress(RuntimeError):
            self._roused.release()
        # The garbage collector may close a forgotten store from within this very thread.
        if self._thread_id != _thread.get_ident():
            with self._running:
                pass

    def _sleep(self, seconds: float) -> None:
        """Returns when it is roused, or after so many seconds (-1: never)."""
        self._roused.acquire(timeout=seconds)

    def _work(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        if not self._running.acquire(blocking=False):
            return
        self._thread_id = _thread.get_ident()
        try:
            # One that was begun beside another, and comes to run when that has ended already, would
            # sleep on after the rousing that was for both.
            if not self._stopping:
                self._work()
        finally:
            self._thread_id = 0
            self._running.release()
