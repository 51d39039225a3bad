"""Failing operations: swept over a script, none of them loses what was acknowledged."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvstore.errors import (
    ClosedError,
    DiskFullError,
    KVStoreError,
    PoisonedError,
    StorageIOError,
)
from kvstore.wal import IoUringConfig, PortableWalWriter
from tests.support.faultfs import MUTATIONS, SYNCS, WRITES, Fault, FaultFileSystem
from tests.support.wal import payloads, read_log

TINY = IoUringConfig(8, False, 0, 8, False, 1, 4096)
SWEEP_MAX = 400


@dataclass
class Account:
    """What a workload appended and what it was told."""

    appended: list[bytes] = field(default_factory=list)
    durable: int = 0
    failure: Exception | None = None
    cause_seen: int = 0


def workload(fs: FaultFileSystem, path: Path, account: Account) -> PortableWalWriter | None:
    """A script of every kind of call; ends with the first failure. The log, if it ever opened."""
    log: PortableWalWriter | None = None
    blob = bytes(range(256)) * 20

    def add(call: Callable[[bytes], int], data: bytes) -> None:
        assert log is not None
        before = log.last_lsn
        try:
            call(data)
        finally:
            if log.last_lsn > before:  # else it was refused, and is none of the log's
                account.appended.append(data)

    try:
        log = PortableWalWriter(path, TINY, fs=fs, preallocate_bytes=0)
        for number in range(12):
            add(log.append_with_checksum_batched, b"batched %d" % number)
            if number % 3 == 0:
                add(log.append_with_checksum_batched, blob)  # spills, and makes the file grow
            if number % 4 == 1:
                add(log.append_with_checksum, b"direct %d" % number)
            if number % 5 == 2:
                log.mark()
            if number % 2:
                log.flush_batch()
            account.durable = sum(lsn <= log.durable_lsn for lsn in lsns(path, log))
        log.sync()
        account.durable = len(account.appended)
        log.close()
    except (StorageIOError, PoisonedError) as error:
        account.failure = error
    return log


def lsns(path: Path, log: PortableWalWriter) -> list[int]:
    """The LSNs of the users' entries that are in the file."""
    return [entry.lsn for entry in read_log(path)[0] if entry.lsn <= log.last_lsn]


def check_reopened(path: Path, account: Account) -> None:
    """Everything acknowledged is there; what is there was appended, in order, without a gap."""
    if not path.exists():
        assert account.durable == 0
        return
    with PortableWalWriter(path, TINY) as log:
        log.append_and_commit(b"written after reopening")
    found = payloads(path)
    assert found.pop() == b"written after reopening"
    assert account.durable <= len(found)
    assert found == account.appended[: len(found)]


def sweep(
    tmp_path: Path, fault: Fault, check: Callable[[FaultFileSystem, Account, Path], None]
) -> int:
    """Runs the workload with ``fault`` at operation 0, 1, 2 ... until it is not met any more."""
    for index in range(SWEEP_MAX):
        path = tmp_path / f"{index}.wal"
        fs, account = FaultFileSystem(index, fault), Account()
        log = workload(fs, path, account)
        if fs.failures == 0:
            assert account.failure is None
            assert account.durable == len(account.appended)
            return index
        check(fs, account, path)
        if log is not None:
            assert_given_up(log, fs, account)
        assert fs.open_files == 0
        check_reopened(path, account)
    raise AssertionError("the sweep does not end")


def check_cause(error: PoisonedError) -> None:
    assert isinstance(error.cause, StorageIOError)
    assert error.__cause__ is error.cause


def assert_given_up(log: PortableWalWriter, fs: FaultFileSystem, account: Account) -> None:
    """After a failure on the log itself it accepts no write; after one beside it, it goes on."""
    if account.failure is None:
        return
    fs.heal()
    try:
        log.append_batched(b"later")
    except PoisonedError as error:
        check_cause(error)
        for call in (log.sync, log.flush_batch, log.submit, log.reap, lambda: log.append(b"x")):
            with pytest.raises(PoisonedError):
                call()
        if log.last_lsn > log.durable_lsn:
            with pytest.raises(PoisonedError):
                log.commit(log.last_lsn)
        log.commit(log.durable_lsn)  # what is durable stays so
        # The failed entries are pending still, and closing makes nothing of it.
        log.close()
    except ClosedError:
        pass  # it was close() that failed
    else:
        account.appended.append(b"later")
        log.close()
    log.close()
    with pytest.raises(KVStoreError):
        log.append(b"closed")


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_no_failing_operation_loses_what_was_acknowledged(
    tmp_path: Path, number: int, forever: bool
) -> None:
    def check(fs: FaultFileSystem, account: Account, path: Path) -> None:
        assert isinstance(account.failure, (StorageIOError, PoisonedError))
        if isinstance(account.failure, StorageIOError):
            assert account.failure.errno == number
            assert isinstance(account.failure, DiskFullError) == (number == errno.ENOSPC)
            assert str(path.parent) in str(account.failure.filename)

    assert sweep(tmp_path, Fault(number, MUTATIONS, forever), check) > 30


