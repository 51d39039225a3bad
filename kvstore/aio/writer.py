"""AsyncWriter: the writes of an event loop, on their way to the disk and back.

    put, write     a task puts its write into the queue, and waits for it; puts and deletes that
                   come one after the other are one item of the queue
    _pump          at the end of the loop's iteration: all that is queued goes to the log, and is
                   submitted as one batch; nothing here waits
    _come_back     the log's eventfd says that something completed: reap, and apply what is durable
    _wake_durable  its tasks go on, in LSN order, within one callback of the loop

So the puts of one iteration share a device write, and while it is under way those of the next
gather. What would make the loop wait (a full log file, writers held back by compaction, an entry
larger than the log's buffer) is left to one thread; meanwhile writes queue up behind it, in order.

Some facts about cancellation: a write that is cancelled before it went to the log is not written.
Later it goes on, and nobody is told. It is never there in part: it is one log entry. The task goes
on at once in either case. Which one it was is looked up afterwards (write.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

from kvstore.access import Access
from kvstore.aio.write import Outcome, Puts, Write, another
from kvstore.batch import encode
from kvstore.errors import ClosedError, KVStoreError, PoisonedError
from kvstore.pipeline import Change, WritePipeline
from kvstore.wal import FULL, LATER, TOO_LARGE, SegmentedWalWriter

__all__ = ["AsyncWriter"]

_BATCH_WRITES_MIN = 16
_PUTS_MAX = 1024
_PUTS_BYTES_MAX = 1 << 20
_FRAME_BYTES = 32  # what an entry of the log takes beyond its payload, at most
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
        buffer_bytes = wal.max_batch_bytes()
        # So a group fits into the log's buffer, frames and all, and into half of it.
        self._puts_bytes_max = min(_PUTS_BYTES_MAX, buffer_bytes // 4)
        self._puts_max = min(_PUTS_MAX, buffer_bytes // 4 // _FRAME_BYTES)
        self._done: Outcome = loop.create_future()
        self._done.set_result(None)
        self._thread = ThreadPoolExecutor(1, "kvstore-write")
        self._closing = False
        self.bytes = 0
        """Taken in, and not durable yet (a relaxed one: not visible). Those of the open group come
        to it when that ends."""
        self._granted = 0  # of these: of who was given room and has not come to queue up yet
        self._room: deque[tuple[Outcome, int]] = deque()  # who waits until there is room for bytes
        self._queue: deque[Write] = deque()
        self._open: Puts | None = None
        """The last of the queue, when it takes more: until the end of the iteration at most."""
        self._open_max = 0  # how many it takes
        self._queued = 0  # how many writes have come to the queue since it was pumped; not the open
        self._in_log: deque[tuple[int, Write]] = deque()
        """With the last LSN of each."""
        self._in_log_writes = 0
        self._batches_max = batches_max
        self._batch_writes = sys.maxsize
        """How many in the queue do not wait for the end of the iteration: so the device has a
        batch while the loop makes the next."""
        self._barriers: deque[tuple[int, Write]] = deque()
        self._durable: deque[Write] = deque()
        """In LSN order; whose tasks are about to be woken, by one callback of the loop."""
        self._pump_due = False
        self._look_due = False  # for those who were cancelled
        self._aside: object = None  # while the thread clears the way for the head of the queue
        self._admitted = 0  # of the queue's items, how many have waited for compaction
        self._wanted_lsn = self._submitted_lsn = wal.last_lsn
        self._idle: Outcome | None = None
        self._eventfd = wal.eventfd
        loop.add_reader(self._eventfd, self._come_back)

    # ---- for tasks ----

    def put(self, key: bytes, value: bytes, size: int) -> Awaitable[None]:
        """Takes a put of ``size`` bytes in; what it returns is done when it is durable and
        visible."""
        puts = self._open
        # An open group says that the store was found open in this iteration.
        if puts is None or self._room or _running_loop() is not self._loop:
            return self._take(key, value, size)
        keys = puts.keys
        count = len(keys)
        size += puts.size
        if count >= self._open_max or count != len(puts.waiting) or size > puts.bytes_max:
            return self._take(key, value, size - puts.size)
        puts.size = size
        keys.append(key)
        puts.values.append(value)
        return puts

    def delete(self, key: bytes, size: int) -> Awaitable[None]:
        """The same for a delete."""
        return self._take(key, None, size)

    def _take(self, key: bytes, value: bytes | None, size: int) -> Awaitable[None]:
        if not self._has_room(size):
            return self._put_later(key, value, size)
        return self._enqueue_put(key, value, size)

    def write(self, change: Change, size: int, *, relaxed: bool = False) -> Awaitable[None]:
        """The same for any change (``relaxed``: done when it is visible)."""
        if not self._has_room(size):
            return self._write_later(change, size, relaxed=relaxed)
        self.bytes += size
        return self._enqueue(change, size, relaxed=relaxed)

    def _has_room(self, size: int) -> bool:
        """Whether a write may be taken in now; raises when none may ever."""
        if not self._pump_due or self._closing or _running_loop() is not self._loop:
            self._check()
        held = self.bytes + (self._open.size if self._open else 0)
        return not (self._room or (held and held + size > self._queue_bytes_max))

    async def _put_later(self, key: bytes, value: bytes | None, size: int) -> None:
        await self._wait_for_room(size)
        self.bytes -= size  # its group counts it
        await self._enqueue_put(key, value, size)

    async def _write_later(self, change: Change, size: int, *, relaxed: bool) -> None:
        await self._wait_for_room(size)
        await self._enqueue(change, size, relaxed=relaxed)

    def _enqueue_put(self, key: bytes, value: bytes | None, size: int) -> Write:
        puts = self._open
        if (
            puts is None
            or len(puts.keys) >= self._open_max
            or len(puts.keys) != len(puts.waiting)
            or puts.size + size > puts.bytes_max
        ):
            if size > self._puts_bytes_max:
                self.bytes += size
                return self._enqueue((key, value), size, relaxed=False)
            self._before_next()
            puts = self._open = self._begin_puts()
        puts.keys.append(key)
        puts.values.append(value)
        puts.size += size
        if value is None:
            puts.deletes = True
        return puts

    def _begin_puts(self) -> Puts:
        # Who was given room brings his bytes along: they are room for his group.
        room = self._queue_bytes_max - self.bytes + self._granted
        puts = Puts(self._loop, self._look_soon, min(self._puts_bytes_max, room))
        self._open_max = min(self._puts_max, self._batch_writes - self._queued)
        self._queue.append(puts)
        self._pump_soon()
        return puts

    def _enqueue(self, change: Change | None, size: int, *, relaxed: bool) -> Write:
        self._before_next()
        write = Write(self._loop, self._look_soon, change, size, relaxed=relaxed)
        self._queue.append(write)
        self._queued += 1
        self._pump_soon()
        return write

    def _before_next(self) -> None:
        """What is queued is not added to. When it is enough for a batch it goes: not later, when
        the write that makes it enough would have no waiter yet."""
        self._end_puts()
        if self._queued >= self._batch_writes:
            self._pump()

    def _end_puts(self) -> None:
        puts = self._open
        if puts is not None:
            self._open = None
            self.bytes += puts.size
            self._queued += len(puts.keys)

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
        self._end_puts()
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
        if room:
            self._end_puts()  # it has been promised what is left of the room
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
        self._end_puts()
        try:
            self._look_for_cancelled()
            self._append_queued()
            if self._submitted_lsn < self._wanted_lsn:
                self._submitted_lsn = self._wal.submit()
        except PoisonedError:
            self._fail_in_log()
        except BaseException as error:
            self._fail_all(error)
            raise
        finally:
            self._queued = 0
            self._batch_writes = sys.maxsize
            if self._batches_max > 1 and not self._queue:
                share = self._in_log_writes // self._batches_max
                self._batch_writes = max(_BATCH_WRITES_MIN, share)
            self._tell_idle()

    def _append_queued(self) -> None:
        look = False
        while self._queue and not self._aside:
            write = self._queue[0]
            if write.given_up:
                self._leave_queue()
                self._give_room(write.size)
            elif _is_barrier(write):
                self._leave_queue()
                self._await_durable(write)
                look = True
            elif self._pressure.closed and not self._admitted:
                self._wait_for_compaction()
            else:
                lsn = self._append(write)
                if lsn == LATER:
                    self._wanted_lsn = self._wal.last_lsn  # what makes room
                    break
                if lsn < 0:
                    self._deal_with(lsn, write)
                    continue
                self._leave_queue()
                self._in_log.append((lsn, write))
                self._in_log_writes += write.count
                if write.relaxed:
                    look = True
                else:
                    self._wanted_lsn = lsn
        if look:
            self._complete(self._wal.durable_lsn)

    def _append(self, write: Write) -> int:
        """Its last LSN, or a negative number (SegmentedWalWriter.try_append)."""
        if isinstance(write, Puts) and len(write.keys) > 1:
            return self._pipeline.try_begin_puts(
                write.keys, write.values, write.size, deletes=write.deletes
            )
        change = _change(write)
        return self._try_begin(encode(change), change, relaxed=write.relaxed)

    def _look_soon(self) -> None:
        """A task was cancelled, and may be one that waits here."""
        if not self._look_due:
            self._look_due = True
            self._call_soon(self._look_for_cancelled)

    def _look_for_cancelled(self) -> None:
        """Has those who were cancelled go on. What is still in the queue is not written."""
        if not self._look_due:
            return
        self._look_due = False
        self._end_puts()
        dropped = sum([write.give_up() for write in self._queue])
        for _, write in (*self._in_log, *self._barriers):
            write.release_cancelled()
        self._give_room(dropped)

    def _await_durable(self, barrier: Write) -> None:
        """Has it wait for all that the log holds now."""
        failure = self._wal.failure()
        if failure is None:
            self._wanted_lsn = self._wal.last_lsn
            self._barriers.append((self._wanted_lsn, barrier))
        else:
            error = PoisonedError(self._wal.path, failure)
            error.__cause__ = failure
            barrier.fail(error)

    def _leave_queue(self) -> Write:
        """Takes the head off the queue."""
        if self._admitted:
            self._admitted -= 1
        return self._queue.popleft()

    # ---- what would make the loop wait ----

    def _deal_with(self, obstacle: int, write: Write) -> None:
        """With what keeps ``write``, the head of the queue, from being appended."""
        change = _change(write)
        if obstacle == TOO_LARGE:
            # A relaxed one, too: commit_relaxed holds, while it waits for the disk, the lock that
            # this loop needs to apply.
            self._step_aside(self._head_written, self._pipeline.commit, encode(change), change)
            return
        size = len(encode(change))
        if write.count > 1:
            size = write.size + write.count * _FRAME_BYTES
        if obstacle == FULL:
            self._step_aside(self._head_may_try, self._wal.remove_obstacle, obstacle, size)
        else:
            try:
                self._wal.remove_obstacle(obstacle, size)
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
            if _is_barrier(self._queue[0]):  # which asks nothing of the background
                self._await_durable(self._leave_queue())
            else:
                self._fail_head(another(error))
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
        durable = self._durable
        try:
            for _ in range(len(durable)):  # not those who come meanwhile: others want the loop too
                if not durable:
                    break  # a task has run the loop within itself
                write = durable[0]
                write.wake(self._done)
                if durable and durable[0] is write:
                    durable.popleft()
        finally:
            if durable:
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
                _, write = in_log.popleft()
                self._in_log_writes -= write.count
                size_done += write.size
                done.append(write)
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
            _, write = self._in_log.popleft()
            self._in_log_writes -= write.count
            write.fail(self._cause())
            self._give_room(write.size)
        while self._barriers:
            self._barriers.popleft()[1].fail(self._cause())
        self._wanted_lsn = self._submitted_lsn
        if self._queue:
            self._pump_soon()  # each of them is refused

    def _cause(self) -> BaseException:
        return self._wal.failure() or KVStoreError(f"store {self._access.path}: the log failed")

    def _fail_head(self, error: BaseException) -> None:
        write = self._leave_queue()
        write.fail(error)
        self._give_room(write.size)

    def _fail_all(self, error: BaseException) -> None:
        """What nobody expected: whoever waits hears of it, and does not wait for ever."""
        waiting = [write for _, write in (*self._in_log, *self._barriers)]
        waiting += self._queue
        rooms = [future for future, _ in self._room]
        for each in (self._in_log, self._barriers, self._queue, self._room):
            each.clear()
        self._open = None
        self._admitted = self._queued = self._in_log_writes = 0
        self.bytes = self._granted
        self._aside = None
        self._wanted_lsn = self._submitted_lsn
        failure = partial(_failure, f"store {self._access.path}: a write met {error!r}", error)
        for write in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                write.fail(failure())
        for room in rooms:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                if not room.done():
                    room.set_exception(failure())


def _is_barrier(write: Write) -> bool:
    return write.change is None and not isinstance(write, Puts)


def _change(write: Write) -> Change:
    """Of a write; of Puts the first."""
    change = (write.keys[0], write.values[0]) if isinstance(write, Puts) else write.change
    assert change is not None
    return change


def _failure(message: str, cause: BaseException) -> KVStoreError:
    failure = KVStoreError(message)
    failure.__cause__ = cause
    return failure
