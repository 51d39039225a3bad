"""Files in memory for the decoders to read, and a bound on what they may allocate."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.wal import BytesFile

__all__ = ["MemoryFileSystem", "bounded"]

_PAGE_BYTES = resource.getpagesize()
_FIXED_BYTES = 32 << 20


class MemoryFileSystem:
    """Files by name in one directory, to be read only."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def list(self, path: str) -> list[str]:
        return sorted(self._files)

    def exists(self, path: str) -> bool:
        return path.rpartition("/")[2] in self._files

    def open_read_only(self, path: str) -> BytesFile:
        return BytesFile(self._files[path.rpartition("/")[2]], path)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"reading must not call {name}")


@contextmanager
def bounded(extra_bytes: int) -> Iterator[None]:
    """What runs here gets a MemoryError for what is more than 32 MiB and ``extra_bytes``.

    32 MiB: the log's reader takes rows for a chunk, a view its buffers, Python whole arenas. Where
    the address space cannot be limited (macOS) there is no bound.
    """
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            used = int(file.read(64).split()[0]) * _PAGE_BYTES
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _FIXED_BYTES + extra_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
