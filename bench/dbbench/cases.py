"""What each case does, as RocksDB's db_bench (tools/db_bench_tool.cc) defines it.

N is the number of entries. "Random" keys are drawn one by one, each of the N as likely as any
other: so a fillrandom of N writes some keys several times and 37% of them never, and a deleterandom
deletes some that are gone. Where db_bench goes on with whatever the case before it has left, here
every case that is not to begin with an empty store has one with all N entries: what readrandom
finds does not depend on the order of the cases.

fillsync is durable in every mode, and has N / 100 operations (N / 1000 in db_bench, which would be
over in a fifth of a second).
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from enum import Enum

from bench.dbbench.entries import Entries
from bench.ycsb.generators import Uniform
from bench.ycsb.script import Kind, Script, Written

__all__ = ["CASES", "FILLSYNC_SHARE", "Case", "Form", "make_script", "make_writer_script"]

FILLSYNC_SHARE = 100


class Form(Enum):
    """How a case is carried out."""

    SCRIPT = "each client takes operations from the script"
    FORWARDS = "one walk over all entries, keys ascending; an operation is an entry"
    BACKWARDS = "the same, keys descending"
    BESIDE_A_WRITER = "as a script, while one more client puts until the others are done"


@dataclass(frozen=True)
class Case:
    """``kind`` of operation on sequential or random keys; None where it is one walk.

    ``fresh``: on an empty store, else on one with all entries. ``durable``: even in relaxed runs.
    ``overwrites``: puts what entries become, not what they are filled with.
    """

    name: str
    what: str
    kind: Kind | None
    form: Form = Form.SCRIPT
    sequential: bool = False
    fresh: bool = False
    durable: bool = False
    overwrites: bool = False

    def operations(self, entries: int) -> int:
        """How many operations db_bench would do with N ``entries``."""
        return max(1, entries // FILLSYNC_SHARE) if self.durable else entries


_ALL = (
    Case("fillseq", "puts in key order", Kind.PUT, fresh=True, sequential=True),
    Case("fillsync", "durable puts, random keys", Kind.PUT, fresh=True, durable=True),
    Case("fillrandom", "puts, random keys", Kind.PUT, fresh=True),
    Case("overwrite", "puts of keys that are there", Kind.PUT, overwrites=True),
    Case("readrandom", "gets", Kind.READ),
    Case("readmissing", "gets of keys that are not there", Kind.READ_MISSING),
    Case("readseq", "all entries, forwards", None, Form.FORWARDS, sequential=True),
    Case("readreverse", "all entries, backwards", None, Form.BACKWARDS, sequential=True),
    Case("seekrandom", "seeks, and the entries behind", Kind.SEEK),
    Case("readwhilewriting", "gets beside one writer", Kind.READ, Form.BESIDE_A_WRITER),
    Case("deleterandom", "deletes", Kind.DELETE),
)

CASES = {case.name: case for case in _ALL}


def make_script(
    case: Case,
    contents: Entries,
    *,
    entries: int,
    operations: int,
    seed: int,
    seek_nexts: int = 0,
) -> Script:
    """``operations`` of a case among N ``entries``; of sequential ones not more than N.

    A seek hands out the entry at its key and the ``seek_nexts`` behind it. The same arguments give
    the same script. ValueError: the case is one walk, there is nothing to be made beforehand.
    O(operations), under 1 us each.
    """
    if case.kind is None:
        raise ValueError(f"{case.name} has no script: {case.form.value}")
    numbers = _draw_numbers(case, entries, operations, seed)
    make_key = contents.missing_key if case.kind == Kind.READ_MISSING else contents.key
    values: list[Written] = [None] * len(numbers)
    if case.kind == Kind.PUT:
        overwrites = case.overwrites
        values = [contents.value(number, overwritten=overwrites) for number in numbers]
    length = 1 + seek_nexts if case.kind == Kind.SEEK else 0
    return Script(
        bytes([case.kind]) * len(numbers),
        [make_key(number) for number in numbers],
        values,
        array("H", [length]) * len(numbers),
    )


def make_writer_script(contents: Entries, *, entries: int, operations: int, seed: int) -> Script:
    """The puts of the writer beside the readers. It goes on from its beginning at its end."""
    overwrite = CASES["overwrite"]
    return make_script(overwrite, contents, entries=entries, operations=operations, seed=seed)


def _draw_numbers(case: Case, entries: int, operations: int, seed: int) -> list[int]:
    if case.sequential:
        return list(range(min(entries, operations)))
    draw = Uniform(entries, random.Random(f"{case.name} {seed}")).draw
    return [draw() for _ in range(operations)]
