"""One chunk, in a process of its own: ``python -m tests.torture.worker MODULE INDEX DIRECTORY``.

What the chunk returned goes to its standard output as JSON, behind whatever it prints itself. When
the runner is gone, however it ended, the chunk and all that it started are killed: they share a
process group, and the standard input is a pipe from the runner, which nobody ever writes to.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path


def _die_with_the_runner(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    module, index, directory = sys.argv[1:]
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    threading.Thread(target=_die_with_the_runner, args=(pipe,), daemon=True).start()
    done = importlib.import_module(module).chunk(int(index), Path(directory))
    print("\n" + json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
