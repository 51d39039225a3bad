"""Who is woken when: in the order of the log, whatever way round; and what a task does then."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kvstore import AsyncKVStore, Options
from tests.support.loops import run, until
from tests.support.shuffle import shuffled
from tests.support.stores import NEVER

OPTIONS = Options(flush_interval_ms=NEVER)


def test_in_the_order_of_the_log_though_a_barrier_finds_the_first_durable(tmp_path: Path) -> None:
    # Another thread (or the portable backend's own) makes a write durable before the loop looks;
    # then a sync() has _pump complete it, and _come_back, in the same iteration, the next write.
    async def main() -> None:
        with shuffled(1) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                loop, wal = asyncio.get_running_loop(), db._writer._wal

                async def put(key: bytes) -> None:
                    await db.put(key, b"")
                    heard.append(key)

                def all_durable() -> None:
                    engine.free.set()
                    wal.commit(wal.last_lsn)

                await db.put(b"before", b"")
                engine.hold()
                first = asyncio.ensure_future(put(b"first"))
                await until(lambda: len(db._writer._in_log) == 1)
                loop.call_soon(loop.call_soon, all_durable)  # before _pump
                rest = [asyncio.ensure_future(put(b"second")), asyncio.ensure_future(db.sync())]
                loop.call_soon(loop.call_soon, all_durable)  # behind it, before _come_back
                await asyncio.gather(first, *rest)

    heard: list[bytes] = []
    run(main())
    assert heard == [b"first", b"second"]


def test_a_task_that_was_woken_may_run_the_loop_within_itself(tmp_path: Path) -> None:
    # As nest_asyncio does, for notebooks.
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def first(db: AsyncKVStore) -> bool:
            await db.put(b"first", b"")
            me = asyncio.current_task()
            asyncio.tasks._leave_task(loop, me)  # type: ignore[arg-type]
            later = loop.create_task(db.put(b"third", b""))
            for _ in range(200):
                loop.call_later(0.001, int)
                loop._run_once()  # type: ignore[attr-defined]
            asyncio.tasks._enter_task(loop, me)  # type: ignore[arg-type]
            return second.done() and later.done()

        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            task = asyncio.ensure_future(first(db))
            second = asyncio.ensure_future(db.put(b"second", b""))
            assert await task

    run(main())


def test_closed_in_another_loop_while_writes_wait_for_room(tmp_path: Path) -> None:
    async def begin() -> AsyncKVStore:
        db = await AsyncKVStore(tmp_path / "db", Options(write_queue_bytes_max=64 << 10), fs=fs)
        await db.put(b"before", b"")
        engine.hold()
        tasks.extend(asyncio.ensure_future(db.put(b"%d" % i, bytes(40_000))) for i in range(3))
        await until(lambda: len(db._writer._room) == 2)
        return db

    tasks: list[asyncio.Task[None]] = []
    with shuffled(1) as (engine, fs):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # of tasks that nobody can wake any more
        db = loop.run_until_complete(begin())
        loop.close()
        engine.free.set()
        asyncio.run(db.close())
        assert db._writer._thread._shutdown
        tasks.clear()
