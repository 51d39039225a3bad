"""The log core over an engine that shuffles, delays and fails: the watermark tells the truth."""

from __future__ import annotations

import errno
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import (
    ClosedError,
    ForkedError,
    KVStoreError,
    PoisonedError,
    StorageIOError,
)
from kvstore.native import lib
from kvstore.wal import IoUringConfig
from kvstore.wal.core import PWRITE, PYTHON, LogCore, PythonEngine
from tests.support import oracle
from tests.support.oracle import CHECKED, MARK, PAD, SEAL

SALT = bytes(range(16))
CONFIG = IoUringConfig(1024, False, 0, 256, False, 4, 4096)
LIMIT = 1 << 30


class MemoryFile:
    """A file in memory, without a descriptor; what was synced is kept apart."""

    path = "memory.wal"

    def __init__(self) -> None:
        self.data = bytearray()
        self.closed = False

    def fileno(self) -> int | None:
        return None

    def map(self) -> bytes:
        return bytes(self.data)

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> int:
        if len(self.data) < offset + len(data):
            self.data.extend(bytes(offset + len(data) - len(self.data)))
        self.data[offset : offset + len(data)] = data
        return len(data)

    def sync(self) -> None:
        pass

    def size(self) -> int:
        return len(self.data)

    def truncate(self, size: int) -> None:
        del self.data[size:]

    def preallocate(self, offset: int, size: int) -> None:
        pass

    def lock(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@dataclass
class Operation:
    identity: int
    kind: int
    data: bytes
    offset: int


class ShuffledEngine(PythonEngine):
    """Begins operations, completes them in any order, some late, some short or interrupted.

    ``stable`` is what the device really holds: a sync makes stable just the writes that had
    completed, and been reported, when it began; a write that syncs itself only itself.

    With ``dsync`` it takes such writes, until the one that it refuses, number ``refuse_at``.
    """

    def __init__(
        self,
        generator: random.Random,
        *,
        mischief: float = 0.0,
        dsync: bool = False,
        refuse_at: int | None = None,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.mischief = mischief
        self.dsync = dsync
        self.refuse_at = refuse_at
        self.waiting: list[Operation] = []
        self.written: list[tuple[int, bytes]] = []
        self.covered: dict[int, int] = {}
        self.synced = 0
        self.stable = bytearray()
        self.fail_next: int | None = None
        self.in_flight_max = self.dsyncs = self.dsyncs_in_flight_max = 0

    def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
        self.waiting.append(Operation(identity, kind, data, offset))
        self.in_flight_max = max(self.in_flight_max, len(self.waiting))
        kinds = Counter(operation.kind for operation in self.waiting)
        # Of two syncs that run together the kernel tells just one of a lost page. (What will be
        # refused is none.)
        refusing = self.refuse_at is not None and self.dsyncs > self.refuse_at
        dsyncs = 0 if refusing else kinds[lib.KV_OP_WRITE_DSYNC]
        assert kinds[lib.KV_OP_SYNC] <= (0 if dsyncs else 1)
        self.dsyncs_in_flight_max = max(self.dsyncs_in_flight_max, kinds[lib.KV_OP_WRITE_DSYNC])
        if kind == lib.KV_OP_SYNC:
            self.covered[identity] = len(self.written)

    def wait(self, block: bool) -> list[tuple[int, int]]:
        self.generator.shuffle(self.waiting)
        least = 1 if block and self.waiting else 0
        count = self.generator.randint(least, max(least, min(2, len(self.waiting))))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return [(operation.identity, self.complete(operation)) for operation in taken]

    def complete(self, operation: Operation) -> int:
        if self.fail_next is not None:
            number, self.fail_next = self.fail_next, None
            return -number
        if self.generator.random() < self.mischief:
            if operation.kind != lib.KV_OP_WRITE:
                return -errno.ECANCELED
            return -self.generator.choice([errno.EINTR, errno.EAGAIN, errno.ECANCELED])
        if operation.kind == lib.KV_OP_SYNC:
            covered = self.covered.pop(operation.identity)
            while self.synced < covered:
                self.settle(*self.written[self.synced])
                self.synced += 1
            return 0
        if operation.kind == lib.KV_OP_WRITE_DSYNC:
            self.dsyncs += 1
            if self.refuse_at is not None and self.dsyncs > self.refuse_at:
                return -errno.EOPNOTSUPP
        data = operation.data
        if self.generator.random() < self.mischief:
            data = data[: self.generator.randint(0, len(data))]
        self.written.append((operation.offset, data))
        if operation.kind == lib.KV_OP_WRITE_DSYNC:
            self.settle(*self.written[-1])
        return len(data)

    def settle(self, offset: int, data: bytes) -> None:
        """So much is stable from now on."""
        self.stable.extend(bytes(max(0, offset + len(data) - len(self.stable))))
        self.stable[offset : offset + len(data)] = data


class Log:
    """A core with its engine, its entries all CHECKED."""

    def __init__(
        self,
        engine: PythonEngine,
        config: IoUringConfig = CONFIG,
        *,
        batches_in_flight: int = 0,
        **options: bool,
    ) -> None:
        self.core = LogCore(
            config,
            PYTHON,
            name="memory.wal",
            python_engine=engine,
            batches_in_flight=batches_in_flight,
            **options,
        )
        self.file = MemoryFile()
        self.attach()

    def attach(
        self, *, lsn: int = 1, position: int = 0, limit: int = LIMIT, direct: bool = False
    ) -> None:
        self.core.attach(
            self.file, direct=direct, seed=oracle.crc32c(SALT), base=0, position=position,
            limit=limit, lsn=lsn,
        )  # fmt: skip

    def queue(self, data: bytes) -> int:
        return self.core.check(
            lib.kv_log_append_batched(self.core.log, data, len(data), lib.KV_CHECKED)
        )

    def submit(self) -> int:
        return self.core.check(lib.kv_log_submit(self.core.log))

    def reap(self) -> int:
        return self.core.check(lib.kv_log_reap(self.core.log))

    def flush(self) -> None:
        self.core.check(lib.kv_log_flush(self.core.log))

    @property
    def durable(self) -> int:
        return lib.kv_log_durable_lsn(self.core.log)

    @property
    def last(self) -> int:
        return lib.kv_log_last_lsn(self.core.log)


@pytest.fixture
def shuffled() -> Iterator[tuple[Log, ShuffledEngine]]:
    engine = ShuffledEngine(random.Random(5))
    log = Log(engine)
    yield log, engine
    log.core.close()


def entries_in(data: bytes | bytearray) -> list[oracle.Entry]:
    return oracle.decode(oracle.Header(salt=SALT).encode() + bytes(data)).entries


@settings(deadline=None, max_examples=150)
@given(
    engine=st.builds(
        ShuffledEngine,
        st.builds(random.Random, st.integers(0, 2**32)),
        mischief=st.sampled_from([0.0, 0.1, 0.3]),
        dsync=st.booleans(),
        refuse_at=st.none() | st.integers(0, 5),
    ),
    batches_in_flight=st.sampled_from([0, 1, 2, 4]),
    steps=st.lists(
        st.sampled_from(["queue", "queue large", "submit", "submit", "reap", "flush", "append"]),
        max_size=60,
    ),
)
def test_the_watermark_covers_only_what_a_later_sync_made_stable(
    engine: ShuffledEngine, batches_in_flight: int, steps: list[str]
) -> None:
    log = Log(engine, batches_in_flight=batches_in_flight)
    payloads: list[bytes] = []
    durable = 0
    for number, step in enumerate(steps):
        if step.startswith("queue"):
            payloads.append(b"%d " % number * (2000 if step == "queue large" else 5))
            log.queue(payloads[-1])
        elif step == "append":
            payloads.append(b"direct %d" % number)
            log.core.check(
                lib.kv_log_append(log.core.log, payloads[-1], len(payloads[-1]), lib.KV_CHECKED)
            )
        elif step == "flush":
            log.flush()
            assert log.durable == log.last == len(payloads)
        else:
            (log.submit if step == "submit" else log.reap)()
        assert durable <= log.durable <= log.last == len(payloads)
        durable = log.durable
        stable = entries_in(engine.stable)
        assert len(stable) >= durable
        assert [e.payload for e in stable[:durable]] == payloads[:durable]
    log.flush()
    found = entries_in(engine.stable)
    assert [e.payload for e in found] == payloads
    for entry in found:  # no entry claimed more than was true when it was framed
        assert 0 <= entry.unsynced < entry.lsn
    log.core.close()


def test_batches_in_flight_complete_in_any_order_and_are_acknowledged_in_order(
    shuffled: tuple[Log, ShuffledEngine],
) -> None:
    log, engine = shuffled
    for number in range(40):
        log.queue(b"%d" % number)
        assert log.submit() == number + 1
    seen = []
    for _ in range(2000):
        seen.append(log.reap())
        stable = entries_in(engine.stable)
        assert len(stable) >= seen[-1]
        if seen[-1] == 40:
            break
    assert seen == sorted(seen)
    assert seen[-1] == 40
    assert engine.in_flight_max > 10
    assert lib.kv_log_pending_ops(log.core.log) == 0


@pytest.mark.parametrize("refuse_at", [None, 0, 1, 2])
def test_two_writes_that_sync_themselves_are_acknowledged_in_order_also_when_refused(
    refuse_at: int | None,
) -> None:
    engine = ShuffledEngine(random.Random(3), dsync=True, refuse_at=refuse_at)
    log = Log(engine, batches_in_flight=2)
    for number in range(20):
        log.queue(b"%d" % number)
        log.submit()
        log.queue(b"%d too" % number)
        log.submit()
        before = log.durable
        assert log.reap() >= before
        assert len(entries_in(engine.stable)) >= log.durable
    log.flush()
    assert len(entries_in(engine.stable)) == log.durable == 40
    assert engine.dsyncs_in_flight_max == 2
    if refuse_at is not None:  # those in flight are refused as well, and none after them is tried
        assert engine.dsyncs - refuse_at in (1, 2)
    log.core.close()


@pytest.mark.parametrize("seed", range(10))
def test_no_write_that_syncs_itself_runs_beside_an_fdatasync(seed: int) -> None:
    engine = ShuffledEngine(random.Random(seed), dsync=True)  # which poisons the log if one does
    log = Log(engine, batches_in_flight=2)
    for number in range(30):
        if number % 3 == 0:  # the next one needs an fdatasync, which covers this as well
            log.core.check(lib.kv_log_append(log.core.log, b"direct", 6, lib.KV_CHECKED))
        log.queue(b"%d" % number)
        log.submit()
        for _ in range(engine.generator.choice([1, 20])):
            log.reap()
    log.flush()
    assert len(entries_in(engine.stable)) == log.durable == 40
    assert engine.dsyncs > 0
    log.core.close()


@pytest.mark.parametrize("dsync", [False, True])
@pytest.mark.parametrize("failing", range(12))
def test_nothing_is_acknowledged_after_the_first_failure(failing: int, dsync: bool) -> None:
    engine = ShuffledEngine(random.Random(failing), dsync=dsync)
    log = Log(engine)
    for number in range(20):
        log.queue(b"%d" % number)
        log.submit()
    for _ in range(failing):
        log.reap()
    durable = log.durable
    engine.fail_next = errno.EIO
    reaped: list[int] = []
    with pytest.raises(PoisonedError):
        reaped.extend(log.reap() for _ in range(1000))
    durable = reaped[-1] if reaped else durable
    assert log.durable == durable < 20
    assert lib.kv_log_pending_ops(log.core.log) == 20 - durable
    for _ in range(100):
        with pytest.raises(PoisonedError):
            log.reap()
    assert log.durable == durable
    assert len(entries_in(engine.stable)) >= durable
    with pytest.raises(PoisonedError):
        log.queue(b"later")
    log.core.close()


class LastFirstEngine(ShuffledEngine):
    """Completes what began last; nothing before ``released``."""

    def __init__(self) -> None:
        super().__init__(random.Random(0))
        self.begun, self.released = threading.Event(), threading.Event()

    def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
        super().begin(identity, kind, data, offset)
        self.begun.set()

    def wait(self, block: bool) -> list[tuple[int, int]]:
        if not self.released.is_set():
            assert self.released.wait(20)
            return []
        operation = self.waiting.pop()
        return [(operation.identity, self.complete(operation))]


def test_a_sync_waits_for_the_writes_of_earlier_rounds_that_are_still_under_way() -> None:
    engine = LastFirstEngine()
    log = Log(engine)
    appender = threading.Thread(
        target=lambda: lib.kv_log_append(log.core.log, b"written late", 12, lib.KV_CHECKED)
    )
    appender.start()
    assert engine.begun.wait(20)
    log.queue(b"submitted while the first is under way")
    assert log.submit() == 2
    engine.released.set()
    appender.join()
    while log.durable < 2:
        log.reap()
        assert len(entries_in(engine.stable)) >= log.durable
    assert len(entries_in(engine.stable)) == 2
    log.core.close()


def test_who_gathers_for_a_round_that_others_have_begun_leaves_nobody_waiting_for_ever() -> None:
    # The others come again before it runs, and count on it for the next round; it stays away.
    log = Log(PythonEngine())
    together = threading.Barrier(4)
    finished: list[int] = []

    def work(number: int) -> None:
        for step in range(400):
            together.wait(10)
            for _ in range((number + step) % 4 + 1):
                lib.kv_log_append_commit(log.core.log, b"x", 1, lib.KV_CHECKED, 1)
        finished.append(number)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    hanging = any(thread.is_alive() for thread in threads)
    log.core.close()
    assert not hanging, "a thread hangs"
    assert sorted(finished) == [0, 1, 2, 3]


class HeldEngine(PythonEngine):
    """Nothing completes while ``gate`` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def wait(self, block: bool) -> list[tuple[int, int]]:
        assert self.gate.wait(20)
        return super().wait(block)


def test_who_waits_for_another_to_apply_is_woken_when_that_is_done() -> None:
    # Each waiter would look by itself after a while, so only the time tells. The median counts: a
    # busy machine may be late now and then.
    log_patience, slow_to_apply = 0.05, 0.01
    late: list[float] = []

    def write(log: Log, told: list[float]) -> None:
        if lib.kv_log_append_apply(log.core.log, b"x", 1, 7) & 1:
            pairs = log.core.ready()
            time.sleep(slow_to_apply)
            told.append(time.monotonic())
            log.core.taken(pairs[-1])
        else:
            late.append(time.monotonic() - told[-1])

    for _ in range(9):
        engine, told = HeldEngine(), [0.0]
        log = Log(engine, record_tickets=True)
        threads = [threading.Thread(target=write, args=(log, told)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while log.last < len(threads):
            time.sleep(0.001)
        engine.gate.set()
        for thread in threads:
            thread.join(20)
        log.core.close()
    assert statistics.median(late) < log_patience / 2


def test_the_caller_that_waited_gets_the_cause_and_the_next_one_hears_of_it(
    shuffled: tuple[Log, ShuffledEngine],
) -> None:
    log, engine = shuffled
    log.queue(b"x")
    engine.fail_next = errno.ENOSPC
    with pytest.raises(StorageIOError) as caught:
        log.flush()
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(PoisonedError):
        log.flush()
    assert log.core.error() is not None


def test_an_exception_in_the_engine_poisons_the_log() -> None:
    class Broken(PythonEngine):
        def wait(self, block: bool) -> list[tuple[int, int]]:
            raise RuntimeError

    log = Log(Broken())
    log.queue(b"x")
    with pytest.raises(StorageIOError):
        log.flush()
    with pytest.raises(PoisonedError):
        log.queue(b"y")
    log.core.close()


def test_entries_say_how_many_before_them_were_not_known_durable(
    shuffled: tuple[Log, ShuffledEngine],
) -> None:
    log, engine = shuffled
    for _ in range(3):
        log.queue(b"a")
    log.flush()
    log.queue(b"b")
    log.submit()
    log.queue(b"c")
    log.flush()
    assert [e.unsynced for e in entries_in(engine.stable)] == [0, 1, 2, 0, 1]


def test_no_entry_crosses_the_limit_until_it_is_raised(
    shuffled: tuple[Log, ShuffledEngine],
) -> None:
    log = Log(PythonEngine())
    log.core.close()
    log = Log(PythonEngine())
    log.queue(b"x")
    assert lib.kv_log_end(log.core.log) == 32
    log.core.close()

    small = LogCore(CONFIG, PYTHON, name="memory.wal", python_engine=PythonEngine())
    small.attach(MemoryFile(), direct=False, seed=1, base=0, position=0, limit=200, lsn=1)
    results = [lib.kv_log_append_batched(small.log, b"12345678", 8, CHECKED) for _ in range(6)]
    assert results == [8, 16, 24, 32, lib.KV_E_FULL, lib.KV_E_FULL]
    assert lib.kv_log_pending_ops(small.log) == 4
    assert lib.kv_log_extend(small.log, 300) == 0
    assert lib.kv_log_append_batched(small.log, b"12345678", 8, CHECKED) == 40
    assert lib.kv_log_seal(small.log, 0) == 0
    assert lib.kv_log_append_batched(small.log, b"", 0, CHECKED) == lib.KV_E_FULL
    assert lib.kv_log_seal(small.log, 0) == 0
    assert lib.kv_log_last_lsn(small.log) == 6
    small.close()


def test_a_seal_always_fits_below_the_limit() -> None:
    for direct in (False, True):
        for size in range(0, 9000, 512 + 8):
            engine = PythonEngine()
            log = LogCore(CONFIG, PYTHON, name="memory.wal", python_engine=engine)
            file = MemoryFile()
            log.attach(file, direct=direct, seed=oracle.crc32c(SALT), base=0, position=0,
                       limit=32768, lsn=1)  # fmt: skip
            data = bytes(size)
            while lib.kv_log_append_batched(log.log, data, size, CHECKED) >= 0:
                if size % 3 == 0:
                    assert lib.kv_log_flush(log.log) == 0
            assert lib.kv_log_seal(log.log, 0) == 0
            assert lib.kv_log_end(log.log) <= 32768
            assert file.size() <= 32768
            kinds = [e.kind for e in entries_in(bytes(file.data))]
            assert [kind for kind in kinds if kind != PAD][-1] == SEAL
            log.close()


def test_a_log_goes_on_in_another_file_only_when_all_is_durable_and_lsns_are_dense() -> None:
    log = Log(PythonEngine())
    log.queue(b"x")
    with pytest.raises(StorageIOError):
        log.attach(lsn=2)
    log.flush()
    for lsn in (1, 3):
        with pytest.raises(StorageIOError):
            log.attach(lsn=lsn)
    log.attach(lsn=2)
    log.queue(b"y")
    log.flush()
    assert log.durable == 2
    log.core.close()


def test_direct_writes_begin_and_end_on_blocks_also_after_short_ones() -> None:
    generator = random.Random(3)

    class Watching(PythonEngine):
        def carry_out(self, kind: int, data: bytes, offset: int) -> int:
            if kind == lib.KV_OP_WRITE:
                assert offset % 4096 == 0
                assert len(data) % 4096 == 0
                blocks = generator.randint(0, len(data) // 4096)
                data = data[: blocks * 4096 + generator.choice([0, 512])]
            return super().carry_out(kind, data, offset)

    core = LogCore(CONFIG, PYTHON, name="memory.wal", python_engine=Watching())
    file = MemoryFile()
    core.attach(file, direct=True, seed=oracle.crc32c(SALT), base=0, position=0, limit=LIMIT, lsn=1)
    expected = []
    for number in range(120):
        expected.append(bytes([number]) * generator.choice([0, 10, 4072, 5000, 30_000]))
        core.check(
            lib.kv_log_append_batched(core.log, expected[-1], len(expected[-1]), lib.KV_CHECKED)
        )
        if generator.random() < 0.4:
            core.check(lib.kv_log_flush(core.log))
    core.check(lib.kv_log_flush(core.log))
    assert [e.payload for e in entries_in(bytes(file.data)) if e.kind == CHECKED] == expected
    core.close()


def test_tickets_become_ready_in_lsn_order_once_durable() -> None:
    engine = ShuffledEngine(random.Random(8))
    log = Log(engine, record_tickets=True)
    threads = []
    for ticket in range(5):
        thread = threading.Thread(
            target=lambda ticket=ticket: lib.kv_log_append_commit(
                log.core.log, b"x", 1, lib.KV_CHECKED, ticket + 100
            )
        )
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    pairs = log.core.ready()
    assert pairs[1::2] == [1, 2, 3, 4, 5]
    assert sorted(pairs[::2]) == [100, 101, 102, 103, 104]
    log.core.taken(3)
    assert log.core.ready()[1::2] == [4, 5]
    log.core.taken(5)
    assert log.core.ready() == []
    log.core.close()


def test_relaxed_entries_are_ready_at_once_but_never_before_a_durable_one_ahead() -> None:
    engine = ShuffledEngine(random.Random(8))
    log = Log(engine, record_tickets=True)

    def relaxed(ticket: int, applied: int) -> tuple[int, bool]:
        result = lib.kv_log_append_relaxed(log.core.log, b"r", 1, lib.KV_CHECKED, ticket, applied)
        return result >> 1, not result & 1

    assert relaxed(7, applied=0) == (1, True)
    assert relaxed(8, applied=1) == (2, True)
    assert log.core.ready() == [8, 2]  # nobody has said that it is applied
    log.core.check(lib.kv_log_append_commit(log.core.log, b"d", 1, lib.KV_CHECKED, 9))
    assert relaxed(10, applied=2) == (4, False)  # 3 has not been applied yet
    assert log.core.ready() == [9, 3, 10, 4]
    log.core.taken(4)
    assert relaxed(11, applied=0) == (5, True)
    log.core.close()


def test_entries_that_nobody_has_to_take_never_fill_the_tickets() -> None:
    log = Log(PythonEngine(), record_tickets=True)
    for _ in range(lib.KV_TICKETS_MAX + 1000):
        assert lib.kv_log_append_batched(log.core.log, b"", 0, lib.KV_CHECKED) >= 0
    log.flush()
    log.core.close()


def test_entries_with_tickets_that_nobody_takes_are_refused_in_the_end() -> None:
    log = Log(PythonEngine(), record_tickets=True)
    log.core.check(lib.kv_log_append_commit(log.core.log, b"", 0, lib.KV_CHECKED, 1))
    results = {
        lib.kv_log_append_batched(log.core.log, b"", 0, lib.KV_CHECKED)
        for _ in range(lib.KV_TICKETS_MAX + 10)
    }
    assert results == {0, lib.KV_E_BUSY}
    assert log.core.ready() == [1, 1]
    # A SEAL has no ticket: a rotation or close must not fail because others wait.
    assert lib.kv_log_seal(log.core.log, lib.KV_TICKETS_MAX * 2) == 0
    log.core.close()


def test_lsns_end_where_their_field_does() -> None:
    core = LogCore(CONFIG, PYTHON, name="memory.wal", python_engine=PythonEngine())
    file = MemoryFile()
    core.attach(file, direct=False, seed=oracle.crc32c(SALT), base=0, position=0, limit=LIMIT,
                lsn=2**56 - 2)  # fmt: skip
    for _ in range(2):
        assert lib.kv_log_append_batched(core.log, b"x", 1, CHECKED) > 0
    with pytest.raises(StorageIOError) as caught:
        core.check(lib.kv_log_append_batched(core.log, b"x", 1, CHECKED))
    assert caught.value.errno == errno.EOVERFLOW
    core.check(lib.kv_log_flush(core.log))
    core.close()
    header = oracle.Header(salt=SALT, base_lsn=2**56 - 2).encode()
    assert [e.lsn for e in oracle.decode(header + bytes(file.data)).entries] == [
        2**56 - 2,
        2**56 - 1,
    ]


def test_a_log_promised_to_one_thread_refuses_another() -> None:
    log = Log(PythonEngine(), single_issuer=True)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(lib.kv_log_flush(log.core.log)))
    thread.start()
    thread.join()
    assert codes == [lib.KV_E_THREAD]
    with pytest.raises(KVStoreError, match="used in another"):
        log.core.check(codes[0])
    log.flush()
    log.core.close()


def test_closing_twice_and_using_a_closed_core_is_safe(
    shuffled: tuple[Log, ShuffledEngine],
) -> None:
    log, _ = shuffled
    for number in range(10):
        log.queue(b"%d" % number)
        log.submit()
    log.core.close()
    log.core.close()
    with pytest.raises(ClosedError):
        log.flush()
    assert lib.kv_log_sync_strategy(log.core.log) in (1, 2)
    assert log.core.stats().ops_submitted == log.core.stats().ops_completed
    with pytest.raises(ForkedError):
        log.core.check(lib.KV_E_FORKED)


def test_a_real_file_without_an_engine_that_knows_it_is_an_error() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        LogCore(CONFIG, 99, name="x")
    core = LogCore(CONFIG, PWRITE, name="x")
    assert lib.kv_log_append(core.log, b"x", 1, MARK) == lib.KV_E_FULL  # no file yet
    core.close()


@pytest.mark.parametrize("again", [0, 1, 3])
def test_who_is_told_and_does_not_come_again_keeps_nobody_waiting(again: int) -> None:
    # All are durable at once. A few are told, and after ``again`` more entries nobody comes.
    engine, count = HeldEngine(), 40
    log = Log(engine, record_tickets=True)
    begun_ns, waited_ns = [0], list[int]()

    def write(entries: int) -> None:
        for _ in range(entries):
            if lib.kv_log_append_apply(log.core.log, b"x", 1, 7) & 1:
                while pairs := log.core.ready():
                    log.core.taken(pairs[-1])
        waited_ns.append(time.monotonic_ns() - begun_ns[0])

    threads = [
        threading.Thread(target=write, args=(1 + again * (number == 0),), daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    while log.last < count:
        time.sleep(0.001)
    begun_ns[0] = time.monotonic_ns()
    engine.gate.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    log.core.close()
    # Nobody has to find out alone what the one before found out alone.
    assert statistics.median(waited_ns) < 1e9
