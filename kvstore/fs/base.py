"""What kvstore asks of a file system. The real one is posix.py; tests bring simulated ones.

Failures are ``StorageIOError`` (an ``OSError``), with the path and the name of the operation.
"""

from __future__ import annotations

import errno
from mmap import mmap
from typing import Protocol

from kvstore.errors import StorageIOError, storage_error

__all__ = ["File", "FileSystem", "Lock", "write_all"]

_RETRIES_MAX = 100


class File(Protocol):
    """An open file."""

    path: str
    """What it is called; whoever renames the file sets it."""

    def fileno(self) -> int | None:
        """The descriptor; None for a simulated file, whose log the Python-driven engine writes."""

    def pread(self, size: int, offset: int) -> bytes:
        """At most ``size`` bytes from ``offset``; fewer only at the end of the file."""

    def pwrite(self, data: bytes, offset: int) -> int:
        """Writes at ``offset``; the number of bytes written, perhaps fewer than given."""

    def map(self) -> mmap | bytes:
        """The whole file as it is now, read-only: mapped, or on a simulated file system a copy.

        Only for files that never change. The mapping outlives the file's ``close`` and its name.
        """

    def sync(self) -> None:
        """Returns when what was written, and the size, are on stable storage."""

    def size(self) -> int:
        """The file's length in bytes."""

    def truncate(self, size: int) -> None:
        """Sets the length; durable only after ``sync``."""

    def preallocate(self, offset: int, size: int) -> None:
        """Fills a range with zeros, with room on the disk for it; durable only after ``sync``.

        Zeros, not just reserved blocks: the first write to a reserved block changes the file's
        metadata, and its sync then costs a journal commit (250 against 175 us, measured on ext4).
        """

    def lock(self) -> None:
        """Keeps other openers out until closed; ``LockedError`` when somebody was first."""

    def close(self) -> None:
        """Closes the file; syncs nothing. Idempotent."""


class Lock(Protocol):
    """A held lock."""

    def release(self) -> None:
        """Lets the next opener in. Idempotent."""

    def abandon_in_child(self) -> None:
        """In a forked child: lets go of this process's copy; the parent's lock stays."""


class FileSystem(Protocol):
    """A place for files."""

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        """Opens for reading and writing; with ``create`` the file is made if it is not there.

        With ``direct`` the page cache is bypassed; where that cannot be, ``StorageIOError``
        (EINVAL).
        """

    def open_read_only(self, path: str) -> File:
        """Opens for reading."""

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of that name."""

    def device(self, path: str) -> int | None:
        """The device number (st_dev) of what holds ``path``; None on a simulated file system."""

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory of that name."""

    def list(self, path: str) -> list[str]:
        """The names in a directory, sorted."""

    def make_directory(self, path: str) -> None:
        """Makes a directory, and those above it, durably; an existing one is fine."""

    def rename(self, old: str, new: str) -> None:
        """Atomically renames, replacing ``new``; durable only after ``sync_directory``."""

    def unlink(self, path: str) -> None:
        """Removes a name; durable only after ``sync_directory``."""

    def sync_directory(self, path: str) -> None:
        """Makes creations, renames and removals in the directory durable."""

    def lock(self, path: str) -> Lock:
        """Takes the lock file at ``path``, made if need be; else ``LockedError``."""


def write_all(file: File, data: bytes, offset: int) -> None:
    """Writes all of ``data``, going on after short writes, and after EINTR and EAGAIN: they say
    that nothing happened.

    A file that accepts nothing a hundred times over is an error.
    """
    done = idle = 0
    while done < len(data):
        failure = None
        try:
            written = file.pwrite(data[done:] if done else data, offset + done)
        except StorageIOError as error:
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise
            written, failure = 0, error
        done += written
        idle = 0 if written else idle + 1
        if idle > _RETRIES_MAX:
            raise failure or storage_error(errno.EIO, "write", file.path)
