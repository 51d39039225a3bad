"""AsyncKVStore does what KVStore does, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import AsyncKVStore, ReadOnlyError, WriteBatch, open_async
from tests.support.loops import each_backend, each_loop, run
from tests.support.stores import NEVER, contents


async def entries(scan: Any) -> list[Any]:
    return [entry async for entry in scan]


@each_loop
@each_backend
def test_the_api_of_kvstore_is_there_awaited(tmp_path: Path, backend: str, loop: str) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", wal_backend=backend) as db:
            assert "open" in repr(db)
            assert db.recovery.entries == 0
            await db.put(b"a", b"1")
            await db.put(bytearray(b"b"), memoryview(b"2"), sync=False)
            await db.delete(b"missing")
            await db.delete(b"missing", sync=False)
            batch = WriteBatch()
            batch.put(b"c", b"3")
            batch.delete(b"b")
            await db.write(batch)
            batch.put(b"c", b"not written")
            await db.write(WriteBatch())
            async with db.batch(sync=False) as collected:
                collected.put(b"d", b"4")
                assert await db.get(b"d") is None
            with contextlib.suppress(ZeroDivisionError):
                async with db.batch() as collected:
                    collected.put(b"e", b"5")
                    raise ZeroDivisionError
            await db.sync()
            stats = await db.stats()
            assert stats.durable_lsn == stats.last_lsn == 6
            assert stats.backend == backend
            assert [await db.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]
            assert await db.get(b"e", b"default") == b"default"
            assert await db.get(memoryview(b"a")) == b"1"
            want = [(b"a", b"1"), (b"c", b"3"), (b"d", b"4")]
            for _ in range(3):  # from memory, from a table, from a compacted one
                assert await entries(db.scan()) == want
                assert await entries(db.scan(reverse=True)) == want[::-1]
                assert await entries(db.scan(b"b", b"d")) == want[1:2]
                assert await entries(db.scan(prefix=b"c")) == want[1:2]
                assert await entries(db.scan(limit=2)) == want[:2]
                assert await entries(db.scan(limit=0)) == []
                assert await entries(db) == [b"a", b"c", b"d"]
                assert await db.count() == 3
                await db.flush()
                await db.compact()
            async with db.snapshot() as snapshot:
                await db.put(b"a", b"new")
                assert await snapshot.get(b"a") == b"1"
                assert await snapshot.get(b"z", 0) == 0
                assert await entries(snapshot.scan(b"b", reverse=True)) == want[:0:-1]
                assert await snapshot.count() == 3
            seen: list[tuple[int, int]] = []
            report = await db.verify(progress=lambda *done: seen.append(done))
            assert report.ok
            assert seen[-1][0] == seen[-1][1] > 0
        assert "closed" in repr(db)

    run(main(), loop)
    assert contents(tmp_path / "db") == {b"a": b"new", b"c": b"3", b"d": b"4"}


@each_loop
def test_progress_of_a_compaction_is_told_in_the_loop(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db") as db:
            await db.put(b"a", b"1")
            told: list[tuple[float, bool]] = []
            home = asyncio.get_running_loop()
            await db.compact(
                progress=lambda share: told.append((share, asyncio.get_running_loop() is home))
            )
            assert told[-1] == (1.0, True)

    run(main(), loop)


BAD: dict[str, Callable[[Any], Any]] = {
    "empty key": lambda db: db.put(b"", b""),
    "long key": lambda db: db.put(bytes(65537), b""),
    "text key": lambda db: db.put("text", b""),
    "text value": lambda db: db.put(b"k", "text"),
    "no value": lambda db: db.put(b"k", None),
    "empty get": lambda db: db.get(b""),
    "long get": lambda db: db.get(bytes(65537)),
    "text get": lambda db: db.get("text"),
    "empty delete": lambda db: db.delete(b""),
    "negative limit": lambda db: db.scan(limit=-1),
    "text start": lambda db: db.scan("text"),
    "text prefix": lambda db: db.scan(prefix="text"),
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
def test_bad_input_is_refused_as_kvstore_refuses_it(
    tmp_path: Path, call: Callable[[Any], Any]
) -> None:
    with kvstore.open(tmp_path / "sync") as db, pytest.raises(Exception) as wanted:  # noqa: PT011
        call(db)

    async def main() -> None:
        async with open_async(tmp_path / "async") as db:
            with pytest.raises(type(wanted.value)) as caught:
                await call(db)
            assert str(caught.value) == str(wanted.value)
            await db.put(b"k", b"v")  # nothing is left behind
            assert db._writer.bytes == 0

    run(main())


def test_options_are_checked_before_anything_is_opened(tmp_path: Path) -> None:
    for options in ({"write_queue_bytes_max": 1}, {"wal_batches_in_flight": 17}):
        with pytest.raises(kvstore.LimitError, match=next(iter(options))):
            open_async(tmp_path / "db", **options)
    with pytest.raises(TypeError, match="no such option"):
        open_async(tmp_path / "db", nonsense=1)
    assert not (tmp_path / "db").exists()


def test_what_is_opened_to_be_salvaged_can_be_read(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db") as store:
        store.put(b"a", b"1")

    async def main() -> None:
        async with open_async(tmp_path / "db", recovery="salvage") as db:
            assert await db.get(b"a") == b"1"
            writes: list[Callable[[], Awaitable[object]]] = [
                lambda: db.put(b"b", b""),
                lambda: db.put(b"b", b"", sync=False),
                lambda: db.write(WriteBatch()),
                db.sync,
                db.flush,
            ]
            for write in writes:
                with pytest.raises(ReadOnlyError):
                    await write()

    run(main())


@each_loop
def test_relaxed_writes_are_visible_at_once_and_durable_after_sync(
    tmp_path: Path, loop: str
) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", sync=False, flush_interval_ms=NEVER) as db:
            for i in range(100):
                await db.put(b"%d" % i, b"")
                assert await db.get(b"%d" % i) == b""
            assert (await db.stats()).durable_lsn == 0
            await db.sync()
            stats = await db.stats()
            assert stats.durable_lsn == stats.last_lsn == 100

    run(main(), loop)


@each_loop
@each_backend
def test_the_puts_of_one_iteration_share_a_device_write(
    tmp_path: Path, backend: str, loop: str
) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", wal_backend=backend, wal_batches_in_flight=1) as db:
            await db.put(b"first", b"")
            before = (await db.stats()).wal
            await asyncio.gather(*(db.put(b"%d" % i, b"") for i in range(500)))
            after = (await db.stats()).wal
            assert after.entries - before.entries == 500
            assert after.batches - before.batches == 1
            assert after.syncs - before.syncs == 1

    run(main(), loop)


async def _use(db: AsyncKVStore) -> None:
    await db.put(b"a", b"1")


def test_a_store_can_be_awaited_and_then_used_as_a_context(tmp_path: Path) -> None:
    async def main() -> None:
        async with await open_async(tmp_path / "db") as db:
            await _use(db)
        db = await open_async(tmp_path / "db")
        assert await db.get(b"a") == b"1"
        await db.close()

    run(main())
