"""The real file system behind the seam: every OSError a StorageIOError, locks that hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from kvstore.errors import DiskFullError, LockedError, StorageIOError
from kvstore.fs import PosixFileSystem, write_all
from kvstore.fs.posix import PosixFile
from tests.support.faultfs import WRITES, Fault, FaultFileSystem
from tests.support.wal import direct_io_refusal


@pytest.fixture
def fs() -> PosixFileSystem:
    return PosixFileSystem()


@pytest.fixture
def file(fs: PosixFileSystem, tmp_path: Path) -> Iterator[PosixFile]:
    opened = fs.open(str(tmp_path / "file"), create=True)
    yield opened
    opened.close()


def test_what_is_written_is_read_back_where_it_was_put(file: PosixFile, tmp_path: Path) -> None:
    assert file.pwrite(b"hello", 3) == 5
    assert file.size() == 8
    assert file.pread(100, 0) == b"\0\0\0hello"
    assert file.pread(2, 4) == b"el"
    assert file.pread(10, 8) == file.pread(10, 800) == b""
    file.sync()
    file.truncate(4)
    assert file.pread(100, 0) == b"\0\0\0h"
    assert file.path == str(tmp_path / "file")
    assert file.fileno() is not None


def test_reading_goes_on_after_a_short_read(
    file: PosixFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.pwrite(b"0123456789", 0)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: real(fd, min(size, 3), offset))
    assert file.pread(8, 1) == b"12345678"
    assert file.pread(100, 5) == b"56789"


def test_writing_all_goes_on_after_short_writes_and_gives_up_on_none(
    file: PosixFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:3], offset))
    write_all(file, b"0123456789", 5)
    assert file.pread(100, 5) == b"0123456789"
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(StorageIOError) as caught:
        write_all(file, b"x", 0)
    assert caught.value.errno == errno.EIO
    write_all(file, b"", 0)


def test_preallocating_fills_with_zeros_and_keeps_the_rest(file: PosixFile) -> None:
    file.pwrite(b"kept", 0)
    file.preallocate(4, (3 << 20) + 5)
    assert file.size() == 4 + (3 << 20) + 5
    assert file.pread(1 << 23, 0) == b"kept" + bytes((3 << 20) + 5)
    file.preallocate(file.size(), 0)
    file.preallocate(file.size(), -5)
    assert file.size() == 4 + (3 << 20) + 5
    assert os.stat(file.path).st_blocks * 512 >= 3 << 20


def test_a_failure_names_the_operation_and_the_file(
    fs: PosixFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "file")
    read_only_source = fs.open(path, create=True)
    read_only_source.close()
    read_only = fs.open_read_only(path)
    try:
        for operation, call in {
            "write": lambda: read_only.pwrite(b"x", 0),
            "truncate": lambda: read_only.truncate(0),
            "preallocate": lambda: read_only.preallocate(0, 10),
        }.items():
            with pytest.raises(StorageIOError) as caught:
                call()
            assert (caught.value.operation, caught.value.filename) == (operation, path)
            assert path in str(caught.value)
        monkeypatch.setattr(os, "fsync", fail_with(errno.EIO))
        with pytest.raises(StorageIOError, match="sync failed") as caught:
            read_only.sync()
        assert not isinstance(caught.value, DiskFullError)
    finally:
        read_only.close()


def fail_with(number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_a_disk_full_error(
    file: PosixFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "pwrite", fail_with(number))
    with pytest.raises(DiskFullError) as caught:
        file.pwrite(b"x", 0)
    assert caught.value.errno == number
    monkeypatch.setattr(os, "posix_fallocate", fail_with(number), raising=False)
    with pytest.raises(DiskFullError):
        file.preallocate(0, 100)


def test_operations_on_names_that_are_not_there_are_storage_errors(
    fs: PosixFileSystem, tmp_path: Path
) -> None:
    gone = str(tmp_path / "gone")
    calls: list[Callable[[], object]] = [
        lambda: fs.open(gone),
        lambda: fs.open_read_only(gone),
        lambda: fs.list(gone),
        lambda: fs.unlink(gone),
        lambda: fs.rename(gone, gone + "2"),
        lambda: fs.sync_directory(gone),
        lambda: fs.lock(str(tmp_path / "gone" / "LOCK")),
    ]
    for call in calls:
        with pytest.raises(StorageIOError) as caught:
            call()
        assert caught.value.errno == errno.ENOENT
    assert not fs.exists(gone)
    assert not fs.is_directory(gone)
    assert fs.device(gone) == os.stat(tmp_path).st_dev


def test_a_directory_is_made_with_those_above_it_once(fs: PosixFileSystem, tmp_path: Path) -> None:
    deep = str(tmp_path / "a" / "b" / "c")
    fs.make_directory(deep)
    fs.make_directory(deep)
    assert fs.is_directory(deep)
    (tmp_path / "file").touch()
    with pytest.raises(StorageIOError) as caught:
        fs.make_directory(str(tmp_path / "file"))
    assert caught.value.errno == errno.ENOTDIR


def test_names_are_listed_in_order_renamed_and_removed(fs: PosixFileSystem, tmp_path: Path) -> None:
    for name in ("b", "c", "a"):
        fs.open(str(tmp_path / name), create=True).close()
    assert fs.list(str(tmp_path)) == ["a", "b", "c"]
    fs.rename(str(tmp_path / "a"), str(tmp_path / "c"))
    fs.unlink(str(tmp_path / "b"))
    fs.sync_directory(str(tmp_path))
    assert fs.list(str(tmp_path)) == ["c"]
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert fs.exists(str(tmp_path / "dangling"))


def test_opening_without_create_makes_nothing_and_with_it_keeps_what_is_there(
    fs: PosixFileSystem, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = fs.open(str(path), create=True)
    assert file.pread(100, 0) == b"content"
    file.close()
    file.close()


def test_a_file_opened_for_direct_io_takes_whole_blocks_only(
    fs: PosixFileSystem, tmp_path: Path
) -> None:
    if refusal := direct_io_refusal(tmp_path):
        pytest.skip(f"no direct I/O in {tmp_path}: {refusal}")
    file = fs.open(str(tmp_path / "file"), create=True, direct=True)
    try:
        with pytest.raises(StorageIOError) as caught:
            file.pwrite(b"seven b", 1)
        assert caught.value.errno == errno.EINVAL
    finally:
        file.close()


def test_a_locked_file_keeps_other_openers_out_until_it_is_closed(
    fs: PosixFileSystem, file: PosixFile
) -> None:
    file.lock()
    other = fs.open(file.path)
    with pytest.raises(LockedError) as caught:
        other.lock()
    assert caught.value.path == file.path
    file.close()
    other.lock()
    other.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_renamed_by_somebody_else_before_it_was_locked_is_theirs(
    fs: PosixFileSystem, file: PosixFile, tmp_path: Path, replaced: bool
) -> None:
    os.rename(file.path, tmp_path / "renamed")
    if replaced:
        (tmp_path / "file").touch()
    with pytest.raises(LockedError):
        file.lock()


def test_a_lock_file_names_its_holder(fs: PosixFileSystem, tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    lock = fs.lock(path)
    with pytest.raises(LockedError, match="this process") as caught:
        fs.lock(path)
    assert (caught.value.path, caught.value.pid) == (path, os.getpid())
    lock.release()
    lock.release()
    again = fs.lock(path)
    (tmp_path / "LOCK").write_bytes(b"not a number")
    with pytest.raises(LockedError) as caught:
        fs.lock(path)
    assert caught.value.pid is None
    again.release()


def test_a_copy_of_a_lock_let_go_in_a_child_leaves_the_lock(
    fs: PosixFileSystem, tmp_path: Path
) -> None:
    path = str(tmp_path / "LOCK")
    lock = fs.lock(path)
    duplicate = os.dup(lock._fd)  # what a child inherits
    lock.abandon_in_child()
    lock.release()
    with pytest.raises(LockedError):
        fs.lock(path)
    os.close(duplicate)
    fs.lock(path).release()


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_a_write_that_did_not_happen_is_tried_again_but_not_for_ever(
    tmp_path: Path, number: int
) -> None:
    fault = Fault(number, WRITES)
    file = FaultFileSystem(0, fault).open(str(tmp_path / "x"), create=True)
    write_all(file, b"whole", 0)
    assert file.pread(10, 0) == b"whole"
    file.close()
    file = FaultFileSystem(0, replace(fault, forever=True)).open(str(tmp_path / "x"))
    with pytest.raises(StorageIOError) as caught:
        write_all(file, b"again", 0)
    assert caught.value.errno == number
    file.close()


def test_preallocating_on_a_device_that_accepts_nothing_is_an_error_not_a_hang(
    tmp_path: Path,
) -> None:
    file = PosixFileSystem().open(str(tmp_path / "x"), create=True)
    with mock.patch("os.pwrite", return_value=0), pytest.raises(StorageIOError) as caught:
        file.preallocate(0, 4096)
    assert caught.value.errno == errno.EIO
    file.close()


def test_a_lock_file_that_cannot_be_written_is_not_taken_for_somebody_elses(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    failing = mock.patch("os.pwrite", side_effect=BlockingIOError(errno.EAGAIN, "busy"))
    with failing, pytest.raises(StorageIOError) as caught:
        PosixFileSystem().lock(path)
    assert caught.value.errno == errno.EAGAIN
    PosixFileSystem().lock(path).release()
