"""Which cases the wal benchmark runs, and how many batches of each; decided beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvstore.wal.format import entry_bytes

__all__ = ["ONE_CLIENT", "Axes", "Case", "Effort"]

_BLOCK = 4096
_IN_FLIGHT_BYTES_MAX = 16 << 20


@dataclass(frozen=True)
class Case:
    """One cell of the matrix: what a batch holds, how it is written, how many at a time."""

    entries: int
    entry_size: int
    io: str
    in_flight: int

    @property
    def direct(self) -> bool:
        return self.io == "direct"

    @property
    def batch_bytes(self) -> int:
        """What reaches the file for one batch: entries with their headers, and under direct I/O a
        PAD entry that fills the last block."""
        size = self.entries * entry_bytes(self.entry_size)
        over = size % _BLOCK
        if self.direct and over:
            gap = _BLOCK - over
            size += gap if gap >= entry_bytes(0) else gap + _BLOCK
        return size

    @property
    def name(self) -> str:
        return f"{self.entries} x {self.entry_size} B, {self.io}, {self.in_flight} in flight"


ONE_CLIENT = Case(entries=1, entry_size=100, io="buffered", in_flight=1)


@dataclass(frozen=True)
class Axes:
    """The values of each axis; the matrix is their product."""

    entries: Sequence[int]
    entry_size: Sequence[int]
    io: Sequence[str]
    in_flight: Sequence[int]

    def cases(self) -> Iterator[Case]:
        """Every case, those with too much in flight left out (see ``left_out``)."""
        return (case for case in self._all() if not _too_much(case))

    def left_out(self) -> list[Case]:
        """Cases with more than 16 MiB in flight: all they would show is the bandwidth."""
        return [case for case in self._all() if _too_much(case)]

    def _all(self) -> Iterator[Case]:
        product = itertools.product(self.entry_size, self.entries, self.io, self.in_flight)
        for size, entries, io, in_flight in product:
            yield Case(entries, size, io, in_flight)


def _too_much(case: Case) -> bool:
    return case.in_flight > 1 and case.in_flight * case.batch_bytes > _IN_FLIGHT_BYTES_MAX


@dataclass(frozen=True)
class Effort:
    """How much of each case is run.

    A side's turn is a slice of batches; a repetition is one slice of every side. Slices are short,
    so that whatever else the machine does hits all sides of a repetition alike.
    """

    repetitions: int
    slice_batches: int
    side_bytes_max: int

    def slices(self, case: Case) -> tuple[int, int]:
        """(repetitions, batches in a slice) of ``case``: fewer where batches are large, but enough
        to keep the asked number in flight."""
        affordable = max(1, self.side_bytes_max // case.batch_bytes)
        least = 3 * case.in_flight if case.in_flight > 1 else 1
        batches = max(least, min(self.slice_batches, affordable // self.repetitions))
        repetitions = max(3, min(self.repetitions, affordable // batches))
        return min(repetitions, self.repetitions), batches