@pytest.mark.parametrize("keep", [0, 1, 7, 100, 4095])
def test_a_short_write_is_completed(tmp_path: Path, keep: int) -> None:
    def check(fs: FaultFileSystem, account: Account, path: Path) -> None:
        assert account.failure is None
        assert account.durable == len(account.appended)

    assert sweep(tmp_path, Fault(0, WRITES, keep=keep), check) > 10


def test_writes_that_are_always_short_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "x.wal"
    fs, account = FaultFileSystem(0, Fault(0, WRITES, forever=True, keep=100)), Account()
    workload(fs, path, account)
    assert account.failure is None
    check_reopened(path, account)


def test_a_device_that_accepts_nothing_is_an_error_not_a_hang(tmp_path: Path) -> None:
    path = tmp_path / "x.wal"
    fs = FaultFileSystem(None, Fault(0, WRITES, forever=True, keep=0))
    log = PortableWalWriter(path, TINY, fs=fs)
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError) as caught:
        log.append(b"x")
    assert caught.value.errno == errno.EIO
    log.close()


@pytest.mark.parametrize(
    ("operations", "number"),
    [(WRITES, errno.EINTR), (WRITES, errno.EAGAIN), (SYNCS, errno.ECANCELED)],
)
def test_an_operation_that_did_not_happen_is_tried_again(
    tmp_path: Path, operations: frozenset[str], number: int
) -> None:
    path = tmp_path / "x.wal"
    fs = FaultFileSystem(None, Fault(number, operations))
    log = PortableWalWriter(path, TINY, fs=fs)
    for round_number in range(5):
        fs.fail_at = fs.count
        log.append_with_checksum_batched(b"%d" % round_number)
        log.flush_batch()
        assert fs.failures == round_number + 1
    fs.heal()
    log.close()
    assert payloads(path) == [b"%d" % n for n in range(5)]


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_an_interrupted_sync_is_not_repeated_into_a_lie(tmp_path: Path, number: int) -> None:
    fs = FaultFileSystem(None, Fault(number, SYNCS))
    log = PortableWalWriter(tmp_path / "x.wal", TINY, fs=fs)
    log.append_with_checksum_batched(b"x")
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError) as caught:
        log.flush_batch()
    assert caught.value.errno == number
    assert (log.durable_lsn, log.pending_batch_ops()) == (0, 1)
    with pytest.raises(PoisonedError):
        log.flush_batch()
    log.close()


def test_a_log_operation_interrupted_for_ever_fails_in_the_end(tmp_path: Path) -> None:
    fs = FaultFileSystem(None, Fault(errno.EINTR, WRITES, forever=True))
    log = PortableWalWriter(tmp_path / "x.wal", TINY, fs=fs)
    log.append_batched(b"x")
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError) as caught:
        log.sync()
    assert caught.value.errno == errno.EINTR
    log.close()


@pytest.mark.parametrize("operations", [WRITES, SYNCS])
def test_failed_entries_stay_pending_and_the_cause_is_named_once(
    tmp_path: Path, operations: frozenset[str]
) -> None:
    path = tmp_path / "x.wal"
    fs = FaultFileSystem(None, Fault(errno.EIO, operations))
    log = PortableWalWriter(path, TINY, fs=fs)
    log.append_and_commit(b"durable")
    log.append_batched(b"abc")
    log.append_batched(b"de")
    size = log.size()
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError) as caught:
        log.flush_batch()
    assert caught.value.operation in ("write", "sync")
    assert caught.value.filename == str(path)
    assert (log.pending_batch_bytes(), log.pending_batch_ops()) == (5, 2)
    assert log.has_pending_batch()
    assert (log.size(), log.durable_lsn, log.last_lsn) == (size, 1, 3)
    with pytest.raises(PoisonedError) as poisoned:
        log.append_batched(b"f")
    assert poisoned.value.path == str(path)
    assert isinstance(poisoned.value.cause, StorageIOError)
    assert poisoned.value.cause.errno == errno.EIO
    assert (log.pending_batch_bytes(), log.last_lsn) == (5, 3)
    log.close()
    assert payloads(path)[0] == b"durable"


