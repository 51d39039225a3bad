"""The benchmark of stalls, over little data, and what is taken off for a machine standing still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.process import Child
from bench.standstill import overlap, union


def test_what_any_slept_too_long() -> None:
    left = [(0.0, 1.0), (2.0, 5.0), (8.0, 9.0)]
    right = [(0.5, 1.5), (3.0, 4.0), (4.5, 6.0)]
    both = [(0.0, 1.5), (2.0, 6.0), (8.0, 9.0)]
    assert union([*right, *left]) == both
    assert union([]) == []
    assert overlap((1.0, 3.0), both) == pytest.approx(0.5 + 1.0)
    assert overlap((6.5, 8.0), both) == 0


def test_the_watcher_answers() -> None:
    with Child("bench.standstill", {"seconds": 0.1}) as child:
        stood_still = child.answer()["stood_still"]
        child.wait()
    assert stood_still is None or all(began < ended for began, ended in stood_still)


@pytest.mark.slow
def test_the_benchmark_over_little_data(tmp_path: Path) -> None:
    result = tmp_path / "stall.json"
    arguments = ["--megabytes", "4", "--seconds", "1", "--directory", str(tmp_path)]
    assert main(["stall", *arguments, "--json", str(result)]) == 0
    report = json.loads(result.read_text())
    assert [stalls["side"] for stalls in report["stalls"]] == [
        *("asyncio", "synchronous calls in the loop")
    ]
    for stalls in report["stalls"]:
        assert stalls["reads"] > 0
        assert 0 <= stalls["p50_ms"] <= stalls["p99_ms"] <= stalls["p999_ms"] <= stalls["max_ms"]
        assert stalls["p999_ms"] <= stalls["p999_whole_ms"]
