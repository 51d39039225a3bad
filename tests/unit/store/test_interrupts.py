"""Ctrl-C at every point of a write: the store goes on, and memory stays what the log says.

A profile function raises KeyboardInterrupt at the n-th function call, or return from C, of the
package's own code within a write, for every n, and a trace function as a loop goes back: those are
the places where CPython looks for signals. Real signals at random moments come on top of that.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kvstore
from kvstore import KVStore
from tests.support.interrupts import interrupted_in_loop
from tests.support.stores import (
    NEVER,
    SMALLEST_BUFFER,
    SMALLEST_SEGMENT,
    contents,
    each_backend,
)

POINTS_MAX = 3000


def in_destructor(frame: FrameType | None) -> bool:
    """Whether Python would swallow what is raised here, with a warning: in a destructor or a weak
    reference's callback."""
    while frame is not None and frame.f_code.co_filename != __file__:
        if frame.f_code.co_name in ("__del__", "_remove", "_release"):
            return True
        frame = frame.f_back
    return False


class Interrupter:
    """Raises KeyboardInterrupt at the n-th point of a call, on this thread."""

    def __init__(self, point: int) -> None:
        self.left = point
        self.raised = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "c_return") or self.raised:
            return
        if not frame.f_globals.get("__name__", "").startswith("kvstore."):
            return  # the standard library's locks do not survive an interrupt everywhere
        if in_destructor(frame):
            return
        if self.left == 0:
            self.raised = True
            sys.setprofile(None)
            raise KeyboardInterrupt
        self.left -= 1

    def run(self, call: Callable[[], object]) -> bool:
        """Whether ``call`` was interrupted."""
        try:
            sys.setprofile(self)
            call()
        except KeyboardInterrupt:
            assert self.raised
        finally:
            sys.setprofile(None)
        return self.raised


def points() -> Iterator[int]:
    return iter(range(POINTS_MAX))


def settle_and_compare(db: KVStore, path: Path, promised: dict[bytes, bytes]) -> None:
    """The store still works, keeps what it promised, and its memory is what the log says."""
    db.put(b"afterwards", b"durable")
    db.put(b"afterwards too", b"relaxed", sync=False)
    db.sync()
    memory = dict(db.items())
    for key, value in promised.items():
        assert memory[key] == value
    assert (memory[b"afterwards"], memory[b"afterwards too"]) == (b"durable", b"relaxed")
    assert {key: db[key] for key in memory} == memory
    assert len(db) == len(memory)
    db._tree.state.memtable._check()
    db.close()
    found = contents(path, recovery="strict")
    assert found == memory


def write_batch(db: KVStore, key: bytes, *, sync: bool) -> None:
    with db.batch(sync=sync) as batch:
        batch.put(key, b"new")
        batch.put(key + b" too", b"new")
        batch.delete(b"old")


CALLS: dict[str, Callable[[KVStore, bytes], object]] = {
    "put": lambda db, key: db.put(key, b"new"),
    "put relaxed": lambda db, key: db.put(key, b"new", sync=False),
    "put again": lambda db, key: db.put(b"old", key),
    "put again relaxed": lambda db, key: db.put(b"old", key, sync=False),
    "delete": lambda db, key: db.delete(b"old"),
    "delete relaxed": lambda db, key: db.delete(b"old", sync=False),
    "sync": lambda db, key: db.sync(),
    "batch": lambda db, key: write_batch(db, key, sync=True),
    "batch relaxed": lambda db, key: write_batch(db, key, sync=False),
}


@each_backend
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("after", ["relaxed", "durable"])
def test_a_write_interrupted_anywhere_leaves_memory_and_log_agreeing(
    tmp_path: Path, backend: str, name: str, after: str
) -> None:
    db = kvstore.open(tmp_path / "db", wal_backend=backend, flush_interval_ms=NEVER)
    db.put(b"kept", b"1")
    promised = {b"kept": b"1"}
    interrupted = True
    for point in points():
        db.put(b"old", b"%d" % point, sync=after == "durable")
        key = b"interrupted at %d" % point
        interrupted = Interrupter(point).run(lambda key=key: CALLS[name](db, key))  # type: ignore[misc]
        # Now it may be in the log and not yet in memory, but not once something else was written.
        key = b"after %d" % point
        db.put(key, b"", sync=after == "durable")
        promised[key] = b""
        db._tree.state.memtable._check()
        if not interrupted:
            break
    assert not interrupted
    assert point > 5
    settle_and_compare(db, tmp_path / "db", promised)


