"""A log that fails: every waiter hears why, none waits for ever, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import errno
import shutil
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kvstore import (
    AsyncKVStore,
    DiskFullError,
    KVStoreError,
    Options,
    PoisonedError,
    StorageIOError,
    WriteBatch,
    open_async,
)
from kvstore.wal import SegmentedWalWriter
from tests.support.faultfs import Fault, FaultFileSystem
from tests.support.loops import each_backend, each_loop, run, ticks, until
from tests.support.shuffle import shuffled
from tests.support.stores import NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents
from tests.unit.store.test_disk_full import MIB, small_disk

STEPS_MAX = 200
OPTIONS = Options(wal_segment_bytes=SMALLEST_SEGMENT, flush_interval_ms=NEVER)


class Script:
    """Writes of all kinds over several segments, and what became of each."""

    def __init__(self) -> None:
        self.acknowledged: dict[bytes, bytes] = {}
        self.failures: list[BaseException] = []

    async def _note(self, changes: dict[bytes, bytes], write: Coroutine[Any, Any, None]) -> None:
        try:
            await write
        except Exception as error:
            self.failures.append(error)
        else:
            self.acknowledged.update(changes)

    async def run(self, db: AsyncKVStore) -> None:
        for i in range(3):
            batch = WriteBatch()
            batch.put(b"%d left" % i, bytes(10))
            batch.put(b"%d right" % i, bytes(10))
            large, small = bytes(25_000), b"%d small" % i
            await asyncio.gather(
                self._note({b"%d" % i: large}, db.put(b"%d" % i, large)),
                self._note({}, db.put(b"%d relaxed" % i, b"", sync=False)),
                self._note({key: bytes(10) for key in batch.changes}, db.write(batch)),
                self._note({}, db.sync()),
                self._note({small: b""}, db.put(small, b"")),
            )


async def check_poisoned(db: AsyncKVStore) -> None:
    """Whatever writes is a PoisonedError with the cause; reads go on."""
    calls: list[Callable[[], Coroutine[Any, Any, None]]] = [
        lambda: db.put(b"later", b""),
        lambda: db.put(b"later", b"", sync=False),
        lambda: db.delete(b"later", sync=False),
        db.sync,
    ]
    for call in calls:
        with pytest.raises(PoisonedError) as caught:
            await call()
        assert isinstance(caught.value.cause, StorageIOError)
        assert caught.value.__cause__ is caught.value.cause
    together = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    assert [type(one) for one in together] == [PoisonedError] * 4
    assert await db.get(b"later") is None
    assert db._writer.bytes == 0


@pytest.mark.parametrize("dsync", [False, True])
@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_whichever_write_or_sync_fails_everybody_hears_of_it(
    tmp_path: Path, in_flight: int, dsync: bool
) -> None:
    async def main(path: Path, step: int) -> bool:
        options = replace(OPTIONS, wal_batches_in_flight=in_flight)
        script = Script()
        with shuffled(step, dsync=dsync) as (engine, fs):
            db = await AsyncKVStore(path, options, fs=fs)
            await db.put(b"first", b"1")
            engine.fail_at = engine.completed + step
            await script.run(db)
            failed = engine.completed > engine.fail_at
            for error in script.failures:
                assert isinstance(error, (StorageIOError, PoisonedError))
                assert error.errno == errno.EIO if isinstance(error, StorageIOError) else True
            assert failed == bool(script.failures)
            if failed:
                await check_poisoned(db)
            for key, value in script.acknowledged.items():
                assert await db.get(key) == value
            engine.fail_at = None
            await db.close()
        found = contents(path)
        assert {b"first": b"1", **script.acknowledged}.items() <= found.items()
        assert sum(key.endswith(b"left") for key in found) == sum(
            key.endswith(b"right") for key in found
        )
        return failed

    step = 0
    while run(main(tmp_path / str(step), step)):
        step += 1
    assert (3 if dsync else 6) < step < STEPS_MAX


def test_each_of_many_that_wait_for_the_background_hears_the_cause(tmp_path: Path) -> None:
    class NoTables(FaultFileSystem):
        def step(self, operation: str, path: str) -> int | None:
            return super().step(operation, path) if ".sst" in path else None

    async def main() -> None:
        fs = NoTables(0, Fault(errno.EIO, forever=True))
        async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
            await db.put(b"first", b"1")
            with pytest.raises(PoisonedError):
                await db.flush()
            puts = [db.put(b"%d" % i, b"") for i in range(5)]
            for failure in await asyncio.gather(*puts, return_exceptions=True):
                assert isinstance(failure, PoisonedError)
                assert isinstance(failure.cause, StorageIOError)
                assert failure.__cause__ is failure.cause

    run(main())


def test_a_sync_behind_a_failed_write_does_not_wait_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(1) as (engine, fs):
            async with AsyncKVStore(tmp_path / "db", OPTIONS, fs=fs) as db:
                await db.put(b"first", b"")
                engine.fail_at = 0
                with pytest.raises(StorageIOError):
                    await db.put(b"failed", b"")
                with pytest.raises(PoisonedError):
                    await db.sync()

    run(main())


@each_loop
def test_what_nobody_expected_is_told_to_everybody(tmp_path: Path, loop: str) -> None:
    # As when Ctrl-C comes in a callback of the loop.
    async def main() -> None:
        db = await open_async(tmp_path / "db")
        with mock.patch.object(db._writer._pipeline, "apply_ready", side_effect=ZeroDivisionError):
            unheard: list[object] = []
            home = asyncio.get_running_loop()
            home.set_exception_handler(lambda _, context: unheard.append(context["exception"]))
            puts = [asyncio.ensure_future(db.put(b"%d" % i, b"")) for i in range(3)]
            done = await asyncio.gather(*puts, return_exceptions=True)
        for one in done:
            assert type(one) is KVStoreError
            assert isinstance(one.__cause__, ZeroDivisionError)
        assert unheard
        assert db._writer.bytes == 0
        await db.put(b"after", b"")
        assert await db.count() == 4  # in memory as in the log
        await db.close()

    run(main(), loop)
    assert len(contents(tmp_path / "db")) == 4


def test_what_the_thread_does_for_one_that_has_failed_meanwhile_is_not_taken_for_anothers(
    tmp_path: Path,
) -> None:
    gate = threading.Event()

    async def main() -> None:
        async with open_async(tmp_path / "db", wal_buffer_bytes=SMALLEST_BUFFER) as db:
            await db.put(b"first", b"")
            commit = db._writer._pipeline.commit

            def slow(*write: Any) -> None:
                assert gate.wait(20)
                commit(*write)

            with mock.patch.object(db._writer._pipeline, "commit", slow):
                failed = asyncio.ensure_future(db.put(b"large", bytes(100_000)))
                await until(lambda: db._writer._aside)
                db._writer._fail_all(KeyboardInterrupt())
                with pytest.raises(KVStoreError):
                    await failed
                other = asyncio.ensure_future(db.put(b"other", b""))
                await ticks(3)
                gate.set()
                await other
            assert await db.get(b"other") == b""

    run(main())
    assert contents(tmp_path / "db").keys() - {b"large"} == {b"first", b"other"}


@each_backend
def test_a_write_that_meets_a_mark_under_way_is_submitted_when_that_is_done(
    tmp_path: Path, backend: str
) -> None:
    # The flusher's thread writes it, and no other round may begin meanwhile.
    async def main() -> None:
        done = threading.Event()

        def mark(wal: SegmentedWalWriter) -> int:
            count = 0
            while not done.is_set():
                count += wal.mark()
            return count

        options = {"wal_backend": backend, "flush_interval_ms": NEVER}
        async with open_async(tmp_path / "db", **options) as db:
            await db.put(b"first", b"")
            store = db._store
            assert store is not None
            marking = asyncio.get_running_loop().run_in_executor(None, mark, store._wal)
            try:
                for i in range(150):
                    await asyncio.wait_for(db.put(b"%d" % i, b""), 10)
            finally:
                done.set()
            assert await marking

    run(main())


@pytest.mark.slow
@each_backend
def test_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room(
    tmp_path: Path, backend: str
) -> None:
    acknowledged: set[bytes] = set()

    async def put(db: AsyncKVStore, number: int) -> None:
        batch = WriteBatch()
        for side in (b"left", b"right"):
            batch.put(b"%d " % number + side, bytes(10_000))
        await db.write(batch, sync=number % 3 > 0)
        acknowledged.update(batch.changes)

    async def main(disk: Path) -> None:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(2 * MIB))
        async with open_async(disk / "db", wal_backend=backend, wal_segment_bytes=MIB) as db:
            done = await asyncio.gather(
                *(put(db, number) for number in range(400)), return_exceptions=True
            )
            assert {type(one) for one in done} == {type(None), DiskFullError}
            assert db._writer.bytes == 0
            before = len(acknowledged)
            assert before > 100
            await db.sync()
            assert {key async for key in db} == acknowledged
            ballast.unlink()
            for number in range(400, 420):
                await put(db, number)
            assert await db.count() == before + 40

    with small_disk(tmp_path / "disk", 6 * MIB) as disk:
        run(main(disk))
        assert contents(disk / "db", recovery="strict").keys() == acknowledged
        shutil.rmtree(disk / "db")
