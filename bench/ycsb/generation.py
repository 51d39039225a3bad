"""From a workload to its script."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

from bench.ycsb.generators import Latest, ScrambledZipfian, Uniform, choose_kinds
from bench.ycsb.records import UPDATES, Records, make_key
from bench.ycsb.script import Kind, Script, Written
from bench.ycsb.workloads import SCAN_LENGTH_MAX, Workload

__all__ = ["generate", "generate_load"]

_MORE_INSERTS_THAN_EXPECTED = 2  # the original's fudge factor


def generate_load(contents: Records, records: int) -> Script:
    """Inserts the records with the numbers from 0 on. O(records), about 1 us each."""
    keys = [make_key(number) for number in range(records)]
    return Script(
        bytes([Kind.INSERT]) * records,
        keys,
        [contents.record(key) for key in keys],
        array("H", bytes(2 * records)),
    )


def generate(
    workload: Workload,
    contents: Records,
    *,
    records: int,
    operations: int,
    seed: int,
    clients: int = 1,
) -> Script:
    """``operations`` of a workload on a store where the ``records`` first records are.

    The same arguments give the same script. Inserts go on where the load ended, without gaps.
    Everything else is of a record that is there by then: of those loaded, and of those that the
    script inserted before, but for the last ``clients`` - 1, which the others of ``clients`` that
    work off the script together may still be writing. (One that is held up for longer than these
    may be missed; the original counts acknowledgements while it runs, which a script cannot.)
    O(operations), 2 to 3 us each; with "latest" also O(records), 0.1 us each.
    """
    if records < 1:
        raise ValueError("there is no record to work on")
    generator = random.Random(f"{workload.name} {seed}")
    mix = workload.mix
    kinds = choose_kinds(list(mix), list(mix.values()), operations, generator)
    choose = _Chooser(workload, records, operations, generator)
    choose_update = Uniform(UPDATES, generator).draw
    choose_length = Uniform(SCAN_LENGTH_MAX, generator).draw
    keys: list[bytes] = []
    values: list[Written] = []
    lengths = array("H", bytes(2 * operations))
    to_insert = records
    for slot, kind in enumerate(kinds):
        value: Written = None
        if kind == Kind.INSERT:
            key = make_key(to_insert)
            value = contents.record(key)
            to_insert += 1
            choose.grow(to_insert - clients)
        else:
            key = make_key(choose.number())
            if kind in (Kind.UPDATE, Kind.READ_MODIFY_WRITE):
                value = contents.update(key, choose_update())
            elif kind == Kind.SCAN:
                lengths[slot] = 1 + choose_length()
        keys.append(key)
        values.append(value)
    return Script(kinds, keys, values, lengths)


class _Chooser:
    """Draws the number of a record that is there."""

    def __init__(
        self, workload: Workload, records: int, operations: int, generator: random.Random
    ) -> None:
        self._newest = records - 1
        self._latest: Latest | None = None
        self._draw: Callable[[], int]
        if workload.distribution == "latest":
            self._latest = Latest(self._newest, generator)
            self._draw = self._latest.draw
        elif workload.distribution == "zipfian":
            inserts = operations * workload.mix.get(Kind.INSERT, 0.0)
            # The range includes its end in the original, hence the 1. What is drawn beyond the
            # newest is drawn again, so the popular records stay the same while others come.
            items = records + int(_MORE_INSERTS_THAN_EXPECTED * inserts) + 1
            self._draw = ScrambledZipfian(items, generator).draw
        else:
            self._draw = Uniform(records, generator).draw

    def grow(self, newest: int) -> None:
        """Records up to ``newest`` are there, if that is more than there were."""
        if newest > self._newest:
            self._newest = newest
            if self._latest is not None:
                self._latest.grow(newest)

    def number(self) -> int:
        number = self._draw()
        while number > self._newest:
            number = self._draw()
        return number
