"""Several batches on their way to the disk, which completes them in any order."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from kvstore import KVStore, Options
from tests.support.shuffle import History, batches, shuffled
from tests.support.stores import SMALLEST_BUFFER, SMALLEST_SEGMENT, contents
from tests.unit.store.test_visibility import run_threads


@pytest.mark.parametrize("in_flight", [1, 2, 4])
def test_threads_see_a_prefix_of_the_log(tmp_path: Path, in_flight: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    history = History()
    work = list(batches(seed, 6, 10))
    left, done = 6, threading.Event()
    options = Options(
        wal_batches_in_flight=in_flight,
        wal_segment_bytes=SMALLEST_SEGMENT,
        wal_buffer_bytes=SMALLEST_BUFFER,
        flush_interval_ms=1,
    )
    with shuffled(seed) as (_, fs), KVStore(tmp_path, options, fs=fs) as db:

        def write(thread: int) -> None:
            nonlocal left
            for batch, sync in work[thread::6]:
                payload = history.begin(batch, sync=sync)
                db.write(batch, sync=sync)
                history.acknowledged.append(payload)
                assert db.get(next(iter(batch.changes))) is not None
            left -= 1
            if not left:
                done.set()

        def watch() -> None:
            while not done.wait(0.0002):  # else it leaves the others no time
                history.see(dict(db.scan()), db._wal.durable_lsn)

        run_threads(watch, *(lambda thread=thread: write(thread) for thread in range(6)))
    history.check(tmp_path, in_order=False)
    assert contents(tmp_path, recovery="strict") == history.last()