def read_all(db: KVStore, key: bytes) -> None:
    with db.snapshot() as snapshot:
        db.put(key, b"not in the snapshot")
        list(snapshot.scan())
    list(db.scan())


@pytest.mark.parametrize("name", ["put", "put again", "delete", "batch", "batch relaxed", "read"])
def test_a_loop_interrupted_anywhere_leaves_no_lock_held_and_nothing_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("kvstore.snapshot._FIRST_CHUNK", 2)
    call = {**CALLS, "read": read_all}[name]
    with kvstore.open(tmp_path / "db", wal_backend="pwrite", flush_interval_ms=NEVER) as db:
        for i in range(5):  # several lists of a scan
            db.put(b"%d" % i, b"", sync=False)
        for point in points():
            db.put(b"old", b"", sync=False)
            db.delete(b"new", sync=False)
            db.snapshot().close()  # drops old versions, whose number would grow with the points
            interrupted = interrupted_in_loop(lambda: call(db, b"new"), point)
            memtable = db._tree.state.memtable
            for lock in (db._pipeline._lock, memtable._lock):
                assert lock.acquire(timeout=5)
                lock.release()
            assert (db._access.scans, memtable._snapshots) == (set(), {})
            if not interrupted:
                break
        assert point > 0


@each_backend
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.slow
def test_a_rotation_interrupted_anywhere_loses_nothing(
    tmp_path: Path, backend: str, *, sync: bool
) -> None:
    value = bytes(40_000)
    for point in points():
        path = tmp_path / str(point)
        db = kvstore.open(
            path,
            wal_backend=backend,
            wal_segment_bytes=SMALLEST_SEGMENT,
            wal_buffer_bytes=SMALLEST_BUFFER,
            flush_interval_ms=NEVER,
        )
        db.put(b"first", value)
        promised = {b"first": value}
        interrupted = Interrupter(point).run(
            lambda db=db: db.put(b"second", value, sync=sync)  # type: ignore[misc]
        )
        for i in range(4):  # the next rotations come soon
            db.put(b"%d" % i, value)
            promised[b"%d" % i] = value
        settle_and_compare(db, path, promised)
        if not interrupted:
            break
    assert 20 < point < POINTS_MAX - 1


@pytest.mark.slow
@each_backend
def test_the_first_write_interrupted_anywhere_leaves_a_working_store(
    tmp_path: Path, backend: str
) -> None:
    # It makes the first segment and starts the background threads.
    for point in points():
        path = tmp_path / str(point)
        db = kvstore.open(path, wal_backend=backend, flush_interval_ms=1, sync=False)
        interrupted = Interrupter(point).run(lambda db=db: db.put(b"k", b"v"))  # type: ignore[misc]
        settle_and_compare(db, path, {})
        if not interrupted:
            break
    assert 20 < point < POINTS_MAX - 1


@pytest.mark.slow
@each_backend
def test_closing_interrupted_anywhere_lets_the_next_opener_in(tmp_path: Path, backend: str) -> None:
    for point in points():
        path = tmp_path / str(point)
        db = kvstore.open(path, wal_backend=backend, flush_interval_ms=NEVER)
        db.put(b"durable", b"1")
        db.put(b"relaxed", b"1", sync=False)
        interrupted = Interrupter(point).run(db.close)
        db.close()
        assert b"durable" in contents(path)
        if not interrupted:
            break
    assert 20 < point < POINTS_MAX - 1


class SignalledError(BaseException):
    """What the signal handler raises."""


