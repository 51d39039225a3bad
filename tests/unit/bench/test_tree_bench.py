"""The tree benchmark runs end to end. Nothing here looks at a time, beyond that there is one."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench import tree
from bench.__main__ import main
from bench.bars import Bar
from bench.engines import ENGINES, OURS, PEERS, count_entries, installed
from bench.keys import Values, draw_numbers, draw_zipfian, make_key, random_keys, sorted_keys
from bench.process import Child, ChildFailedError
from bench.rounds import Comparison, compare
from bench.samples import percentile, percentiles_of_counts
from bench.tree_load import Load, judge_loads
from bench.tree_open import Opening, judge_openings
from bench.tree_plan import QUICK, Dataset
from bench.tree_queue import Queue, judge_queue
from bench.tree_readers import check_sample

pytestmark = pytest.mark.slow  # a tool for the main interpreter

TINY = dataclasses.replace(
    QUICK,
    datasets=(Dataset(500, 100),),
    get_repetitions=3,
    lookups=100,
    scan_repetitions=3,
    scans=10,
    full_scan_repetitions=2,
    load_keys=10_000,
    load_memtable_bytes=256 << 10,
    open_bytes=1_000_000,
    open_repetitions=1,
    queue_pairs=4_000,
    queue_memtable_bytes=64 << 10,
    queue_backlog=100,
)


def _run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    report = tmp_path / "report.json"
    wanted = ("--quick", "--directory", str(tmp_path), "--json", str(report))
    assert main(["tree", *arguments, *wanted]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"], "it cleans up"
    loaded: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return loaded


def test_a_tiny_run_reports_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tree, "QUICK", TINY)
    report = _run(tmp_path)
    assert set(report) == {
        "format", "environment", "get", "scan", "load", "open", "queue", "bars",
    }  # fmt: skip
    assert set(PEERS) <= set(report["environment"])
    engines = {OURS, *installed(PEERS)}
    assert len(report["get"]) == 2 * 2
    assert len(report["scan"]) == 2 * 2
    for case in (*report["get"], *report["scan"]):
        assert set(case["elapsed_ns"]) == engines
        assert all(ns > 0 for taken in case["elapsed_ns"].values() for ns in taken)
        for spread in case["microseconds"].values():
            assert 0 < spread["lower_quartile"] <= spread["median"] <= spread["upper_quartile"]

    [loads] = report["load"]
    assert [load["engine"] for load in loads] == [OURS, *installed(["rocksdict"])]
    for load in loads:
        answer = load["answer"]
        put_us = answer["put_us"]
        assert answer["keys"] == 10_000
        assert 0 < put_us["p50"] <= put_us["p99"] <= put_us["p99.9"] <= put_us["max"]
        assert put_us["max"] <= 1e6 * answer["seconds"]
        assert answer["quiet_seconds"] is not None
        assert 0 < answer["table_bytes"] <= answer["disk_bytes"]
        assert answer["write_amplification"] >= 1

    for opening in report["open"]:
        assert opening["replayed_bytes"] == 0, "flushed and closed in order"
        assert opening["tables"] >= 1
        assert opening["table_bytes"] >= 1_000_000 * 0.98
        assert len(opening["seconds"]) == 1

    queue = report["queue"]
    assert queue["pairs"] == 4_000
    assert len(queue["pairs_per_second"]) == len(queue["head_us_by_tenth"]) == 10
    assert queue["disk_bytes_max"] > 0

    printed = capsys.readouterr().out
    for bar in report["bars"]:
        assert bar["met"] in (True, False, None)
        assert bar["met"] is None or bar["value"] > 0
        assert f"bar: {bar['name']}" in printed
    # get; scan against two and reverse against forward; load; open; queue.
    assert len(report["bars"]) == 4 + 2 * 4 + 2 + 2 + len(report["open"]) + 2


def test_only_the_parts_asked_for_run_and_without_peers_nothing_is_held_against_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tree, "QUICK", TINY)
    monkeypatch.setattr(tree, "installed", lambda _names: ())
    report = _run(tmp_path, "get", "load")
    assert set(report) == {"format", "environment", "get", "load", "bars"}
    speeds = [bar for bar in report["bars"] if "memory" not in bar["name"]]
    assert [bar["met"] for bar in speeds] == [None] * 5
    assert "lmdb left out" in capsys.readouterr().out


def test_what_an_error_leaves_behind_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(tree, "QUICK", TINY)
    monkeypatch.setattr(tree, "judge_queue", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        main(["tree", "queue", "--quick", "--directory", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tree", "everything"])
    assert "everything" in capsys.readouterr().err


@pytest.mark.parametrize("name", [OURS, *installed(PEERS)])
def test_an_engine_reads_what_it_loaded(tmp_path: Path, name: str) -> None:
    keys, values = sorted_keys(300), Values(20, seed=1)
    pairs = list(values.pairs(keys))
    engine = ENGINES[name](str(tmp_path / name), 300 * 36)
    try:
        engine.load(pairs)
        absent = make_key(1000)
        before = [pair for pair in pairs if pair[0] < absent]
        assert engine.get(keys[7]) == values.of(keys[7])
        assert engine.get_each([keys[0], absent, keys[-1]]) == 2
        assert engine.scan(None, None, False, list) == pairs
        assert engine.scan(None, None, True, list) == pairs[::-1]
        assert engine.scan(absent, 5, False, list) == pairs[len(before) :][:5]
        assert engine.scan(absent, 5, True, list) == before[::-1][:5]
        # Beyond either end there is nothing, and no wrapping around.
        assert engine.scan(b"\xff" * 17, 5, False, count_entries) == 0
        assert engine.scan(b"\x00", 5, True, count_entries) == 0
    finally:
        engine.close()


def test_keys_differ_and_values_follow_from_them() -> None:
    keys = sorted_keys(5000)
    assert len(set(keys)) == 5000
    assert {len(key) for key in keys} == {16}
    values = Values(10, seed=3)
    assert len(random_keys(70_000, seed=1)) == 70_000 * 16
    with pytest.raises(RuntimeError, match="x has lost or changed"):
        check_sample("x", dict(values.pairs(keys[1:])).get, keys[:2], values)


def test_zipfian_numbers_favour_the_first_ones() -> None:
    numbers = draw_zipfian(10_000, 20_000, random.Random(1))
    counts = Counter(numbers)
    assert 0 <= min(numbers) <= max(numbers) < 10_000
    expected = 20_000 / sum(rank**-0.99 for rank in range(1, 10_001))
    assert counts[0] == pytest.approx(expected, rel=0.1)
    assert counts[1] == pytest.approx(expected / 2**0.99, rel=0.1)
    assert set(draw_numbers("uniform", 3, 100, seed=1)) == {0, 1, 2}


def test_percentiles_of_counts_are_those_of_the_values() -> None:
    values = random.Random(1).choices(range(50), k=1001)
    fractions = [0.0, 0.5, 0.99, 0.999, 1.0]
    expected = [percentile(values, fraction) for fraction in fractions]
    assert percentiles_of_counts(Counter(values), fractions) == expected


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[tuple[str, int]] = []
    sides = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    compared = compare("case", 1, sides, 2)
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert [len(taken) for taken in compared.elapsed_ns.values()] == [2, 2]
    fixed = Comparison("case", 10, {"a": (1000, 3000, 2000), "b": (1000, 1000, 1000)})
    assert fixed.microseconds("a").median == 0.2
    assert fixed.ratio("a", "b").median == 2


def test_verdicts_are_on_the_right_side_of_the_limit() -> None:
    assert Bar("most", 1.0, 1.0, "").met is True
    assert Bar("most", 1.01, 1.0, "").met is False
    assert Bar("least", 1.49, 1.5, "", at_least=True).met is False
    assert Bar("least", 1.5, 1.5, "", at_least=True).met is True
    assert Bar("no peer", None, 1.0, "").met is None

    def load(engine: str, rate: float, peak: int) -> Load:
        return Load(engine, 1 << 20, {"puts_per_second": rate}, peak, peak)

    rounds = [
        [load(OURS, 300, 1 << 20), load("rocksdict", 100, 0)],
        [load(OURS, 100, 500 << 20), load("rocksdict", 100, 0)],
        [load(OURS, 160, 1 << 20), load("rocksdict", 100, 0)],
    ]
    speed, memory = judge_loads(rounds)
    assert (speed.value, speed.met) == (1.6, True)
    assert (memory.value, memory.met) == (500, False), "the worst round counts"
    assert [bar.met for bar in judge_loads([rounds[0][:1]])] == [None, True]

    opening = Opening(True, 10, 1, (0.1, 0.3, 0.15), (0.1, 0.1, 0.1), 5, 0, (1.0, 1.0, 1.0))
    assert [bar.met for bar in judge_openings([opening])] == [True]
    replayed = dataclasses.replace(opening, replayed_bytes=1)
    assert [bar.met for bar in judge_openings([replayed])] == [None]

    queue = Queue(100, 10, 100, 10, (100.0,) * 9 + (69.0,), {"p50": 1.0}, (1.0,) * 10, 301, 0)
    assert [bar.met for bar in judge_queue(queue)] == [False, False]
    flat = dataclasses.replace(queue, pairs_per_second=(100.0,) * 9 + (71.0,), disk_bytes_max=300)
    assert [bar.met for bar in judge_queue(flat)] == [True, True]


def test_a_child_that_fails_is_an_error_not_an_endless_wait() -> None:
    with Child("bench.tree_open_child", {}) as child, pytest.raises(ChildFailedError):
        child.answer()
