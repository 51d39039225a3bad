"""Builds ``kvstore.native._native`` through cffi (API mode, stable ABI).

liburing is found by pkg-config. The environment decides what happens when it is not there:

    KVSTORE_URING=auto      (default) build the portable backend only, and say so
    KVSTORE_URING=require   fail
    KVSTORE_URING=skip      build without it even where it is

KVSTORE_CFLAGS is added to the compiler's arguments.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
HEADERS = ("kv.h", "sst.h")
SOURCES = (
    *("crc32c.c", "frame.c", "batch.c", "log.c"),
    *("append.c", "commit.c", "submit.c", "ticket.c", "round.c"),
)
ENGINES = ("engine_pwrite.c", "engine_python.c", "engine_uring.c")
TABLES = (
    *("block.c", "search.c", "table.c", "resident.c", "view.c", "source.c", "merge.c"),
    *("run.c", "builder.c"),
)
LIBURING = "liburing >= 2.3"

CALLBACKS = """
extern "Python+C" void kv_python_begin(uint64_t handle, uint64_t id, int kind, const char *data,
                                       uint64_t length, uint64_t offset);
extern "Python+C" int kv_python_wait(uint64_t handle, int block, uint64_t *ids, int64_t *results,
                                     int max);
"""


def declarations() -> str:
    """The headers as cffi reads them: the same text, less the preprocessor's lines."""
    text = "\n".join((HERE / name).read_text(encoding="utf-8") for name in HEADERS)
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.startswith("#")) + CALLBACKS


def pkg_config(*arguments: str) -> list[str] | None:
    """What pkg-config prints, split; None when it is not there or does not know liburing."""
    try:
        answer = subprocess.run(
            ["pkg-config", *arguments, LIBURING], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return shlex.split(answer.stdout)


def uring_flags() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments for liburing; both empty when building without."""
    wish = os.environ.get("KVSTORE_URING", "auto")
    if wish not in ("auto", "require", "skip"):
        raise SystemExit(f"KVSTORE_URING must be auto, require or skip, not {wish!r}")
    if wish == "skip" or not sys.platform.startswith("linux"):
        return [], []
    compile_flags, link_flags = pkg_config("--cflags"), pkg_config("--libs")
    if compile_flags is None or link_flags is None:
        if wish == "require":
            raise SystemExit(
                f"KVSTORE_URING=require, but pkg-config finds no {LIBURING} (Debian: liburing-dev)"
            )
        sys.stderr.write(f"warning: no {LIBURING} found: building the portable backend only\n")
        return [], []
    return ["-DKV_HAVE_URING", *compile_flags], link_flags


def make_builder() -> FFI:
    """The cffi builder, as setup.py names it."""
    compile_flags, link_flags = uring_flags()
    builder = FFI()
    builder.cdef(declarations())
    relative = Path(os.path.relpath(HERE))
    builder.set_source(
        "kvstore.native._native",
        "".join(f'#include "{name}"\n' for name in HEADERS),
        sources=[str(relative / name) for name in SOURCES + ENGINES + TABLES],
        depends=[
            str(relative / name)
            for name in (*HEADERS, "core.h", "frame.h", "run.h", "source.h", "table.h")
        ],
        include_dirs=[str(HERE)],
        extra_compile_args=[
            "-std=c11",
            "-O2",
            "-pthread",
            *compile_flags,
            *shlex.split(os.environ.get("KVSTORE_CFLAGS", "")),
        ],
        extra_link_args=["-pthread", *link_flags],
    )
    return builder


ffibuilder = make_builder()

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
