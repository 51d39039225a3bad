"""A store's files: what they take on the disk, and whether they are in the page cache."""

from __future__ import annotations

import os

__all__ = ["disk_usage", "evict"]


def disk_usage(directory: str) -> tuple[int, int]:
    """Bytes that the files take on the disk, and those of the sorted tables among them."""
    total = tables = 0
    for entry in os.scandir(directory):
        try:
            allocated = entry.stat().st_blocks * 512
        except FileNotFoundError:  # removed meanwhile
            continue
        total += allocated
        if entry.name.endswith((".sst", ".sst.tmp")):
            tables += allocated
    return total, tables


def evict(directory: str) -> bool:
    """Asks the kernel to drop the files from its page cache; False where one cannot ask."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for entry in os.scandir(directory):
        fd = os.open(entry.path, os.O_RDONLY)
        try:
            os.fsync(fd)  # only clean pages go
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return True
