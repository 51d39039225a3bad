"""BackgroundThread: beginning, rousing, stopping."""

from __future__ import annotations

import threading

from kvstore.thread import BackgroundThread


class Sleeper(BackgroundThread):
    """Does nothing until it is stopped."""

    def _work(self) -> None:
        while True:
            self._sleep(-1)
            if self._stopping:
                return


def test_a_thread_that_comes_to_run_after_the_stop_ends_at_once() -> None:
    """Of two that were begun by rousings at the same time."""
    sleeper = Sleeper()
    sleeper.rouse()
    sleeper.stop()
    sleeper._roused.acquire(blocking=False)  # the rousing was for the one that has ended
    late = threading.Thread(target=sleeper._run, daemon=True)
    late.start()
    late.join(10)
    assert not late.is_alive()
    sleeper.stop()
