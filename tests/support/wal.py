"""What several test modules of the log share: reading it back, files in memory, fixed salts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from kvstore.errors import StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.wal import Entry, IoUringConfig, LogEnd, LogReader

FIXED_SALT = bytes(range(16))
FIXED_LOG_ID = b"fixed log id 16b"
SMALL = IoUringConfig(
    sq_entries=8, sq_poll_idle_ms=0, max_inflight=8, registered_buffers=1, buffer_size=4096
)


class BytesFile:
    """A read-only file in memory that says what was asked of it."""

    def __init__(self, data: bytes, path: str = "memory.wal") -> None:
        self.path = path
        self.data = data
        self.read_bytes_max = 0

    def fileno(self) -> int | None:
        return None

    def pread(self, size: int, offset: int) -> bytes:
        self.read_bytes_max = max(self.read_bytes_max, size)
        return self.data[offset : offset + size]

    def pwrite(self, data: bytes, offset: int) -> int:
        raise AssertionError("reading must not write")

    def map(self) -> bytes:
        return self.data

    def sync(self) -> None:
        raise AssertionError("reading must not sync")

    def size(self) -> int:
        return len(self.data)

    def truncate(self, size: int) -> None:
        raise AssertionError("reading must not truncate")

    def preallocate(self, offset: int, size: int) -> None:
        raise AssertionError("reading must not allocate")

    def lock(self) -> None:
        raise AssertionError("reading must not lock")

    def close(self) -> None:
        pass


def read_bytes(data: bytes, *, salvage: bool = False) -> tuple[list[Entry], LogEnd, LogReader]:
    """The users' entries in a log file's bytes, and how they end; raises what the reader raises."""
    reader = LogReader(BytesFile(data), salvage=salvage)
    entries = list(reader.entries())
    assert reader.end is not None
    return entries, reader.end, reader


def read_log(path: str | Path) -> tuple[list[Entry], LogEnd]:
    """The users' entries of a file on the disk."""
    file = PosixFileSystem().open_read_only(str(path))
    try:
        reader = LogReader(file)
        entries = list(reader.entries())
        assert reader.end is not None
        return entries, reader.end
    finally:
        file.close()


def payloads(path: str | Path) -> list[bytes]:
    """What a reader of the file gets."""
    return [entry.payload for entry in read_log(path)[0]]


@contextmanager
def fixed_random(*, salt: bytes = FIXED_SALT) -> Iterator[None]:
    """Makes log id and salt of new files what they always are."""
    with mock.patch.object(os, "urandom", return_value=salt):
        yield


def direct_io_refusal(directory: Path) -> str | None:
    """Why files in ``directory`` cannot be opened with O_DIRECT; None when they can."""
    probe = directory / "direct-probe"
    try:
        PosixFileSystem().open(str(probe), create=True, direct=True).close()
    except StorageIOError as error:
        return error.strerror
    finally:
        probe.unlink(missing_ok=True)
    return None
