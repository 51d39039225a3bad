"""Fuzzes one Python target in this process, with the arguments of libFuzzer and of mutate.c:

    python -m tests.fuzz.worker TARGET [-runs=N] [-seed=N] [-artifact_prefix=P] DIRECTORY...

By atheris, guided by the coverage of the Python code, where that is installed; else, and with
``-random=1``, by changes at random. The file P + "running" holds the input that runs: what is left
of it when the process dies.
"""

from __future__ import annotations

import importlib.util
import mmap
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.mutate import INPUT_BYTES_MAX, mutate_section, mutations

if TYPE_CHECKING:
    from tests.fuzz.targets import Target

__all__ = ["RUNNING", "SECONDS_MAX", "main", "read_note"]

RUNNING = "running"
SECONDS_MAX = 10
_LENGTH_BYTES = 4
_CHANGED_WHOLE = 4  # one in so many inputs that are made of sections


def main() -> None:
    """Runs; exits with 0 when nothing was found."""
    name, *arguments = sys.argv[1:]
    flags = dict(argument[1:].split("=", 1) for argument in arguments if argument[0] == "-")
    at_random = bool(flags.pop("random", ""))
    if at_random or importlib.util.find_spec("atheris") is None:
        folders = [Path(argument) for argument in arguments if argument[0] != "-"]
        _at_random(name, flags, folders)
    else:
        _by_coverage(name, flags.get("artifact_prefix", ""), arguments)


def read_note(path: Path) -> bytes:
    """The input that ran when its process died."""
    noted = path.read_bytes()
    return noted[_LENGTH_BYTES:][: int.from_bytes(noted[:_LENGTH_BYTES], "little")]


def _guarded(target: Target, artifact_prefix: str) -> Callable[[bytes], None]:
    """The target, with the input noted where it outlives the process."""
    path = Path(artifact_prefix + RUNNING)
    path.write_bytes(bytes(_LENGTH_BYTES + INPUT_BYTES_MAX))
    with path.open("r+b") as file:
        note = mmap.mmap(file.fileno(), 0)

    def run(data: bytes) -> None:
        note[: _LENGTH_BYTES + len(data)] = len(data).to_bytes(_LENGTH_BYTES, "little") + data
        signal.setitimer(signal.ITIMER_REAL, SECONDS_MAX)  # kills the process
        target.run(data)
        signal.setitimer(signal.ITIMER_REAL, 0)

    return run


def _at_random(name: str, flags: dict[str, str], folders: list[Path]) -> None:
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    inputs = [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())]
    runs, seed = int(flags["runs"]), int(flags["seed"])
    run = _guarded(target, flags["artifact_prefix"])
    for data in mutations(inputs, runs, seed, sections=target.sections):
        run(data)
    print(f"Done {runs} runs", file=sys.stderr)


def _by_coverage(name: str, artifact_prefix: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["kvstore"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    run = _guarded(target, artifact_prefix)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        def change(piece: bytes) -> bytes:
            changed: bytes = atheris.Mutate(piece, max(max_size, 1))
            return changed

        if seed % _CHANGED_WHOLE == 0:
            return change(data)
        return mutate_section(data, Random(seed), change)[:max_size]

    # The timer above does what libFuzzer's own would.
    command = [sys.argv[0], *arguments, "-timeout=0"]
    atheris.Setup(command, run, custom_mutator=mutator if target.sections else None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
