"""Growth and recovery run end to end. Nothing here looks at a time, beyond that there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench.__main__ import main
from bench.process import ChildFailedError
from bench.recovery import measure_recovery
from bench.recovery_stores import LOGGED_STORES, keys_of

pytestmark = pytest.mark.slow  # a tool for the main interpreter


def _run(tmp_path: Path, command: str, *arguments: str) -> dict[str, Any]:
    places = ("--directory", str(tmp_path / "work"), "--output", str(tmp_path / "out"))
    assert main([command, "--quick", *arguments, *places]) == 0
    assert list((tmp_path / "work").iterdir()) == [], "it cleans up"
    text = (tmp_path / "out" / f"{command}.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    report: dict[str, Any] = json.loads(text)
    return report


def test_growth_measures_every_operation_at_every_size(tmp_path: Path) -> None:
    arguments = ("--engines", "kvstore", "--records", "3000,1000", "--repetitions", "1")
    report = _run(tmp_path, "growth", *arguments)
    assert [(cell["records"], cell["operation"]) for cell in report["cells"]] == [
        (records, operation) for records in (1000, 3000) for operation in ("get", "scan", "put")
    ]
    assert all(us > 0 for cell in report["cells"] for us in cell["microseconds"])


def test_recovery_replays_a_log_of_about_the_size_asked_for(tmp_path: Path) -> None:
    arguments = ("--engines", "kvstore,sqlite3", "--megabytes", "1", "--repetitions", "1")
    ours, theirs = _run(tmp_path, "recovery", *arguments)["cells"]
    for cell in (ours, theirs):
        assert 1_000_000 < cell["log_bytes"] < 3_000_000
        assert cell["seconds"][0] > 0
    assert ours["data_bytes"] == theirs["data_bytes"]


def test_a_lost_entry_ends_the_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(source: str, copy: str) -> None:
        Path(copy).mkdir()

    monkeypatch.setattr("shutil.copytree", forget)
    with pytest.raises(ChildFailedError):
        measure_recovery(
            str(tmp_path), ["sqlite3"], [1], repetitions=1, seed=1, tell=lambda doing: None
        )


def test_all_engines_are_given_the_same_keys() -> None:
    ours, theirs = keys_of("kvstore", 100, 1), keys_of("sqlite3", 100, 1)
    assert ours != theirs == sorted(ours)
    assert len(set(ours)) == 100
    assert set(LOGGED_STORES) == {"kvstore", "rocksdict", "sqlite3"}
