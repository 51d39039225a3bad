"""Every error that kvstore raises on purpose, in one tree.

    KVStoreError(Exception)
    ├── CorruptionError(path, offset, reason)      damage in a file; never guessed away
    │   └── ChecksumMismatch(expected, actual)
    ├── FormatError(path, reason)                  not one of our files, or from a newer version
    ├── PoisonedError(cause)                       the log, or a flush, failed; only reading goes on
    ├── ReadOnlyError                              a write to a store opened for salvage
    ├── LockedError(path, pid)                     somebody else has it open
    ├── ClosedError                                used after close()
    ├── ForkedError                                used in a child of the process that opened it
    ├── BackendUnavailableError(backend, reason)   io_uring asked for by name, and not to be had
    ├── LimitError(ValueError)                     a size or a number out of range
    └── StorageIOError(OSError)                    the operating system said no
        └── DiskFullError                          ... because there is no room

What an error knows stands in its attributes, not only in its text, so a program need not parse it.
``LimitError`` is also a ``ValueError`` and ``StorageIOError`` also an ``OSError`` (with ``errno``
and ``filename``), so code that knows nothing of this package catches what it expects.
"""

from __future__ import annotations

import errno
import os
from typing import Any

__all__ = [
    "BackendUnavailableError",
    "ChecksumMismatch",
    "ClosedError",
    "CorruptionError",
    "DiskFullError",
    "ForkedError",
    "FormatError",
    "KVStoreError",
    "LimitError",
    "LockedError",
    "PoisonedError",
    "ReadOnlyError",
    "StorageIOError",
    "storage_error",
]


class KVStoreError(Exception):
    """The root: catch this to catch everything kvstore raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled (by multiprocessing, say) as what it is, not by calling __init__ with its text.
        return _restore, (type(self), self.args, self.__dict__)


class CorruptionError(KVStoreError):
    """Bytes that had been durable are damaged or gone. Nothing was changed on disk.

    ``path`` and ``offset`` (bytes from the start of the file) say where; ``reason`` says what.
    """

    def __init__(self, path: str, offset: int, reason: str, advice: str = "") -> None:
        self.path, self.offset, self.reason, self.advice = path, offset, reason, advice
        super().__init__(f"{path}: offset {offset}: {reason}" + (f". {advice}" if advice else ""))


class ChecksumMismatch(CorruptionError):
    """A stored checksum (``expected``) is not that of the bytes beside it (``actual``)."""

    def __init__(self, path: str, offset: int, what: str, expected: int, actual: int) -> None:
        self.expected, self.actual = expected, actual
        reason = f"checksum of {what} is {actual:#010x}, the file says {expected:#010x}"
        super().__init__(path, offset, reason)


class FormatError(KVStoreError):
    """The file is not what it should be: no log at all, or one of a newer version."""

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{path}: {reason}")


class PoisonedError(KVStoreError):
    """A write or sync of the log, a flush or a compaction failed earlier, so no later write is
    accepted.

    What had been acknowledged is safe. ``cause`` is the first failure. Reads go on; to write again,
    close and reopen: recovery then decides from what is really on the disk.
    """

    def __init__(self, path: str, cause: BaseException) -> None:
        self.path, self.cause = path, cause
        super().__init__(
            f"{path}: an earlier write failed ({cause}); no write is accepted until it is reopened"
        )


class ReadOnlyError(KVStoreError):
    """A write to a store that was opened with ``recovery="salvage"``."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} was opened for salvage, read-only; export what it shows into a new store"
        )


class LockedError(KVStoreError):
    """Another opener, process ``pid`` (None when it cannot be read), holds the lock at ``path``."""

    def __init__(self, path: str, pid: int | None) -> None:
        self.path, self.pid = path, pid
        holder = f"process {pid}" if pid is not None else "another process"
        if pid == os.getpid():
            holder = "this process"
        super().__init__(f"{path}: already open in {holder}; close it there first")


class ClosedError(KVStoreError):
    """The store, log or iterator was used after it had been closed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is closed; open it again")


class ForkedError(KVStoreError):
    """The handle was opened before ``os.fork()`` and used in the child."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} was opened in a parent process; a child cannot share it, "
            "so open it after the fork, in one process only"
        )


class BackendUnavailableError(KVStoreError):
    """A log backend was asked for by name and cannot be had; ``reason`` says why."""

    def __init__(self, backend: str, reason: str) -> None:
        self.backend, self.reason = backend, reason
        super().__init__(
            f"backend {backend!r} is not available: {reason}; "
            "'auto' would take the portable one instead"
        )


class LimitError(KVStoreError, ValueError):
    """A size or number is outside the documented range; nothing was written."""


class StorageIOError(KVStoreError, OSError):
    """An operation on a file failed: ``operation`` on ``filename``, because of ``errno``."""

    def __init__(self, number: int, operation: str, path: str) -> None:
        self.operation = operation
        OSError.__init__(self, number, os.strerror(number), path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.operation, self.filename)

    def __str__(self) -> str:
        return f"{self.filename}: {self.operation} failed: {self.strerror} (errno {self.errno})"


class DiskFullError(StorageIOError):
    """No room (ENOSPC), or a quota or file size limit reached. Nothing acknowledged is lost."""


def _restore(
    kind: type[KVStoreError], arguments: tuple[Any, ...], attributes: dict[str, Any]
) -> KVStoreError:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


def storage_error(number: int, operation: str, path: str) -> StorageIOError:
    """The error for errno ``number``: the one place where errno values become our errors."""
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (DiskFullError if full else StorageIOError)(number, operation, path)
