"""A store's files: what they take on the disk, and whether they are in the page cache."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["device_bytes_written", "disk_usage", "evict"]

_SECTOR_BYTES = 512
_SECTORS_WRITTEN = 6


def device_bytes_written(directory: str) -> int | None:
    """Bytes that everybody together has written to the device of ``directory`` since the machine
    began; None where /sys does not say.

    What the kernel counts for a process (write_bytes in /proc/self/io) is no measure of it: one
    that changes a kilobyte of a large folio is charged with the folio, a megabyte perhaps.
    """
    device = os.stat(directory).st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    with contextlib.suppress(OSError, IndexError):
        return int(path.read_text(encoding="ascii").split()[_SECTORS_WRITTEN]) * _SECTOR_BYTES
    return None


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
