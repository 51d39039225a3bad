"""What a process that is killed was in the middle of, as it says itself in shared memory.

Memory shared with another process outlives a SIGKILL, and to set a byte of it costs nothing, so
this is exact where the files that are left would only allow guesses.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from typing import Any

from kvstore import store
from kvstore.compaction import worker
from kvstore.wal import SegmentedWalWriter

# Each is entered by one thread at a time; a flush may lie within a compaction.
PHASES = ("recovery", "flush", "compaction", "rotation")


class PhaseMap:
    """One byte for each phase, 1 while the process is in it. To be made before the fork."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, mmap.PAGESIZE)

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """The block is ``phase``."""
        index = PHASES.index(phase)
        self._bytes[index] = 1
        try:
            yield
        finally:
            self._bytes[index] = 0

    def clear(self) -> None:
        """For the next process."""
        self._bytes[: len(PHASES)] = bytes(len(PHASES))

    def bits(self) -> int:
        """The phases as a number, to be sent elsewhere."""
        return sum(self._bytes[index] << index for index in range(len(PHASES)))

    def watch(self) -> None:
        """Has the stores of this process say what they do, from now on."""
        places: list[tuple[object, str, Callable[..., Any], str]] = [
            (store, "open_store", self._function, "recovery"),
            (worker, "flush", self._generator, "flush"),
            (worker, "compact", self._generator, "compaction"),
            (SegmentedWalWriter, "_rotate", self._function, "rotation"),
        ]
        for owner, name, wrap, phase in places:
            setattr(owner, name, wrap(phase, getattr(owner, name)))

    def _function(self, phase: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            with self.during(phase):
                return real(*arguments)

        return watched

    def _generator(self, phase: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            with self.during(phase):
                yield from real(*arguments)

        return watched


def names(bits: int) -> list[str]:
    """The phases that ``PhaseMap.bits`` means; none of them: the plain load."""
    return [phase for index, phase in enumerate(PHASES) if bits >> index & 1] or ["load"]
