"""Less memory than the machine has, for one process and the page cache of what it reads.

A control group counts the page cache to whoever read the page first, so that a data set can exceed
the cache for every engine alike, however large the machine's memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["enter", "evict_all", "limited", "read_all"]

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_PIECE_BYTES = 1 << 20


@contextlib.contextmanager
def limited(memory_bytes: int) -> Iterator[str]:
    """A new group for processes that are to have so much; removed at the end.

    OSError: that cannot be done here.
    """
    name = f"kvstore-bench-{os.getpid()}"
    if (_V1 / "memory.limit_in_bytes").exists():
        group, setting = _V1 / name, "memory.limit_in_bytes"
    elif (_V2 / "cgroup.controllers").exists():
        (_V2 / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        group, setting = _V2 / name, "memory.max"
    else:
        raise OSError("there are no control groups for memory")
    group.mkdir()
    try:
        (group / setting).write_text(str(memory_bytes), encoding="ascii")
        yield str(group)
    finally:
        group.rmdir()


def enter(group: str) -> None:
    """This process is in it from here on; what it has already is not."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def read_all(directory: str) -> None:
    """Reads all files below, so that the page cache has them."""
    for where, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(where, name), "rb", buffering=0) as file:
                while file.read(_PIECE_BYTES):
                    pass


def evict_all(directory: str) -> None:
    """Asks the kernel to drop all files below from its page cache, where one can ask."""
    if not hasattr(os, "posix_fadvise"):
        return
    for where, _, names in os.walk(directory):
        for name in names:
            descriptor = os.open(os.path.join(where, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)  # only clean pages go
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
