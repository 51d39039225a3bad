"""The demo: end to end in processes of its own, and what it does when something is wrong."""

from __future__ import annotations

import dataclasses
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import kvstore
from kvstore.cli import main, rounds
from kvstore.cli.library import Library, find_library
from kvstore.cli.rounds import Load, Plan, Verdict, check_store, run_load, run_round

FILES = 30


@pytest.fixture(name="library")
def _library() -> Library:
    return find_library(FILES)


def run_demo(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, directory: Path | None = None
) -> int | str | None:
    """The exit status of ``kvstore demo`` in this process."""
    if directory is not None:
        monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "argv", ["kvstore", "demo", "--files", str(FILES), *arguments])
    try:
        return main()
    except SystemExit as end:
        return end.code


def test_two_rounds_lose_nothing_and_leave_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvstore", "demo", "--rounds", "2", "--files", str(FILES)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Round 2" in done.stdout
    assert "Lost          0 of" in done.stdout
    assert done.stdout.isascii()
    assert all(line == line.rstrip() and line.isprintable() for line in done.stdout.splitlines())
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_given_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "store"
    assert run_demo(["--rounds", "1", "--seed", "5", "--dir", str(place)], monkeypatch) == 0
    assert "Seed          5" in capsys.readouterr().out
    with kvstore.open(place, create_if_missing=False) as store:
        assert len(store) > 0


def test_a_directory_in_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").touch()
    assert run_demo(["--dir", str(tmp_path)], monkeypatch) == 1
    assert capsys.readouterr().err == (
        f"kvstore: {tmp_path}: not empty; the demo needs a directory of its own\n"
    )


def test_the_kill_meets_the_writer_in_the_middle(tmp_path: Path, library: Library) -> None:
    plan = Plan(str(tmp_path), library, 2, random.Random(1))
    result = run_round(plan, 1, lambda _: None)
    assert 0 < len(result.load.acknowledged) <= FILES
    assert result.verdict.intact == len(result.load.acknowledged)
    assert result.verdict.good
    assert not result.recovery.sealed
    again = run_round(plan, 2, lambda _: None)
    assert again.verdict.intact == len(plan.promised[1]) + len(again.load.acknowledged)


def test_a_writer_that_fails_by_itself_is_an_error(tmp_path: Path, library: Library) -> None:
    store = tmp_path / "store"
    store.touch()
    with pytest.raises(kvstore.KVStoreError, match="ended by itself"):
        run_load(Plan(str(store), library, 2, random.Random(1)), 1, lambda _: None)


class TestCheck:
    """The judge itself: it must see whatever is wrong."""

    promised = {1: {0, 1}, 2: {0}}  # noqa: RUF012

    @pytest.fixture
    def store(self, library: Library) -> dict[bytes, bytes]:
        keys = [(1, 0), (1, 1), (2, 0)]
        return {library.key(number, index): library.read(index) for number, index in keys}

    def test_nothing_wrong(self, library: Library, store: dict[bytes, bytes]) -> None:
        assert check_store(store, library, self.promised) == Verdict(intact=3)

    def test_unacknowledged_but_whole(self, library: Library, store: dict[bytes, bytes]) -> None:
        store[library.key(2, 7)] = library.read(7)
        verdict = check_store(store, library, self.promised)
        assert verdict == Verdict(intact=3, survivors={7})
        assert verdict.good

    def test_a_missing_file_is_lost(self, library: Library, store: dict[bytes, bytes]) -> None:
        key = library.key(1, 1)
        del store[key]
        verdict = check_store(store, library, self.promised)
        assert verdict == Verdict(intact=2, lost=[key])
        assert not verdict.good

    @pytest.mark.parametrize("number", [1, 2])
    def test_a_wrong_value_is_damage_acknowledged_or_not(
        self, library: Library, store: dict[bytes, bytes], number: int
    ) -> None:
        key = library.key(2, number)
        store[key] = library.read(number) + b"x"
        assert check_store(store, library, self.promised).damaged == [key]

    def test_a_file_back_from_the_dead(self, library: Library, store: dict[bytes, bytes]) -> None:
        key = library.key(1, 9)
        store[key] = library.read(9)
        assert check_store(store, library, self.promised).unknown == [key]

    def test_a_key_that_nobody_wrote(self, library: Library, store: dict[bytes, bytes]) -> None:
        store[b"who?"] = b""
        assert check_store(store, library, self.promised).unknown == [b"who?"]


def test_a_wrong_value_is_named_and_the_store_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(store: Mapping[bytes, bytes], library: Library, promised: dict) -> Verdict:
        index = min(promised[1])
        return check_store({**store, library.key(1, index): b"wrong"}, library, promised)

    monkeypatch.setattr(rounds, "check_store", check)
    assert run_demo(["--rounds", "3"], monkeypatch, tmp_path) == 1
    output = capsys.readouterr().out
    assert "DAMAGED  1/" in output
    assert "1 lost" in output
    assert "Round 2" not in output
    (kept,) = tmp_path.iterdir()
    assert f"kept for inspection: {kept}" in output


def test_a_damaged_log_is_reported_and_the_store_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_and_damage(plan: Plan, *rest: object) -> Load:
        load = run_load(plan, *rest)  # type: ignore[arg-type]
        path = os.path.join(plan.directory, "000001.wal")
        with open(path, "r+b") as log:
            log.seek(4096 + 100)
            log.write(b"\xff\x00" * 8)
        return load

    monkeypatch.setattr(rounds, "run_load", load_and_damage)
    assert run_demo(["--rounds", "1", "--seed", "2"], monkeypatch, tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("kvstore: ")
    assert captured.err.count("\n") == 1
    assert "000001.wal: offset 4096" in captured.err
    assert "kept for inspection" in captured.out


def test_many_losses_are_named_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_all(plan: Plan, number: int, progress: object) -> rounds.RoundResult:
        result = run_round(plan, number, lambda _: None)
        lost = [plan.library.key(number, index) for index in range(FILES)]
        return dataclasses.replace(result, verdict=Verdict(lost=lost))

    monkeypatch.setattr("kvstore.cli.demo.run_round", lose_all)
    assert run_demo(["--rounds", "1"], monkeypatch, tmp_path) == 1
    output = capsys.readouterr().out
    assert output.count("LOST     1/") == 10
    assert f"LOST     and {FILES - 10} more" in output


def test_the_writer_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kvstore.cli.writer", str(tmp_path), "1", "2", str(FILES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.read(16)
        writer.stdout.close()
        assert writer.wait(30) == 1
