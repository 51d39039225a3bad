"""Parts for the tests of the torture runner, each going wrong in its own way, or not.

What they do depends on a file that the test has written: its path comes in the environment.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

GOAL = {"cuts": 10}
BEHAVIOUR = "KVSTORE_TEST_TORTURE"


def chunk(index: int, directory: Path) -> Counter[str]:
    """As the environment says; by default three cuts."""
    assert not list(directory.iterdir())
    (directory / "file").write_text(str(index))
    print("not a result")
    behaviour = os.environ.get(BEHAVIOUR, "")
    if behaviour and index == 1:
        _go_wrong(behaviour)
    return Counter({"cuts": 0 if behaviour == "idle" else 3})


def _go_wrong(behaviour: str) -> None:
    if behaviour == "raise":
        _lose()
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "hang":
        time.sleep(600)


def _lose() -> NoReturn:
    raise AssertionError("seed 7: a write is gone")
