"""The exception tree: what each error is, knows and says."""

from __future__ import annotations

import copy
import errno
import os
import pickle

import pytest

from kvstore import errors

EVERY = [
    errors.KVStoreError("anything"),
    errors.CorruptionError("a.wal", 4096, "entry 1 is lost", "Restore a backup"),
    errors.ChecksumMismatch("a.wal", 4120, "entry 2", 1, 2),
    errors.FormatError("a.wal", "not a log"),
    errors.PoisonedError("a.wal", OSError(errno.EIO, "bad disk")),
    errors.ReadOnlyError("db"),
    errors.LockedError("db/LOCK", 42),
    errors.ClosedError("store db"),
    errors.ForkedError("store db"),
    errors.BackendUnavailableError("io_uring", "ENOSYS"),
    errors.LimitError("too much"),
    errors.StorageIOError(errno.EIO, "sync", "a.wal"),
    errors.DiskFullError(errno.ENOSPC, "preallocate", "a.wal"),
]


def test_every_public_error_has_an_example_here() -> None:
    classes = {
        getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)
    }
    assert {type(error) for error in EVERY} == classes


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_one_except_clause_catches_everything(error: Exception) -> None:
    assert isinstance(error, errors.KVStoreError)
    assert str(error)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_to_another_process(error: Exception) -> None:
    # multiprocessing and concurrent.futures carry exceptions home by pickling them.
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        known, knows = vars(error).copy(), vars(twin).copy()
        assert str(known.pop("cause", None)) == str(knows.pop("cause", None))
        assert knows == known


def test_errors_are_what_code_that_knows_nothing_of_us_expects() -> None:
    assert issubclass(errors.LimitError, ValueError)
    assert issubclass(errors.StorageIOError, OSError)
    assert issubclass(errors.DiskFullError, errors.StorageIOError)
    assert issubclass(errors.ChecksumMismatch, errors.CorruptionError)


def test_corruption_says_where_what_and_what_to_do() -> None:
    error = errors.CorruptionError("db/000001.wal", 4096, "entry 1 is lost", "Restore a backup")
    assert (error.path, error.offset, error.reason, error.advice) == (
        "db/000001.wal",
        4096,
        "entry 1 is lost",
        "Restore a backup",
    )
    assert str(error) == "db/000001.wal: offset 4096: entry 1 is lost. Restore a backup"


def test_a_checksum_mismatch_shows_both_sums() -> None:
    error = errors.ChecksumMismatch("a.wal", 8, "entry 3", expected=0xAB, actual=0xCD)
    assert (error.expected, error.actual) == (0xAB, 0xCD)
    assert "0x000000ab" in str(error)
    assert "0x000000cd" in str(error)


def test_a_lock_held_here_is_told_from_one_held_elsewhere() -> None:
    assert "this process" in str(errors.LockedError("db/LOCK", os.getpid()))
    assert f"process {os.getpid() + 1}" in str(errors.LockedError("db/LOCK", os.getpid() + 1))
    assert "another process" in str(errors.LockedError("db/LOCK", None))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_full_disk_whatever_the_system_calls_it(number: int) -> None:
    error = errors.storage_error(number, "write", "a.wal")
    assert type(error) is errors.DiskFullError
    assert (error.errno, error.filename, error.operation) == (number, "a.wal", "write")


def test_other_failures_are_not_a_full_disk() -> None:
    error = errors.storage_error(errno.EIO, "sync", "a.wal")
    assert type(error) is errors.StorageIOError
    assert str(error) == f"a.wal: sync failed: {os.strerror(errno.EIO)} (errno {errno.EIO})"
