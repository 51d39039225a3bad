"""A share of the fault sweeps of ``make torture``: sweep.py."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.faults.sweep import KINDS, SCRIPTS, SETTINGS, sweep
from tests.support.stores import BACKENDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="counts what a process holds in /proc"),
]

STEP = 67


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("engine", ["simulated", *BACKENDS])
def test_whatever_fails_is_told_and_nothing_acknowledged_is_lost(
    tmp_path: Path, engine: str, script: str
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    sweeps = [
        (setting, rng.randrange(min(STEP, 10)), STEP)
        for setting in SETTINGS
        if (setting.engine, setting.script) == (engine, script)
    ]
    assert len(sweeps) >= len(KINDS) - 7
    assert sweep(sweeps, tmp_path)["faults"] >= len(sweeps)
