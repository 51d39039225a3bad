"""The real file system, through the os module. Every OSError leaves here as a StorageIOError."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import sys
from collections.abc import Iterator

from kvstore.errors import LockedError, storage_error
from kvstore.fs.base import write_all

__all__ = ["PosixFile", "PosixFileSystem", "PosixLock"]

_ZEROS = bytes(1 << 20)
_FULLFSYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None


@contextlib.contextmanager
def _naming(operation: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(error.errno or errno.EIO, operation, path) from error


def _sync(fd: int) -> None:
    # macOS's fsync stops at the drive's cache: fcntl(2), F_FULLFSYNC.
    if _FULLFSYNC is not None:
        fcntl.fcntl(fd, _FULLFSYNC)
    else:
        os.fsync(fd)


class PosixFile:
    """An open file descriptor. Thread-safe but for ``close``."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._lock_fd = -1
        self._locked_by = 0

    def fileno(self) -> int | None:
        return self._fd

    def pread(self, size: int, offset: int) -> bytes:
        with _naming("read", self.path):
            data = os.pread(self._fd, size, offset)
            if len(data) in (0, size):
                return data
            parts = [data]
            got = len(data)
            while got < size and data:
                data = os.pread(self._fd, size - got, offset + got)
                parts.append(data)
                got += len(data)
            return b"".join(parts)

    def pwrite(self, data: bytes, offset: int) -> int:
        with _naming("write", self.path):
            return os.pwrite(self._fd, data, offset)

    def map(self) -> mmap.mmap | bytes:
        with _naming("map", self.path):
            if os.fstat(self._fd).st_size == 0:  # nothing to map
                return b""
            if sys.version_info >= (3, 13):  # before, a mapping keeps a descriptor of its own
                return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ, trackfd=False)
            return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)

    def sync(self) -> None:
        with _naming("sync", self.path):
            _sync(self._fd)

    def size(self) -> int:
        with _naming("stat", self.path):
            return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        with _naming("truncate", self.path):
            os.ftruncate(self._fd, size)

    def preallocate(self, offset: int, size: int) -> None:
        if size <= 0:
            return
        with _naming("preallocate", self.path):
            if hasattr(os, "posix_fallocate"):
                # Meets a full disk at once, before any of it is spent on zeros.
                try:
                    os.posix_fallocate(self._fd, offset, size)
                except OSError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                        raise
            for done in range(0, size, len(_ZEROS)):
                write_all(self, _ZEROS[: size - done], offset + done)

    def lock(self) -> None:
        # On an open file description of its own: a ring keeps a file that it had registered for a
        # while after the process was killed, and the lock would stay with it.
        with _naming("lock", self.path):
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # who renamed it was here first
                raise LockedError(self.path, None) from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = os.path.sameopenfile(fd, self._fd)
            except BlockingIOError:
                locked = False
            except BaseException:
                os.close(fd)
                raise
            if not locked:
                os.close(fd)
                raise LockedError(self.path, None)
            self._lock_fd, self._locked_by = fd, os.getpid()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        lock_fd, self._lock_fd = self._lock_fd, -1
        with _naming("close", self.path):
            if fd >= 0:
                os.close(fd)
            if lock_fd >= 0:
                if self._locked_by == os.getpid():  # else a child would unlock its parent's
                    fcntl.flock(lock_fd, fcntl.LOCK_UN)
                os.close(lock_fd)


def _lock(fd: int, path: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).strip()
        raise LockedError(path, int(holder) if holder.isdigit() else None) from None


class PosixLock:
    """An exclusive flock(2) on a file that holds the holder's process id.

    flock belongs to the open file description: two opens in one process exclude each other, and the
    lock goes when its last descriptor is closed, so also when the process is killed.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def abandon_in_child(self) -> None:
        # Only the copy of the descriptor: LOCK_UN would unlock the parent's too.
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class PosixFileSystem:
    """Files and directories of the machine. Thread-safe, stateless."""

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> PosixFile:
        flags = os.O_RDWR | os.O_CLOEXEC
        if create:
            flags |= os.O_CREAT
        if direct:
            if not hasattr(os, "O_DIRECT"):
                raise storage_error(errno.EINVAL, "open for direct I/O", path)
            flags |= os.O_DIRECT
        with _naming("create" if create else "open", path):
            return PosixFile(path, os.open(path, flags, 0o644))

    def open_read_only(self, path: str) -> PosixFile:
        with _naming("open", path):
            return PosixFile(path, os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def device(self, path: str) -> int | None:
        with _naming("stat", path):
            return os.stat(path if os.path.exists(path) else os.path.dirname(path) or ".").st_dev

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def list(self, path: str) -> list[str]:
        with _naming("list", path):
            return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(path):
            if not os.path.isdir(parent):
                self.make_directory(parent)
            with _naming("mkdir", path), contextlib.suppress(FileExistsError):
                os.mkdir(path)
            if not os.path.isdir(path):
                raise storage_error(errno.ENOTDIR, "mkdir", path)
            self.sync_directory(parent)

    def rename(self, old: str, new: str) -> None:
        with _naming("rename", new):
            os.rename(old, new)

    def unlink(self, path: str) -> None:
        with _naming("unlink", path):
            os.unlink(path)

    def sync_directory(self, path: str) -> None:
        with _naming("sync directory", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _sync(fd)
            finally:
                os.close(fd)

    def lock(self, path: str) -> PosixLock:
        with _naming("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with _naming("lock", path):
                _lock(fd, path)
            holder = PosixFile(path, fd)
            holder.truncate(0)
            write_all(holder, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        return PosixLock(path, fd)
