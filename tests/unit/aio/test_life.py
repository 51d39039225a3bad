"""Opening, closing, and the wrong moments to use a store."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import kvstore
from kvstore import ClosedError, ForkedError, KVStore, KVStoreError, LockedError, open_async
from kvstore.aio import store as aio_store
from kvstore.aio.reads import in_thread
from tests.support.loops import each_backend, each_loop, run, ticks, until
from tests.support.stores import contents, output_of

CALLS: dict[str, Callable[[Any], Any]] = {
    "put": lambda db: db.put(b"k", b"v"),
    "put relaxed": lambda db: db.put(b"k", b"v", sync=False),
    "delete": lambda db: db.delete(b"k"),
    "write": lambda db: db.write(_one()),
    "write nothing": lambda db: db.write(kvstore.WriteBatch()),
    "batch": lambda db: db.batch().__aenter__(),
    "sync": lambda db: db.sync(),
    "get": lambda db: db.get(b"k"),
    "scan": lambda db: db.scan().__anext__(),
    "iteration": lambda db: db.__aiter__().__anext__(),
    "snapshot": lambda db: db.snapshot().get(b"k"),
    "count": lambda db: db.count(),
    "stats": lambda db: db.stats(),
    "flush": lambda db: db.flush(),
    "compact": lambda db: db.compact(),
    "verify": lambda db: db.verify(),
}


def _one() -> kvstore.WriteBatch:
    batch = kvstore.WriteBatch()
    batch.put(b"k", b"v")
    return batch


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_store_that_is_not_open_says_so(tmp_path: Path, call: Callable[[Any], Any]) -> None:
    async def main() -> None:
        db = open_async(tmp_path / "db")
        with pytest.raises(ClosedError, match="never opened"):
            await call(db)
        await db.close()  # there is nothing to close
        async with db:
            await db.put(b"k", b"v")
        with pytest.raises(ClosedError):
            await call(db)
        await db.close()
        with pytest.raises(ClosedError):
            async with db:
                pass

    run(main())


def test_what_was_begun_before_a_close_says_so_afterwards(tmp_path: Path) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db")
        for i in range(10):
            await db.put(b"%d" % i, b"")
        snapshot = db.snapshot()
        scans = [db.scan(), snapshot.scan(reverse=True)]
        for scan in scans:
            await scan.__anext__()
        await db.close()
        for step in (*(scan.__anext__() for scan in scans), snapshot.get(b"1"), snapshot.count()):
            with pytest.raises(ClosedError):
                await step
        await snapshot.close()

    run(main())


def test_a_scan_that_was_left_lets_go_of_what_it_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db") as db:
            for i in range(10):
                await db.put(b"%d" % i, b"")
            async for _ in db.scan():
                break
            await ticks(3)  # the loop closes it
            assert not db._access.scans
            assert not db._tree.state.memtable._snapshots
            async with db.snapshot() as snapshot:
                scan = snapshot.scan()
                await scan.__anext__()
                assert len(db._access.scans) == 1
                await snapshot.close()
                with pytest.raises(ClosedError):
                    await scan.__anext__()
            del scan
            gc.collect()
            assert not db._access.scans

    run(main())


def test_it_is_opened_once(tmp_path: Path) -> None:
    async def main() -> None:
        db = open_async(tmp_path / "db")
        done = await asyncio.gather(db._open(), db._open(), return_exceptions=True)
        assert sorted(map(type, done), key=str) == sorted([RuntimeError, type(db)], key=str)
        with pytest.raises(RuntimeError, match="open already"):
            await db
        with pytest.raises(LockedError) as caught:
            await open_async(tmp_path / "db")
        assert caught.value.pid == os.getpid()
        await db.put(b"k", b"v")
        await asyncio.gather(db.close(), db.close())
        with pytest.raises(RuntimeError):
            await db

    run(main())
    assert contents(tmp_path / "db") == {b"k": b"v"}


def test_opening_that_failed_may_be_tried_again(tmp_path: Path) -> None:
    async def main() -> None:
        db = open_async(tmp_path / "db")
        with kvstore.open(tmp_path / "db"), pytest.raises(LockedError):
            await db
        # When the log's eventfd cannot be had, nothing stays open.
        with (
            mock.patch.object(os, "eventfd", side_effect=OSError(errno.EMFILE, "")),
            pytest.raises(OSError, match=str(errno.EMFILE)),
        ):
            await db
        async with db:
            await db.put(b"k", b"v")

    run(main())


@each_loop
def test_in_another_thread_and_another_loop_it_is_refused(tmp_path: Path, loop: str) -> None:
    async def stranger(db: kvstore.AsyncKVStore) -> list[type]:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: db.put(b"b", b""),
            lambda: db.put(b"b", b"", sync=False),
            db.sync,
            db.close,
        ]
        return [type(await _failure(call())) for call in calls]

    async def main() -> None:
        async with open_async(tmp_path / "db") as db:
            seen = await asyncio.get_running_loop().run_in_executor(None, run, stranger(db))
            assert seen == [KVStoreError] * 4
            await db.put(b"a", b"")
            assert db._writer.bytes == 0

    run(main(), loop)
    assert contents(tmp_path / "db") == {b"a": b""}


async def _failure(call: Awaitable[object]) -> BaseException | None:
    try:
        await call
    except KVStoreError as error:
        return error
    return None


@each_loop
def test_a_store_whose_loop_is_closed_refuses_writes_and_can_be_closed_in_another(
    tmp_path: Path, loop: str
) -> None:
    async def begin() -> kvstore.AsyncKVStore:
        db = await open_async(tmp_path / "db")
        await db.put(b"a", b"")
        return db

    async def end(db: kvstore.AsyncKVStore) -> None:
        with pytest.raises(KVStoreError):
            await db.put(b"b", b"")
        assert await db.get(b"a") == b""
        await db.close()

    run(end(run(begin(), loop)), loop)
    assert contents(tmp_path / "db") == {b"a": b""}


@each_loop
@each_backend
def test_a_close_finishes_all_that_is_under_way(tmp_path: Path, backend: str, loop: str) -> None:
    async def main() -> None:
        db = await open_async(
            tmp_path / "db",
            wal_backend=backend,
            wal_segment_bytes=64 << 10,
            write_queue_bytes_max=64 << 10,
        )
        puts = [asyncio.ensure_future(db.put(b"%d" % i, bytes(9000))) for i in range(30)]
        await ticks(1)
        closing = asyncio.ensure_future(db.close())
        await ticks(2)
        with pytest.raises(ClosedError):
            await db.put(b"late", b"")
        await closing
        assert await asyncio.gather(*puts) == [None] * 30
        assert db._writer.bytes == 0

    run(main(), loop)
    assert len(contents(tmp_path / "db", recovery="strict")) == 30


def test_a_close_waits_for_those_who_have_just_been_given_room(tmp_path: Path) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db", write_queue_bytes_max=64 << 10)
        puts = [asyncio.ensure_future(db.put(b"%d" % i, bytes(40_000))) for i in range(2)]
        await ticks(1)  # one has been taken in, the other waits for room
        await db.close()
        await asyncio.gather(*puts)

    run(main())
    assert len(contents(tmp_path / "db", recovery="strict")) == 2


def test_a_close_does_not_wait_for_one_that_gave_up_the_room_it_had_been_given(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db", write_queue_bytes_max=64 << 10)
        puts = [asyncio.ensure_future(db.put(b"%d" % i, bytes(40_000))) for i in range(2)]
        await ticks(1)
        closing = asyncio.ensure_future(db.close())
        room = db._writer._room[0][0]
        await until(room.done)
        puts[1].cancel()
        await closing
        assert puts[1].cancelled()

    run(main())
    assert contents(tmp_path / "db").keys() == {b"0"}


def test_a_close_that_is_cancelled_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db")
        put = asyncio.ensure_future(db.put(b"k", b"v"))
        await ticks(1)
        closing = asyncio.ensure_future(db.close())
        await ticks(1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await put
        await db.close()
        async with open_async(tmp_path / "db") as db:
            assert await db.get(b"k") == b"v"

    run(main())


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_a_loop_that_cancels_everything_leaves_a_store_that_can_be_closed(
    tmp_path: Path, begun: int
) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db")
        put = asyncio.ensure_future(db.put(b"k", b"v"))
        closing = asyncio.ensure_future(db.close())
        await ticks(begun)
        tasks = [put, closing, *filter(None, [db._closed])]
        for task in tasks:  # as asyncio.run does
            task.cancel()
        await asyncio.wait(tasks)
        await db.close()
        async with open_async(tmp_path / "db"):
            pass

    run(main())


def test_a_store_that_fails_to_close_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        db = await open_async(tmp_path / "db")
        close = KVStore.close

        def fail(store: KVStore) -> None:
            close(store)
            raise OSError

        with mock.patch.object(KVStore, "close", fail), pytest.raises(OSError):  # noqa: PT011
            await db.close()
        await db.close()

    run(main())


def test_nothing_that_keeps_the_threads_busy_keeps_a_store_from_closing(tmp_path: Path) -> None:
    gate = threading.Event()

    async def main() -> None:
        db = await open_async(tmp_path / "db")
        busy = [
            asyncio.ensure_future(in_thread(db._threads, gate.wait, 20))
            for _ in range(aio_store._THREADS_MAX)
        ]
        await ticks(1)
        await db.close()
        gate.set()
        assert all(await asyncio.gather(*busy))

    run(main())


def test_an_opening_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    gate, opened = threading.Event(), threading.Event()

    class Slow(KVStore):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            assert gate.wait(20)
            super().__init__(*arguments, **options)

        def close(self) -> None:
            super().close()
            assert threading.current_thread() is not threading.main_thread()
            opened.set()

    async def main() -> None:
        with mock.patch.object(aio_store, "KVStore", Slow):
            db = open_async(tmp_path / "db")
            opening = asyncio.ensure_future(db._open())
            await ticks(2)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            gate.set()
            with pytest.raises(ClosedError):
                await db.get(b"k")

    run(main())  # and the loop is closed, perhaps before the thread is done
    assert opened.wait(20)
    assert contents(tmp_path / "db") == {}


@each_loop
def test_a_store_that_was_forgotten_is_closed_and_the_loop_goes_on(
    tmp_path: Path, loop: str
) -> None:
    async def main() -> None:
        for _ in range(3):  # the descriptors come again
            db = await open_async(tmp_path / "db")
            await db.put(b"k", b"v")
            with pytest.warns(ResourceWarning, match="was not closed"):  # noqa: PT031
                del db
                gc.collect()
        async with open_async(tmp_path / "db") as db:
            await db.put(b"k", b"new")

    run(main(), loop)
    assert contents(tmp_path / "db") == {b"k": b"new"}


FORK = """
import asyncio, os, sys
import kvstore

async def main():
    async with kvstore.open_async(sys.argv[1], wal_backend=sys.argv[2]) as db:
        await db.put(b"a", b"1")
        waiting = asyncio.ensure_future(db.put(b"b", b"2"))
        await asyncio.sleep(0)
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (db.put(b"c", b""), db.get(b"a"), db.sync(), db.flush()):
                try:
                    call.send(None)
                except kvstore.ForkedError:
                    refused += 1
            try:
                db.close().send(None)
            except StopIteration:
                os._exit(refused)
            os._exit(100)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        await waiting
        await asyncio.wait_for(db.put(b"d", b"4"), 20)

asyncio.run(main())
"""


@pytest.mark.slow
@each_backend
def test_a_forked_child_is_refused_and_disturbs_nothing(tmp_path: Path, backend: str) -> None:
    assert issubclass(ForkedError, KVStoreError)
    output_of(FORK, tmp_path / "db", backend)
    assert contents(tmp_path / "db") == {b"a": b"1", b"b": b"2", b"d": b"4"}
