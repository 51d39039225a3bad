"""A file system over the real one on which operations fail when they are told to.

Its files have no descriptor, so the Python-driven engine writes the log and every read, write and
sync passes through here. Operations are counted; ``FaultFileSystem(n, fault)`` spoils number ``n``.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from dataclasses import dataclass
from mmap import mmap

from kvstore.errors import StorageIOError, storage_error
from kvstore.fs import File, Lock, PosixFileSystem

WRITES = frozenset({"write"})
SYNCS = frozenset({"sync"})
MUTATIONS = frozenset(
    {"write", "sync", "truncate", "preallocate", "rename", "unlink", "sync directory", "open"}
)
HALF, ALL_BUT_ONE = "half", "all but one"


@dataclass(frozen=True)
class Fault:
    """What goes wrong: an errno, or (0) a short write of ``keep`` bytes at most, of half, or of
    all but one.

    ``operations``: the kinds that count and can fail. ``forever``: from then on, else once.
    """

    error: int = errno.EIO
    operations: frozenset[str] = MUTATIONS
    forever: bool = False
    keep: int | str = 0

    def kept(self, size: int) -> int:
        """How much of a write of ``size`` bytes is done."""
        if self.keep == HALF:
            return size - size // 2
        if self.keep == ALL_BUT_ONE:
            return size - (size > 1)
        assert isinstance(self.keep, int)
        return min(size, self.keep)


@dataclass(frozen=True)
class Forgotten:
    """A write that a failed sync did not make durable, and what stood there before."""

    descriptor: int
    inode: int
    offset: int
    before: bytes


class FaultFileSystem:
    """PosixFileSystem with a fault. Thread-safe. A ``forgetful`` one keeps what failed syncs
    should have made durable, for ``cut_power``."""

    def __init__(
        self, fail_at: int | None = None, fault: Fault | None = None, *, forgetful: bool = False
    ) -> None:
        self._real = PosixFileSystem()
        self._lock = threading.Lock()
        self.fail_at = fail_at
        self.fault = fault or Fault()
        self.count = 0
        self.failures = 0
        self.log: list[str] = []
        self.open_files = 0
        self.forgetful = forgetful
        self.forgotten: list[Forgotten] = []

    def step(self, operation: str, path: str) -> int | None:
        """Counts one operation; raises when it is to fail. A number: it is to be short."""
        with self._lock:
            self.log.append(operation)
            if operation not in self.fault.operations:
                return None
            index = self.count
            self.count += 1
            if self.fail_at is None or index < self.fail_at:
                return None
            if index > self.fail_at and not self.fault.forever:
                return None
            self.failures += 1
            if self.fault.error == 0:
                return 0
            raise storage_error(self.fault.error, operation, path)

    def cut_power(self) -> None:
        """What a sync failed to make durable is gone, as the kernel drops pages that it could not
        write; whoever synced again was told that all is well. No file is open meanwhile."""
        while self.forgotten:
            forgotten = self.forgotten.pop()
            os.pwrite(forgotten.descriptor, forgotten.before, forgotten.offset)
            os.close(forgotten.descriptor)

    def written_again(self, inode: int, begin: int, end: int) -> None:
        """The range of that file has been written anew, and synced, or is cut off."""
        for forgotten in list(self.forgotten):
            behind = forgotten.offset >= end or forgotten.offset + len(forgotten.before) <= begin
            if forgotten.inode == inode and not behind:
                self.forgotten.remove(forgotten)
                os.close(forgotten.descriptor)

    def heal(self) -> None:
        """Nothing fails any more."""
        with self._lock:
            self.fail_at = None

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        if direct:
            raise storage_error(errno.EINVAL, "open for direct I/O", path)
        self.step("open", path)
        return FaultFile(self, self._real.open(path, create=create))

    def open_read_only(self, path: str) -> File:
        self.step("open to read", path)
        return FaultFile(self, self._real.open_read_only(path))

    def exists(self, path: str) -> bool:
        return self._real.exists(path)

    def device(self, path: str) -> int | None:
        return None

    def is_directory(self, path: str) -> bool:
        return self._real.is_directory(path)

    def list(self, path: str) -> list[str]:
        return self._real.list(path)

    def make_directory(self, path: str) -> None:
        self._real.make_directory(path)

    def rename(self, old: str, new: str) -> None:
        self.step("rename", new)
        self._real.rename(old, new)

    def unlink(self, path: str) -> None:
        self.step("unlink", path)
        self._real.unlink(path)

    def sync_directory(self, path: str) -> None:
        self.step("sync directory", path)
        self._real.sync_directory(path)

    def lock(self, path: str) -> Lock:
        return self._real.lock(path)


class FaultFile:
    """An open file of a FaultFileSystem."""

    def __init__(self, fs: FaultFileSystem, real: File) -> None:
        self._fs = fs
        self._real = real
        self._open = True
        self._unsynced: list[tuple[int, bytes]] = []
        fs.open_files += 1

    @property
    def path(self) -> str:
        return self._real.path

    @path.setter
    def path(self, path: str) -> None:
        self._real.path = path

    def fileno(self) -> int | None:
        return None

    def pread(self, size: int, offset: int) -> bytes:
        self._fs.step("read", self.path)
        return self._real.pread(size, offset)

    def pwrite(self, data: bytes, offset: int) -> int:
        if self._fs.step("write", self.path) is not None:
            data = data[: self._fs.fault.kept(len(data))]
        if self._fs.forgetful:
            before = self._real.pread(len(data), offset)
            self._unsynced.append((offset, before.ljust(len(data), b"\0")))
        return self._real.pwrite(data, offset)

    def map(self) -> mmap | bytes:
        self._fs.step("map", self.path)
        return self._real.map()

    def sync(self) -> None:
        unsynced, self._unsynced = self._unsynced, []
        try:
            self._fs.step("sync", self.path)
            self._real.sync()
        except StorageIOError:
            inode, descriptor = self._inode()
            self._fs.forgotten += [Forgotten(os.dup(descriptor), inode, *w) for w in unsynced]
            raise
        for offset, before in unsynced:
            self._fs.written_again(self._inode()[0], offset, offset + len(before))

    def _inode(self) -> tuple[int, int]:
        descriptor = self._real.fileno()
        assert descriptor is not None
        return os.fstat(descriptor).st_ino, descriptor

    def size(self) -> int:
        return self._real.size()

    def truncate(self, size: int) -> None:
        self._fs.step("truncate", self.path)
        self._real.truncate(size)
        self._fs.written_again(self._inode()[0], size, sys.maxsize)

    def preallocate(self, offset: int, size: int) -> None:
        self._fs.step("preallocate", self.path)
        self._real.preallocate(offset, size)

    def lock(self) -> None:
        self._real.lock()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._fs.open_files -= 1
        self._real.close()
