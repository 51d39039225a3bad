"""Whether everything is there after a run, in a store that has been closed and opened again."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bench.load.subject import Subject
from bench.ycsb.outcome import Outcome
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
    clients: int = 1,
    shares: int = 1,
    sample: int = SAMPLE,
) -> int:
    """Looks up a sample of the ``loaded`` first records, and of all that was written or deleted;
    how many. RuntimeError when one is lost, wrong, or back again.

    What one client has written is known to the last byte. Where there are several, or this process
    is one of ``shares``, any value will do that its key may have.
    """
    generator = random.Random(seed)
    outcome = Outcome(script, acknowledged) if script is not None else None
    deleted = _keys_of(script, acknowledged, (Kind.DELETE,))
    if shares > 1 and deleted:
        loaded = 0  # the others may have deleted any of them
    numbers = generator.sample(range(loaded), min(sample, loaded))
    there = [key for key in map(subject.key, numbers) if key not in deleted]
    if outcome is not None and clients == shares == 1:
        for key in _draw(outcome.written_keys(), sample, generator):
            if not outcome.agrees(key, get(key)):
                raise RuntimeError(f"{key!r} does not hold what was written last")
    there += _draw(
        sorted(_keys_of(script, acknowledged, (Kind.INSERT, Kind.PUT))), sample, generator
    )
    for key in there:
        value = get(key)
        if value is None:
            raise RuntimeError(f"{key!r} is lost")
        if not subject.contents.holds(key, value):
            raise RuntimeError(f"{key!r} has a value that is not its own")
    gone = _draw(sorted(deleted), sample, generator)
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


def _draw(keys: Sequence[bytes], sample: int, generator: random.Random) -> Sequence[bytes]:
    return keys if len(keys) <= sample else generator.sample(keys, sample)
