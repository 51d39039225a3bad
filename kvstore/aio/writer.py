"""AsyncWriter: the writes of an event loop, on their way to the disk and back.

    write          a task puts its write into the queue, and waits for it
    _pump          at the end of the loop's iteration: all that is queued goes to the log, and is
                   submitted as one batch; nothing here waits
    _come_back     the log's eventfd says that something completed: reap, and apply what is durable
    _wake_durable  its tasks go on, in LSN order, within one callback of the loop

So the puts of one iteration share a device write, and while it is under way those of the next
gather. What would make the loop wait (a full log file, writers held back by compaction, an entry
larger than the log's buffer) is left to one thread; meanwhile writes queue up behind it, in order.

Some facts about cancellation: a write that is cancelled before it went to the log is not written.
Later it goes on, and nobody is told. It is never there in part: it is one log entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NoReturn

from kvstore.access import Access
from kvstore.aio.write import Outcome, Write, wake, wake_soon
from kvstore.batch import encode
from kvstore.errors import ClosedError, KVStoreError, PoisonedError
from kvstore.pipeline import Change, WritePipeline
from kvstore.wal import FULL, LATER, TOO_LARGE, SegmentedWalWriter

__all__ = ["AsyncWriter"]

_BATCH_WRITES_MIN = 16
_ALIKE_MAX = 1024
_ALIKE_BYTES_MAX = 1 << 20
_running_loop = asyncio._get_running_loop


class AsyncWriter:
    """Takes the writes of one event loop, in whose thread every call is made.

    At most ``batches_max`` batches are under way at a time, and ``queue_bytes_max`` bytes of writes
    taken in before they are durable; who comes then waits, in order. A single larger one is let in
    when there is no other.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        access: Access,
        pipeline: WritePipeline,
        wal: SegmentedWalWriter,
        *,
        queue_bytes_max: int,
        batches_max: int,
    ) -> None:
        self._loop, self._access = loop, access
        self._pipeline, self._pressure, self._wal = pipeline, pipeline.pressure, wal
        self._queue_bytes_max = queue_bytes_max
        self._try_begin, self._call_soon = pipeline.try_begin, loop.call_soon
        self._done: Outcome = loop.create_future()
        self._done.set_result(None)
        self._thread = ThreadPoolExecutor(1, "kvstore-write")
        self._closing = False
        self.bytes = 0
        """Taken in, and not durable yet (a relaxed one: not visible)."""
        self._granted = 0  # of these: of who was given room and has not come to queue up yet
        self._room: deque[tuple[Outcome, int]] = deque()  # who waits until there is room for bytes
        self._queue: deque[Write] = deque()
        self._unlike = 0  # of the queue: how many are no put or delete with sync
        self._in_log: deque[tuple[int, Sequence[Write], int]] = deque()
        """Last LSN, writes, bytes."""
        self._in_log_writes = 0
        self._batches_max = batches_max
        self._batch_writes = sys.maxsize
        """How many in the queue do not wait for the end of the iteration: so the device has a
        batch while the loop makes the next."""
        self._barriers: deque[tuple[int, Write]] = deque()
        self._durable: deque[Write] = deque()
        """In LSN order; whose tasks are about to be woken, by one callback of the loop."""
        self._pump_due = False
        self._aside: object = None  # while the thread clears the way for the head of the queue
        self._admitted = 0  # of the queue's writes, how many have waited for compaction
        self._wanted_lsn = self._submitted_lsn = wal.last_lsn
        self._idle: Outcome | None = None
        self._eventfd = wal.eventfd
        loop.add_reader(self._eventfd, self._come_back)

    # ---- for tasks ----

    def write(self, change: Change, size: int, *, relaxed: bool = False) -> Awaitable[None]:
        """Takes a change of ``size`` bytes in; what it returns is done when the change is durable
        and visible (``relaxed``: visible)."""
        if not self._pump_due or _running_loop() is not self._loop:
            self._check()
        if self._room or (self.bytes and self.bytes + size > self._queue_bytes_max):
            return self._write_later(change, size, relaxed=relaxed)
        self.bytes += size
        # As _enqueue does, spelled out: a frame less on the way of every put.
        write = Write(self._loop, change, size, relaxed)
        self._queue.append(write)
        if relaxed or type(change) is not tuple:
            self._unlike += 1
        if not self._pump_due:
            self._pump_due = True
            self._call_soon(self._pump)
        if len(self._queue) >= self._batch_writes:
            self._pump()
        return write

    async def _write_later(self, change: Change, size: int, *, relaxed: bool) -> None:
        await self._wait_for_room(size)
        await self._enqueue(change, size, relaxed=relaxed)

    def _enqueue(self, change: Change | None, size: int, *, relaxed: bool) -> Write:
        write = Write(self._loop, change, size, relaxed)
        self._queue.append(write)
        if relaxed or type(change) is not tuple:
            self._unlike += 1
        self._pump_soon()
        return write

    def write_at_once(self, change: Change) -> bool:
        """A relaxed write that nothing is before, and nothing keeps waiting: True, and visible."""
        self._check()
        if self._queue or self._in_log or self._aside or self._pressure.closed:
            return False
        if self._try_begin(encode(change), change, relaxed=True) < 0:
            return False
        self._pipeline.apply_ready()
        return True

    async def sync(self) -> None:
        """Returns when every write before it, relaxed ones too, is durable."""
        self._check()
        await self._enqueue(None, 0, relaxed=False)

    async def close(self) -> None:
        """Takes nothing more in; returns when all that was is durable, or has failed."""
        self._closing = True
        try:
            if self._busy() and not self._loop.is_closed():
                self._idle = self._loop.create_future()
                await self._idle
        finally:
            if self._busy():  # cancelled, or without a loop
                self._fail_all(ClosedError(f"store {self._access.path}"))
            self.stop_listening()
            self._thread.shutdown(wait=False)

    def stop_listening(self) -> None:
        """Has the loop forget the log's eventfd, which is about to be closed. In any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if _running_loop() is self._loop:
                self._loop.remove_reader(self._eventfd)
            else:
                self._loop.call_soon_threadsafe(self._loop.remove_reader, self._eventfd)

    def _check(self) -> None:
        """Raises why nothing may be written."""
        if self._closing:
            raise ClosedError(f"store {self._access.path}")
        self._access.check_writable()
        if _running_loop() is not self._loop:
            self._refuse_stranger()

    def check_close(self) -> None:
        """Raises unless it may be closed here: in its loop, or when that is closed."""
        if _running_loop() is not self._loop and not self._loop.is_closed():
            self._refuse_stranger()

    def _refuse_stranger(self) -> NoReturn:
        raise KVStoreError(f"store {self._access.path}: used outside of its event loop")

    def _busy(self) -> bool:
        # The bytes are also of those who were given room, and have not come to queue up yet.
        return bool(self.bytes or self._queue or self._barriers or self._room or self._aside)

    async def _wait_for_room(self, size: int) -> None:
        future = self._loop.create_future()
        self._room.append((future, size))
        try:
            await future
        except BaseException:
            granted = future.done() and not future.cancelled() and future.exception() is None
            self._granted -= size if granted else 0
            self._give_room(size if granted else 0)  # which passes over those who gave up
            self._tell_idle()
            raise
        self._granted -= size

    def _give_room(self, size: int) -> None:
        """So many bytes of writes are no longer in the queue: lets others in."""
        self.bytes -= size
        room = self._room
        while room:
            future, wanted = room[0]
            gave_up = future.done()
            if self.bytes and self.bytes + wanted > self._queue_bytes_max and not gave_up:
                break
            room.popleft()
            if not gave_up:
                self.bytes += wanted
                self._granted += wanted
                future.set_result(None)

    # ---- to the log ----

    def _pump_soon(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            self._call_soon(self._pump)

    def _pump(self) -> None:
        """Appends what is queued, as far as that can be done without waiting, and submits it."""
        self._pump_due = False
        under_way = len(self._queue) + self._in_log_writes
        try:
            self._append_queued()
            if self._submitted_lsn < self._wanted_lsn:
                self._submitted_lsn = self._wal.submit()
        except PoisonedError:
            self._fail_in_log()
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            self._batch_writes = sys.maxsize
            if self._batches_max > 1 and not self._queue:
                self._batch_writes = max(_BATCH_WRITES_MIN, under_way // self._batches_max)
            self._tell_idle()

    def _append_queued(self) -> None:
        while self._append_alike():
            pass
        look = False
        while self._queue and not self._aside:
            write = self._queue[0]
            change = write.change
            if write.outcome is not None:  # cancelled, and never written
                self._leave_queue()
                self._give_room(write.size)
            elif change is None:
                self._leave_queue()
                self._await_durable(write)
                look = True
            elif self._pressure.closed and not self._admitted:
                self._wait_for_compaction()
            else:
                payload = encode(change)
                lsn = self._try_begin(payload, change, relaxed=write.relaxed)
                if lsn == LATER:
                    self._wanted_lsn = self._wal.last_lsn  # what makes room
                    break
                if lsn < 0:
                    self._deal_with(lsn, payload)
                    continue
                self._leave_queue()
                self._in_log.append((lsn, (write,), write.size))
                self._in_log_writes += 1
                if write.relaxed:
                    look = True
                else:
                    self._wanted_lsn = lsn
        if look:
            self._complete(self._wal.durable_lsn)

    def _append_alike(self) -> bool:
        """Many of the queue, which has puts and deletes only, by one native call; False when that
        cannot be done: one after the other, then."""
        queue = self._queue
        if len(queue) < 2 or self._unlike or self._aside or self._pressure.closed:
            return False
        writes = list(islice(queue, _ALIKE_MAX))
        size = sum([write.size for write in writes])
        changes: list[Any] = [write.change for write in writes if write.outcome is None]
        if size > _ALIKE_BYTES_MAX or len(changes) < len(writes):
            return False
        keys, values = zip(*changes, strict=True)
        lsn = self._pipeline.try_begin_puts(keys, values)
        if lsn < 0:
            return False
        self._wanted_lsn = lsn
        self._in_log.append((lsn, writes, size))
        self._in_log_writes += len(writes)
        self._admitted = max(0, self._admitted - len(writes))
        if len(writes) == len(queue):
            queue.clear()
        else:
            for _ in writes:
                queue.popleft()
        return True

    def _await_durable(self, barrier: Write) -> None:
        """Has it wait for all that the log holds now."""
        failure = self._wal.failure()
        if failure is None:
            self._wanted_lsn = self._wal.last_lsn
            self._barriers.append((self._wanted_lsn, barrier))
        else:
            error = PoisonedError(self._wal.path, failure)
            error.__cause__ = failure
            self._fail(barrier, error)

    def _leave_queue(self) -> Write:
        """Takes the head off the queue."""
        if self._admitted:
            self._admitted -= 1
        write = self._queue.popleft()
        if write.relaxed or type(write.change) is not tuple:
            self._unlike -= 1
        return write

    # ---- what would make the loop wait ----

    def _deal_with(self, obstacle: int, payload: bytes) -> None:
        """With what keeps the head of the queue, ``payload`` encoded, from being appended."""
        change = self._queue[0].change
        if obstacle == TOO_LARGE:
            # A relaxed one, too: commit_relaxed holds, while it waits for the disk, the lock that
            # this loop needs to apply.
            self._step_aside(self._head_written, self._pipeline.commit, payload, change)
        elif obstacle == FULL:
            self._step_aside(self._head_may_try, self._wal.remove_obstacle, obstacle, payload)
        else:
            try:
                self._wal.remove_obstacle(obstacle, payload)
            except KVStoreError as error:
                self._fail_head(error)

    def _wait_for_compaction(self) -> None:
        """Writers are held back: all that is queued waits at once."""
        count = len(self._queue)
        size = sum(write.size for write in self._queue)
        admit = partial(self._queue_admitted, count)
        self._step_aside(admit, self._pipeline.wait_for_room, size)

    def _step_aside(
        self,
        then: Callable[[BaseException | None], None],
        work: Callable[..., None],
        *arguments: Any,
    ) -> None:
        """Has the thread work, and the queue wait for it; ``then`` is given what it raised."""
        errand = self._aside = object()

        def come_back(done: asyncio.Future[None]) -> None:
            error = asyncio.CancelledError() if done.cancelled() else done.exception()
            if self._aside is errand:  # else all that was queued has failed meanwhile
                self._aside = None
                then(error)
                self._pump()

        self._loop.run_in_executor(self._thread, work, *arguments).add_done_callback(come_back)

    def _head_written(self, error: BaseException | None) -> None:
        if error is not None:
            self._fail_head(error)
            return
        self._complete(self._wal.durable_lsn)  # those before it hear of it first
        write = self._leave_queue()
        self._durable.append(write)
        self._call_soon(self._wake_durable)
        self._give_room(write.size)

    def _head_may_try(self, error: BaseException | None) -> None:
        if error is not None:
            self._fail_head(error)

    def _queue_admitted(self, count: int, error: BaseException | None) -> None:
        if error is None:
            self._admitted = count
            return
        for _ in range(count):
            if self._queue[0].change is None:  # a barrier asks nothing of the background
                self._await_durable(self._leave_queue())
            else:
                told = copy.copy(error)
                told.__cause__ = error.__cause__
                self._fail_head(told)
        self._complete(self._wal.durable_lsn)  # a barrier may have nothing to wait for

    # ---- and back ----

    def _come_back(self) -> None:
        """The log has told that something completed."""
        try:
            with contextlib.suppress(BlockingIOError):
                os.read(self._eventfd, 8)
            self._complete(self._wal.reap())
        except PoisonedError:
            self._fail_in_log()
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            if self._queue or self._submitted_lsn < self._wanted_lsn:
                # After the tasks that were waiting: what they write now goes with it.
                self._pump_soon()
            self._tell_idle()

    def _wake_durable(self) -> None:
        try:
            wake(self._durable, self._done)
        finally:
            if self._durable:
                self._call_soon(self._wake_durable)

    def _complete(self, durable_lsn: int) -> None:
        """Applies what has become durable, and has the loop wake its tasks, in LSN order."""
        try:
            self._apply_durable(durable_lsn)
        finally:
            if self._durable:
                self._call_soon(self._wake_durable)

    def _apply_durable(self, durable_lsn: int) -> None:
        in_log, barriers, done = self._in_log, self._barriers, self._durable
        if in_log:
            self._pipeline.apply_ready()
            applied_lsn = self._pipeline.applied_lsn
            size_done = 0
            while in_log and in_log[0][0] <= applied_lsn:
                _, writes, size = in_log.popleft()
                self._in_log_writes -= len(writes)
                size_done += size
                done += writes
            self._give_room(size_done)
        while barriers and barriers[0][0] <= durable_lsn:
            done.append(barriers.popleft()[1])

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._busy():
            self._idle.set_result(None)

    # ---- failure ----

    def _fail_in_log(self) -> None:
        """The log is poisoned: what was durable before that is; the rest hears the cause."""
        self._complete(self._wal.durable_lsn)
        while self._in_log:
            _, writes, size = self._in_log.popleft()
            self._in_log_writes -= len(writes)
            for write in writes:
                self._fail(write, self._cause())
            self._give_room(size)
        while self._barriers:
            self._fail(self._barriers.popleft()[1], self._cause())
        self._wanted_lsn = self._submitted_lsn
        if self._queue:
            self._pump_soon()  # each of them is refused

    def _cause(self) -> BaseException:
        return self._wal.failure() or KVStoreError(f"store {self._access.path}: the log failed")

    def _fail_head(self, error: BaseException) -> None:
        write = self._leave_queue()
        self._fail(write, error)
        self._give_room(write.size)

    def _fail_all(self, error: BaseException) -> None:
        """What nobody expected: whoever waits hears of it, and does not wait for ever."""
        waiting = [write for _, writes, _ in self._in_log for write in writes]
        waiting += [barrier for _, barrier in self._barriers]
        waiting += self._queue
        rooms = [future for future, _ in self._room]
        for each in (self._in_log, self._barriers, self._queue, self._room):
            each.clear()
        self._admitted = self._unlike = self._in_log_writes = 0
        self.bytes = self._granted
        self._aside = None
        self._wanted_lsn = self._submitted_lsn
        failure = partial(_failure, f"store {self._access.path}: a write met {error!r}", error)
        for write in waiting:
            self._fail(write, failure())
        for room in rooms:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                if not room.done():
                    room.set_exception(failure())

    def _fail(self, write: Write, error: BaseException) -> None:
        if write.outcome is None:
            failed: Outcome = self._loop.create_future()
            failed.set_exception(error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                wake_soon(write, failed)


def _failure(message: str, cause: BaseException) -> KVStoreError:
    failure = KVStoreError(message)
    failure.__cause__ = cause
    return failure
