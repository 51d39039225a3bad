"""One engine's sustained load, in a process of its own: memory and threads do not mix.

Asked: engine, directory, keys, value_bytes, memtable_bytes, seed. Answers: ready, once all is there
that the load needs; then what was measured.
"""

from __future__ import annotations

import random
import time
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import islice
from operator import sub

from bench.disk import disk_usage
from bench.keys import KEY_BYTES, Values, random_keys
from bench.process import bytes_written, emit, memory, request
from bench.samples import percentiles_of_counts
from bench.tree_readers import check_sample
from bench.writers import WRITERS, Writer

_SAMPLE = 1000
_QUIET_SECONDS_MAX = 900.0
_QUIET_POLL_SECONDS = 0.01
_QUIET_POLLS = 10
_CLOCK_ROUNDS = 200_000
_FRACTIONS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


def main() -> None:
    asked = request()
    directory: str = asked["directory"]
    count: int = asked["keys"]
    keys = random_keys(count, asked["seed"])
    values = Values(asked["value_bytes"], asked["seed"])
    stamps = array("Q", bytes(8 * (count + 1)))
    clock_ns = _clock_cost(keys, values)
    before = memory()
    written_before = bytes_written()
    emit({"ready": True, "anonymous_before": before.anonymous if before else None})

    writer = WRITERS[asked["engine"]](directory, asked["memtable_bytes"])
    _put_all(writer.put, keys, values.pool, stamps)
    quiet_seconds = _wait_until_quiet(writer)
    written = bytes_written()
    amplification = writer.write_amplification()
    disk_bytes, table_bytes = disk_usage(directory)
    # The parent stops looking at the memory here: what follows is not the engine's.
    emit({"quiet": True})

    generator = random.Random(asked["seed"])
    chosen = [KEY_BYTES * generator.randrange(count) for _ in range(min(_SAMPLE, count))]
    sample = [keys[offset : offset + KEY_BYTES] for offset in chosen]
    check_sample(asked["engine"], writer.get, sample, values)
    writer.close()
    elapsed_ns = stamps[-1] - stamps[0]
    live_bytes = count * (KEY_BYTES + asked["value_bytes"])
    emit(
        {
            "engine": asked["engine"],
            "keys": count,
            "seconds": elapsed_ns / 1e9,
            "puts_per_second": count / (elapsed_ns / 1e9),
            "put_us": _percentiles_us(stamps),
            "clock_us": clock_ns / 1000,
            "quiet_seconds": quiet_seconds,
            "write_amplification": amplification,
            "write_amplification_io": (
                None
                if written is None or written_before is None
                else (written - written_before) / live_bytes
            ),
            "disk_bytes": disk_bytes,
            "table_bytes": table_bytes,
            "space_amplification": disk_bytes / live_bytes,
        }
    )


def _put_all(
    put: Callable[[bytes, bytes], object], keys: bytes, pool: tuple[bytes, ...], stamps: array[int]
) -> None:
    """One stamp before the first put and one behind each, so that a put costs one clock call."""
    clock = time.perf_counter_ns
    stamps[0] = clock()
    for number in range(1, len(stamps)):
        key = keys[KEY_BYTES * number - KEY_BYTES : KEY_BYTES * number]
        put(key, pool[key[0]])
        stamps[number] = clock()


def _clock_cost(keys: bytes, values: Values) -> float:
    """Nanoseconds of the loop, per put, with a put that does nothing."""
    rounds = min(_CLOCK_ROUNDS, len(keys) // KEY_BYTES)
    stamps = array("Q", bytes(8 * (rounds + 1)))
    nothing: dict[bytes, bytes] = {}
    _put_all(nothing.get, keys, values.pool, stamps)
    return (stamps[-1] - stamps[0]) / rounds


def _wait_until_quiet(writer: Writer) -> float | None:
    """Seconds until no compaction is under way or due; None when that took too long."""
    began = time.perf_counter()
    polls, since = 0, 0.0
    while polls < _QUIET_POLLS:
        now = time.perf_counter() - began
        if now > _QUIET_SECONDS_MAX:
            return None
        # Between a flush and the compaction it calls for there may be a moment of nothing.
        if not writer.is_quiet():
            polls = 0
        else:
            since = since if polls else now
            polls += 1
        time.sleep(_QUIET_POLL_SECONDS)
    return since


def _percentiles_us(stamps: array[int]) -> dict[str, float]:
    # Counted, not sorted: of ten million times only some ten thousand differ.
    counts = Counter(map(sub, islice(stamps, 1, None), stamps))
    found = percentiles_of_counts(counts, list(_FRACTIONS.values()))
    return {name: ns / 1000 for name, ns in zip(_FRACTIONS, found, strict=True)}


if __name__ == "__main__":
    main()
