"""BackgroundWorker: the one thread that flushes and compacts.

What it does next, in this order: flush the sealed memtable, since writers may wait for it (also in
the middle of a compaction, between two of its steps); a compaction that somebody asked for; the
compaction that the picker finds most urgent; nothing, until it is woken.

A failure stops nothing that is safe: reads go on, and the log keeps what is not flushed. A full
disk is tried again, each second and whenever a writer asks; any other failure of a flush or a
compaction ends background work, and writing, until the store is reopened.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kvstore.compaction.counters import Counters
from kvstore.compaction.flush import Log, flush
from kvstore.compaction.job import Progress, compact
from kvstore.compaction.picker import LEVELS, Plan, entries_to_read, pick, pick_range
from kvstore.compaction.pressure import Pressure
from kvstore.errors import DiskFullError
from kvstore.memtable import MemTable
from kvstore.thread import BackgroundThread
from kvstore.tree import Tree

__all__ = ["BackgroundWorker", "CompactionRequest"]

_RETRY_SECONDS = 1.0


@dataclass
class CompactionRequest:
    """A compaction of the keys from ``start`` to ``stop``, asked for by a caller who waits."""

    start: bytes | None
    stop: bytes | None
    progress: Progress = field(default_factory=Progress)
    cancelled: bool = False
    done: bool = False
    error: BaseException | None = None


class BackgroundWorker(BackgroundThread):
    """Flushes and compacts ``tree`` in a thread of its own, which begins with the first work.

    Writers meet a plain lock only, which a KeyboardInterrupt cannot leave half changed.
    """

    def __init__(self, tree: Tree, log: Log) -> None:
        super().__init__()
        self.counters = Counters()
        self.error: BaseException | None = None
        """Why the last attempt failed; None when it did not."""
        self.begun = self.ended = 0
        """How many times it looked for work, and has done what it found or failed to."""
        self.flushing: MemTable | None = None
        """The memtable of the flush under way, which ends with giving up its log."""
        self.pressure = Pressure(tree, self)
        self._tree, self._log = tree, log
        self._requests: deque[CompactionRequest] = deque()
        self._cursors: dict[int, bytes] = {}

    # ---- for everybody ----

    def request(self, request: CompactionRequest) -> None:
        """Somebody waits for a compaction."""
        self._requests.append(request)
        self.rouse()

    def serve(self) -> None:
        """Has it look for work; where no thread can begin (while the interpreter ends, Python 3.12
        begins none for threads that still write), does the next thing here. For whoever waits."""
        self.rouse()
        if self._unable and self._running.acquire(blocking=False):
            try:
                if not self._stopping:
                    self.begun += 1
                    self._do_next()
                    self.ended += 1
                    self.pressure.update()
            finally:
                self._running.release()

    @property
    def failed(self) -> bool:
        """Whether it has given up for good."""
        return self.error is not None and not isinstance(self.error, DiskFullError)

    # ---- the thread ----

    def _work(self) -> None:
        while not self._stopping:
            self.begun += 1
            seconds = self._do_next()
            self.ended += 1
            self.pressure.update()
            if seconds is not None:
                self._sleep(seconds)

    def _do_next(self) -> float | None:
        """Does the most urgent thing; how long to sleep afterwards (None: look again; -1: until
        woken)."""
        try:
            did = self._flush() or self._serve_request() or self._compact()
        except DiskFullError as error:
            self._failed(error)
            return _RETRY_SECONDS
        except Exception as error:  # Ctrl-C in ``serve`` is the caller's
            self._failed(error)
            return -1
        if did or not self.failed:
            self.error = None  # also when there is nothing left to do that could fail
        return None if did else -1

    def _failed(self, error: BaseException) -> None:
        # Its traceback would keep the tables open that the flush or compaction had, beyond a close.
        traceback.clear_frames(error.__traceback__)
        self.error = error
        while self._requests:
            self._answer(self._requests[0], error)

    def _flush(self) -> bool:
        sealed = self._tree.state.sealed
        if not sealed or self.failed:
            return False
        self.flushing = memtable = sealed[-1]
        try:
            with contextlib.closing(flush(self._tree, self._log, memtable, self.counters)) as steps:
                for _ in steps:
                    if self._stopping:
                        return False
        finally:
            self.flushing = None
        return True

    def _compact(self) -> bool:
        options = self._tree.options
        if self.failed:
            return False
        plan = pick(
            self._tree.state.version,
            level_bytes_base=options.level_bytes_base,
            table_bytes_max=options.table_bytes_max,
            cursors=self._cursors,
        )
        if plan is None:
            return False
        if self._execute(plan, Progress(), lambda: False) and plan.level > 0:
            self._cursors[plan.level] = plan.largest
        return True

    def _execute(self, plan: Plan, progress: Progress, cancelled: Callable[[], bool]) -> bool:
        with contextlib.closing(compact(self._tree, plan, self.counters, progress)) as steps:
            for _ in steps:
                if self._stopping or cancelled():
                    return False
                if self._tree.state.sealed:  # writers wait for it
                    self._flush()
                    self.pressure.update()
        return True

    def _serve_request(self) -> bool:
        if not self._requests:
            return False
        request = self._requests[0]
        if self.failed:
            self._answer(request, self.error)
            return False
        request.progress.entries_total = entries_to_read(
            self._tree.state.version, request.start, request.stop
        )
        for plan in self._plans(request):
            if not self._execute(plan, request.progress, lambda: request.cancelled):
                break
        self._answer(request, None)
        return True

    def _plans(self, request: CompactionRequest) -> Iterator[Plan]:
        """From the top down: each level's share of the range into the next one."""
        for level in range(LEVELS):
            while not request.cancelled:
                version = self._tree.state.version
                plan = pick_range(version, request.start, request.stop, level)
                if plan is None:
                    break
                yield plan

    def _answer(self, request: CompactionRequest, error: BaseException | None) -> None:
        self._requests.popleft()
        request.error = error
        request.done = True
