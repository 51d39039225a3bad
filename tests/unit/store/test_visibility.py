"""What a reader sees while others write, and that it is what the log says afterwards."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import KVStore
from tests.support.stores import (
    NEVER,
    SMALLEST_BUFFER,
    SMALLEST_SEGMENT,
    contents,
    each_backend,
    segment_names,
)

WAIT_SECONDS_MAX = 20


def run_threads(*targets: Callable[[], None]) -> None:
    """Runs them together; what one of them raises is raised here."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def wait_until(condition: Callable[[], bool]) -> float:
    """How many seconds it took; fails after a bounded wait."""
    begin = time.monotonic()
    never = threading.Condition()
    with never:
        while not condition():
            assert time.monotonic() - begin < WAIT_SECONDS_MAX, "it never comes true"
            never.wait(0.001)
    return time.monotonic() - begin


@each_backend
@pytest.mark.parametrize("sync", [True, False])
def test_a_write_is_visible_when_it_returns(tmp_path: Path, backend: str, *, sync: bool) -> None:
    with kvstore.open(tmp_path / "db", wal_backend=backend, sync=sync) as db:

        def write(thread: int) -> None:
            for i in range(60):
                key = b"%d-%d" % (thread, i)
                db.put(key, key)
                assert db[key] == key
                assert list(db.scan(key, key + b"\0")) == [(key, key)]
                if i % 3 == 0:
                    db.delete(key)
                    assert key not in db
                with db.batch() as batch:
                    batch.put(key, b"batch")
                    batch.put(key + b"+", b"batch")
                assert db[key] == db[key + b"+"] == b"batch"

        run_threads(*(lambda thread=thread: write(thread) for thread in range(6)))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"wal_segment_bytes": SMALLEST_SEGMENT},
    {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER},
    {"wal_direct_io": True, "wal_segment_bytes": 1 << 20, "wal_buffer_bytes": SMALLEST_BUFFER},
]