def interrupted_by_signal(call: Callable[[], object], seconds: float) -> bool:
    """Whether ``call`` was interrupted by a signal so many seconds from now."""

    armed = False  # else a signal that comes late, when the call is over, would be raised elsewhere

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        nonlocal armed
        if armed and in_destructor(frame):
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif armed:
            armed = False
            raise SignalledError

    before = signal.signal(signal.SIGALRM, interrupt)
    gc.disable()
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        armed = False
    except SignalledError:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    return False


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer here")
@each_backend
@pytest.mark.parametrize(
    "options",
    [{}, {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER}],
    ids=["plain", "tiny"],
)
def test_signals_at_random_moments_leave_memory_and_log_agreeing(
    tmp_path: Path, backend: str, options: dict[str, Any]
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    db = kvstore.open(tmp_path / "db", wal_backend=backend, flush_interval_ms=1, **options)
    maybe: dict[bytes, set[bytes | None]] = {}  # what each key may hold
    done = threading.Event()

    def others() -> None:
        for i in itertools.count():
            if done.is_set():
                break
            db.put(b"other", b"%d" % i, sync=i % 2 == 0)

    thread = threading.Thread(target=others)
    thread.start()
    interrupts = 0
    try:
        for i in range(400):
            key = b"%d" % chance.randrange(5)
            value = None if chance.random() < 0.2 else b"%d " % i * chance.choice([1, 50, 500])
            sync = chance.random() < 0.5
            if interrupted_by_signal(
                lambda key=key, value=value, sync=sync: (  # type: ignore[misc]
                    db.delete(key, sync=sync) if value is None else db.put(key, value, sync=sync)
                ),
                chance.uniform(1e-6, 6e-4),
            ):
                interrupts += 1
                maybe.setdefault(key, {None}).add(value)
            else:
                maybe[key] = {value}
    finally:
        done.set()
        thread.join()
    print(f"{interrupts} interrupts")
    assert interrupts
    db.put(b"end", b"")
    memory = dict(db.items())
    for key, values in maybe.items():
        assert memory.get(key) in values
    settle_and_compare(db, tmp_path / "db", {})


@pytest.mark.parametrize("sync", [True, False])
def test_what_a_signal_handler_raises_out_of_a_write_leaves_the_store_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sync: bool
) -> None:
    """Any exception, not only KeyboardInterrupt: a time limit's, as a rule an Exception."""
    with kvstore.open(tmp_path / "s") as db:
        pipeline = db._pipeline
        put, put_relaxed = pipeline._wal_put, pipeline._wal_put_relaxed

        def late(key: bytes, value: bytes, ticket: int) -> int:
            put(key, value, ticket)
            raise TimeoutError

        def late_relaxed(key: bytes, value: bytes, ticket: int, applied_lsn: int) -> int:
            put_relaxed(key, value, ticket, applied_lsn)
            raise TimeoutError

        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "_wal_put", late)
            patch.setattr(pipeline, "_wal_put_relaxed", late_relaxed)
            with pytest.raises(TimeoutError):
                db.put(b"a", b"1", sync=sync)
        db.put(b"b", b"2")
        assert dict(db.scan()) == {b"a": b"1", b"b": b"2"}
    with kvstore.open(tmp_path / "s") as db:
        assert dict(db.scan()) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("name", ["put", "put relaxed", "delete", "delete relaxed"])
def test_a_memtable_whose_first_change_was_interrupted_is_flushed_whole(
    tmp_path: Path, name: str
) -> None:
    """Its counts and LSNs may lack what it holds, and no later write mends them."""
    with kvstore.open(tmp_path / "db", wal_backend="pwrite", flush_interval_ms=NEVER) as db:
        for point in points():
            db.put(b"old", b"1", sync=False)
            db.flush()
            assert not db._tree.state.memtable.entry_count
            key = b"%d" % point
            interrupted = Interrupter(point).run(lambda key=key: CALLS[name](db, key))  # type: ignore[misc]
            db.flush()
            assert not db._tree.state.memtable.entry_count
            if not interrupted:
                break
        assert db.stats().background_error == ""
        memory = dict(db.items())
    assert not interrupted
    assert point > 5
    assert (memory.get(key) == b"new") if "put" in name else b"old" not in memory
    assert contents(tmp_path / "db", recovery="strict") == memory


def test_threads_whose_applier_was_interrupted_come_back_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a round the core tells one thread to apply, and the others wait for it."""
    with kvstore.open(tmp_path / "s", flush_interval_ms=NEVER) as db:
        pipeline = db._pipeline
        put = pipeline._wal_put
        victim: list[str] = []
        together = threading.Barrier(4)

        def late(key: bytes, value: bytes, ticket: int) -> int:
            twice_lsn = put(key, value, ticket)
            name = threading.current_thread().name
            if twice_lsn & 1 and name in {"0", "1", "2"} and not victim:
                victim.append(name)
                raise TimeoutError
            return twice_lsn

        def work(number: int) -> None:
            together.wait()
            with contextlib.suppress(TimeoutError):
                db.put(b"%d" % number, b"")

        monkeypatch.setattr(pipeline, "_wal_put", late)
        threads = [threading.Thread(target=work, args=(i,), name=str(i)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        db.put(b"end", b"")
        assert dict(db.scan()) == {b"0": b"", b"1": b"", b"2": b"", b"3": b"", b"end": b""}
