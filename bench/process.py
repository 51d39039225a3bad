"""Processes that a benchmark starts, and what the kernel says about them: memory, bytes written."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Child", "ChildFailedError", "Memory", "bytes_written", "emit", "memory", "request"]

_SAMPLE_SECONDS = 0.05
# The child finds what its parent finds, however that was started.
_BOOT = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop(1))
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


class ChildFailedError(RuntimeError):
    """A child ended without its answer; why is on stderr, which is the parent's."""


@dataclass(frozen=True)
class Memory:
    """Bytes: ``anonymous`` is what no file backs, ``peak`` the most that was ever resident."""

    anonymous: int
    peak: int


def memory(process_id: int | str = "self") -> Memory | None:
    """None where /proc does not say, and when there is no such process."""
    with contextlib.suppress(OSError, KeyError):
        lines = Path(f"/proc/{process_id}/status").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        # "   1234 kB"; a process that has ended has no such lines.
        return Memory(
            int(fields["RssAnon"].split()[0]) << 10, int(fields["VmHWM"].split()[0]) << 10
        )
    return None


def bytes_written() -> int | None:
    """Bytes that this process, all its threads, caused to be written to the device."""
    with contextlib.suppress(OSError, KeyError):
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])
    return None


def request() -> dict[str, Any]:
    """In a child: what its parent asks for."""
    asked: dict[str, Any] = json.loads(sys.argv[1])
    return asked


def emit(answer: dict[str, Any]) -> None:
    """In a child: one answer."""
    print(json.dumps(answer), flush=True)


class Child:
    """A module of this package run by a fresh interpreter; a context manager that ends it.

    ``environment``: its variables; None: those of this process.
    """

    def __init__(
        self, module: str, asked: dict[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        arguments = [json.dumps(sys.path), module, json.dumps(asked)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def answer(self) -> dict[str, Any]:
        """The next one, waited for."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailedError(f"no answer; exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait(self) -> None:
        """Until it has ended, in order."""
        if status := self._process.wait():
            raise ChildFailedError(f"exit status {status}")

    @contextlib.contextmanager
    def sampled(self) -> Iterator[list[Memory]]:
        """Collects its memory while the block runs, from here, so that it is not disturbed."""
        samples: list[Memory] = []
        done = threading.Event()

        def sample() -> None:
            while not done.wait(_SAMPLE_SECONDS):
                if (now := memory(self._process.pid)) is not None:
                    samples.append(now)

        thread = threading.Thread(target=sample, name="memory")
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()
