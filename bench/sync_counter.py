"""Counts the syncs of a child process: sync_counter.c, compiled at run time and preloaded there."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "KINDS",
    "build_counter",
    "build_library",
    "durable_syncs",
    "preloading",
    "read_counts",
]

_SOURCE = Path(__file__).with_name("sync_counter.c")


KINDS = ("fsync", "fdatasync", "msync", "sync_write", "sync_file_range")
"""In the order of the C file. ``sync_write``: a write that syncs itself, by a flag of its own or of
its descriptor."""


def durable_syncs(counts: Mapping[str, int]) -> int:
    """Those that make something durable: sync_file_range only starts or awaits writing, and tells
    neither the file system nor the device's cache.
    """
    return sum(count for kind, count in counts.items() if kind != "sync_file_range")


def build_counter(directory: str) -> str:
    """Compiles the library into ``directory``: its path. RuntimeError says why that failed."""
    return build_library(_SOURCE, directory)


def build_library(source: Path, directory: str) -> str:
    """Compiles one C file into a library that can be preloaded; as ``build_counter``."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    library = os.path.join(directory, f"{source.stem}.so")
    command = [*compiler, "-std=c11", "-O2", "-shared", "-fPIC", "-o", library, str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        raise RuntimeError(f"cannot compile {source.name}: {words}") from error
    return library


def preloading(library: str | None) -> dict[str, str]:
    """The environment of a child that counts by ``library``; unchanged by None."""
    environment = dict(os.environ)
    if library is not None:
        others = environment.get("LD_PRELOAD")
        environment["LD_PRELOAD"] = f"{library} {others}" if others else library
    return environment


def read_counts() -> dict[str, int] | None:
    """In a child: system calls that succeeded so far, by kind; None where nothing counts."""
    try:
        syncs = ctypes.CDLL(None).kvstore_bench_syncs
    except AttributeError:
        return None
    syncs.restype = ctypes.c_int64
    return {kind: syncs(number) for number, kind in enumerate(KINDS)}
