"""Opening, closing, locking, and what becomes of a store that nobody closes."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import kvstore
from kvstore import ClosedError, LockedError, ReadOnlyError, StorageIOError, paths
from kvstore.wal.background import BackgroundFlusher
from tests.support.stores import (
    NEVER,
    READERS,
    SMALLEST_SEGMENT,
    WRITERS,
    contents,
    each_backend,
    every_call,
    output_of,
    run_script,
    segment_names,
)
from tests.support.trees import wait_until


def test_every_call_is_in_the_lists(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db") as db:
        assert list(every_call(db)) == READERS + WRITERS


@pytest.mark.parametrize("name", READERS + WRITERS)
def test_every_call_works_while_open_and_is_refused_after_close(tmp_path: Path, name: str) -> None:
    db = kvstore.open(tmp_path / "db", sync=False)
    db.put(b"key", b"value")
    call = every_call(db)[name]
    call()
    db.close()
    with pytest.raises(ClosedError, match="is closed; open it again"):
        call()


def test_entering_a_closed_store_is_refused(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db")
    db.close()
    with pytest.raises(ClosedError), db:
        pass


@pytest.mark.parametrize("reverse", [False, True])
def test_an_iterator_ends_with_its_store(tmp_path: Path, *, reverse: bool) -> None:
    db = kvstore.open(tmp_path / "db", sync=False)
    for i in range(10):
        db.put(b"%d" % i, b"")
    begun, fresh = db.scan(reverse=reverse), db.scan(reverse=reverse, limit=5)
    views = [iter(view) for view in (db, db.items(), db.values(), db.keys())]
    next(begun)
    db.close()
    for iterator in (begun, fresh, *views):
        with pytest.raises(ClosedError):
            next(iterator)


def test_an_iterator_over_nothing_also_hears_of_the_close(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db")
    scan = db.scan()
    db.close()
    with pytest.raises(ClosedError):
        next(scan)


def test_what_a_closed_store_still_says(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db")
    assert repr(db) == f"<KVStore {str(tmp_path / 'db')!r} open>"
    db.close()
    assert repr(db) == f"<KVStore {str(tmp_path / 'db')!r} closed>"
    assert db.recovery.entries == 0


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db")
    db.put(b"k", b"v")
    for _ in range(3):
        db.close()
    with kvstore.open(tmp_path / "db") as other:
        db.close()  # must not let go of what the other holds
        with pytest.raises(LockedError):
            kvstore.open(tmp_path / "db")
        assert dict(other) == {b"k": b"v"}


@each_backend
def test_many_threads_may_close_and_write_at_once(tmp_path: Path, backend: str) -> None:
    threads_count = 6
    for round_number in range(15):
        path = tmp_path / f"db{round_number}"
        db = kvstore.open(path, wal_backend=backend, wal_segment_bytes=SMALLEST_SEGMENT)
        acknowledged: list[set[int]] = [set() for _ in range(threads_count)]
        strange: list[BaseException] = []
        start = threading.Barrier(threads_count)

        def write(
            thread: int,
            db: kvstore.KVStore = db,
            start: threading.Barrier = start,
            strange: list[BaseException] = strange,
            acknowledged: list[set[int]] = acknowledged,
        ) -> None:
            start.wait()
            try:
                for i in range(1000):
                    db.put(b"%d-%d" % (thread, i), bytes(300), sync=bool((thread + i) % 3))
                    acknowledged[thread].add(i)
                    if i == 5 + 3 * thread:
                        db.close()
            except ClosedError:
                pass
            except BaseException as error:
                strange.append(error)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(threads_count)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        db.close()
        assert not strange
        found = contents(path)
        for thread in range(threads_count):
            missing = {i for i in acknowledged[thread] if b"%d-%d" % (thread, i) not in found}
            assert not missing  # relaxed ones too: closing flushed them


@pytest.mark.slow
@pytest.mark.parametrize("interval", [0, 10, 300, NEVER])
def test_closing_never_waits_for_a_flusher_that_sleeps(tmp_path: Path, interval: float) -> None:
    # Whatever the background thread is just doing: every round closes a little later.
    for delay in range(0, 130, 12):
        db = kvstore.open(tmp_path / "db", flush_interval_ms=interval)
        db.put(b"k", b"v")
        closed = threading.Event()

        def close(db: kvstore.KVStore = db, closed: threading.Event = closed) -> None:
            db.close()
            closed.set()

        threading.Event().wait(delay / 1000)  # lets the flusher get somewhere
        threading.Thread(target=close, daemon=True).start()
        assert closed.wait(15), f"still closing, {delay} ms after the write"


@pytest.mark.slow
def test_closing_an_idle_store_takes_no_flush_interval(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db", flush_interval_ms=2000)
    db.put(b"k", b"v")
    begin = time.monotonic()
    while db.stats().last_lsn < 2:  # until the flusher has marked the log as idle, and sleeps
        assert time.monotonic() - begin < 20
        threading.Event().wait(0.01)
    begin = time.monotonic()
    db.close()
    assert time.monotonic() - begin < 0.6


def test_a_store_of_every_backend_says_which_it_is(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db", wal_backend="pwrite") as db:
        stats = db.stats()
        assert (stats.backend, stats.path) == ("pwrite", str(tmp_path / "db"))
        assert "wal_backend" in stats.backend_reason or "pwrite" in stats.backend_reason
        assert (stats.entries, stats.last_lsn, stats.durable_lsn, stats.wal_segment) == (0, 0, 0, 0)
        db.put(b"k", b"v")
        stats = db.stats()
        assert (stats.entries, stats.wal_segment) == (1, 1)
        assert stats.durable_lsn >= 1
        assert stats.wal.bytes_written > 0


@each_backend
def test_stats_count_what_was_written(tmp_path: Path, backend: str) -> None:
    with kvstore.open(tmp_path / "db", wal_backend=backend, flush_interval_ms=NEVER) as db:
        assert db.stats().backend == backend
        for i in range(10):
            db.put(b"%d" % i, b"")
        db.delete(b"3")
        stats = db.stats()
        assert stats.entries == 9
        assert stats.last_lsn >= stats.durable_lsn >= 11
        assert stats.wal.entries >= 11
        assert 1 <= stats.wal.syncs <= stats.wal.ops_submitted
        db.put(b"relaxed", b"", sync=False)
        assert db.stats().last_lsn > db.stats().durable_lsn
        db.sync()
        assert db.stats().last_lsn == db.stats().durable_lsn


def test_a_write_batch_without_changes_is_no_write(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db") as db:
        db.write(kvstore.WriteBatch())
        assert db.stats().last_lsn == 0
    assert segment_names(tmp_path / "db") == []


def test_a_store_may_be_anywhere_that_can_be_made(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c d" / "ü"
    for path in (deep, str(deep)):
        with kvstore.open(path) as db:
            db.put(b"k", b"v")
            assert db.path == str(deep)
    assert contents(deep) == {b"k": b"v"}


def test_whether_a_store_may_or_must_be_new(tmp_path: Path) -> None:
    with pytest.raises(StorageIOError) as caught:
        kvstore.open(tmp_path / "db", create_if_missing=False)
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / "db").exists()
    with kvstore.open(tmp_path / "db", error_if_exists=True) as db:
        db.put(b"k", b"v")
    with pytest.raises(StorageIOError) as caught:
        kvstore.open(tmp_path / "db", error_if_exists=True)
    assert caught.value.errno == errno.EEXIST
    assert contents(tmp_path / "db", create_if_missing=False) == {b"k": b"v"}
    (tmp_path / "strays").mkdir()
    (tmp_path / "strays" / "notes.txt").write_text("mine")
    kvstore.open(tmp_path / "strays", error_if_exists=True).close()


def test_a_relative_path_means_the_place_it_meant_when_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with kvstore.open("db", wal_segment_bytes=SMALLEST_SEGMENT) as db:
        monkeypatch.chdir(tmp_path / "elsewhere")  # as a daemon does
        for i in range(100):
            db.put(b"%d" % i, bytes(4000))
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(contents(tmp_path / "db")) == 100


# ---- salvage ----


@pytest.mark.parametrize("name", WRITERS)
def test_salvage_refuses_every_write_and_says_why(tmp_path: Path, name: str) -> None:
    with kvstore.open(tmp_path / "db") as db:
        db.put(b"key", b"value")
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        with pytest.raises(ReadOnlyError, match="read-only; export"):
            every_call(db)[name]()
        assert dict(db) == {b"key": b"value"}
    assert segment_names(tmp_path / "db") == ["000001.wal"]


@pytest.mark.parametrize("name", READERS)
def test_salvage_reads_as_ever(tmp_path: Path, name: str) -> None:
    with kvstore.open(tmp_path / "db") as db:
        db.put(b"key", b"value")
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        every_call(db)[name]()
        assert list(db.scan()) == [(b"key", b"value")]


def test_there_is_nothing_to_salvage_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(StorageIOError) as caught:
        kvstore.open(tmp_path / "db", recovery="salvage")
    assert caught.value.errno == errno.ENOENT
    assert not (tmp_path / "db").exists()


# ---- two openers ----


def test_a_second_opener_in_this_process_is_told_so(tmp_path: Path) -> None:
    for mode in ("tolerate_torn_tail", "salvage"):
        with kvstore.open(tmp_path / "db") as db:
            db.put(b"k", b"v")
            with pytest.raises(LockedError, match="already open in this process") as caught:
                kvstore.open(tmp_path / "db", recovery=mode)
            assert caught.value.pid == os.getpid()
            assert caught.value.path == str(tmp_path / "db" / "LOCK")
            db.put(b"still", b"works")


HOLD = """
import sys, kvstore
db = kvstore.open(sys.argv[1], flush_interval_ms=60000)
db.put(b"durable", b"1")
db.put(b"relaxed", b"1", sync=False)
print("open", flush=True)
sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Another process that has the store open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def test_a_second_opener_elsewhere_is_told_who_has_it_until_that_one_is_killed(
    tmp_path: Path,
) -> None:
    with hold(tmp_path / "db") as process:
        try:
            with pytest.raises(LockedError, match=f"process {process.pid}") as caught:
                kvstore.open(tmp_path / "db")
            assert caught.value.pid == process.pid
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    with kvstore.open(tmp_path / "db") as db:
        assert db[b"durable"] == b"1"


