"""Many threads on one log, closing under them, forks, and a second process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.errors import ClosedError, KVStoreError
from kvstore.wal import IoUringConfig, PortableWalWriter
from tests.support import oracle
from tests.support.wal import SMALL, direct_io_refusal, payloads, read_log
from tests.unit.wal.conftest import OpenLog

PATIENCE_SECONDS = 60
CHECKOUT = Path(__file__).parents[3]
# Python 3.12 warns of any fork with threads, those that the kernel runs for a ring included.
WARNINGS = ("-W", "error", "-W", "ignore:This process:DeprecationWarning")
CONFIGS = {
    "default": IoUringConfig(),
    "small": SMALL,
    "direct": IoUringConfig(8, False, 0, 8, True, 1, 4096),
    "polling": IoUringConfig(64, True, 1, 32, False, 4, 4096),
}


def run_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs ``work(0)`` ... at the same time; raises the first failure; no thread may hang."""
    failures: list[BaseException] = []
    begin = threading.Barrier(count)

    def guarded(number: int) -> None:
        try:
            begin.wait(PATIENCE_SECONDS)
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failures:
        raise failures[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_sixteen_threads_commit_and_every_acknowledged_entry_is_there_once(
    open_log: OpenLog, path: Path, name: str
) -> None:
    if CONFIGS[name].direct_io and (refusal := direct_io_refusal(path.parent)):
        pytest.skip(f"no direct I/O in {path.parent}: {refusal}")
    log = open_log(CONFIGS[name], preallocate_bytes=0)
    acknowledged: dict[int, bytes] = {}

    def work(number: int) -> None:
        before = 0
        for step in range(40):
            data = b"%d/%d " % (number, step) * (1 + (number * 31 + step * 7) % 97)
            lsn = log.append_and_commit(data)
            assert before < lsn <= log.durable_lsn
            acknowledged[lsn] = data
            before = lsn

    run_threads(16, work)
    stats = log.stats()
    assert stats.in_flight() == 0
    assert (stats.cqe_overflows, stats.sq_dropped) == (0, 0)
    log.close()
    found = {e.lsn: e.payload for e in read_log(path)[0]}
    assert len(found) == 16 * 40
    assert found == acknowledged


def test_threads_that_wait_share_device_writes(open_log: OpenLog) -> None:
    log = open_log()

    def work(number: int) -> None:
        for _ in range(50):
            log.append_and_commit(b"x" * number)

    run_threads(16, work)
    stats = log.stats()
    assert stats.entries == 800
    assert stats.batches < 800
    assert stats.syncs == stats.batches


@pytest.mark.parametrize("name", ["default", "small"])
def test_every_call_at_once_from_many_threads(open_log: OpenLog, path: Path, name: str) -> None:
    log = open_log(CONFIGS[name], preallocate_bytes=0)
    steps = 40
    big = bytes(range(256)) * 90

    def look() -> None:
        assert log.stats().ops_completed <= log.stats().ops_submitted
        assert 0 <= log.durable_lsn <= log.last_lsn
        assert log.size() >= 0

    append_calls: list[Callable[[bytes], int]] = [
        log.append,
        log.append_with_checksum_batched,
        log.append_and_commit,
        lambda data: log.append_batched(data + big),
        log.append_with_checksum,
    ]
    other_calls: list[Callable[[], object]] = [
        log.flush_batch,
        lambda: log.commit(log.last_lsn),
        log.submit,
        log.reap,
        log.mark,
        look,
    ]

    def work(number: int) -> None:
        for step in range(steps):
            if number < 10:
                call = append_calls[(number + step) % len(append_calls)]
                call(b"%d/%d " % (number, step))
            else:
                other_calls[(number + step) % len(other_calls)]()

    run_threads(14, work)
    log.sync()
    assert log.durable_lsn == log.last_lsn
    log.close()
    decoded = oracle.decode(path.read_bytes())
    assert decoded.corrupt_at is None
    assert decoded.sealed
    found = [p.split()[0] for p in payloads(path)]
    assert sorted(found) == sorted(
        b"%d/%d" % (number, step) for number in range(10) for step in range(steps)
    )
    for number in range(10):
        mine = [p for p in found if p.startswith(b"%d/" % number)]
        assert mine == [b"%d/%d" % (number, step) for step in range(steps)]


class Appenders:
    """Threads that append, each in its own way, until they are stopped by an error."""

    def __init__(self, log: PortableWalWriter) -> None:
        self.log = log
        self.acknowledged: set[bytes] = set()
        self.endings: list[type] = []
        self.warm = threading.Semaphore(0)

    def work(self, number: int) -> None:
        try:
            for step in range(1_000_000):
                data = b"%d/%d" % (number, step)
                if number == 0:
                    self.log.append(data)
                elif number == 1:
                    self.log.append_batched(data + bytes(20_000))
                else:
                    self.log.append_and_commit(data)
                    self.acknowledged.add(data)
                self.warm.release()
        except KVStoreError as error:
            self.endings.append(type(error))


@pytest.mark.slow
def test_closing_while_threads_append_ends_them_and_keeps_what_was_acknowledged(
    backend: str, path: Path
) -> None:
    for attempt in range(12):
        path.unlink(missing_ok=True)
        log = PortableWalWriter(path, SMALL, backend=backend, preallocate_bytes=0)
        appenders = Appenders(log)

        def work(number: int, appenders: Appenders = appenders, wait: int = 3 * attempt) -> None:
            if number < 6:
                appenders.work(number)
                return
            for _ in range(wait):
                assert appenders.warm.acquire(timeout=PATIENCE_SECONDS)
            appenders.log.close()

        run_threads(7, work)
        assert appenders.endings == [ClosedError] * 6
        found = payloads(path)
        assert appenders.acknowledged <= set(found)
        decoded = oracle.decode(path.read_bytes())
        assert decoded.sealed
        assert decoded.end_offset == path.stat().st_size


def test_closing_a_reopened_log_never_cuts_off_what_was_acknowledged_meanwhile(
    backend: str, path: Path
) -> None:
    PortableWalWriter(path, backend=backend).close()
    acknowledged = []
    for _ in range(60):
        log = PortableWalWriter(path, backend=backend)

        def work(number: int, log: PortableWalWriter = log) -> None:
            if number == 0:
                log.close()
                return
            with contextlib.suppress(ClosedError):
                acknowledged.append(log.append_and_commit(b"x"))

        run_threads(2, work)
    assert [e.lsn for e in read_log(path)[0]] == sorted(acknowledged)


def run_script(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-X", "dev", *WARNINGS, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=CHECKOUT,
        env={**os.environ, "KVSTORE_WAL_BACKEND": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_forked_child_is_refused_and_the_parent_goes_on_with_its_lock(
    backend: str, path: Path
) -> None:
    output = run_script(
        """
        import os, sys
        from kvstore.errors import ForkedError, LockedError
        from kvstore.wal import PortableWalWriter

        path, backend = sys.argv[1:]
        log = PortableWalWriter(path, backend=backend)
        log.append_and_commit(b"before the fork")
        log.append_batched(b"queued before the fork")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                calls = [
                    lambda: log.append(b"x"), lambda: log.append_batched(b"x"),
                    lambda: log.append_and_commit(b"x"), log.flush_batch, log.sync,
                    log.submit, log.reap, log.mark, lambda: log.eventfd,
                ]
                for call in calls:
                    try:
                        call()
                    except ForkedError:
                        continue
                    raise AssertionError("a child must not use the log")
                assert log.last_lsn == log.durable_lsn == log.size() == 0
                log.close()
                log.close()
                try:
                    PortableWalWriter(path, backend=backend)
                except LockedError:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        try:
            PortableWalWriter(path, backend=backend)
        except LockedError:
            print("locked")
        log.append_and_commit(b"after the fork")
        log.close()
        PortableWalWriter(path, backend=backend).close()
        print("done")
        """,
        str(path),
        backend,
    )
    assert output == "locked\ndone\n"
    assert payloads(path) == [b"before the fork", b"queued before the fork", b"after the fork"]


def test_a_child_that_ends_as_usual_leaves_the_parents_log_alone(backend: str, path: Path) -> None:
    run_script(
        """
        import os, sys
        from kvstore.wal import PortableWalWriter

        log = PortableWalWriter(sys.argv[1], backend=sys.argv[2])
        log.append_batched(b"queued")
        log.submit()
        child = os.fork()
        if child == 0:
            sys.exit(0)  # finalizers run, nothing was closed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        log.append_and_commit(b"after")
        log.close()
        """,
        str(path),
        backend,
    )
    assert payloads(path) == [b"queued", b"after"]


def test_a_child_can_open_a_log_of_its_own(backend: str, path: Path) -> None:
    run_script(
        """
        import os, sys
        from kvstore.wal import PortableWalWriter

        path, backend = sys.argv[1:]
        with PortableWalWriter(path, backend=backend) as log:
            log.append_and_commit(b"parent")
            child = os.fork()
            if child == 0:
                with PortableWalWriter(path + ".child", backend=backend) as own:
                    own.append_and_commit(b"child")
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            log.append_and_commit(b"parent again")
        """,
        str(path),
        backend,
    )
    assert payloads(path) == [b"parent", b"parent again"]
    assert payloads(f"{path}.child") == [b"child"]


@pytest.mark.slow
def test_another_process_is_kept_out_until_the_log_is_closed(open_log: OpenLog, path: Path) -> None:
    script = """
        import sys
        from kvstore.errors import LockedError
        from kvstore.wal import PortableWalWriter

        try:
            PortableWalWriter(sys.argv[1]).close()
        except LockedError as error:
            print("locked", error.path == sys.argv[1])
        else:
            print("opened")
        """
    log = open_log()
    assert run_script(script, str(path)) == "locked True\n"
    log.append_and_commit(b"x")
    log.close()
    assert run_script(script, str(path)) == "opened\n"


def test_what_was_committed_survives_the_kill_of_its_process(backend: str, path: Path) -> None:
    script = """
        import os, signal, sys
        from kvstore.wal import PortableWalWriter

        log = PortableWalWriter(sys.argv[1], backend=sys.argv[2])
        for number in range(50):
            log.append_and_commit(b"%d" % number)
        log.append_batched(b"never flushed")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path), backend],
        timeout=PATIENCE_SECONDS,
        check=False,
        cwd=CHECKOUT,
    )
    assert done.returncode == -9
    with PortableWalWriter(path, backend=backend) as log:
        assert log.last_lsn == 50
    assert payloads(path) == [b"%d" % number for number in range(50)]
