"""A write that is cancelled is written whole or not at all, and disturbs no other."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore import AsyncKVStore, Options, WriteBatch
from tests.support.loops import TaskFactory, each_loop, each_loop_and_kind, run, ticks, until
from tests.support.shuffle import shuffled
from tests.support.stores import NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents

OPTIONS = Options(
    wal_segment_bytes=SMALLEST_SEGMENT,
    wal_buffer_bytes=SMALLEST_BUFFER,
    wal_batches_in_flight=1,
    write_queue_bytes_max=128 << 10,
    flush_interval_ms=NEVER,
)


def pair(name: bytes, size: int = 100) -> WriteBatch:
    batch = WriteBatch()
    batch.put(name + b" left", bytes(size))
    batch.put(name + b" right", bytes(size))
    return batch


def whole(names: Iterable[bytes]) -> set[bytes]:
    return {name + side for name in names for side in (b" left", b" right")}


@each_loop
def test_before_the_end_of_the_iteration_it_is_not_written(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            lsn = (await db.stats()).last_lsn
            for sync in (True, False):
                tasks = [asyncio.ensure_future(db.put(b"%d" % i, b"")) for i in range(10)]
                if not sync:
                    tasks += [
                        asyncio.ensure_future(db.write(pair(b"%d" % i), sync=False))
                        for i in range(10)
                    ]
                if not sync:  # which would be written at once, if nothing were before them
                    tasks.insert(0, asyncio.ensure_future(db.sync()))
                await ticks(1)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert all(task.cancelled() for task in tasks)
                await ticks(2)
                assert (await db.stats()).last_lsn == lsn
                assert db._writer.bytes == 0
            await db.write(pair(b"after"))

    run(main(), loop)
    assert contents(tmp_path / "db").keys() == whole([b"after"])


def test_once_in_the_log_it_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(1) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.write(pair(b"first"))
                engine.hold()
                tasks = [asyncio.ensure_future(db.write(pair(b"%d" % i))) for i in range(5)]
                barrier = asyncio.ensure_future(db.sync())
                await until(lambda: len(db._writer._in_log) == 5)
                for task in (tasks[1], tasks[3], barrier):
                    task.cancel()
                await ticks(2)
                assert await db.count() == 2
                engine.free.set()
                done = await asyncio.gather(*tasks, barrier, return_exceptions=True)
                assert [type(one) is asyncio.CancelledError for one in done] == [
                    *(False, True, False, True, False, True)
                ]
                assert await db.count() == 12
                assert db._writer.bytes == 0

    run(main())
    assert contents(tmp_path / "db").keys() == whole([b"first", *(b"%d" % i for i in range(5))])


@pytest.mark.parametrize("sync", [True, False])
def test_behind_a_full_log_buffer_it_is_not_written(tmp_path: Path, *, sync: bool) -> None:
    async def main() -> None:
        with shuffled(2) as (engine, fs):
            options = replace(OPTIONS, wal_segment_bytes=1 << 20)
            async with AsyncKVStore(tmp_path / "db", options, fs=fs) as db:
                await db.write(pair(b"first"))
                engine.hold()
                tasks = [
                    asyncio.ensure_future(db.write(pair(b"%d" % i, 10_000), sync=sync or i == 0))
                    for i in range(6)
                ]
                await until(lambda: len(db._writer._in_log) == 3)
                await ticks(3)
                assert len(db._writer._queue) == 3
                tasks[3].cancel()
                tasks[4].cancel()
                await ticks(1)
                engine.free.set()
                await asyncio.wait(tasks)
                assert [task.cancelled() for task in tasks] == [i in {3, 4} for i in range(6)]
                assert db._writer.bytes == 0

    run(main())
    assert contents(tmp_path / "db").keys() == whole([b"first", b"0", b"1", b"2", b"5"])


def test_while_it_waits_to_be_taken_in_it_is_not_written_and_lets_others_pass(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        with shuffled(3) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.write(pair(b"first"))
                engine.hold()
                taken = asyncio.ensure_future(db.write(pair(b"taken", 40_000)))
                await ticks(1)
                large = asyncio.ensure_future(db.write(pair(b"large", 30_000)))
                small = asyncio.ensure_future(db.write(pair(b"small")))
                await ticks(3)
                assert len(db._writer._room) == 2
                before = db._writer.bytes
                large.cancel()
                await ticks(2)
                assert not db._writer._room  # the small one is in
                assert before < db._writer.bytes < before + 300
                engine.free.set()
                await asyncio.wait([taken, large, small])
                assert large.cancelled()
                assert db._writer.bytes == 0

    run(main())
    assert contents(tmp_path / "db").keys() == whole([b"first", b"taken", b"small"])


@pytest.mark.parametrize(("size", "written"), [(20_000, False), (40_000, True)])
def test_while_the_thread_clears_its_way(tmp_path: Path, size: int, *, written: bool) -> None:
    # The log file is full; or the write is larger than the log's buffer, and the thread writes it.
    async def main() -> None:
        with shuffled(4) as (engine, fs):
            options = replace(OPTIONS, wal_segment_bytes=1 << 20 if written else SMALLEST_SEGMENT)
            async with AsyncKVStore(tmp_path / "db", options, fs=fs) as db:
                await db.write(pair(b"first", 12_000))
                engine.hold()
                before = asyncio.ensure_future(db.write(pair(b"before")))
                await ticks(3)
                head = asyncio.ensure_future(db.write(pair(b"head", size)))
                behind = asyncio.ensure_future(db.write(pair(b"behind")))
                while not db._writer._aside:
                    # Until it is in the thread, where it waits for the engine.
                    await ticks(1)
                head.cancel()
                await ticks(2)
                engine.free.set()
                await asyncio.wait([before, head, behind])
                assert head.cancelled()
                assert behind.exception() is None
                assert db._writer.bytes == 0

    run(main())
    names = [b"first", b"before", b"behind", *([b"head"] if written else [])]
    assert contents(tmp_path / "db").keys() == whole(names)


@pytest.mark.parametrize("seed", range(6))
def test_at_any_moment_each_is_whole_or_not_there(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: set[bytes] = set()
    cancelled: set[bytes] = set()

    async def write(db: AsyncKVStore, name: bytes) -> None:
        try:
            size = chance.choice([10, 1000, 8000, 20_000])
            await db.write(pair(name, size), sync=chance.random() < 0.7)
            acknowledged.add(name)
        except asyncio.CancelledError:
            cancelled.add(name)
            raise

    async def main() -> None:
        with shuffled(seed) as (_, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                tasks = []
                for i in range(120):
                    tasks.append(asyncio.ensure_future(write(db, b"%d" % i)))
                    if chance.random() < 0.3:
                        chance.choice(tasks).cancel()
                    await ticks(chance.randrange(4))
                await asyncio.wait(tasks)
                await db.sync()
                assert db._writer.bytes == 0
                assert not db._store._pipeline._pending  # type: ignore[union-attr]
                seen = {key async for key in db}
        found = contents(tmp_path / "db", recovery="strict")
        assert found.keys() == seen
        names = {key.split()[0] for key in found}
        assert found.keys() == whole(names)
        assert acknowledged <= names <= acknowledged | cancelled

    run(main())
    assert len(cancelled) > 5


async def put(db: AsyncKVStore, number: int) -> str:
    try:
        await db.put(b"%d" % number, b"%d" % number)
    except asyncio.CancelledError:
        return "cancelled"
    return "written"


@each_loop_and_kind
def test_of_many_puts_those_that_are_cancelled_in_time_are_not_written(
    tmp_path: Path, loop: str, kind: TaskFactory
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(kind)
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            await db.put(b"first", b"")
            tasks = [asyncio.ensure_future(put(db, number)) for number in range(40)]
            deleted = asyncio.ensure_future(db.delete(b"first"))
            if db._writer._open is None:  # else they were begun eagerly
                await ticks(1)
            for number in gone:
                tasks[number].cancel()
            deleted.cancel()
            await ticks(3)
            assert all(tasks[number].done() for number in gone)
            told = await asyncio.gather(*tasks)
            assert told == ["cancelled" if n in gone else "written" for n in range(40)]
            assert (await db.stats()).last_lsn == 1 + 40 - len(gone)
            assert db._writer.bytes == 0

    gone = [0, 7, 8, 39]
    run(main(), loop)
    written = {b"%d" % n: b"%d" % n for n in range(40) if n not in gone}
    assert contents(tmp_path / "db") == {b"first": b"", **written}


@each_loop_and_kind
def test_puts_in_the_log_of_a_device_that_hangs_end_at_once_and_are_written(
    tmp_path: Path, loop: str, kind: TaskFactory
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(kind)
        with shuffled(7) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.put(b"first", b"")
                engine.hold()
                tasks = [asyncio.ensure_future(put(db, number)) for number in range(10)]
                await until(lambda: db._writer._in_log)
                tasks[3].cancel()
                tasks[9].cancel()
                await ticks(3)
                assert [number for number in range(10) if tasks[number].done()] == [3, 9]
                engine.free.set()
                told = await asyncio.gather(*tasks)
                assert [number for number in range(10) if told[number] == "cancelled"] == [3, 9]
                assert await db.count() == 11
                assert db._writer.bytes == 0

    run(main(), loop)
    assert contents(tmp_path / "db").keys() == {b"first", *(b"%d" % n for n in range(10))}


@each_loop
def test_a_timeout_around_a_put_that_compaction_holds_back(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            await db.put(b"first", b"")
            pressure = db._store._pressure  # type: ignore[union-attr]
            pressure._stopped = lambda: True  # type: ignore[method-assign]
            pressure.update()
            tasks = [asyncio.ensure_future(put(db, number)) for number in range(3)]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(db.put(b"late", b""), 0.01)
            assert not any(task.done() for task in tasks)
            # It waits in a later group than the one that the thread is at.
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(db.put(b"later", b""), 0.01)
            pressure._stopped = lambda: False  # type: ignore[method-assign]
            pressure.update()
            assert await asyncio.gather(*tasks) == ["written"] * 3
            assert db._writer.bytes == db._writer._admitted == 0

    run(main(), loop)
    assert contents(tmp_path / "db").keys() == {b"first", b"0", b"1", b"2"}


def test_all_of_a_group_while_the_log_file_is_full(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(8) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.put(b"first", bytes(15_000))
                for _ in range(3):
                    await db.put(b"first", bytes(12_000))
                engine.hold()
                before = asyncio.ensure_future(db.put(b"before", b""))
                await ticks(3)
                tasks = [
                    asyncio.ensure_future(db.put(b"%d" % number, bytes(3_000)))
                    for number in range(4)
                ]
                await until(lambda: db._writer._aside)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                assert all(task.cancelled() for task in tasks)
                engine.free.set()
                await before
                await db.put(b"after", b"")
                assert db._writer.bytes == 0

    run(main())
    assert contents(tmp_path / "db").keys() == {b"first", b"before", b"after"}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Task.uncancel is new in Python 3.11")
def test_a_task_that_changes_its_mind_is_not_told_that_what_was_dropped_is_written(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            # (Before the look for the cancelled; between that and the task's turn.)
            for number, turns in enumerate((0, 1, 2)):
                task = asyncio.ensure_future(put(db, number))
                await ticks(1)
                task.cancel()
                await ticks(turns)
                task.uncancel()  # type: ignore[attr-defined,unused-ignore]
                told = await task
                found = await db.get(b"%d" % number)
                assert told == "cancelled" or found == b"%d" % number

    run(main())


def test_a_put_driven_by_hand_keeps_others_from_no_cancellation(tmp_path: Path) -> None:
    # Nobody waits for it, so the puts of the tasks behind it are another group.
    async def main() -> None:
        async with AsyncKVStore(tmp_path / "db", OPTIONS) as db:
            before = asyncio.ensure_future(put(db, 0))
            await ticks(1)
            by_hand = db.put(b"by hand", b"")
            by_hand.send(None)
            tasks = [asyncio.ensure_future(put(db, number)) for number in (1, 2)]
            asyncio.get_running_loop().call_soon(tasks[0].cancel)
            assert await asyncio.gather(before, *tasks) == ["written", "cancelled", "written"]
            by_hand.close()
            assert db._writer.bytes == 0

    run(main())
    found = contents(tmp_path / "db").keys()
    assert found - {b"1"} == {b"by hand", b"0", b"2"}