def test_a_failed_sync_is_never_tried_again(tmp_path: Path) -> None:
    fs = FaultFileSystem(None, Fault(errno.EIO, SYNCS))
    log = PortableWalWriter(tmp_path / "x.wal", TINY, fs=fs)
    log.append_batched(b"x")
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError):
        log.sync()
    syncs = fs.count
    for _ in range(3):
        with pytest.raises(PoisonedError):
            log.sync()
    log.close()
    assert fs.count == syncs
    assert log.durable_lsn == 0


def test_a_full_disk_is_met_before_the_entry_is_accepted_and_left_when_there_is_room(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.wal"
    fs = FaultFileSystem(None, Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True))
    log = PortableWalWriter(path, TINY, fs=fs, preallocate_bytes=0)
    fs.fail_at = fs.count
    accepted: list[bytes] = []
    for number in range(100):
        data = b"%d" % number * 100
        try:
            log.append_with_checksum_batched(data)
        except DiskFullError as error:
            refusal = error
            break
        accepted.append(data)
    assert 10 < len(accepted) < 100
    assert (refusal.errno, refusal.operation) == (errno.ENOSPC, "preallocate")
    assert log.last_lsn == len(accepted)
    log.flush_batch()  # what had been accepted is not held up
    assert log.durable_lsn == len(accepted)
    with pytest.raises(DiskFullError):
        log.append(bytes(20_000))
    fs.heal()
    log.append_and_commit(b"there is room again")
    log.close()
    assert payloads(path) == [*accepted, b"there is room again"]


def test_what_cannot_be_read_is_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.wal"
    with PortableWalWriter(path) as log:
        log.append_and_commit(b"x")
    path.write_bytes(path.read_bytes() + b"torn")
    before = path.read_bytes()
    for index in range(10):
        fs = FaultFileSystem(index, Fault(errno.EIO, frozenset({"read"})))
        try:
            PortableWalWriter(path, fs=fs).close()
        except StorageIOError:
            assert path.read_bytes() == before
            assert fs.open_files == 0
        else:
            assert index > 1
            break
    else:
        raise AssertionError("the sweep does not end")


@pytest.mark.parametrize("forever", [False, True])
def test_a_failure_while_a_torn_tail_is_cut_leaves_a_log_that_opens_again(
    tmp_path: Path, forever: bool
) -> None:
    for index in range(50):
        path = tmp_path / f"{index}.wal"
        with PortableWalWriter(path) as log:
            log.append_and_commit(b"kept")
        path.write_bytes(path.read_bytes() + b"torn tail")
        fs = FaultFileSystem(index, Fault(errno.EIO, forever=forever))
        try:
            PortableWalWriter(path, fs=fs).close()
        except StorageIOError:
            assert fs.open_files == 0
        if fs.failures == 0:
            assert index > 8
            return
        with PortableWalWriter(path) as log:
            log.append_and_commit(b"later")
        assert payloads(path) == [b"kept", b"later"]
    raise AssertionError("the sweep does not end")


def test_a_failed_sync_of_a_file_that_was_made_longer_poisons_the_log(tmp_path: Path) -> None:
    """The kernel tells of a lost page once: whoever heard of it must not sync again and believe."""
    fs = FaultFileSystem(None, Fault(errno.EIO, SYNCS))
    log = PortableWalWriter(tmp_path / "x.wal", TINY, fs=fs, preallocate_bytes=0)
    log.append(b"written, not synced")
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError) as caught:
        log.append_batched(bytes(20_000))
    assert caught.value.operation == "sync"
    with pytest.raises(PoisonedError) as poisoned:
        log.sync()
    assert isinstance(poisoned.value.cause, StorageIOError)
    assert log.durable_lsn == 0
    log.close()


def test_a_batch_that_was_partly_written_and_then_failed_is_not_counted_as_written(
    tmp_path: Path,
) -> None:
    fs = FaultFileSystem(None, Fault(errno.EIO, SYNCS))
    log = PortableWalWriter(tmp_path / "x.wal", TINY, fs=fs)
    log.append_and_commit(b"durable")
    for _ in range(3000):
        log.append_batched(b"")  # headers alone fill the memory, and are written ahead
    assert log.stats().bytes_written > 32
    assert (log.size(), log.pending_batch_ops()) == (32, 3000)
    fs.fail_at = fs.count
    with pytest.raises(StorageIOError):
        log.flush_batch()
    assert (log.size(), log.pending_batch_ops()) == (32, 3000)
    log.close()
