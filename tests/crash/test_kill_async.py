"""kill -9 while a thousand tasks write: what was acknowledged is there, batches are whole.

KVSTORE_KILL_ROUNDS sets how many rounds (a tenth of them, for each backend), KVSTORE_KILL_SEED
repeats a run.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from tests.crash.test_kill import ROUNDS, SEED, killer
from tests.support.kill import Killer, Round, states
from tests.support.stores import SMALLEST_BUFFER, SMALLEST_SEGMENT, contents, each_backend

__all__ = ["killer"]

TASKS = 1000
# Beyond what it acknowledged a task can have written a run of relaxed operations, and one more.
AHEAD_MAX = 60

OPTIONS: list[dict[str, object]] = [
    {},
    {"wal_batches_in_flight": 4, "wal_segment_bytes": 1 << 20},
    {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER},
    {"write_queue_bytes_max": 64 << 10, "memtable_bytes_max": 256 << 10},
]


def check_tasks(work: Round, acknowledged: list[int], found: dict[bytes, bytes]) -> None:
    """Each task's keys are what some of its operations leave, all that it acknowledged among them,
    none left out."""
    by_task: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
    for key, value in found.items():
        name, number, _ = key.split(b"/")
        if name == work.name.encode():
            by_task[int(number)][key] = value
    for task, count in enumerate(acknowledged):
        left = states(work, task, count + AHEAD_MAX)
        at_least = [next(left) for _ in range(count)]
        assert any(state == by_task[task] for state in left), (
            f"task {task} acknowledged {count} operations and kept {len(by_task[task])} keys"
            + (", those of fewer operations" if by_task[task] in at_least else "")
        )


@pytest.mark.slow
@each_backend
def test_what_a_thousand_tasks_acknowledged_before_a_kill_is_there(
    tmp_path: Path, backend: str, killer: Killer
) -> None:
    print(f"KVSTORE_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED} {backend} tasks")
    total = 0
    before: dict[bytes, bytes] = {}
    for number in range(max(4, ROUNDS // 10)):
        path = tmp_path / str(number // 2)  # two lives each
        options = {**OPTIONS[number % len(OPTIONS)], "wal_backend": backend}
        work = Round(str(path), f"round{number}", SEED, tasks=TASKS, options=options)
        acknowledged, killed = killer.run(work, chance.uniform(0.03, 0.5))
        assert killed
        if path.exists():
            found = contents(path, wal_backend=backend)
            check_tasks(work, acknowledged, found)
            mine = f"{work.name}/".encode()
            assert before == {k: v for k, v in found.items() if not k.startswith(mine)}
            before = found if number % 2 == 0 else {}
        total += sum(acknowledged)
    print(f"{total} durable operations acknowledged")
    assert total
