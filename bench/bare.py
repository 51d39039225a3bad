"""The bare C loops of bare_loop.c, compiled at run time: what kvstore is measured against."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cffi import FFI

__all__ = ["DSYNC", "FDATASYNC", "STRATEGY_NAMES", "BareLoops", "Slice"]

DSYNC, FDATASYNC = 1, 2
STRATEGY_NAMES = {DSYNC: "RWF_DSYNC", FDATASYNC: "fdatasync"}
_SOURCE = Path(__file__).with_name("bare_loop.c")
_DECLARATIONS = """
int64_t bare_run(int fd, const char *batch, size_t size, int64_t first, int64_t count, int threads,
                 int strategy, int64_t *latency_ns);
int bare_has_dsync(void);
int64_t append_loop(uintptr_t append, uintptr_t log, const char *data, size_t length, int kind,
                    int64_t count);
"""


@dataclass(frozen=True)
class Slice:
    """What a side took for some batches: for all of them, and for each until it was durable."""

    elapsed_ns: int
    latency_ns: list[int]


class BareLoops:
    """The compiled loops. Raises RuntimeError, with the compiler's words, when that fails."""

    def __init__(self) -> None:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        with tempfile.TemporaryDirectory(prefix="kvstore-bench-") as directory:
            library = os.path.join(directory, "bare_loop.so")
            command = [*compiler, "-std=c11", "-O2", "-shared", "-fPIC", "-pthread"]
            try:
                subprocess.run(
                    [*command, "-o", library, str(_SOURCE)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
            except (OSError, subprocess.CalledProcessError) as error:
                words = getattr(error, "stderr", "") or str(error)
                raise RuntimeError(f"cannot compile {_SOURCE.name}: {words}") from error
            self._ffi: Any = FFI()
            self._ffi.cdef(_DECLARATIONS)
            # Mapped once opened: the file may go.
            self._lib: Any = self._ffi.dlopen(library)

    def strategies(self) -> list[int]:
        """The ways to make a write durable that this system has."""
        has_dsync = self._lib.bare_has_dsync() and sys.platform == "linux"
        return [DSYNC, FDATASYNC] if has_dsync else [FDATASYNC]

    def write(
        self,
        fd: int,
        batch: memoryview,
        *,
        first: int,
        count: int,
        threads: int,
        strategy: int,
    ) -> Slice:
        """Writes ``batch`` ``count`` times from offset ``first`` on, each durably by itself."""
        latencies = self._ffi.new("int64_t[]", count)
        elapsed = self._lib.bare_run(
            fd,
            self._ffi.from_buffer(batch),
            len(batch),
            first,
            count,
            threads,
            strategy,
            latencies,
        )
        if elapsed < 0:
            raise OSError(-elapsed, os.strerror(-elapsed))
        return Slice(elapsed, self._ffi.unpack(latencies, count))

    def append(self, function: int, log: int, data: bytes, kind: int, count: int) -> int:
        """Nanoseconds of ``count`` calls of an append function from C; addresses as numbers."""
        elapsed: int = self._lib.append_loop(function, log, data, len(data), kind, count)
        if elapsed < 0:
            raise RuntimeError(f"append failed with {elapsed}")
        return elapsed
