"""``python -m tests.torture``: everything that is tried to make the store lose data, about an hour.

Interrupted, it goes on where it was when called again, as long as the commit is the same. Exit
status 1: something was lost, or a part could not be run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.termination import terminated_in_order
from tests.torture import parts, state, summary
from tests.torture.progress import display
from tests.torture.runner import Runner
from tests.torture.state import ROOT, State

FOLDER = ROOT / ".torture"


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    add = parser.add_argument
    names = ", ".join(parts.MODULES)
    add("--only", metavar="PARTS", help=f"some parts, with commas between: {names}")
    add("--chunk", type=int, metavar="N", help="only chunk N of the one part; counts for nothing")
    add("--scale", type=float, default=1.0, metavar="S", help="share of the goals (1.0)")
    add("--output", type=Path, default=FOLDER / "summary.json", help="where the JSON summary goes")
    add("--state", type=Path, default=FOLDER / "state.json", help="where it notes how far it is")
    add("--fresh", action="store_true", help="begin anew")
    add("--any-commit", action="store_true", help="go on with what another commit began")
    parsed = parser.parse_args(arguments)
    parsed.names = parsed.only.split(",") if parsed.only else list(parts.MODULES)
    if unknown := set(parsed.names) - parts.MODULES.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {names}")
    if parsed.chunk is not None and len(parsed.names) != 1:
        parser.error("--chunk needs --only with one part")
    if parsed.scale <= 0:
        parser.error("--scale must be more than 0")
    return parsed


def _state(parsed: argparse.Namespace) -> State:
    """How far it was, or a new beginning; with a directory to work in."""
    revision = state.revision()
    found = None if parsed.fresh or parsed.chunk is not None else state.load(parsed.state)
    if found and found.revisions[-1] != revision:
        if parsed.any_commit:
            found.revisions.append(revision)
        else:
            print(f"beginning anew: the state is of {found.revisions[-1]}, this is {revision}")
            found = None
    found = found or State([revision])
    if not Path(found.scratch or "/nowhere").is_dir():
        found.scratch = tempfile.mkdtemp(prefix="kvstore-torture-")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what ``arguments`` (sys.argv by default) say; the exit status."""
    parsed = _arguments(arguments)
    chosen = [parts.load(name, parts.MODULES[name], parsed.scale) for name in parsed.names]
    now = _state(parsed)
    # A chunk that is repeated is not to cost what a whole run has noted.
    path = parsed.state if parsed.chunk is None else None
    runner = Runner(chosen, now, path, display(sys.stdout.isatty()))
    try:
        with terminated_in_order():
            if parsed.chunk is not None:
                return _one(runner, chosen[0], parsed.chunk, now)
            if not runner.run():
                print("nothing was left to do: these are results of before; --fresh begins anew")
    except KeyboardInterrupt:
        print(f"interrupted; called again it goes on from {path}" if path else "interrupted")
        return 130
    result = summary.summarize(chosen, now, now.scratch, parsed.scale)
    if (revision := state.revision()) != now.revisions[-1]:
        # Each chunk ran what stood in the checkout then. Not noted in the state: that is over.
        result["revisions"] = [*now.revisions, f"{revision} (it changed during the run)"]
    parsed.output.parent.mkdir(parents=True, exist_ok=True)
    parsed.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if not any(progress.losses for progress in now.parts.values()):  # of parts not chosen, too
        shutil.rmtree(now.scratch, ignore_errors=True)
    print(f"{summary.table(result)}\n\nwritten to {parsed.output}")
    return int(summary.failed(result))


def _one(runner: Runner, part: parts.Part, index: int, now: State) -> int:
    if reason := part.missing or part.skipped:
        print(f"{part.name} cannot be run here: {reason}")
        return 1
    runner.run_one(part, index)
    progress = now.parts[part.name]
    if progress.losses:
        return 1
    shutil.rmtree(now.scratch, ignore_errors=True)
    print(f"{part.name}, chunk {index}: {dict(progress.done)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
