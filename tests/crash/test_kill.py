"""kill -9 at random moments: a share of what kills.py does in `make torture`."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import kills
from tests.support.kill import THREADS, Round, check_kept, state_after
from tests.support.phases import PHASES
from tests.support.stores import each_backend

SEED = random.randrange(1 << 32)
ROUNDS = 6
ROUNDS_MAX = 200


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize("scene", kills.SCENES)
def test_a_kill_loses_nothing_acknowledged_and_leaves_nothing_half_done(
    tmp_path: Path, scene: str, backend: str
) -> None:
    done = kills.run(scene, backend, SEED, tmp_path, rounds=ROUNDS)
    print(dict(done))
    assert done["kills"]


@pytest.mark.slow
def test_kills_meet_every_phase_of_a_store(tmp_path: Path) -> None:
    done: Counter[str] = Counter()
    for number in range(ROUNDS_MAX // len(kills.SCENES)):
        for scene in ("log", "tables", "recovery"):
            path = tmp_path / f"{scene} {number}"
            path.mkdir()
            done += kills.run(scene, "pwrite", SEED + number, path, rounds=4)
            if all(done[f"kills in {phase}"] for phase in PHASES):
                return
    pytest.fail(f"kills met only these: {dict(done)}")


def test_the_check_of_what_is_left_finds_what_it_is_for() -> None:
    work = Round("", "r", seed=1)
    fine = {key: value for t in range(THREADS) for key, value in state_after(work, t, 9).items()}
    check_kept(work, [9] * THREADS, fine)
    check_kept(work, [3] * THREADS, fine)
    with pytest.raises(AssertionError, match="writer 0: 10 operations acknowledged, 9 there"):
        check_kept(work, [10] * THREADS, fine)
    with pytest.raises(AssertionError, match="writer 2: 1 operations acknowledged, 0 there"):
        check_kept(work, [1] * THREADS, {k: v for k, v in fine.items() if k[:4] != b"r/2/"})
    for key in fine:
        if key != b"r/1/000008" and key.startswith(b"r/1/"):
            with pytest.raises(AssertionError, match=r"writer 1: 5 .* 1 keys are not as the first"):
                check_kept(work, [5] * THREADS, {k: v for k, v in fine.items() if k != key})
    with pytest.raises(AssertionError, match="keys of nobody"):
        check_kept(work, [9] * THREADS, {**fine, b"r/9/000000": b""})
