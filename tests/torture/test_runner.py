"""The torture runner: goals, losses of each kind, interruption, what it prints and writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.torture_parts import BEHAVIOUR
from tests.torture import __main__ as command
from tests.torture import parts, runner, state, summary
from tests.torture.parts import Part
from tests.torture.progress import Lines
from tests.torture.runner import Runner
from tests.torture.state import ROOT, Progress, State

MODULE = "tests.support.torture_parts"

pytestmark = pytest.mark.slow


def run(path: Path, goal: int = 10, **options: Any) -> State:
    """What a run of one part leaves; it goes on with what is in ``path``."""
    file = path / "state.json"
    found = state.load(file) or State(["1"], scratch=str(path / "scratch"))
    part = Part("fake", MODULE, {"cuts": goal})
    Runner([part], found, file, Lines(), **options).run()
    saved = state.load(file)
    assert saved == found
    return found


def test_chunks_are_run_until_the_goal_is_reached(tmp_path: Path) -> None:
    done = run(tmp_path).parts["fake"]
    assert done.done == Counter({"cuts": 12})
    assert (done.chunks, done.next_index, done.begun, done.losses) == (4, 4, [], [])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_run_goes_on_where_the_one_before_was_and_repeats_what_was_cut_short(
    tmp_path: Path,
) -> None:
    run(tmp_path)
    found = state.load(tmp_path / "state.json")
    assert found is not None
    found.parts["fake"].begun = [2]  # as if it had been under way
    found.save(tmp_path / "state.json")
    done = run(tmp_path, goal=15).parts["fake"]
    assert (done.chunks, done.next_index, done.begun) == (5, 4, [])
    assert done.done["cuts"] == 15


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("raise", "seed 7: a write is gone"),
        ("die", "killed by SIGKILL"),
        ("hang", "not done after 3 seconds"),
    ],
)
def test_a_chunk_that_goes_wrong_is_a_loss_with_its_message_and_files_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    behaviour: str,
    message: str,
) -> None:
    monkeypatch.setenv(BEHAVIOUR, behaviour)
    done = run(tmp_path, chunk_seconds_max=3).parts["fake"]
    (loss,) = done.losses
    assert message in loss["message"]
    assert loss["repeat"] == "python -m tests.torture --only fake --chunk 1"
    assert os.listdir(loss["directory"]) == ["file"]
    assert done.done["cuts"] == 12  # the others went on
    printed = capsys.readouterr().out
    assert message in printed
    assert loss["repeat"] in printed


def test_a_part_that_comes_no_nearer_to_its_goal_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BEHAVIOUR, "idle")
    monkeypatch.setattr(runner, "IDLE_CHUNKS_MAX", 1)
    monkeypatch.setattr(runner, "LOSSES_MAX", 1)
    (loss, *_) = run(tmp_path).parts["fake"].losses
    assert "came no nearer" in loss["message"]


def test_parts_progress_together(tmp_path: Path) -> None:
    few, many = Part("few", MODULE, {"cuts": 6}), Part("many", MODULE, {"cuts": 18})
    found = State(["1"], scratch=str(tmp_path))
    found.parts = {"few": Progress(Counter(cuts=3), 1), "many": Progress(Counter(cuts=6), 2)}
    one = Runner([few, many], found, tmp_path / "state.json", Lines())
    assert one._next_part() is many
    found.parts["many"].done["cuts"] = 12
    assert one._next_part() is few
    found.parts["few"].done["cuts"] = 6
    found.parts["many"].done["cuts"] = 18
    assert one._next_part() is None


def test_a_part_that_is_missing_fails_the_run_and_one_that_cannot_be_done_here_does_not() -> None:
    missing = parts.load("gone", "tests.gone", 1.0)
    assert "No module named" in missing.missing
    skipped = Part("cuts", MODULE, {"cuts": 10}, skipped="only root can mount")
    fine = Part("fake", MODULE, {"cuts": 10})
    found = State(["1"], {"fake": Progress(Counter(cuts=12), 4)}, seconds=61.4)
    said = summary.summarize([fine, skipped], found, ".", 1.0)
    assert not summary.failed(said)
    assert (said["cuts"], said["losses"], said["seconds"]) == (12, 0, 61)
    assert "cuts: skipped, only root can mount" in summary.table(said)
    said = summary.summarize([fine, missing], found, ".", 1.0)
    assert summary.failed(said)
    assert "gone: MISSING, ModuleNotFoundError" in summary.table(said)


def test_goals_are_scaled_and_never_nothing() -> None:
    assert parts.load("fake", MODULE, 0.5).goal == {"cuts": 5}
    assert parts.load("fake", MODULE, 0.001).goal == {"cuts": 1}


def test_another_commit_begins_anew_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MODULES", {"fake": MODULE})
    here = ["--state", str(tmp_path / "state.json"), "--output", str(tmp_path / "out.json")]

    def chunks_and_revisions(*arguments: str) -> tuple[int, list[str]]:
        assert command.main([*here, *arguments]) == 0
        written = json.loads((tmp_path / "out.json").read_text())
        return written["parts"]["fake"]["chunks"], written["revisions"]

    monkeypatch.setattr(state, "revision", lambda: "a")
    assert chunks_and_revisions() == (4, ["a"])
    assert chunks_and_revisions("--scale", "1.5") == (5, ["a"])
    monkeypatch.setattr(state, "revision", lambda: "b")
    assert chunks_and_revisions("--any-commit", "--scale", "1.8") == (6, ["a", "b"])
    monkeypatch.setattr(state, "revision", lambda: "c")
    assert chunks_and_revisions("--scale", "0.6") == (2, ["c"])
    assert chunks_and_revisions("--fresh", "--scale", "0.6") == (2, ["c"])


def test_a_chunk_that_is_repeated_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MODULES", {"fake": MODULE})
    run(tmp_path)
    before = (tmp_path / "state.json").read_text()
    again = ["--state", str(tmp_path / "state.json"), "--only", "fake", "--chunk", "1"]
    assert command.main(again) == 0
    assert (tmp_path / "state.json").read_text() == before


def test_the_files_of_a_loss_stay_when_other_parts_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "MODULES", {"fake": MODULE})
    kept = tmp_path / "scratch" / "other-3"
    kept.mkdir(parents=True)
    lost = Progress(losses=[{"message": "a write is gone", "directory": str(kept)}])
    found = State([state.revision()], {"other": lost}, scratch=str(tmp_path / "scratch"))
    found.save(tmp_path / "state.json")
    here = ["--state", str(tmp_path / "state.json"), "--output", str(tmp_path / "out.json")]
    assert command.main(here) == 0
    assert kept.exists()


def test_a_commit_during_the_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "MODULES", {"fake": MODULE})
    revisions = iter("ab")
    monkeypatch.setattr(state, "revision", lambda: next(revisions))
    here = ["--state", str(tmp_path / "state.json"), "--output", str(tmp_path / "out.json")]
    assert command.main(here) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["revisions"] == ["a", "b (it changed during the run)"]


def test_a_chunk_does_not_outlive_its_runner(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.torture.parts import Part\n"
        "from tests.torture.runner import Chunk\n"
        "part = Part('fake', 'tests.support.torture_parts', {'cuts': 10})\n"
        "print(Chunk.begin(part, 1, Path(sys.argv[1])).process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, BEHAVIOUR: "hang"},
    )
    assert starter.stdout is not None
    chunk = int(starter.stdout.readline())
    os.kill(chunk, 0)
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    deadline = time.monotonic() + 30
    while _alive(chunk):
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.01)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # In a container the first process may bury nobody: then the dead keep their number.
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # gone just now, or this is no Linux
        return sys.platform != "linux"
