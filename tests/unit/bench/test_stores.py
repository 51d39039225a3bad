"""Every store adapter does what its client promises, whichever engine is behind it."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from bench.stores import ASYNC_STORES, NOOP, STORES, loader, missing, plyvel_store, rocksdict_store
from bench.stores.base import Layout, Settings, Store

LAYOUT = Layout(fields=10, field_bytes=8)
HERE = [name for name in STORES if name != NOOP and name not in missing(STORES)]
SEED = 11
RECORDS = 200


def _settings(*, durable: bool = False) -> Settings:
    return Settings(durable, data_bytes=1 << 20, cache_bytes=1 << 20, layout=LAYOUT)


def _open(name: str, directory: Path, *, durable: bool = False) -> Store:
    return STORES[name](str(directory), _settings(durable=durable))


def _records() -> dict[bytes, bytes]:
    generator = random.Random(SEED)
    return {
        b"user%d" % generator.randrange(10**18): generator.randbytes(LAYOUT.record_bytes)
        for _ in range(RECORDS)
    }


@pytest.mark.parametrize("name", HERE)
def test_what_is_loaded_is_there_in_order_after_reopening(name: str, tmp_path: Path) -> None:
    records = _records()
    store = _open(name, tmp_path)
    store.load(records.items())
    store.close()
    store = _open(name, tmp_path)
    try:
        assert list(store.entries(reverse=False)) == sorted(records.items())
        assert list(store.entries(reverse=True)) == sorted(records.items(), reverse=True)
        assert all(store.get(key) == record for key, record in records.items())
        assert store.get(b"absent") is None
    finally:
        store.close()


@pytest.mark.parametrize("name", HERE)
def test_a_client_changes_one_field_and_deletes_one_record(name: str, tmp_path: Path) -> None:
    records = _records()
    first, second, third, *_ = records
    store = _open(name, tmp_path)
    try:
        store.load(records.items())
        client = store.client()
        fields = client.read(first, None)
        assert isinstance(fields, tuple)
        assert b"".join(fields) == records[first]
        client.update(first, (3, b"updated!"))
        client.read_modify_write(first, (9, b"modified"))
        client.insert(b"user1", bytes(LAYOUT.record_bytes))
        client.insert(second, bytes(LAYOUT.record_bytes))
        client.delete(third, None)
        assert client.misses.lost == client.misses.unexpected == 0
        assert (
            store.get(first)
            == records[first][:24] + b"updated!" + records[first][32:72] + b"modified"
        )
        assert store.get(b"user1") == store.get(second) == bytes(LAYOUT.record_bytes)
        assert store.get(third) is None
    finally:
        store.close()


@pytest.mark.parametrize("name", HERE)
def test_what_is_missed_is_counted(name: str, tmp_path: Path) -> None:
    store = _open(name, tmp_path)
    try:
        store.load(_records().items())
        client = store.client()
        client.read(b"absent", None)
        client.update(b"absent", (0, b"updated!"))
        client.delete(b"absent", None)  # no error
        client.read_missing(b"absent", None)
        client.read_missing(next(iter(_records())), None)
        assert (client.misses.lost, client.misses.unexpected) == (2, 1)
        assert store.get(b"absent") is None
    finally:
        store.close()


@pytest.mark.parametrize("name", [name for name in HERE if not STORES[name].cannot_scan])
def test_a_scan_takes_so_many_entries_from_its_key_on(name: str, tmp_path: Path) -> None:
    records = _records()
    ordered = sorted(records)
    store = _open(name, tmp_path)
    try:
        store.load(records.items())
        scan = store.client().scan
        assert scan is not None
        assert scan(ordered[0], 50) == 50
        assert scan(ordered[-3], 50) == 3
        assert scan(ordered[-3] + b"0", 50) == 2, "a key between two"
        assert scan(b"v", 50) == 0, "behind all"
    finally:
        store.close()


@pytest.mark.parametrize("name", [name for name in HERE if not STORES[name].cannot_sync])
def test_a_durable_client_writes_as_a_relaxed_one(name: str, tmp_path: Path) -> None:
    store = _open(name, tmp_path, durable=True)
    client = store.client()
    client.insert(b"user1", bytes(LAYOUT.record_bytes))
    client.update(b"user1", (0, b"updated!"))
    client.insert(b"user2", bytes(LAYOUT.record_bytes))
    client.delete(b"user2", None)
    store.close()
    store = _open(name, tmp_path)
    try:
        assert list(store.entries(reverse=False)) == [(b"user1", b"updated!" + bytes(72))]
    finally:
        store.close()


@pytest.mark.parametrize("name", list(ASYNC_STORES))
def test_tasks_find_what_the_threads_of_the_same_engine_have_loaded(
    name: str, tmp_path: Path
) -> None:
    records = _records()
    first, second, *_ = records
    store = _open(loader(name), tmp_path)
    store.load(records.items())
    store.close()

    async def use() -> None:
        tasks = ASYNC_STORES[name](str(tmp_path), _settings(durable=True))
        await tasks.open()
        client = tasks.client()
        fields = await client.read(first, None)
        assert isinstance(fields, tuple)
        assert b"".join(fields) == records[first]
        await client.update(first, (0, b"updated!"))
        await client.read_modify_write(first, (1, b"modified"))
        await client.insert(b"user1", bytes(LAYOUT.record_bytes))
        await client.delete(second, None)
        await client.read(b"absent", None)
        await client.read_missing(first, None)
        assert client.scan is not None
        assert await client.scan(b"user1", 10) == 10
        assert (client.misses.lost, client.misses.unexpected) == (1, 1)
        await tasks.close()

    asyncio.run(use())
    store = _open(loader(name), tmp_path)
    try:
        assert store.get(first) == b"updated!modified" + records[first][16:]
        assert store.get(b"user1") == bytes(LAYOUT.record_bytes)
        assert store.get(second) is None
    finally:
        store.close()


def test_rocksdb_tells_its_flushes_and_compactions_in_its_log() -> None:
    lines = [
        '2026/11/22-20:23:27.1 7 EVENT_LOG_v1 {"time_micros": 1000000, "job": 2, '
        '"event": "flush_started"}',
        "2026/11/22-20:23:27.1 7 [db/flush_job.cc:1] flushing",
        '2026/11/22-20:23:27.2 7 EVENT_LOG_v1 {"time_micros": 1500000, "job": 3, '
        '"event": "compaction_started"}',
        '2026/11/22-20:23:27.2 7 EVENT_LOG_v1 {"time_micros": 1700000, "job": 2, '
        '"event": "flush_finished"}',
        '2026/11/22-20:23:27.3 7 EVENT_LOG_v1 {"time_micros": 1800000, "event": '
        '"table_file_deletion", "job": 3}',
        '2026/11/22-20:23:27.3 7 EVENT_LOG_v1 {"time_micros": 2500000, "job": 3, '
        '"event": "compaction_finished"}',
    ]
    assert list(rocksdict_store.spans_of(lines)) == [
        (1.0, 1.7, "flush"),
        (1.5, 2.5, "compaction"),
    ]


def test_leveldb_tells_a_flush_in_the_middle_of_a_compaction() -> None:
    lines = [
        "2026/11/22-20:23:27.000000 140 Compacting 4@0 + 1@1 files",
        "2026/11/22-20:23:28.250000 140 Level-0 table #7: started",
        "2026/11/22-20:23:28.500000 140 Level-0 table #7: 123 bytes OK",
        "2026/11/22-20:23:29.000000 140 Generated table #8@0: 4 keys, 123 bytes",
        "2026/11/22-20:23:29.750000 140 compacted to: files[ 0 1 0 0 0 0 0 ]",
        "not a line of the log",
    ]
    began = time.mktime(time.strptime("2026/11/22-20:23:27", "%Y/%m/%d-%H:%M:%S"))
    spans = [
        (begin - began, end - began, what) for begin, end, what in plyvel_store.spans_of(lines)
    ]
    assert spans == [(1.25, 1.5, "flush"), (0.0, 2.75, "compaction")]


def test_every_engine_says_what_its_relaxed_mode_means() -> None:
    assert all(store.relaxed for store in (*STORES.values(), *ASYNC_STORES.values()))
