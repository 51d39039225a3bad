"""Completions in any order: writes are acknowledged in the order of the log, visible only when
durable, and what is visible is always a prefix of the log."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore import AsyncKVStore, Options
from tests.support.loops import run, ticks
from tests.support.shuffle import History, batches, shuffled
from tests.support.stores import NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), in_flight=st.sampled_from([1, 2, 4]), alike=st.booleans())
def test_tasks_see_a_prefix_of_the_log_and_hear_in_its_order(
    seed: int, in_flight: int, *, alike: bool
) -> None:
    history = History()
    writers = 40 if alike else 8
    work = batches(seed, writers, 4, alike=alike)
    done = False

    async def write(db: AsyncKVStore, chance: random.Random) -> None:
        for batch, sync in work:
            payload = history.begin(batch, sync=sync)
            changes = batch.changes
            if len(changes) == 1:
                await db.put(*changes.popitem(), sync=sync)  # type: ignore[arg-type]
            else:
                await db.write(batch, sync=sync)
            history.acknowledged.append(payload)
            await ticks(chance.randrange(3))

    async def watch(db: AsyncKVStore) -> None:
        while not done:
            history.see(dict(db._store.scan()), db._store._wal.durable_lsn)  # type: ignore[union-attr]
            await asyncio.sleep(0)

    async def main(path: Path) -> int:
        nonlocal done
        options = Options(
            wal_batches_in_flight=in_flight,
            wal_segment_bytes=SMALLEST_SEGMENT,
            wal_buffer_bytes=SMALLEST_BUFFER,
            flush_interval_ms=NEVER,
        )
        with shuffled(seed) as (engine, fs):
            async with AsyncKVStore(path, options, fs=fs) as db:
                watching = asyncio.ensure_future(watch(db))
                chance = random.Random(seed)
                await asyncio.gather(*(write(db, chance) for _ in range(writers)))
                done = True
                await watching
        return engine.in_flight_max

    with tempfile.TemporaryDirectory() as directory:
        run(main(Path(directory)))
        history.check(Path(directory), in_order=True)
        assert contents(directory, recovery="strict") == history.last()


def test_several_batches_are_really_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        with shuffled(1) as (engine, fs):
            options = Options(wal_batches_in_flight=4, flush_interval_ms=NEVER)
            async with AsyncKVStore(tmp_path / "db", options, fs=fs) as db:
                await db.put(b"first", b"")
                engine.hold()
                puts = []
                for i in range(6):
                    puts.append(asyncio.ensure_future(db.put(b"%d" % i, b"")))
                    await ticks(3)
                assert len(engine.waiting) == 4
                assert await db.count() == 1
                engine.free.set()
                await asyncio.gather(*puts)

    run(main())
