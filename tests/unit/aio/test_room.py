"""Back-pressure: what is taken in and not yet durable is bounded, and in order."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

import pytest

from kvstore import AsyncKVStore, DiskFullError, Options, PoisonedError, open_async
from kvstore.errors import storage_error
from kvstore.native import lib
from tests.support.loops import each_backend, each_loop, run, ticks, until
from tests.support.shuffle import log_payloads, shuffled
from tests.support.stores import NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents

BOUND = 64 << 10


@pytest.mark.slow
@each_loop
def test_no_more_than_the_bound_is_taken_in_and_in_order(tmp_path: Path, loop: str) -> None:
    finished: list[int] = []
    most = 0

    async def put(db: AsyncKVStore, number: int) -> None:
        nonlocal most
        await db.put(b"%d" % number, bytes(number % 90))
        finished.append(number)
        most = max(most, db._writer.bytes)

    async def main() -> None:
        with shuffled(1) as (engine, fs):
            options = Options(write_queue_bytes_max=BOUND, flush_interval_ms=NEVER)
            async with AsyncKVStore(tmp_path / "db", options, fs=fs) as db:
                await db.put(b"first", b"")
                engine.hold()
                tasks = [asyncio.ensure_future(put(db, number)) for number in range(10_000)]
                await ticks(5)
                assert BOUND - 200 < db._writer.bytes <= BOUND
                assert not finished
                engine.free.set()
                await asyncio.wait(tasks)
                assert finished == list(range(10_000))
                assert most <= BOUND
                assert db._writer.bytes == 0

    run(main(), loop)
    assert len(log_payloads(tmp_path / "db")) >= 10_001


def test_a_write_that_waits_for_room_is_not_overtaken_by_smaller_ones(tmp_path: Path) -> None:
    finished: list[bytes] = []

    async def put(db: AsyncKVStore, key: bytes, size: int) -> None:
        await db.put(key, bytes(size))
        finished.append(key)

    async def main() -> None:
        async with open_async(tmp_path / "db", write_queue_bytes_max=BOUND) as db:
            tasks = [asyncio.ensure_future(put(db, b"first", 40_000))]
            tasks.append(asyncio.ensure_future(put(db, b"large", 60_000)))
            for i in range(3):
                await ticks(1)
                tasks.append(asyncio.ensure_future(put(db, b"%d" % i, 10)))
            await asyncio.wait(tasks)

    run(main())
    assert finished == [b"first", b"large", b"0", b"1", b"2"]


@each_loop
@each_backend
@pytest.mark.parametrize("sync", [True, False])
def test_writes_larger_than_every_bound_work(
    tmp_path: Path, backend: str, loop: str, *, sync: bool
) -> None:
    # Than the queue, the log's buffer (64 KiB) and a segment; small ones before and behind.
    sizes = [10, 70_000, 10, 300_000, 57_000, 10, 57_320, 58_000, 65_500, 1_000_000, 10]

    async def main() -> None:
        async with open_async(
            tmp_path / "db",
            wal_backend=backend,
            wal_segment_bytes=SMALLEST_SEGMENT,
            wal_buffer_bytes=SMALLEST_BUFFER,
            write_queue_bytes_max=BOUND,
            sync=sync,
        ) as db:
            await asyncio.gather(
                *(db.put(b"%d" % i, bytes([i]) * size) for i, size in enumerate(sizes))
            )
            for i, size in enumerate(sizes):
                assert await db.get(b"%d" % i) == bytes([i]) * size
            assert db._writer.bytes == 0

    run(main(), loop)
    assert contents(tmp_path / "db", recovery="strict") == {
        b"%d" % i: bytes([i]) * size for i, size in enumerate(sizes)
    }


def test_those_before_a_large_write_hear_before_it(tmp_path: Path) -> None:
    finished: list[int] = []

    async def put(db: AsyncKVStore, number: int, size: int) -> None:
        await db.put(b"%d" % number, bytes(size))
        finished.append(number)

    async def main() -> None:
        # A large one commits in the thread, and takes with it what the loop has not heard of yet.
        async with open_async(tmp_path / "db", wal_buffer_bytes=SMALLEST_BUFFER) as db:
            await put(db, 0, 10)
            db._writer.stop_listening()
            await asyncio.gather(put(db, 1, 10), put(db, 2, 70_000))

    run(main())
    assert finished == [0, 1, 2]


def test_a_large_relaxed_write_does_not_make_the_loop_wait(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(5) as (engine, fs):
            options = Options(wal_buffer_bytes=SMALLEST_BUFFER, flush_interval_ms=NEVER)
            async with AsyncKVStore(tmp_path / "db", options, fs=fs) as db:
                await db.put(b"first", b"")
                engine.hold()
                small = asyncio.ensure_future(db.put(b"small", b""))
                large = asyncio.ensure_future(db.put(b"large", bytes(100_000), sync=False))
                store = db._store
                assert store is not None
                # The thread has begun to stream it through the buffer.
                await until(lambda: lib.kv_log_end(store._wal._log) > SMALLEST_BUFFER)
                assert not store._pipeline._lock.locked()  # which the loop needs to apply
                engine.free.set()
                await asyncio.gather(small, large)

    run(main())


def test_memory_does_not_grow_with_what_was_written(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", memtable_bytes_max=BOUND) as db:
            value = bytes(100)

            async def rounds(count: int) -> None:
                for _ in range(count):
                    await asyncio.gather(*(db.put(b"%d" % i, value) for i in range(50)))

            await rounds(30)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            await rounds(30)
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert grown < 4 * BOUND

    run(main())


def test_writers_held_back_by_the_background_do_not_hold_up_the_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", flush_interval_ms=NEVER) as db:
            await db.put(b"first", b"")
            pressure = db._store._pressure  # type: ignore[union-attr]
            pressure._stopped = lambda: True  # type: ignore[method-assign]
            pressure.update()
            tasks = [asyncio.ensure_future(db.put(b"%d" % i, b"", sync=i > 2)) for i in range(9)]
            barrier = asyncio.ensure_future(db.sync())
            await ticks(50)
            assert not any(task.done() for task in tasks)
            assert await db.get(b"first") == b""
            tasks[4].cancel()
            pressure._stopped = lambda: False  # type: ignore[method-assign]
            pressure.update()
            await asyncio.wait([*tasks, barrier])
            assert [task.cancelled() for task in tasks] == [i == 4 for i in range(9)]
            assert db._writer.bytes == db._writer._admitted == 0

    run(main())
    assert len(contents(tmp_path / "db")) == 9


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("number", [5, 28])  # EIO, ENOSPC
def test_a_failure_of_the_background_is_met_by_writes_and_not_by_sync(
    tmp_path: Path, number: int, *, sync: bool
) -> None:
    failure = storage_error(number, "write", "table")

    async def main() -> None:
        async with open_async(tmp_path / "db", flush_interval_ms=NEVER) as db:
            await db.put(b"first", b"", sync=sync)
            worker = db._store._worker  # type: ignore[union-attr]
            worker.error = failure
            worker._do_next = lambda: 0.001  # type: ignore[method-assign]
            worker.pressure.update()
            tasks = [asyncio.ensure_future(db.put(b"%d" % i, b"")) for i in range(3)]
            tasks.insert(2, asyncio.ensure_future(db.sync()))
            done = await asyncio.gather(*tasks, return_exceptions=True)
            wanted = DiskFullError if number == 28 else PoisonedError
            assert [type(one) for one in done] == [wanted, wanted, type(None), wanted]
            assert len({id(one) for one in done}) == 4
            stats = await db.stats()
            assert stats.durable_lsn == stats.last_lsn == 1
            assert db._writer.bytes == 0
            worker.error = None
            worker.pressure.update()
            await db.put(b"after", b"")

    run(main())
    assert contents(tmp_path / "db").keys() == {b"first", b"after"}
