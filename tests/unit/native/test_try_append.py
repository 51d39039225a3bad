"""Appending without waiting, and several batches in flight."""

from __future__ import annotations

import errno
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.batch import encode
from kvstore.native import ffi, lib
from kvstore.wal import IoUringConfig
from kvstore.wal.core import PYTHON, LogCore, PythonEngine
from tests.support import oracle
from tests.unit.native.test_log_core import LIMIT, SALT, MemoryFile, ShuffledEngine, entries_in

ARENA = 32 << 10
CONFIG = IoUringConfig(1024, False, 0, 256, False, 8, 4096)  # 32 KiB
BLOCK = 4096


class Log:
    """A core that records tickets."""

    def __init__(
        self, engine: PythonEngine, *, in_flight: int = 1, limit: int = LIMIT, direct: bool = False
    ) -> None:
        self.core = LogCore(
            CONFIG,
            PYTHON,
            name="memory.wal",
            record_tickets=True,
            batches_in_flight=in_flight,
            python_engine=engine,
        )
        self.file = MemoryFile()
        self.core.attach(
            self.file, direct=direct, seed=oracle.crc32c(SALT), base=0, position=0, limit=limit,
            lsn=1,
        )  # fmt: skip
        self.log = self.core.log

    def try_append(self, data: bytes, ticket: int = 1, *, relaxed: bool = False) -> int:
        return lib.kv_log_try_append(self.log, data, len(data), ticket, relaxed)

    def ready(self) -> list[tuple[int, int]]:
        flat = self.core.ready()
        return list(zip(flat[::2], flat[1::2], strict=True))

    @property
    def durable(self) -> int:
        return lib.kv_log_durable_lsn(self.log)


def test_it_gives_lsns_and_frames_as_the_other_ways_do() -> None:
    log = Log(PythonEngine())
    payloads = [b"", b"x", bytes(100), bytes(8000)]
    for number, payload in enumerate(payloads, 1):
        assert log.try_append(payload) == number
    assert log.durable == 0
    assert lib.kv_log_pending_ops(log.log) == 4
    assert lib.kv_log_flush(log.log) == 0
    found = entries_in(bytes(log.file.data))
    assert [entry.payload for entry in found] == payloads
    assert {entry.kind for entry in found} == {oracle.CHECKED}
    log.core.close()


@pytest.mark.parametrize("direct", [False, True])
def test_a_full_buffer_answers_eagain_until_something_has_completed(*, direct: bool) -> None:
    log = Log(PythonEngine(), direct=direct)
    data = bytes(5000)
    count = 0
    while (result := log.try_append(data)) > 0:
        count += 1
    assert result == -errno.EAGAIN
    assert 3 <= count <= 6
    assert log.try_append(data) == -errno.EAGAIN
    assert lib.kv_log_last_lsn(log.log) == count  # nothing of them is there
    assert lib.kv_log_submit(log.log) >= count
    assert lib.kv_log_reap(log.log) >= 0
    while lib.kv_log_durable_lsn(log.log) < count:
        lib.kv_log_reap(log.log)
    assert log.try_append(data) > count
    log.core.close()


@pytest.mark.parametrize("direct", [False, True])
def test_what_never_fits_answers_emsgsize_and_what_fits_is_taken_in_the_end(
    *, direct: bool
) -> None:
    log = Log(PythonEngine(), direct=direct)
    limit = ARENA - 2 * BLOCK - 24
    assert log.try_append(bytes(limit + 1)) == -errno.EMSGSIZE
    assert log.try_append(bytes(ARENA * 4)) == -errno.EMSGSIZE
    for size in (limit, limit - 7, 3, limit):
        while (result := log.try_append(bytes(size))) == -errno.EAGAIN:
            assert lib.kv_log_flush(log.log) == 0
        assert result > 0
    assert lib.kv_log_flush(log.log) == 0
    assert len(log.file.data) >= 3 * limit
    log.core.close()


def test_beyond_the_end_of_the_file_it_answers_full_and_changes_nothing() -> None:
    log = Log(PythonEngine(), limit=1000)
    assert log.try_append(bytes(500)) == 1
    end = lib.kv_log_end(log.log)
    assert log.try_append(bytes(500)) == lib.KV_E_FULL
    assert log.try_append(bytes(ARENA)) == lib.KV_E_FULL
    assert lib.kv_log_end(log.log) == end
    assert lib.kv_log_seal(log.log, 0) == 0
    assert log.try_append(b"") == lib.KV_E_FULL
    assert log.ready() == [(1, 1)]
    log.core.close()
    assert log.try_append(b"") == lib.KV_E_CLOSED


def test_a_log_that_failed_answers_poisoned() -> None:
    engine = ShuffledEngine(random.Random(1))
    log = Log(engine)
    assert log.try_append(b"x") == 1
    engine.fail_next = errno.EIO
    assert lib.kv_log_flush(log.log) == -errno.EIO
    assert log.try_append(b"y") == lib.KV_E_POISONED
    assert log.try_append(bytes(ARENA * 2)) == lib.KV_E_POISONED
    log.core.close()


def test_tickets_come_when_durable_and_relaxed_ones_when_nothing_before_them_is_not() -> None:
    log = Log(PythonEngine())
    assert log.try_append(b"a", 10, relaxed=True) == 1
    assert log.ready() == [(10, 1)]
    assert log.ready() == [(10, 1)]  # until they are taken
    assert log.try_append(b"b", 20) == 2
    assert log.try_append(b"c", 30, relaxed=True) == 3
    assert log.ready() == [(10, 1)]
    log.core.taken(1)
    assert log.ready() == []
    assert lib.kv_log_flush(log.log) == 0
    assert log.ready() == [(20, 2), (30, 3)]
    log.core.taken(3)
    assert log.ready() == []
    log.core.close()


