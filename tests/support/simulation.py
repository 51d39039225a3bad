"""A process in which everything happens in one thread, in an order that a seed decides.

Files are smaller than the store's options allow, so that a state of the disk is quickly made,
opened and checked. Nothing here changes what is written, or when it is synced.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any
from unittest import mock

from kvstore import Options
from kvstore import store as store_module
from kvstore import thread as thread_module
from kvstore.aio import store as aio_store
from kvstore.aio import writer as aio_writer
from kvstore.compaction import pressure
from kvstore.manifest import ManifestLog
from kvstore.manifest import log as manifest_log
from kvstore.wal import core, segments
from tests.support.simfs import SimEngine
from tests.support.stores import NEVER, SMALLEST_BUFFER

__all__ = ["PATH", "simulated", "tiny"]

PATH = "/store"
_MANIFEST_BYTES = 400  # two or three edits behind the snapshot


def tiny(*, direct: bool = False, **options: int) -> Options:
    """Options of a store that has few bytes; with ``direct`` a batch of log takes 4 KiB."""
    made = Options(
        wal_buffer_bytes=SMALLEST_BUFFER,
        wal_direct_io=direct,
        flush_interval_ms=NEVER,
        block_bytes=256,
    )
    below_the_minima = {
        "wal_segment_bytes": (44 if direct else 24) << 10,
        "memtable_bytes_max": 8 << 10,
        "table_bytes_max": 2 << 10,
        "level_bytes_base": 4 << 10,
        **options,
    }
    for name, value in below_the_minima.items():
        object.__setattr__(made, name, value)
    return made


def _no_thread(*_: object) -> int:
    raise RuntimeError("can't start new thread")


def _at_once(work: Callable[..., None], arguments: tuple[Any, ...]) -> int:
    work(*arguments)
    return 0


class _AtOnce(Executor):
    """Does what it is given in the thread that gives it."""

    def __init__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:
            future.set_exception(error)
        return future


@contextlib.contextmanager
def simulated(seed: int) -> Iterator[random.Random]:
    """Random numbers of that seed, also where the store asks the system for them; the log's
    operations on a SimFS complete late and in any order; and no threads:

    - flushes and compactions happen where somebody waits for them, or calls ``_worker.serve``,
    - a log segment is prepared as soon as it is thought of,
    - nobody sleeps.
    """
    chance = random.Random(seed)
    engines = random.Random(seed)
    clock = SimpleNamespace(sleep=lambda seconds: None, monotonic=time.monotonic)
    adopt = ManifestLog._adopt

    def adopt_and_limit(self: ManifestLog, log: Any, name: str, snapshot_bytes: int) -> None:
        adopt(self, log, name, snapshot_bytes)
        self._roll_bytes = snapshot_bytes + _MANIFEST_BYTES

    with contextlib.ExitStack() as stack:
        for target, name, substitute in (
            (os, "urandom", random.Random(~seed).randbytes),
            (core, "PythonEngine", lambda: SimEngine(engines)),
            (
                thread_module,
                "_thread",
                SimpleNamespace(get_ident=_thread.get_ident, start_new_thread=_no_thread),
            ),
            (
                segments,
                "_thread",
                SimpleNamespace(get_ident=_thread.get_ident, start_new_thread=_at_once),
            ),
            (segments, "time", clock),
            (segments, "SEGMENT_BYTES_MIN", 0),
            (store_module, "time", clock),
            (pressure, "time", clock),
            (aio_store, "ThreadPoolExecutor", _AtOnce),
            (aio_writer, "ThreadPoolExecutor", _AtOnce),
            (manifest_log, "_PREALLOCATE_BYTES", 4096),
            (ManifestLog, "_adopt", adopt_and_limit),
        ):
            stack.enter_context(mock.patch.object(target, name, substitute))
        yield chance
