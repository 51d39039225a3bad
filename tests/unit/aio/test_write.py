"""What tasks of every kind make of the thing they wait for, which is no future of asyncio's own."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvstore import AsyncKVStore, Options, PoisonedError, StorageIOError
from kvstore.aio.write import Write
from tests.support.loops import TaskFactory, each_kind, each_loop, run, ticks, until
from tests.support.shuffle import shuffled
from tests.support.stores import NEVER, contents

OPTIONS = Options(wal_batches_in_flight=1, flush_interval_ms=NEVER)


@each_loop
def test_every_task_goes_on_in_its_own_context(tmp_path: Path, loop: str) -> None:
    name: contextvars.ContextVar[int] = contextvars.ContextVar("name")

    async def put(db: AsyncKVStore, number: int) -> None:
        name.set(number)
        for turn in range(3):
            await db.put(b"%d" % number, b"%d" % turn)
            assert name.get() == number
            task = asyncio.current_task()
            assert task is not None
            assert task.get_name() == str(number)

    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            tasks = [asyncio.create_task(put(db, n), name=str(n)) for n in range(40)]
            await asyncio.gather(*tasks)
        assert asyncio.current_task() is not None

    run(main(), loop)
    assert contents(tmp_path / "db") == {b"%d" % n: b"2" for n in range(40)}


@each_kind
def test_tasks_of_every_kind(tmp_path: Path, kind: TaskFactory) -> None:
    async def put(db: AsyncKVStore, number: int) -> None:
        for turn in range(3):
            await db.put(b"%d" % number, b"%d" % turn)
            # From within a task that was woken just now: an eager one begins at once.
            await asyncio.create_task(db.put(b"%d too" % number, b"%d" % turn))

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(kind)
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            tasks = [asyncio.create_task(put(db, n)) for n in range(20)]
            late = asyncio.create_task(db.put(b"late", b""))
            await ticks(1)
            late.cancel()
            await asyncio.wait([*tasks, late])
            assert [task.exception() for task in tasks] == [None] * 20

    run(main())
    found = contents(tmp_path / "db")
    found.pop(b"late", None)
    assert found == {b"%d%s" % (n, end): b"2" for n in range(20) for end in (b"", b" too")}


def test_what_a_task_lets_through_keeps_no_other_from_going_on(tmp_path: Path) -> None:
    done: list[int] = []

    async def put(db: AsyncKVStore, number: int) -> None:
        await db.put(b"%d" % number, b"")
        done.append(number)
        if number == 3:
            raise SystemExit(7)

    async def main() -> None:
        db = await AsyncKVStore(tmp_path / "db", OPTIONS).__aenter__()
        tasks.extend(asyncio.create_task(put(db, n)) for n in range(8))
        stores.append(db)
        await asyncio.wait(tasks)

    tasks: list[asyncio.Task[None]] = []
    stores: list[AsyncKVStore] = []
    loop = asyncio.new_event_loop()
    running = loop.create_task(main())
    with pytest.raises(SystemExit) as exit_:
        loop.run_until_complete(running)
    assert exit_.value.code == 7
    loop.run_until_complete(running)  # it goes on where it was
    assert done == [*range(8)]
    assert isinstance(tasks[3].exception(), SystemExit)
    assert stores[0]._writer.bytes == 0
    loop.run_until_complete(stores[0].close())
    loop.close()


def test_a_cancellation_brings_its_message(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(1) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.put(b"first", b"")
                engine.hold()
                task = asyncio.create_task(db.put(b"second", b""))
                await until(lambda: len(db._writer._in_log) == 1)
                task.cancel("enough")
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.args == (("enough",) if sys.version_info >= (3, 11) else ())
                engine.free.set()

    run(main())
    assert contents(tmp_path / "db").keys() == {b"first", b"second"}


def test_cancelled_while_it_is_being_woken_it_is_cancelled(tmp_path: Path) -> None:
    # The one woken first cancels the second, whose write is durable, and which has not run yet.
    async def first(db: AsyncKVStore) -> None:
        await db.put(b"first", b"")
        tasks[1].cancel()
        tasks[2].cancel()

    async def other(db: AsyncKVStore, key: bytes) -> str:
        try:
            await db.put(key, b"")
        except asyncio.CancelledError:
            return "cancelled"
        return "done"

    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            tasks.append(asyncio.create_task(first(db)))
            tasks.extend(asyncio.create_task(other(db, key)) for key in (b"second", b"third"))
            await asyncio.wait(tasks)
            assert [task.result() for task in tasks] == [None, "cancelled", "cancelled"]
            assert await db.count() == 3
            assert db._writer.bytes == 0

    tasks: list[asyncio.Task[Any]] = []
    run(main())


def test_done_before_anybody_waits() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        write = Write(loop, lambda: None, (b"key", b""), 1)
        write.fail(PoisonedError("log", OSError("cause")))
        assert not write.cancel()
        with pytest.raises(PoisonedError):
            await write

    run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_one_that_comes_to_wait_when_it_is_done_goes_on(tmp_path: Path, *, fails: bool) -> None:
    # As when somebody drives a coroutine by hand, to hand it to a task when it has to wait.
    @types.coroutine
    def go_on(put: Any, waits_for: Any) -> Iterator[Any]:
        waits_for._asyncio_future_blocking = True
        yield waits_for
        with pytest.raises(StopIteration):
            put.send(None)

    async def main() -> None:
        with shuffled(1) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.put(b"first", b"")
                before = asyncio.create_task(db.put(b"before", b""))
                await ticks(1)
                by_hand = db.put(b"by hand", b"")
                waits_for = by_hand.send(None)
                after = asyncio.create_task(db.put(b"after", b""))
                engine.fail_at = engine.completed if fails else None
                told = await asyncio.gather(before, after, return_exceptions=True)
                assert [isinstance(one, StorageIOError) for one in told] == [fails, fails]
                try:
                    await asyncio.wait_for(go_on(by_hand, waits_for), 10)
                except StorageIOError:
                    assert fails
                else:
                    assert not fails
                by_hand.close()
                engine.fail_at = None

    run(main())
    if not fails:
        assert contents(tmp_path / "db").keys() == {b"first", b"before", b"by hand", b"after"}
