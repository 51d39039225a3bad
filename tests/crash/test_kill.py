"""kill -9 at random moments: what was acknowledged is there, batches are whole, order is kept.

KVSTORE_KILL_ROUNDS sets how many rounds (for each backend), KVSTORE_KILL_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kvstore
from kvstore import paths
from kvstore.fs import PosixFileSystem
from kvstore.manifest import ManifestLog
from tests.support.kill import THREADS, Killer, Round, states
from tests.support.stores import NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents, each_backend

ROUNDS = int(os.environ.get("KVSTORE_KILL_ROUNDS", "50"))
SEED = int(os.environ.get("KVSTORE_KILL_SEED", str(random.randrange(1 << 32))))
ROUNDS_PER_STORE = 5
# Beyond what it acknowledged a thread can have written a run of relaxed operations, and one more.
AHEAD_MAX = 200

OPTIONS: list[dict[str, object]] = [
    {"wal_segment_bytes": SMALLEST_SEGMENT},
    {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER},
    {"wal_segment_bytes": 256 << 10, "flush_interval_ms": 1},
    {"wal_segment_bytes": 256 << 10, "wal_direct_io": True},
]
SMALL_TABLES: dict[str, object] = {
    "wal_segment_bytes": SMALLEST_SEGMENT,
    "memtable_bytes_max": 64 << 10,
    "table_bytes_max": 64 << 10,
    "level_bytes_base": 64 << 10,
    "block_bytes": 256,
}
TABLE_OPTIONS: list[dict[str, object]] = [
    {},
    {"compression": "zstd"},
    {"wal_segment_bytes": 1 << 20},
]


@pytest.fixture
def killer() -> Iterator[Killer]:
    killer = Killer()
    try:
        yield killer
    finally:
        complaints = killer.close()
    assert complaints == ""


def kept_operations(work: Round, thread: int, acknowledged: int, found: dict[bytes, bytes]) -> int:
    """How many of a thread's operations the store holds; fails when it is no prefix of them, or
    shorter than what was acknowledged."""
    prefix = f"{work.name}/{thread}/".encode()
    mine = {key: value for key, value in found.items() if key.startswith(prefix)}
    matches = [
        count
        for count, state in enumerate(states(work, thread, acknowledged + AHEAD_MAX))
        if state == mine
    ]
    assert matches, (
        f"thread {thread} acknowledged {acknowledged} operations and kept {len(mine)} keys, "
        f"which no prefix of its operations leaves: {sorted(mine)[-5:]}"
    )
    assert matches[0] >= acknowledged, (
        f"thread {thread}: {acknowledged} operations acknowledged, {matches[0]} there"
    )
    return matches[0]


def live_and_die(
    tmp_path: Path,
    killer: Killer,
    chance: random.Random,
    *,
    rounds: int,
    seconds_max: float,
    choices: list[dict[str, object]],
    look: Callable[[Path], None],
) -> int:
    """Rounds of writing, being killed and recovering; how many durable operations there were.

    ``look`` is called with the path of each store that was recovered, closed.
    """
    total = 0
    before: dict[bytes, bytes] = {}
    for number in range(rounds):
        store, life = divmod(number, ROUNDS_PER_STORE)
        path = tmp_path / str(store)
        if life == 0:
            before = {}
        options = chance.choice(choices)
        work = Round(str(path), f"round{number}", SEED, options=options)
        acknowledged, killed = killer.run(work, chance.uniform(0, seconds_max))
        assert killed
        if not path.exists():
            continue  # killed before it made anything
        found = contents(path, **options)
        for thread in range(THREADS):
            kept_operations(work, thread, acknowledged[thread], found)
        mine = f"round{number}/".encode()
        assert {k: v for k, v in found.items() if not k.startswith(mine)} == before
        before = found
        total += sum(acknowledged)
        look(path)
    print(f"{total} durable operations acknowledged in {rounds} rounds")
    assert total or rounds < 5
    return total


@pytest.mark.slow
@each_backend
def test_what_was_acknowledged_before_a_kill_is_there(
    tmp_path: Path, backend: str, killer: Killer
) -> None:
    print(f"KVSTORE_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend}")
    choices = [{**options, "wal_backend": backend} for options in OPTIONS]
    live_and_die(
        tmp_path,
        killer,
        chance,
        rounds=ROUNDS,
        seconds_max=0.12,
        choices=choices,
        look=lambda path: None,
    )


@pytest.mark.slow
@each_backend
def test_a_kill_in_flush_and_compaction_loses_nothing_and_leaves_nothing(
    tmp_path: Path, backend: str, killer: Killer
) -> None:
    print(f"KVSTORE_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} tables")
    choices = [{**SMALL_TABLES, **options, "wal_backend": backend} for options in TABLE_OPTIONS]
    levels: Counter[int] = Counter()

    def look(path: Path) -> None:
        with kvstore.open(path, **SMALL_TABLES) as db:
            report = db.verify()
            assert report.ok, report
        found = ManifestLog.read(PosixFileSystem(), str(path))
        wanted = {paths.LOCK}
        if found is not None:
            version, manifest = found
            wanted |= {paths.CURRENT, manifest}
            wanted |= {paths.format_table(table.number) for table in version.tables()}
            levels.update(level for level, tables in enumerate(version.levels) if tables)
        names = {one.name for one in path.iterdir() if one.suffix not in (".wal", ".torn")}
        assert names <= wanted

    live_and_die(
        tmp_path,
        killer,
        chance,
        rounds=max(5, ROUNDS // 3),
        seconds_max=0.3,
        choices=choices,
        look=look,
    )
    print(f"tables in levels: {dict(levels)}")
    assert levels[0] or levels[1]


@pytest.mark.slow
@each_backend
def test_a_kill_during_recovery_changes_nothing(
    tmp_path: Path, backend: str, killer: Killer
) -> None:
    print(f"KVSTORE_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} recovery")
    image = tmp_path / "image"
    with kvstore.open(tmp_path / "db", sync=False, flush_interval_ms=NEVER) as db:
        for number in range(400):
            with db.batch(sync=number % 40 == 0) as batch:
                for i in range(50):
                    batch.put(b"%d %d" % (number, i), bytes(20))
        db.sync()
        shutil.copytree(tmp_path / "db", image)  # never closed: no SEAL, zeros behind the end
    last = sorted(image.glob("*.wal"))[-1]
    data = last.read_bytes()
    used = len(data.rstrip(b"\0"))
    last.write_bytes(data[: used - 30] + b"torn" * 20)
    shutil.copytree(image, tmp_path / "smooth")
    want = contents(tmp_path / "smooth")
    assert len(want) >= 399 * 50
    interrupted = 0
    rounds = max(5, ROUNDS // 3)
    for number in range(rounds):
        path = tmp_path / str(number)
        shutil.copytree(image, path)
        work = Round(str(path), "", SEED, write=False, options={"wal_backend": backend})
        _, killed = killer.run(work, chance.uniform(0, 0.05))
        interrupted += killed
        assert contents(path, wal_backend=backend) == want
        assert contents(path, recovery="strict") == want
        shutil.rmtree(path)
    print(f"{interrupted} of {rounds} recoveries interrupted")
    assert interrupted
