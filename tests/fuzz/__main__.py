"""Fuzzes one target from its corpus, or runs the files given; c-... are the kernels in C.

Without atheris (``pip install -e '.[fuzz]'``), without clang's libFuzzer, inputs are changed at
random.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

from tests.fuzz.runner import fuzz, replay
from tests.fuzz.targets import NATIVE, TARGETS, corpora

_KEPT_MAX = 30
_KEPT_BYTES_MAX = 1024


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, *NATIVE])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", action="store_true", help="add what reached new code to the corpus: the smallest"
    )
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kvstore-fuzz-") as folder:
        directory = Path(folder)
        if wish.files and wish.target in NATIVE:
            replay(wish.target, [path.resolve() for path in wish.files], directory)
        elif wish.files:
            for path in wish.files:
                TARGETS[wish.target].run(path.read_bytes())
        else:
            print(f"{fuzz(wish.target, wish.runs, wish.seed, directory)} executions, no finding")
            if wish.keep:
                _keep(wish.target, directory / "found")


def _keep(name: str, found: Path) -> None:
    inputs = sorted((path.read_bytes() for path in found.iterdir()), key=len)
    for data in inputs[:_KEPT_MAX]:
        if len(data) <= _KEPT_BYTES_MAX:
            (corpora(name)[0] / hashlib.sha1(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    main()