def test_too_many_entries_that_were_not_taken_answer_eagain() -> None:
    log = Log(PythonEngine())
    count = 0
    while (result := log.try_append(b"", relaxed=True)) != -errno.EAGAIN or log.durable < count:
        if result == -errno.EAGAIN:
            assert lib.kv_log_flush(log.log) == 0
        else:
            count = result
    assert lib.KV_TICKETS_MAX - 200 < count < lib.KV_TICKETS_MAX
    log.core.taken(1000)
    assert log.try_append(b"", relaxed=True) == count + 1
    log.core.close()


def test_while_a_large_entry_is_framed_it_answers_eagain_and_the_eventfd_tells() -> None:
    gate, begun = threading.Event(), threading.Event()

    class Held(PythonEngine):
        def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
            begun.set()
            super().begin(identity, kind, data, offset)

        def wait(self, block: bool) -> list[tuple[int, int]]:
            assert gate.wait(20)
            return super().wait(block)

    log = Log(Held())
    large = bytes(3 * ARENA)
    thread = threading.Thread(
        target=lambda: lib.kv_log_append_commit(log.log, large, len(large), lib.KV_CHECKED, 1)
    )
    thread.start()
    assert begun.wait(20)
    assert log.try_append(b"x", 2) == -errno.EAGAIN
    gate.set()
    thread.join()
    assert log.try_append(b"x", 2) == 2
    assert lib.kv_log_flush(log.log) == 0
    assert log.ready() == [(1, 1), (2, 2)]
    log.core.close()


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    in_flight=st.sampled_from([1, 2, 4]),
    steps=st.lists(
        st.sampled_from(["try", "try", "try relaxed", "try large", "submit", "reap", "reap"]),
        max_size=60,
    ),
)
def test_no_more_batches_are_in_flight_than_allowed_and_tickets_come_in_order(
    seed: int, in_flight: int, steps: list[str]
) -> None:
    engine = ShuffledEngine(random.Random(seed))
    log = Log(engine, in_flight=in_flight)
    appended: list[tuple[int, bool]] = []
    taken = 0
    for number, step in enumerate(steps, 1):
        if step == "submit":
            assert lib.kv_log_submit(log.log) <= len(appended)
        elif step == "reap":
            lib.kv_log_reap(log.log)
        else:
            data = b"%d" % number * (3000 if step == "try large" else 1)
            result = log.try_append(data, number, relaxed=step == "try relaxed")
            assert result in {len(appended) + 1, -errno.EAGAIN}
            if result > 0:
                appended.append((number, step == "try relaxed"))
        # A round has at most two writes; its sync comes when they are done.
        assert len(engine.waiting) <= 2 * in_flight + 1
        ready = log.ready()
        for ticket, lsn in ready:
            taken += 1
            assert (lsn, ticket) == (taken, appended[taken - 1][0])
            assert lsn <= log.durable or appended[lsn - 1][1]
        log.core.taken(taken)
        assert len(entries_in(engine.stable)) >= log.durable
    assert lib.kv_log_flush(log.log) == 0
    assert [ticket for ticket, _ in log.ready()] == [ticket for ticket, _ in appended[taken:]]
    log.core.close()


Puts = list[tuple[bytes, bytes | None]]


def try_puts(log: Log, puts: Puts, ticket: int) -> int:
    return lib.kv_log_try_puts(
        log.log,
        len(puts),
        b"".join(key for key, _ in puts),
        ffi.new("uint32_t[]", [len(key) for key, _ in puts]),
        b"".join(value or b"" for _, value in puts),
        ffi.new("int32_t[]", [-1 if value is None else len(value) for _, value in puts]),
        ticket,
    )


def test_many_puts_are_framed_as_each_alone_and_their_ticket_comes_with_the_last() -> None:
    log = Log(PythonEngine())
    puts: Puts = [(b"a", b"1"), (b"key", None), (b"b" * 300, b""), (b"c", bytes(5000))]
    assert log.try_append(encode((b"0", b"")), 10) == 1
    assert try_puts(log, puts, 20) == 5
    assert log.try_append(encode((b"z", None)), 30) == 6
    assert lib.kv_log_pending_ops(log.log) == 6
    assert log.ready() == []
    assert lib.kv_log_flush(log.log) == 0
    assert log.ready() == [(10, 1), (20, 5), (30, 6)]
    found = entries_in(bytes(log.file.data))
    assert [entry.payload for entry in found] == [
        encode(change) for change in [(b"0", b""), *puts, (b"z", None)]
    ]
    log.core.close()


def test_of_many_puts_all_are_taken_or_none() -> None:
    log = Log(PythonEngine(), limit=60_000)
    puts: Puts = [(b"%d" % i, bytes(1000)) for i in range(20)]
    assert try_puts(log, [], 1) == -errno.EINVAL
    assert try_puts(log, puts, 1) == 20
    assert try_puts(log, puts, 2) == -errno.EAGAIN
    assert lib.kv_log_last_lsn(log.log) == 20
    assert lib.kv_log_flush(log.log) == 0
    assert try_puts(log, puts, 2) == 40
    assert lib.kv_log_flush(log.log) == 0
    assert try_puts(log, puts, 3) == lib.KV_E_FULL
    assert lib.kv_log_last_lsn(log.log) == 40
    assert log.ready() == [(1, 20), (2, 40)]
    log.core.close()
