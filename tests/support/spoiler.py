"""Spoilers: what makes the n-th operation of a store fail, on one of two levels.

``Simulated``: a FaultFileSystem, under which the Python-driven engine writes the log.
``Preloaded``: spoiler.c between the process and libc, so that the real engines and file system
calls meet it; the process has to be started with that library preloaded.
"""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path
from typing import Protocol

from bench.sync_counter import build_library
from kvstore.fs import FileSystem, PosixFileSystem
from tests.support.faultfs import ALL_BUT_ONE, HALF, Fault, FaultFileSystem

__all__ = ["Preloaded", "Simulated", "Spoiler", "build_spoiler"]

_SOURCE = Path(__file__).with_name("spoiler.c")
# In the order of the C file.
KINDS = (
    "write",
    "synchronous write",
    "sync",
    "sync directory",
    "rename",
    "unlink",
    "truncate",
    "preallocate",
    "open",
    "read",
)
KEEPS: tuple[int | str, ...] = (0, 1, HALF, ALL_BUT_ONE)
# Where a ring's writes meet the limit on the size of files, one after the other.
_LIMITS = (6_000, 11_111, 20_000, 36_000, 50_001)


class Spoiler(Protocol):
    """Has operation ``at`` below a directory fail, counted from when it is armed."""

    def arm(self, directory: Path, fault: Fault, at: int | None) -> FileSystem:
        """From now on; None: only counts. Returns the file system to open the store on."""

    def heal(self) -> None:
        """Nothing fails any more."""

    def cut_power(self) -> None:
        """Between two lives of a store: what a failed sync should have made durable is gone."""

    def count(self) -> int:
        """How many operations there were of the kinds that can fail."""

    def failures(self) -> int:
        """How many of them were spoiled."""


class Simulated:
    """The Python-driven engine on a FaultFileSystem."""

    def __init__(self) -> None:
        self._fs = FaultFileSystem()

    def arm(self, directory: Path, fault: Fault, at: int | None) -> FileSystem:
        self._fs = FaultFileSystem(at, fault, forgetful=True)
        return self._fs

    def heal(self) -> None:
        self._fs.heal()

    def cut_power(self) -> None:
        self._fs.cut_power()

    def count(self) -> int:
        return self._fs.count

    def failures(self) -> int:
        return self._fs.failures


class Preloaded:
    """The real file system, through spoiler.c. A fault of EFBIG is a limit on the size of files,
    which writes of the ring meet as well."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        number = ctypes.c_int64
        self._library.kvstore_spoil.argtypes = [
            *(ctypes.c_char_p, ctypes.c_uint, number),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_int, number),
        ]
        self._library.kvstore_spoil_count.restype = ctypes.c_int64
        self._library.kvstore_spoil_failures.restype = ctypes.c_int64

    def arm(self, directory: Path, fault: Fault, at: int | None) -> FileSystem:
        limited = fault.error == errno.EFBIG and at is not None
        self._library.kvstore_spoil(
            str(directory).encode(),
            sum(1 << index for index, kind in enumerate(KINDS) if kind in fault.operations),
            -1 if at is None else at,
            fault.forever,
            fault.error,
            KEEPS.index(fault.keep),
            _LIMITS[at % len(_LIMITS)] if limited and at is not None else 0,
        )
        return PosixFileSystem()

    def heal(self) -> None:
        self._library.kvstore_heal()

    def cut_power(self) -> None:
        """Not on a real file system."""

    def count(self) -> int:
        return int(self._library.kvstore_spoil_count())

    def failures(self) -> int:
        return int(self._library.kvstore_spoil_failures())


def build_spoiler(directory: str) -> str:
    """Compiles spoiler.c into ``directory``: the library to preload."""
    return build_library(_SOURCE, directory)
