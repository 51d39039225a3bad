"""A trial: a copy of the tree with one mutant in it, its tests, and what became of them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

from kvstore.native import build
from tests.mutants.table import ROOT, Mutant

__all__ = ["BaseTree", "Verdict", "caught_by"]

TIME_LIMIT = "(time limit)"
"""Ends what caught a mutant that hangs; or a test on a slow machine."""
_TEST_SECONDS_MAX = 60
_RUN_SECONDS_MAX = 300
_LEFT_OUT = (".*", "__pycache__", "build", "dist", "*.egg-info", "*.so")
# A parameter in a test's name may have blanks.
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", re.MULTILINE)
_BEGUN = re.compile(r"^(tests/\S+?::.+?)(?: (?:PASSED|SKIPPED|Fatal|\++)| *$)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """``caught_by``: the first test that failed, and how; empty when none did."""

    name: str
    caught_by: str
    seconds: float
    output: str


class BaseTree:
    """The tree without a mutant, its C compiled, from which copies are made. It stands in
    ``directory`` and is never the one that is worked on."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tree = directory / "base"
        self._copy(ROOT, self._tree)
        native = self._tree / "kvstore" / "native"
        with contextlib.redirect_stdout(None):
            build.ffibuilder.emit_c_code(str(native / "_native.c"))
        names = ["_native.c", *build.SOURCES, *build.ENGINES, *build.TABLES]
        compile_flags, self._link_flags = build.uring_flags()
        self._compile = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=c11", "-O1", "-fPIC", "-pthread", *compile_flags),
            f"-I{sysconfig.get_path('include')}",
        ]
        self._objects = {name: self._object(native, name) for name in names}
        self._link(self._tree, self._objects)

    def _copy(self, source: Path, target: Path) -> None:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)

    def _object(self, native: Path, name: str) -> Path:
        target = (native / name).with_suffix(".o")
        subprocess.run([*self._compile, "-c", native / name, "-o", target], check=True)
        return target

    def _link(self, tree: Path, objects: dict[str, Path]) -> None:
        library = tree / "kvstore" / "native" / "_native.abi3.so"
        inputs = map(str, objects.values())
        command = [*self._compile, "-shared", *inputs, "-o", str(library), *self._link_flags]
        subprocess.run(command, check=True)

    def run(self, tests: list[str]) -> Verdict:
        """The tests without any mutant."""
        return self._test("no mutant", self._tree, tests)

    def try_mutant(self, mutant: Mutant, tests: list[str]) -> Verdict:
        """The tests with ``mutant``, in a copy of its own that is removed afterwards."""
        tree = self._directory / re.sub(r"\W+", "-", mutant.name)
        self._copy(self._tree, tree)
        try:
            for edit in mutant.edits:
                edit.apply(tree)
            self._build(mutant, tree)
            return self._test(mutant.name, tree, tests)
        finally:
            shutil.rmtree(tree)

    def _build(self, mutant: Mutant, tree: Path) -> None:
        names = {Path(edit.path).name for edit in mutant.edits}
        if any(name.endswith(".h") for name in names):
            names = set(self._objects)
        native = tree / "kvstore" / "native"
        rebuilt = {name: self._object(native, name) for name in names if name in self._objects}
        self._link(tree, {**self._objects, **rebuilt})

    def _test(self, name: str, tree: Path, tests: list[str]) -> Verdict:
        command = [
            *(sys.executable, "-m", "pytest", "-x", "-vv", "--tb=line", "-rfE"),
            *("-p", "no:cacheprovider", f"--basetemp={tree}/.temporary"),
            *(f"--timeout={_TEST_SECONDS_MAX}", "--timeout-method=thread", *tests),
        ]
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        began = time.monotonic()
        with (tree / ".output").open("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                command,
                cwd=tree,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(_RUN_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                # Children of tests that were cut short, too: the session is of our making.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            seconds = time.monotonic() - began
            output.seek(0)
            text = output.read()
        return Verdict(name, caught_by(status, text), seconds, text)


def caught_by(status: int | None, output: str) -> str:
    """What a run of pytest that ended with ``status`` (None: it did not end) says."""
    if status == 0:
        return ""
    failed = _FAILED.search(output)
    if status == 1 and failed:
        return failed[1]
    begun = _BEGUN.findall(output)
    if not begun:
        raise RuntimeError(f"no test was run (status {status}):\n{output[-2000:]}")
    if status is None or "+++ Timeout +++" in output:
        return f"{begun[-1]} {TIME_LIMIT}"
    if status < 0:
        return f"{begun[-1]} (signal {-status})"
    raise RuntimeError(f"pytest ended with status {status}:\n{output[-2000:]}")
