"""Runs a target for so many executions, and keeps what it finds."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.mutate import INPUT_BYTES_MAX
from tests.fuzz.native import BUILD, harness
from tests.fuzz.targets import NATIVE, corpora
from tests.fuzz.worker import RUNNING, SECONDS_MAX, read_note

__all__ = ["CRASHERS", "Finding", "fuzz", "replay"]

CRASHERS = BUILD / "crashers"
_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_DONE = re.compile(r"Done (\d+) runs")
_ARTIFACT = re.compile(r"(crash|oom|timeout|leak)-")
_MALLOC_MB_MAX = 64
_TOLD_CHARACTERS = 3000


class Finding(AssertionError):
    """A target did what it may not; the text says how to repeat it. ``path``: the input."""

    def __init__(self, name: str, path: Path | None, said: str) -> None:
        self.path = path
        how = f"python -m tests.fuzz {name} {path}" if path else "the input is not known"
        super().__init__(f"{name}: {said.strip()[-_TOLD_CHARACTERS:]}\nrepeat it: {how}")


def fuzz(name: str, runs: int, seed: int, directory: Path, *, coverage: bool = True) -> int:
    """Executions of target ``name`` that were done, beginning with its corpus; raises Finding.

    In ``directory``/found are then the inputs that reached new code. Without ``coverage``: by
    changes at random, as where neither atheris nor libFuzzer can be had.
    """
    found = directory / "found"
    found.mkdir(exist_ok=True)
    said = _run(
        name,
        directory,
        f"-runs={runs}",
        f"-seed={seed + 1}",  # 0 would mean one of libFuzzer's own
        f"-max_len={INPUT_BYTES_MAX}",
        found,
        *corpora(name),
        coverage=coverage,
    )
    done = _DONE.search(said)
    assert done, said
    return int(done[1])


def replay(name: str, files: list[Path], directory: Path, *, coverage: bool = True) -> None:
    """Runs just these inputs on a target in C."""
    _run(name, directory, *files, coverage=coverage)


def _run(name: str, directory: Path, *arguments: object, coverage: bool = True) -> str:
    command = [sys.executable, "-m", "tests.fuzz.worker", name]
    if name in NATIVE:
        command = [str(harness(coverage=coverage)), name, f"-malloc_limit_mb={_MALLOC_MB_MAX}"]
        command.append(f"-timeout={SECONDS_MAX}")
    elif not coverage:
        command.append("-random=1")
    command += [f"-artifact_prefix={directory}/", *map(str, arguments)]
    ended = subprocess.run(
        command, cwd=_CHECKOUT, capture_output=True, text=True, errors="replace", check=False
    )
    if ended.returncode:
        said = f"ended with {ended.returncode}\n{ended.stdout}{ended.stderr}"
        raise Finding(name, _keep(name, directory), said)
    return ended.stderr


def _keep(name: str, directory: Path) -> Path | None:
    """Copies the input that was found to where it stays."""
    saved = sorted(path for path in directory.iterdir() if _ARTIFACT.match(path.name))
    running = directory / RUNNING
    if saved:
        data = saved[0].read_bytes()
    elif running.exists():
        data = read_note(running)
    else:
        return None
    CRASHERS.mkdir(parents=True, exist_ok=True)
    path = CRASHERS / f"{name}-{hashlib.sha1(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path
