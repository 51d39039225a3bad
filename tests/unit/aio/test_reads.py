"""Reads: what is in memory does not give up the loop, the rest is a thread's; both say the same."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import kvstore
from kvstore import CorruptionError, open_async
from kvstore.aio import reads
from kvstore.aio.lookups import Lookups
from kvstore.memtable import MemTable
from tests.support.damage import flip
from tests.support.loops import each_loop, run
from tests.support.pages import drop_pages
from tests.support.stores import NEVER
from tests.support.trees import noise

SIZES = [10, 1000, 4000]
SCANS: list[dict[str, Any]] = [
    {},
    {"reverse": True},
    {"limit": 3},
    {"limit": 300, "reverse": True},
    {"start": b"key 0100", "stop": b"key 0200"},
    {"prefix": b"key 01", "reverse": True, "limit": 70},
    {"prefix": b"none"},
]


@contextmanager
def counting() -> Iterator[list[str]]:
    """What threads are given to do meanwhile."""
    given: list[str] = []
    in_thread = reads.in_thread

    async def counted(threads: Any, work: Any, *arguments: Any) -> Any:
        given.append(getattr(work, "__name__", type(work).__name__))
        return await in_thread(threads, work, *arguments)

    get = Lookups.get

    def counted_get(self: Lookups, look_up: Any, key: bytes) -> Any:
        given.append("get")
        return get(self, look_up, key)

    with (
        mock.patch.object(Lookups, "get", counted_get),
        mock.patch.object(reads, "in_thread", counted),
        mock.patch("kvstore.aio.store.in_thread", counted),
    ):
        yield given


def at_once(awaitable: Any) -> Any:
    """What it returns without giving up the loop."""
    with pytest.raises(StopIteration) as done:
        awaitable.send(None)
    return done.value.value


async def everything(scan: AsyncIterator[Any]) -> list[Any]:
    return [entry async for entry in scan]


def build(path: Path, longest: int, **options: Any) -> dict[bytes, bytes]:
    """A store with tables in two levels and a log; what is in it."""
    model: dict[bytes, bytes] = {}
    with kvstore.open(path, flush_interval_ms=NEVER, **options) as db:
        for part in range(3):
            for i in range(part, 400, part + 1):
                key = b"key %04d" % i
                if (i + part) % 11:
                    model[key] = noise(SIZES[i % 3] if i % 50 else longest, i)
                    db.put(key, model[key], sync=False)
                elif model.pop(key, None) is not None:
                    db.delete(key, sync=False)
            if part == 0:
                db.compact()
            elif part == 1:
                db.flush()
    for table in path.glob("*.sst"):
        drop_pages(table)
    return dict(sorted(model.items()))


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_what_is_not_in_memory_is_read_by_a_thread_and_then_is(
    tmp_path: Path, compression: str, loop: str
) -> None:
    model = build(tmp_path / "db", 70_000, compression=compression)
    keys = [b"key %04d" % i for i in range(401)]

    async def main() -> None:
        async with open_async(tmp_path / "db") as db:
            with counting() as given:
                for key in keys:
                    assert await db.get(key) == model.get(key)
                assert 1 < len(given) < 400  # what is read ahead is there
                given.clear()
                for key in keys:
                    assert await db.get(key) == model.get(key)
                assert len(given) < 40  # what the kernel has evicted again meanwhile

    run(main(), loop)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_scans_give_what_those_of_kvstore_give(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "db"
    model = build(path, 1_200_000, compression=compression)
    with kvstore.open(path) as store:
        assert dict(store.items()) == model
        wants = [list(store.scan(**options)) for options in SCANS]
    for table in path.glob("*.sst"):
        drop_pages(table)

    async def check(source: Any) -> None:
        for options, want in zip(SCANS, wants, strict=True):
            assert await everything(source.scan(**options)) == want
        assert await source.count() == len(model)

    async def main() -> None:
        async with open_async(path) as db:
            with counting() as given:
                async with db.snapshot() as snapshot:
                    await db.put(b"key 0001", b"new")
                    await db.delete(b"key 0002")
                    await check(snapshot)
                    assert "next" in given
                    await db.put(b"key 0001", model[b"key 0001"])
                    await db.put(b"key 0002", model[b"key 0002"])
                    await check(db)
                    await db.compact()
                    await check(db)
                    await check(snapshot)

    run(main())


def test_a_scan_of_what_is_in_memory_needs_no_thread(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", sync=False) as db:
            for i in range(900):
                await db.put(b"%04d" % i, b"")
            await db.flush()
            for i in range(0, 900, 2):
                await db.put(b"%04d" % i, b"new")
            with counting() as given:
                want = [(b"%04d" % i, b"new" if i % 2 == 0 else b"") for i in range(900)]
                assert await everything(db.scan()) == want
                given.clear()  # the first reads filters and indexes
                assert await everything(db.scan()) == want
                assert await everything(db.scan(reverse=True)) == want[::-1]
                assert given == []

    run(main())


@each_loop
def test_many_new_keys_are_sorted_beside_the_loop(tmp_path: Path, loop: str) -> None:
    count = 3000
    order = list(range(count))
    random.Random(1).shuffle(order)
    sorters: set[int] = set()
    sort = MemTable._sort
    some = MemTable.sort_some

    def watched_sort(table: MemTable) -> None:
        assert table.unsorted_count <= reads._SORTED_AT_ONCE
        sort(table)

    def watched_some(table: MemTable, keys_max: int) -> bool:
        sorters.add(threading.get_ident())
        return some(table, keys_max)

    async def main() -> None:
        async with open_async(tmp_path / "db", sync=False, flush_interval_ms=NEVER) as db:
            for i in order:
                await db.put(b"%06d" % i, b"")
            with (
                mock.patch.object(MemTable, "_sort", watched_sort),
                mock.patch.object(MemTable, "sort_some", watched_some),
            ):
                seen = [key async for key in db]
                assert seen == [b"%06d" % i for i in range(count)]
                assert sorters
                assert threading.get_ident() not in sorters
            await db.flush()
            for i in order:
                await db.put(b"%06d" % i, b"")
            with mock.patch.object(MemTable, "_sort", watched_sort):
                async with db.snapshot() as snapshot:
                    assert await snapshot.count() == count
                for i in order:
                    await db.put(b"%06d more" % i, b"")
                assert await db.count() == 2 * count

    run(main(), loop)


def test_the_loop_gets_its_turn_during_a_long_scan(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_async(tmp_path / "db", sync=False) as db:
            for i in range(5000):
                await db.put(b"%06d" % i, b"")
            scanning = asyncio.ensure_future(everything(db.scan()))
            turns = 0
            while not scanning.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns > 5
            assert len(await scanning) == 5000

    run(main())


def test_a_read_that_meets_damage_says_where_and_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "db"

    async def main() -> None:
        with kvstore.open(path, block_bytes=256) as store:
            for i in range(50):
                store.put(b"%02d" % i, bytes(200), sync=False)
            store.flush()
        (table,) = path.glob("*.sst")
        flip(table, 1000)
        async with open_async(path) as db:
            gets = (db.get(b"%02d" % i) for i in range(50))
            done = await asyncio.gather(*gets, return_exceptions=True)
            damage = [one for one in done if one != bytes(200)]
            assert 0 < len(damage) < 5
            for error in damage:
                assert isinstance(error, CorruptionError)
                assert error.path == str(table)
            with pytest.raises(CorruptionError):
                await everything(db.scan())
            report = await db.verify()
            assert not report.ok

    run(main())


def test_a_cancelled_read_disturbs_nothing(tmp_path: Path) -> None:
    model = build(tmp_path / "db", 70_000)

    async def main() -> None:
        async with open_async(tmp_path / "db") as db:
            key = next(iter(model))
            reading: list[Any] = [asyncio.ensure_future(everything(db.scan())) for _ in range(3)]
            reading.append(asyncio.ensure_future(db.get(key)))
            await asyncio.sleep(0)
            for task in reading:
                assert not task.done()
                task.cancel()
            await asyncio.wait(reading)
            del task, reading
            await asyncio.sleep(0)
            assert not db._access.scans
            assert not db._tree.state.memtable._snapshots
            assert await db.get(key) == model[key]
            assert dict(await everything(db.scan())) == model

    run(main())
