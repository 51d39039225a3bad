"""Framing: what an append costs before any I/O: header, CRC-32C and copy into the log's memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from bench.bare import BareLoops
from bench.samples import Spread
from kvstore.native import ffi, lib
from kvstore.wal import PortableWalWriter
from kvstore.wal.format import entry_bytes

__all__ = ["ENTRY_BYTES", "Framing", "measure_framing"]

ENTRY_BYTES = 100
_ENTRIES = 10_000  # 1.2 MiB of frames: they fit into the default 4 MiB of buffers


@dataclass(frozen=True)
class Framing:
    """Nanoseconds per entry, nothing subtracted: loop and call are in each.

    ``method``  ``append_with_checksum_batched`` called from Python: what a program pays
    ``cffi``    the C function it wraps, called through cffi from Python
    ``native``  the C function called from a C loop
    """

    backend: str
    method: Spread
    cffi: Spread
    native: Spread


def measure_framing(
    loops: BareLoops,
    directory: str,
    backends: Sequence[str],
    repetitions: int,
    entries: int = _ENTRIES,
) -> list[Framing]:
    """Queues ``entries`` of 100 B, stops the clock, then writes them: three ways, each backend, in
    turn."""
    payload = os.urandom(ENTRY_BYTES)
    bytes_each = entries * entry_bytes(ENTRY_BYTES)
    warm_ups = 4  # once around the buffers, so that their pages are there
    total = (repetitions + warm_ups) * len(_WAYS) * bytes_each
    costs: dict[tuple[str, _Way], list[float]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        logs = {}
        for backend in backends:
            path = os.path.join(directory, f"framing-{backend}.wal")
            stack.callback(Path(path).unlink)
            logs[backend] = PortableWalWriter(path, backend=backend, preallocate_bytes=total)
            stack.callback(logs[backend].close)
        for repetition in range(repetitions + warm_ups):
            for way in _WAYS:
                for backend, log in logs.items():
                    elapsed = way(loops, log, payload, entries)
                    assert log.pending_batch_ops() == entries
                    log.flush_batch()
                    if repetition >= warm_ups:
                        costs[backend, way].append(elapsed / entries)
    return [
        Framing(backend, *(Spread.of(costs[backend, way]) for way in _WAYS)) for backend in backends
    ]


def _by_method(_: BareLoops, log: PortableWalWriter, payload: bytes, entries: int) -> int:
    append = log.append_with_checksum_batched
    began = time.perf_counter_ns()
    for _none in repeat(None, entries):
        append(payload)
    return time.perf_counter_ns() - began


def _by_cffi(_: BareLoops, log: PortableWalWriter, payload: bytes, entries: int) -> int:
    append, core, size, kind = lib.kv_log_append_batched, _core(log), len(payload), lib.KV_CHECKED
    began = time.perf_counter_ns()
    for _none in repeat(None, entries):
        append(core, payload, size, kind)
    return time.perf_counter_ns() - began


def _by_native(loops: BareLoops, log: PortableWalWriter, payload: bytes, entries: int) -> int:
    raw: Any = ffi  # the stub names only what kvstore itself needs
    append = int(raw.cast("uintptr_t", raw.addressof(lib, "kv_log_append_batched")))
    core = int(raw.cast("uintptr_t", _core(log)))
    return loops.append(append, core, payload, lib.KV_CHECKED, entries)


_Way = Callable[[BareLoops, PortableWalWriter, bytes, int], int]
_WAYS: tuple[_Way, ...] = (_by_method, _by_cffi, _by_native)


def _core(log: PortableWalWriter) -> Any:
    """The C log inside; the one place where a benchmark looks behind the interface."""
    return log._log
