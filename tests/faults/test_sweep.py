"""A share of the fault sweeps of ``make torture``: sweep.py."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench.sync_counter import preloading
from tests.faults.sweep import CHECKOUT, KINDS, SCRIPTS, SETTINGS, sweep
from tests.support.spoiler import build_spoiler
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


def test_an_fdatasync_of_the_log_that_fails_is_told(tmp_path: Path) -> None:
    # A script cannot know: nothing that was written is gone, and a store seldom needs this call.
    script = (
        "import errno, sys\n"
        "from pathlib import Path\n"
        "from kvstore import StorageIOError\n"
        "from kvstore.wal import PortableWalWriter\n"
        "from tests.support.faultfs import Fault\n"
        "from tests.support.spoiler import Preloaded\n"
        "spoiler, directory = Preloaded(), Path(sys.argv[1])\n"
        "log = PortableWalWriter(directory / 'log', backend='pwrite')\n"
        "log.append(b'not synced')\n"
        "spoiler.arm(directory, Fault(errno.EIO, frozenset({'sync'})), 0)\n"
        "try:\n"
        "    log.sync()\n"
        "except StorageIOError as error:\n"
        "    print(error.errno == errno.EIO, spoiler.failures())\n"
        "spoiler.heal()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **preloading(build_spoiler(str(tmp_path)))},
        cwd=CHECKOUT,
        timeout=60,
    )
    assert done.stdout == "True 1\n", done.stderr
