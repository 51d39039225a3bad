"""Whether everything is there after a run, in a store that has been closed and opened again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bench.load.subject import Subject
from bench.ycsb.script import Kind, Script

__all__ = ["SAMPLE", "verify"]

SAMPLE = 10_000


def verify(
    get: Callable[[bytes], bytes | None],
    subject: Subject,
    script: Script | None,
    acknowledged: Sequence[int],
    *,
    loaded: int,
    seed: int,
    alone: bool = True,
) -> int:
    """Looks up a sample of the ``loaded`` first records, of all that was inserted or put, and of
    all that was deleted; how many. RuntimeError when one is lost, wrong, or back again.

    ``alone``: nobody else has deleted anything.
    """
    generator = random.Random(seed)
    written = _keys_of(script, acknowledged, (Kind.INSERT, Kind.PUT))
    deleted = _keys_of(script, acknowledged, (Kind.DELETE,))
    numbers = generator.sample(range(loaded), min(SAMPLE, loaded))
    there = [key for key in map(subject.key, numbers) if key not in deleted]
    if deleted and not alone:
        there = []
    there += _sample(written, generator)
    for key in there:
        value = get(key)
        if value is None:
            raise RuntimeError(f"{key!r} is lost")
        if not subject.contents.holds(key, value):
            raise RuntimeError(f"{key!r} has a value that is not its own")
    gone = _sample(deleted, generator)
    for key in gone:
        if get(key) is not None:
            raise RuntimeError(f"{key!r} was deleted and is there again")
    return len(there) + len(gone)


def _keys_of(
    script: Script | None, acknowledged: Sequence[int], wanted: tuple[Kind, ...]
) -> set[bytes]:
    if script is None:
        return set()
    return {script.keys[slot] for slot in acknowledged if script.kinds[slot] in wanted}


def _sample(keys: set[bytes], generator: random.Random) -> list[bytes]:
    ordered = sorted(keys)
    return ordered if len(ordered) <= SAMPLE else generator.sample(ordered, SAMPLE)
