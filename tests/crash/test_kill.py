"""kill -9 at random moments: what was acknowledged is there, batches are whole, order is kept.

KVSTORE_KILL_ROUNDS sets how many rounds (for each backend), KVSTORE_KILL_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import kvstore
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


@pytest.mark.slow
@each_backend
def test_what_was_acknowledged_before_a_kill_is_there(
    tmp_path: Path, backend: str, killer: Killer
) -> None:
    print(f"KVSTORE_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend}")
    total = 0
    before: dict[bytes, bytes] = {}
    for number in range(ROUNDS):
        store, life = divmod(number, ROUNDS_PER_STORE)
        path = tmp_path / str(store)
        if life == 0:
            before = {}
        options = {**chance.choice(OPTIONS), "wal_backend": backend}
        work = Round(str(path), f"round{number}", SEED, options=options)
        acknowledged, killed = killer.run(work, chance.uniform(0, 0.12))
        assert killed
        if not path.exists():
            continue  # killed before it made anything
        found = contents(path, wal_backend=backend)
        for thread in range(THREADS):
            kept_operations(work, thread, acknowledged[thread], found)
        mine = f"round{number}/".encode()
        assert {k: v for k, v in found.items() if not k.startswith(mine)} == before
        before = found
        total += sum(acknowledged)
    print(f"{total} durable operations acknowledged in {ROUNDS} rounds")
    assert total or ROUNDS < 5


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
