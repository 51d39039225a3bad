"""The doctor: what it finds here, and what it says about worse places."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from kvstore.cli import doctor as doctor_module
from kvstore.cli import latency, main
from kvstore.cli.doctor import Diagnosis, diagnose, find_warnings, render
from kvstore.cli.latency import possible_strategies
from kvstore.cli.machine import parse_mount


def run_doctor(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["kvstore", "doctor", *arguments])
    try:
        return main()
    except SystemExit as end:
        return end.code


@pytest.fixture(name="diagnosis", scope="module")
def _diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "OPERATIONS", 8)
        return diagnose(str(tmp_path_factory.mktemp("doctor")))


def page(diagnosis: Diagnosis, width: int = 80) -> str:
    output = io.StringIO()
    render(diagnosis, Console(file=output, width=width, highlight=False, markup=False))
    return output.getvalue()


@pytest.mark.slow
def test_it_names_the_backend_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kvstore", "doctor"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "  Backend       " in done.stdout
    assert "kvstore itself: " in done.stdout
    assert not list(tmp_path.iterdir())


def test_json_holds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(latency, "OPERATIONS", 8)
    assert run_doctor(["--json", str(tmp_path)], monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["place"]["directory"] == str(tmp_path.resolve())
    assert found["measurements"]["own"]["backend"] in ("io_uring", "pwrite")
    assert all(row["operations"] == 8 for row in found["measurements"]["strategies"])


def test_every_strategy_works_as_far_as_it_was_said_to(diagnosis: Diagnosis) -> None:
    for strategy, measured in diagnosis.measurements.strategies:
        assert measured.problem is None, strategy
        assert 0 < measured.median_us <= measured.p99_us


def test_a_page_fits_80_columns(diagnosis: Diagnosis) -> None:
    text = page(diagnosis)
    assert text.isascii()
    paths = (diagnosis.place.directory, diagnosis.place.mount_point or "/")
    for line in text.splitlines():
        assert len(line) <= 80 or any(path in line for path in paths)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_directory_that_is_none_fails_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run_doctor([str(tmp_path / name)], monkeypatch) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    reason = {"missing": "there is no such directory", "file": "not a directory"}[name]
    assert captured.err == f"kvstore: {tmp_path / name}: {reason}\n"


def test_a_directory_that_cannot_be_written_to_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    assert run_doctor([str(tmp_path)], monkeypatch) == 1
    assert capsys.readouterr().err == f"kvstore: {tmp_path}: cannot write here: Permission denied\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"file_system": "tmpfs"}, "tmpfs is memory"),
        ({"file_system": "nfs4"}, "nfs4 is a network file system"),
        ({"file_system": "fuse.sshfs"}, "network file system"),
        ({"mount_options": ("rw", "nobarrier")}, "barriers are switched off"),
        ({"mount_options": ("rw", "volatile")}, "mounted 'volatile'"),
        ({"free_bytes": 100 << 20, "total_bytes": 1 << 40}, "nearly full: 100 MiB free"),
    ],
)
def test_a_bad_place_gets_a_warning(changes: dict, words: str, diagnosis: Diagnosis) -> None:
    good = dataclasses.replace(
        diagnosis.place,
        file_system="ext4",
        mount_options=("rw",),
        free_bytes=1 << 40,
        total_bytes=1 << 41,
    )
    ring = dataclasses.replace(diagnosis.machine.io_uring, available=True, registered_buffers=True)
    assert find_warnings(ring, good) == []
    (warning,) = find_warnings(ring, dataclasses.replace(good, **changes))
    assert words in warning


def test_without_io_uring_it_says_why(diagnosis: Diagnosis) -> None:
    ring = dataclasses.replace(
        diagnosis.machine.io_uring, available=False, why_not="the kernel refuses a ring"
    )
    warnings = tuple(find_warnings(ring, diagnosis.place))
    machine = dataclasses.replace(diagnosis.machine, io_uring=ring)
    text = page(dataclasses.replace(diagnosis, machine=machine, warnings=warnings), width=120)
    assert "io_uring      no: the kernel refuses a ring\n" in text
    assert "! No io_uring: the kernel refuses a ring." in text


def test_a_strategy_that_fails_is_shown_with_its_reason(diagnosis: Diagnosis) -> None:
    (strategy, measured), *rest = diagnosis.measurements.strategies
    failed = dataclasses.replace(measured, problem="sync failed: Input/output error")
    measurements = dataclasses.replace(
        diagnosis.measurements, strategies=((strategy, failed), *rest)
    )
    text = page(dataclasses.replace(diagnosis, measurements=measurements))
    assert f"{strategy!s:42}  sync failed: Input/output error" in text


def test_where_its_own_append_fails_so_does_the_command(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = diagnosis.measurements.own
    failed = dataclasses.replace(own.latency, problem="sync failed: Input/output error")
    measurements = dataclasses.replace(
        diagnosis.measurements, own=dataclasses.replace(own, latency=failed)
    )
    broken = dataclasses.replace(diagnosis, measurements=measurements)
    monkeypatch.setattr(doctor_module, "diagnose", lambda _: broken)
    assert run_doctor(["here"], monkeypatch) == 1
    assert capsys.readouterr().err == (
        "kvstore: here: a store would not work here: sync failed: Input/output error\n"
    )


def test_only_what_is_possible_is_compared() -> None:
    names = [str(row) for row in possible_strategies(io_uring=False, rwf_dsync=False, direct=False)]
    assert names == ["pwrite: write, fdatasync, growing", "pwrite: write, fdatasync"]
    assert len(possible_strategies(io_uring=True, rwf_dsync=True, direct=True)) == 9


def test_a_mount_with_odd_names_is_read() -> None:
    line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
    options = ("rw", "noatime", "errors=continue")
    assert parse_mount(line + "\n") == ("98:0", "/mnt 2", "ext3", "/dev/root", options)


def test_it_warns_of_memory_where_there_is_some(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/shm").is_dir():
        pytest.skip("no /dev/shm here")
    monkeypatch.setattr(latency, "OPERATIONS", 8)
    if run_doctor(["/dev/shm"], monkeypatch) != 0:
        pytest.skip("no room in /dev/shm")
    assert "tmpfs is memory" in capsys.readouterr().out


@pytest.mark.slow
def test_a_name_beyond_the_terminals_encoding_is_escaped(tmp_path: Path) -> None:
    place = tmp_path / "m\u00fcll"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "kvstore", "doctor", str(place)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"m\\xfcll" in done.stdout


def test_the_page_is_what_the_command_prints(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_module, "diagnose", lambda _: diagnosis)
    monkeypatch.setenv("COLUMNS", "80")
    assert run_doctor(["anywhere"], monkeypatch) == 0
    assert capsys.readouterr().out == page(diagnosis)