@each_backend
@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "rotating", "tiny", "direct"])
@pytest.mark.parametrize("interval", [0, 1, NEVER])
def test_what_threads_left_in_memory_is_what_the_log_says(
    tmp_path: Path, backend: str, options: dict[str, Any], interval: float
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    keys = [b"%d" % i for i in range(4)]
    with kvstore.open(
        tmp_path / "db", wal_backend=backend, flush_interval_ms=interval, **options
    ) as db:

        def hammer(thread: int) -> None:
            chance = random.Random(seed + thread)
            for i in range(150):
                value = b"%d-%d " % (thread, i) * chance.choice([1, 30, 400])
                sync = chance.random() < 0.4
                match chance.randrange(6):
                    case 0:
                        db.delete(chance.choice(keys), sync=sync)
                    case 1:
                        with db.batch(sync=sync) as batch:
                            for key in chance.sample(keys, 3):
                                batch.put(key, value)
                            batch.delete(chance.choice(keys))
                    case 2 if chance.random() < 0.1:
                        db.sync()
                    case _:
                        db.put(chance.choice(keys), value, sync=sync)

        run_threads(*(lambda thread=thread: hammer(thread) for thread in range(6)))
        memory = dict(db.items())
        assert len(db) == len(memory)
        assert {key: db.get(key) for key in keys if key in db} == memory
        assert not db._pipeline._pending  # every change found its turn
        db._tree.state.memtable._check()
        assert db.stats().wal_segment > 1 or not options or interval
    assert contents(tmp_path / "db", recovery="strict") == memory


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize("sync", [True, False])
def test_a_batch_is_never_seen_in_part(tmp_path: Path, backend: str, *, sync: bool) -> None:
    rounds = 120
    with kvstore.open(tmp_path / "db", wal_backend=backend, sync=sync) as db:
        first, second = b"a", b"b"
        db.write(_both(first, second, 0))
        done = threading.Event()

        def write(which: int) -> None:
            for i in range(which, rounds, 2):
                db.write(_both(first, second, i))

        def write_all() -> None:
            run_threads(lambda: write(0), lambda: write(1))
            done.set()

        def read_points() -> None:
            while not done.is_set():
                # Read backwards in time: if the second is new, so must be the first, read later.
                before = db.stats().last_lsn
                one, two = db[second], db[first]
                if one != two:
                    assert db.stats().last_lsn > before, "half a batch"

        def read_scans() -> None:
            while not done.is_set():
                assert len({value for _, value in db.scan()}) == 1
                assert len({value for _, value in db.scan(reverse=True)}) == 1
                assert len({value for _, value in db.scan(limit=2)}) == 1

        run_threads(write_all, read_points, read_scans)
    assert len(set(contents(tmp_path / "db").values())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
def test_a_short_scan_shows_one_moment_of_memory_and_tables(
    tmp_path: Path, *, reverse: bool
) -> None:
    """One unit moves about among keys that are in the tables as well: every scan finds one."""
    names = [b"%02d" % i for i in range(8)]
    with kvstore.open(tmp_path / "db", sync=False) as db:
        db.update(dict.fromkeys(names[1:], b"0"))
        db.put(names[0], b"1")
        db.flush()
        done = threading.Event()

        def move() -> None:
            holder = names[0]
            for i in range(600):
                batch = kvstore.WriteBatch()
                receiver = names[5 * i % 8]
                batch.delete(holder)  # hides what the tables say of it
                batch.put(receiver, b"1")
                db.write(batch)
                if receiver != holder:
                    db.delete(holder)
                holder = receiver
                if i % 40 == 0:
                    db.flush()
            done.set()

        def read() -> None:
            while not done.is_set():
                for limit in (8, 20, None):
                    values = [v for _, v in db.scan(b"00", b"08", reverse=reverse, limit=limit)]
                    assert values.count(b"1") == 1

        run_threads(move, read)


def _both(first: bytes, second: bytes, number: int) -> kvstore.WriteBatch:
    batch = kvstore.WriteBatch()
    batch.put(first, b"%d" % number)
    batch.put(second, b"%d" % number)
    return batch


@pytest.mark.slow
@each_backend
def test_a_batchs_keys_appear_together_to_a_point_reader(tmp_path: Path, backend: str) -> None:
    # Each batch adds a new pair, so whoever finds one of a pair must find the other afterwards.
    rounds = 100
    with kvstore.open(tmp_path / "db", wal_backend=backend) as db:

        def write() -> None:
            for i in range(rounds):
                with db.batch(sync=i % 2 == 0) as batch:
                    batch.put(b"%d first" % i, b"")
                    batch.put(b"%d second" % i, b"")

        def read(one: bytes, two: bytes) -> None:
            for i in range(rounds):
                while (b"%d " % i + one) not in db:
                    pass
                assert (b"%d " % i + two) in db

        run_threads(write, lambda: read(b"first", b"second"), lambda: read(b"second", b"first"))


@pytest.mark.slow
@each_backend
def test_writes_appear_in_the_order_of_their_commits(tmp_path: Path, backend: str) -> None:
    with kvstore.open(tmp_path / "db", wal_backend=backend) as db:
        done = threading.Event()
        count = 120

        def write(thread: int) -> None:
            for i in range(count):
                db.put(b"%d" % thread, b"%d" % i, sync=(i + thread) % 3 == 0)

        def read() -> None:
            seen = [-1, -1, -1]
            while not done.is_set():
                for thread in range(3):
                    number = int(db.get(b"%d" % thread, b"-1"))
                    assert number >= seen[thread]
                    seen[thread] = number

        def write_all() -> None:
            run_threads(*(lambda thread=thread: write(thread) for thread in range(3)))
            done.set()

        run_threads(write_all, read)
        assert dict(db) == {b"%d" % thread: b"%d" % (count - 1) for thread in range(3)}


@each_backend
@pytest.mark.parametrize("interval", [0, 20])
def test_a_relaxed_write_becomes_durable_by_itself(
    tmp_path: Path, backend: str, interval: float
) -> None:
    with kvstore.open(
        tmp_path / "db", wal_backend=backend, sync=False, flush_interval_ms=interval
    ) as db:
        for i in range(20):
            before = db.stats().last_lsn
            db.put(b"%d" % i, b"")
            wait_until(lambda before=before: db.stats().durable_lsn > before)  # type: ignore[misc]


def test_a_relaxed_write_is_not_flushed_before_its_time(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db", sync=False, flush_interval_ms=NEVER) as db:
        for i in range(200):
            db.put(b"%d" % i, b"")
        assert db.stats().durable_lsn == 0
        db.put(b"durable", b"", sync=True)
        assert db.stats().durable_lsn >= 201


@each_backend
def test_sync_is_a_barrier_for_every_thread(tmp_path: Path, backend: str) -> None:
    with kvstore.open(
        tmp_path / "db", wal_backend=backend, sync=False, flush_interval_ms=NEVER
    ) as db:

        def write(thread: int) -> None:
            for i in range(100):
                db.put(b"%d-%d" % (thread, i), bytes(100))
                lsn = db.stats().last_lsn  # of this write, or of a later one
                db.sync()
                assert db.stats().durable_lsn >= lsn

        run_threads(*(lambda thread=thread: write(thread) for thread in range(4)))


@each_backend
def test_scans_stay_consistent_while_writers_go_on(tmp_path: Path, backend: str) -> None:
    # Writers move a unit from one account to another; every scan finds the same sum.
    accounts = 600  # more than one step of a scan
    with kvstore.open(
        tmp_path / "db", wal_backend=backend, sync=False, wal_segment_bytes=1 << 20
    ) as db:
        with db.batch() as setup:
            for i in range(accounts):
                setup.put(b"%04d" % i, b"100")
        transfer = threading.Lock()
        done = threading.Event()

        def move(thread: int) -> None:
            chance = random.Random(thread)
            for i in range(400):
                one, two = (b"%04d" % n for n in chance.sample(range(accounts), 2))
                with transfer, db.batch(sync=i % 100 == 0) as batch:
                    batch.put(one, b"%d" % (int(db[one]) - 1))
                    batch.put(two, b"%d" % (int(db[two]) + 1))

        def move_all() -> None:
            run_threads(lambda: move(1), lambda: move(2))
            done.set()

        def count(*, reverse: bool) -> None:
            while not done.is_set():
                values = [int(value) for _, value in db.scan(reverse=reverse)]
                assert len(values) == accounts
                assert sum(values) == 100 * accounts

        run_threads(move_all, lambda: count(reverse=False), lambda: count(reverse=True))
    found = contents(tmp_path / "db")
    assert sum(int(value) for value in found.values()) == 100 * accounts


def test_rotation_happens_underneath(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db", wal_segment_bytes=SMALLEST_SEGMENT, sync=False) as db:
        for i in range(300):
            db.put(b"%d" % i, bytes(1000))
        assert db.stats().wal_segment > 4
        assert len(segment_names(tmp_path / "db")) == db.stats().wal_segment
    with kvstore.open(tmp_path / "db", recovery="strict") as db:
        assert len(db) == 300


def _reopen_each_time(path: Path, count: int) -> KVStore:
    for i in range(count):
        with kvstore.open(path) as db:
            db.put(b"%d" % i, b"")
    return kvstore.open(path)


@pytest.mark.slow
def test_many_short_lives_add_up(tmp_path: Path) -> None:
    with _reopen_each_time(tmp_path / "db", 40) as db:
        assert sorted(db) == sorted(b"%d" % i for i in range(40))
        assert db.recovery.files < 40  # a log in too many files is flushed
