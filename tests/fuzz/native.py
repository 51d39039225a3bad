"""Builds the C kernels, and the targets in C, under ASan and UBSan: anew when a source has changed.

With libFuzzer where clang brings it, else with mutate.c, which any compiler with the sanitizers can
build: then nothing looks at coverage, and the rest is the same.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["BUILD", "NoSanitizers", "harness"]

_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent.parent
_KERNELS = _CHECKOUT / "kvstore" / "native"
BUILD = _CHECKOUT / "build" / "fuzz"

_SOURCES = ("targets.c", "log.c", "batch.c", "block.c", "table.c", "crc.c")
_KERNEL_SOURCES = (
    *("crc32c.c", "frame.c", "batch.c", "block.c", "search.c", "table.c", "resident.c"),
    *("view.c", "source.c", "merge.c"),
)
_FLAGS = ("-std=c11", "-O1", "-g", "-pthread", "-fno-sanitize-recover=all")


class NoSanitizers(Exception):
    """No compiler here builds with ASan and UBSan; the text says what each said."""


def harness(*, coverage: bool = True) -> Path:
    """The program, built if need be. With ``coverage`` by libFuzzer, if it can be had."""
    said = []
    for compiler, engine in _candidates(coverage):
        sources = [_HERE / name for name in _SOURCES]
        sources += [_KERNELS / name for name in _KERNEL_SOURCES]
        if engine == "mutate":
            sources.append(_HERE / "mutate.c")
        sanitizers = "address,undefined" + (",fuzzer" if engine == "fuzzer" else "")
        command = [*compiler, *_FLAGS, f"-fsanitize={sanitizers}", f"-I{_KERNELS}"]
        program = BUILD / f"{engine}-{_digest(command, sources)}"
        if program.exists():
            return program
        try:
            _compile([*command, *map(str, sources)], program)
        except (OSError, subprocess.CalledProcessError) as error:
            said.append(f"{shlex.join(command)}: {getattr(error, 'stderr', '') or error}")
        else:
            return program
    raise NoSanitizers("\n".join(said))


def _candidates(coverage: bool) -> Iterator[tuple[list[str], str]]:
    if coverage and shutil.which("clang"):
        yield ["clang"], "fuzzer"
    yield shlex.split(os.environ.get("CC", "cc")), "mutate"
    for name in ("gcc", "clang"):
        if shutil.which(name):
            yield [name], "mutate"


def _digest(command: list[str], sources: list[Path]) -> str:
    found = hashlib.sha1(shlex.join(command).encode())
    for path in [*sources, *sorted(_HERE.glob("*.h")), *sorted(_KERNELS.glob("*.h"))]:
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _compile(command: list[str], program: Path) -> None:
    """Several may build at once: the program gets its name when it is whole."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        made = Path(folder) / "made"
        subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=True)
        made.replace(program)
