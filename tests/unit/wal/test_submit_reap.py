"""submit, reap and the eventfd: writing without waiting."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from pathlib import Path

from kvstore.wal import IoUringConfig, PortableWalWriter
from tests.support.wal import SMALL, payloads
from tests.unit.wal.conftest import OpenLog

PATIENCE_SECONDS = 20


def reap_until_durable(log: PortableWalWriter, lsn: int) -> int:
    """Waits on the eventfd alone, as an event loop would; returns how often it was woken."""
    poll = select.poll()
    poll.register(log.eventfd, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_SECONDS
    wakes = 0
    while log.durable_lsn < lsn:
        assert poll.poll(max(0, deadline - time.monotonic()) * 1000), "nobody said anything"
        os.read(log.eventfd, 8)
        log.reap()
        wakes += 1
    return wakes


def test_submit_begins_what_is_queued_and_the_eventfd_tells_when_it_is_durable(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log()
    assert log.eventfd == log.eventfd >= 0
    for number in range(20):
        log.append_with_checksum_batched(b"%d" % number)
        log.append_batched(b"more")
        assert log.submit() == 2 * number + 2
        assert not log.has_pending_batch()
        reap_until_durable(log, 2 * number + 2)
        assert log.reap() == log.last_lsn
    log.close()
    assert len(payloads(path)) == 40


def test_submit_with_nothing_queued_begins_nothing(open_log: OpenLog) -> None:
    log = open_log()
    assert log.submit() == 0
    assert log.reap() == 0
    log.append_and_commit(b"x")
    submitted = log.stats().ops_submitted
    assert log.submit() == 1
    assert log.stats().ops_submitted == submitted


def test_submit_syncs_direct_appends_that_were_only_written(open_log: OpenLog) -> None:
    log = open_log()
    assert log.eventfd >= 0
    log.append(b"written, not synced")
    assert log.durable_lsn == 0
    assert log.submit() == 1
    reap_until_durable(log, 1)
    assert log.stats().syncs == 1


def test_several_batches_in_flight_become_durable_in_order(open_log: OpenLog, path: Path) -> None:
    log = open_log(IoUringConfig(registered_buffers=16, buffer_size=4096))
    assert log.eventfd >= 0
    durable = 0
    for number in range(200):
        log.append_with_checksum_batched(b"%d" % number)
        submitted = log.submit()
        reaped = log.reap()
        assert durable <= reaped <= log.last_lsn
        assert submitted <= log.last_lsn
        durable = reaped
    while log.submit() < log.last_lsn:
        reap_until_durable(log, log.durable_lsn + 1)
    reap_until_durable(log, 200)
    log.close()
    assert payloads(path) == [b"%d" % number for number in range(200)]


def test_batches_beyond_what_may_be_in_flight_wait_for_reap(open_log: OpenLog, path: Path) -> None:
    log = open_log(SMALL)  # room for two rounds
    for number in range(50):
        log.append_batched(b"%d" % number)
        assert log.submit() <= number + 1
    rounds = 0
    while log.durable_lsn < 50:
        reap_until_durable(log, log.submit())
        rounds += 1
        assert rounds <= 50
    log.close()
    assert payloads(path) == [b"%d" % number for number in range(50)]


def test_commit_joins_what_was_submitted(open_log: OpenLog) -> None:
    log = open_log()
    log.append_batched(b"a")
    log.submit()
    log.append_batched(b"b")
    log.commit(1)
    assert log.durable_lsn >= 1
    log.commit(2)
    assert log.durable_lsn == 2
    assert log.stats().in_flight() == 0


def test_close_takes_what_was_submitted_with_it(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    descriptor = log.eventfd
    for number in range(30):
        log.append_batched(b"%d" % number)
        log.submit()
    log.close()
    assert payloads(path) == [b"%d" % number for number in range(30)]
    assert log.stats().in_flight() == 0
    assert (
        not os.path.exists(f"/proc/self/fd/{descriptor}")
        or os.readlink(f"/proc/self/fd/{descriptor}") != "anon_inode:[eventfd]"
    )


def test_a_submitter_is_told_also_when_a_committing_thread_was_at_the_device(
    open_log: OpenLog,
) -> None:
    """The thread that commits may be at the device when a batch is submitted, and then go away:
    nobody is left to take that batch there but who was submitted to."""
    log = open_log()
    assert log.eventfd >= 0
    begin = threading.Barrier(2)

    def commit_now_and_then() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            while True:
                begin.wait(PATIENCE_SECONDS)
                log.append_and_commit(b"thread")

    thread = threading.Thread(target=commit_now_and_then)
    thread.start()
    try:
        for number in range(300):
            begin.wait(PATIENCE_SECONDS)
            for _ in range(number % 7):
                log.append_batched(b"delay")
            log.append_batched(b"loop")
            mine = log.last_lsn
            while log.submit() < mine:
                reap_until_durable(log, log.durable_lsn + 1)
            reap_until_durable(log, mine)
    finally:
        begin.abort()
        thread.join()
    log.flush_batch()
    assert log.durable_lsn == log.last_lsn


def test_what_a_thread_submitted_before_it_ended_still_becomes_durable(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log()
    assert log.eventfd >= 0

    def submit_and_go() -> None:
        log.append_with_checksum_batched(os.urandom(200_000))
        log.submit()

    for number in range(20):
        thread = threading.Thread(target=submit_and_go)
        thread.start()
        thread.join()
        reap_until_durable(log, number + 1)
    log.close()
    assert [len(payload) for payload in payloads(path)] == [200_000] * 20
