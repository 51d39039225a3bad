"""Lookups: the look-ups of an event loop that may have to wait for the disk.

A few threads carry them out. Handing each over by ``run_in_executor`` costs the loop 40 us, more
than most look-ups take; and many threads fight the loop for the GIL: with 8 that did nothing but
read, it came 18 ms late to 1% of its timers, with 1 it came 1 ms late (measured on 2 cores).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

__all__ = ["Lookups"]

_THREADS_MAX = 3

Future = asyncio.Future[Any]


class Lookups:
    """Takes look-ups from the tasks of one loop, and gives each a future of what it found."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: Executor) -> None:
        self._loop, self._threads = loop, threads
        self._wanted: deque[tuple[Callable[[bytes], Any], bytes, Future]] = deque()
        self._working = 0

    def get(self, look_up: Callable[[bytes], Any], key: bytes) -> Future:
        """What ``look_up(key)`` returns or raises, in a thread. Of a cancelled one nothing is
        heard."""
        future: Future = self._loop.create_future()
        self._wanted.append((look_up, key, future))
        if self._working < _THREADS_MAX:
            self._working += 1
            self._threads.submit(self._work)
        return future

    def _work(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._look_up_all()
            self._loop.call_soon_threadsafe(self._ended)

    def _look_up_all(self) -> None:
        tell = self._loop.call_soon_threadsafe
        while True:
            try:
                look_up, key, future = self._wanted.popleft()
            except IndexError:
                return
            try:
                value = look_up(key)
            except BaseException as error:
                tell(_fail, future, error)
            else:
                tell(_resolve, future, value)

    def _ended(self) -> None:
        """A thread has found nothing to do; here, in the loop, it is known whether that is so."""
        self._working -= 1
        if self._wanted and self._working < _THREADS_MAX:
            self._working += 1
            self._threads.submit(self._work)


def _resolve(future: Future, value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: Future, error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
