"""A write that is cancelled is written whole or not at all, and disturbs no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from kvstore import AsyncKVStore, Options, WriteBatch
from tests.support.loops import each_loop, run, ticks, until
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