def test_the_lock_goes_when_opening_fails(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db") as db:
        db.put(b"k", b"v")
    (tmp_path / "db" / "000001.wal").rename(tmp_path / "db" / "000002.wal")
    for _ in range(2):
        with pytest.raises(kvstore.CorruptionError):
            kvstore.open(tmp_path / "db")
    (tmp_path / "db" / "000002.wal").rename(tmp_path / "db" / "000001.wal")
    assert contents(tmp_path / "db") == {b"k": b"v"}


def test_the_lock_goes_when_the_backend_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTORE_WAL_BACKEND", "nonsense")
    for _ in range(2):
        with pytest.raises(ValueError, match="KVSTORE_WAL_BACKEND=nonsense"):
            kvstore.open(tmp_path / "db")
    monkeypatch.delenv("KVSTORE_WAL_BACKEND")
    kvstore.open(tmp_path / "db").close()


def test_the_environment_decides_on_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVSTORE_WAL_BACKEND", "pwrite")
    with kvstore.open(tmp_path / "db", wal_backend="auto") as db:
        assert db.stats().backend == "pwrite"
        assert "KVSTORE_WAL_BACKEND" in db.stats().backend_reason


# ---- nobody closes it ----


def test_a_store_that_is_dropped_warns_and_is_closed(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "db", flush_interval_ms=NEVER)
    db.put(b"k", b"v", sync=False)
    held = [db]
    del db
    with pytest.warns(ResourceWarning, match="was not closed"):
        held.clear()
    assert contents(tmp_path / "db") == {b"k": b"v"}


def test_a_dropped_store_is_closed_also_where_warnings_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda it: unraisable.append(str(it.exc_value)))
    db = kvstore.open(tmp_path / "db", flush_interval_ms=NEVER)
    db.put(b"k", b"v", sync=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        del db
        gc.collect()
    assert unraisable == [f"store {tmp_path / 'db'} was not closed"]
    assert contents(tmp_path / "db") == {b"k": b"v"}


def test_a_store_dropped_in_a_thread_of_its_own_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cyclic collector runs wherever it likes, so also in the thread that flushes.
    collected = threading.Event()
    flush = BackgroundFlusher._keep_flushing

    def collect_and_flush(self: BackgroundFlusher) -> None:
        dropped.wait(30)
        gc.collect()
        collected.set()
        flush(self)

    dropped = threading.Event()
    gc.disable()
    try:
        monkeypatch.setattr(BackgroundFlusher, "_keep_flushing", collect_and_flush)
        db = kvstore.open(tmp_path / "db", flush_interval_ms=NEVER)
        db.put(b"k", b"v", sync=False)
        db.cycle = db  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del db
            dropped.set()
            assert collected.wait(30)
    finally:
        gc.enable()
    assert contents(tmp_path / "db") == {b"k": b"v"}


FORGET = """
import sys, kvstore
stores = [kvstore.open(f"{sys.argv[1]}/{i}", flush_interval_ms=60000) for i in range(3)]
for db in stores:
    db.put(b"durable", b"1")
    db.put(b"relaxed", b"1", sync=False)
exec(sys.argv[2])
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del stores, db; sys.exit(0)"])
def test_a_process_that_ends_keeps_its_relaxed_writes(tmp_path: Path, ending: str) -> None:
    if "del" in ending:
        ending = "import warnings; warnings.simplefilter('ignore'); " + ending
    assert output_of(FORGET, tmp_path, ending) == ""
    for i in range(3):
        assert contents(tmp_path / f"{i}") == {b"durable": b"1", b"relaxed": b"1"}


def test_one_store_that_cannot_be_closed_does_not_keep_the_others_open(tmp_path: Path) -> None:
    ending = "import shutil; shutil.rmtree(sys.argv[1] + '/0')"
    run_script(FORGET, tmp_path, ending)  # says on its error channel what happened
    for i in (1, 2):
        assert contents(tmp_path / f"{i}") == {b"durable": b"1", b"relaxed": b"1"}


def descriptors_and_threads() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
@each_backend
@pytest.mark.parametrize("direct", [False, True])
def test_a_closed_store_leaves_no_descriptor_and_no_thread(
    tmp_path: Path, backend: str, *, direct: bool
) -> None:
    def once(number: int) -> None:
        with kvstore.open(
            tmp_path / f"{number}",
            wal_backend=backend,
            wal_direct_io=direct,
            wal_segment_bytes=SMALLEST_SEGMENT,
        ) as db:
            for i in range(100):
                db.put(b"%d" % i, bytes(4000), sync=i % 2 == 0)

    once(0)
    gc.collect()  # what tests before have left must not go in between
    before = descriptors_and_threads()
    for number in range(1, 4):
        once(number)
    assert descriptors_and_threads() == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_a_store_whose_directory_was_removed_lets_everything_go(tmp_path: Path) -> None:
    gc.collect()
    before = descriptors_and_threads()
    db = kvstore.open(tmp_path / "db", wal_backend="pwrite")
    db.put(b"k", b"v")
    wait_until((tmp_path / "db" / paths.SPARE).exists)  # else it may come while all is removed
    shutil.rmtree(tmp_path / "db")
    with contextlib.suppress(StorageIOError):
        db.close()
    del db
    gc.collect()
    assert descriptors_and_threads() == before


def test_a_verification_that_meets_a_close_ends(tmp_path: Path) -> None:
    db = kvstore.open(tmp_path / "s")
    db.put(b"a", b"1")
    db.flush()
    db.close()
    with pytest.raises(kvstore.ClosedError):  # as after its first look, before the tables'
        db._tree.version_and_tables(db._access.check_open)
