"""A file system in memory: files are bytes, nothing fails, nothing is ever written late.

For tests that open a store thousands of times on a copy of the same files: a copy costs
microseconds. Its files have no descriptor, so the Python-driven engine writes the log.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from mmap import mmap

from kvstore.errors import storage_error
from kvstore.fs import File, Lock

__all__ = ["MemoryFileSystem"]


class MemoryFileSystem:
    """One directory's files, by name. ``files`` is what they hold."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = {name: bytearray(data) for name, data in files.items()}

    def find(self, path: str, operation: str) -> bytearray:
        """What the file of that name holds."""
        data = self.files.get(os.path.basename(path))
        if data is None:
            raise storage_error(errno.ENOENT, operation, path)
        return data

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        if direct:
            raise storage_error(errno.EINVAL, "open for direct I/O", path)
        if create:
            self.files.setdefault(os.path.basename(path), bytearray())
        return MemoryFile(path, self.find(path, "open"))

    def open_read_only(self, path: str) -> File:
        return MemoryFile(path, self.find(path, "open"))

    def exists(self, path: str) -> bool:
        return os.path.basename(path) in self.files or self.is_directory(path)

    def device(self, path: str) -> int | None:
        return None

    def is_directory(self, path: str) -> bool:
        return "." not in path and path.endswith("/db")

    def list(self, path: str) -> list[str]:
        return sorted(self.files)

    def make_directory(self, path: str) -> None:
        """There is one."""

    def rename(self, old: str, new: str) -> None:
        data = self.find(old, "rename")
        del self.files[os.path.basename(old)]
        self.files[os.path.basename(new)] = data

    def unlink(self, path: str) -> None:
        self.find(path, "unlink")
        del self.files[os.path.basename(path)]

    def sync_directory(self, path: str) -> None:
        """It is as durable as it gets."""

    def lock(self, path: str) -> Lock:
        return MemoryLock()


class MemoryLock:
    """One that everybody gets."""

    def release(self) -> None:
        """Nobody waits for it."""

    def abandon_in_child(self) -> None:
        """Nobody waits for it."""


class MemoryFile:
    """An open file of a MemoryFileSystem."""

    def __init__(self, path: str, data: bytearray) -> None:
        self.path = path
        self._data = data

    def fileno(self) -> int | None:
        return None

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> int:
        gap = offset - len(self._data)
        if gap > 0:
            self._data += bytes(gap)
        self._data[offset : offset + len(data)] = data
        return len(data)

    def map(self) -> mmap | bytes:
        return bytes(self._data)

    def sync(self) -> None:
        """It is as durable as it gets."""

    def size(self) -> int:
        return len(self._data)

    def truncate(self, size: int) -> None:
        del self._data[size:]
        self._data += bytes(size - len(self._data))

    def preallocate(self, offset: int, size: int) -> None:
        self.truncate(max(len(self._data), offset + size))

    def lock(self) -> None:
        """Nobody else is here."""

    def close(self) -> None:
        """Nothing is kept open."""
