"""A file system over the real one on which operations fail when they are told to.

Its files have no descriptor, so the Python-driven engine writes the log and every read, write and
sync passes through here. Operations are counted; ``FaultFileSystem(n, fault)`` spoils number ``n``.
"""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass
from mmap import mmap

from kvstore.errors import storage_error
from kvstore.fs import File, Lock, PosixFileSystem

WRITES = frozenset({"write"})
SYNCS = frozenset({"sync"})
MUTATIONS = frozenset(
    {"write", "sync", "truncate", "preallocate", "rename", "unlink", "sync directory", "open"}
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong: an errno, or (0) a short write of ``keep`` bytes at most.

    ``operations``: the kinds that count and can fail. ``forever``: from then on, else once.
    """

    error: int = errno.EIO
    operations: frozenset[str] = MUTATIONS
    forever: bool = False
    keep: int = 0


class FaultFileSystem:
    """PosixFileSystem with a fault. Thread-safe."""

    def __init__(self, fail_at: int | None = None, fault: Fault | None = None) -> None:
        self._real = PosixFileSystem()
        self._lock = threading.Lock()
        self.fail_at = fail_at
        self.fault = fault or Fault()
        self.count = 0
        self.failures = 0
        self.log: list[str] = []
        self.open_files = 0

    def step(self, operation: str, path: str) -> int | None:
        """Counts one operation; raises when it is to fail, or says how much of it is to be done."""
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
                return self.fault.keep
            raise storage_error(self.fault.error, operation, path)

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
        keep = self._fs.step("write", self.path)
        return self._real.pwrite(data if keep is None else data[:keep], offset)

    def map(self) -> mmap | bytes:
        self._fs.step("map", self.path)
        return self._real.map()

    def sync(self) -> None:
        self._fs.step("sync", self.path)
        self._real.sync()

    def size(self) -> int:
        return self._real.size()

    def truncate(self, size: int) -> None:
        self._fs.step("truncate", self.path)
        self._real.truncate(size)

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
