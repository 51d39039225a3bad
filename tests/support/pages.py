"""Which pages of a file the page cache holds, and which of them the disk lacks; and how to have it
forget them."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

__all__ = ["dirty_pages", "drop_pages", "resident_pages"]

_libc = ctypes.CDLL(None, use_errno=True)
_CACHESTAT = 451  # on every architecture


def dirty_pages(path: Path) -> int:
    """How many pages of the file are not on the disk yet, as cachestat(2) says.

    Skips the test where the kernel has no such call (before Linux 6.5).
    """
    everything = (ctypes.c_uint64 * 2)(0, 0)
    cached, dirty, under_way = range(3)
    counts = (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        status = _libc.syscall(_CACHESTAT, file.fileno(), everything, counts, 0)
    if status != 0:
        pytest.skip(f"no cachestat(2) here: {os.strerror(ctypes.get_errno())}")
    assert counts[cached] >= counts[dirty]
    return int(counts[dirty] + counts[under_way])


def resident_pages(path: Path) -> list[bool]:
    """Of each page of the file, whether it is in memory, as mincore(2) says of a new mapping."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        count = -(-len(mapping) // mmap.PAGESIZE)
        pages = ctypes.create_string_buffer(count)
        first = ctypes.c_char.from_buffer(mapping)
        try:
            address = ctypes.c_void_p(ctypes.addressof(first))
            assert _libc.mincore(address, ctypes.c_size_t(len(mapping)), pages) == 0
        finally:
            del first
        return [bool(page & 1) for page in pages.raw]


def drop_pages(path: Path) -> None:
    """Has the page cache forget a file that nobody has mapped; skips the test where the file system
    has no other place for it (tmpfs)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    if any(resident_pages(path)):
        pytest.skip(f"the pages of {path} cannot be dropped from memory on this file system")
