"""Run the tests on every other Python from 3.10 to 3.13 found on this machine.

One wheel is built, by the interpreter that runs this script, and installed into one virtual
environment for each of the others. That proves three things at once: the code runs there, the
stable-ABI wheel keeps its promise, and the wheel is complete. The tests run in a copy of the
checkout that has no kvstore/ in it, or they would import the sources instead of the wheel.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MINOR_VERSIONS = range(10, 14)
PARALLEL_RUNS_MAX = 2
STEP_SECONDS_MAX = 1200
CHECKOUT = Path(__file__).resolve().parent.parent
BUILD_NAMES = ("kvstore", "pyproject.toml", "setup.py", "README.md", "LICENSE")
TEST_NAMES = ("tests", "bench", "docs", "pyproject.toml", "README.md")
PROBE = "import ensurepip, sys, venv; print('%d.%d.%d' % sys.version_info[:3])"


class StepFailedError(Exception):
    """A command failed; the text is its whole output."""


def run(*command: str | Path, cwd: Path = CHECKOUT) -> str:
    """Run a command with nothing of this environment's Python path; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        raise StepFailedError(f"{output}\nstopped after {STEP_SECONDS_MAX} s") from error
    if done.returncode != 0:
        raise StepFailedError(done.stdout)
    return done.stdout


def find_interpreters() -> Iterator[tuple[str, Path]]:
    """Yield (full version, executable), one for each minor version that is not our own."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for minor in MINOR_VERSIONS:
        if sys.version_info[:2] == (3, minor):
            continue
        candidates = glob.glob(f"{pyenv}/versions/3.{minor}.*/bin/python3")
        if on_path := shutil.which(f"python3.{minor}"):
            candidates.insert(0, on_path)
        for candidate in candidates:
            # A pyenv shim may be on the path for a version that it refuses to start.
            try:
                version = run(candidate, "-c", PROBE).strip()
            except (OSError, StepFailedError):
                continue
            if version.startswith(f"3.{minor}."):
                yield version, Path(candidate)
                break


def copy_names(names: tuple[str, ...], destination: Path) -> Path:
    """Copy those of the checkout's files and folders that exist, without anything built."""
    destination.mkdir()
    for name in names:
        source = CHECKOUT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.so", "_native.c")
            shutil.copytree(source, destination / name, ignore=ignore)
        elif source.exists():
            shutil.copy2(source, destination / name)
    return destination


def build_wheel(workspace: Path) -> Path:
    source = copy_names(BUILD_NAMES, workspace / "source")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", workspace, source)
    return next(workspace.glob("*.whl"))


def prepare(version: str, interpreter: Path, wheel: Path) -> Path:
    """Return the Python of an environment that holds the wheel and what its tests need."""
    environment = CHECKOUT / f".venv-{version.rpartition('.')[0]}"
    python = environment / "bin" / "python"
    stamp = environment / ".installed"
    project = (CHECKOUT / "pyproject.toml").read_bytes()
    wanted = f"{version} {interpreter} {hashlib.sha256(project).hexdigest()}"
    if not stamp.exists() or stamp.read_text() != wanted:
        run(interpreter, "-m", "venv", "--clear", environment)
        run(python, "-m", "pip", "install", "-q", f"{wheel}[test]")
        stamp.write_text(wanted)
    else:
        run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
    return python


def run_tests(version: str, interpreter: Path, wheel: Path, checkout: Path) -> bool:
    """Print one line when the tests pass, all they printed when not."""
    pytest = ("-m", "pytest", "-m", "not slow", "-p", "no:cacheprovider")
    try:
        output = run(prepare(version, interpreter, wheel), *pytest, cwd=checkout)
    except StepFailedError as error:
        print(f"{error}\nPython {version}: FAILED", flush=True)
        return False
    print(f"Python {version}: {output.strip().rpartition(chr(10))[2]}", flush=True)
    return True


def main() -> int:
    interpreters = list(find_interpreters())
    if not interpreters:
        print("no other Python from 3.10 to 3.13 is here")
        return 0
    with tempfile.TemporaryDirectory(prefix="kvstore-test-") as folder:
        workspace = Path(folder)
        try:
            wheel = build_wheel(workspace)
        except StepFailedError as error:
            print(f"{error}\nthe wheel cannot be built")
            return 1
        checkout = copy_names(TEST_NAMES, workspace / "checkout")
        with ThreadPoolExecutor(PARALLEL_RUNS_MAX) as pool:
            runs = [
                pool.submit(run_tests, version, interpreter, wheel, checkout)
                for version, interpreter in interpreters
            ]
        return 0 if all(each.result() for each in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
