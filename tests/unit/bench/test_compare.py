"""``bench compare``: a verdict only where the repetitions leave no doubt. And the ratios."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench.__main__ import main
from bench.compare import Change, compare
from bench.outcomes import ResultError, read_outcomes, read_report
from bench.ratios import markdown_tables, ratios_to_best_peer
from tests.support.bench_results import make_cell, make_report


def _report(cells: Sequence[dict[str, Any]], benchmark: str = "ycsb") -> dict[str, Any]:
    return {**make_report(benchmark, repetitions=1), "cells": list(cells)}


def _cells(rates: Sequence[float], engine: str = "kvstore", **options: Any) -> list[dict[str, Any]]:
    return [
        make_cell("A", engine, rate, repetition=number, **options)
        for number, rate in enumerate(rates, 1)
    ]


def _change(old: Sequence[float], new: Sequence[float]) -> Change:
    (change,) = compare(read_outcomes(_report(_cells(old))), read_outcomes(_report(_cells(new))))
    return change


def _write(path: Path, report: object) -> str:
    path.write_text(json.dumps(report), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1000, 1010, 990), (2000, 2020, 1980), "faster"),
        ((1000, 1010, 990), (500, 505, 495), "slower"),
        ((1000, 1200, 900), (1100, 1300, 1000), "no verdict"),  # they overlap
        ((1000, 1001, 999), (1010, 1011, 1009), "no verdict"),  # apart, by less than drift
        ((1000, 1010), (2000, 2020), "no verdict"),  # too few
        ((1000, 1010, 990), (2000,), "no verdict"),
        ((1000, 1010, 990), (1000, 1010, 990), "no verdict"),
    ],
)
def test_a_verdict_needs_all_of_three_repetitions_apart(
    old: Sequence[float], new: Sequence[float], verdict: str
) -> None:
    assert _change(old, new).verdict() == verdict


def test_the_spread_goes_from_the_worst_pair_to_the_best() -> None:
    change = _change((100, 110, 120), (200, 220, 240))
    assert change.ratio == pytest.approx(2.0)
    assert change.lowest == pytest.approx(200 / 120)
    assert change.highest == pytest.approx(240 / 100)


def test_an_open_loop_is_compared_by_its_latency() -> None:
    old, new = (
        read_outcomes(_report(_cells((500, 500, 500), target=500, p99_ns=p99_ns)))
        for p99_ns in (2e6, 1e6)
    )
    (change,) = compare(old, new)
    assert change.ratio == pytest.approx(2.0)
    assert change.verdict() == "faster"
    (change,) = compare(new, old)
    assert change.verdict() == "slower"


def test_cases_match_by_all_that_names_them() -> None:
    old = read_outcomes(_report(_cells((1, 2, 3)) + _cells((1, 2, 3), mode="sync")))
    new = read_outcomes(_report(_cells((1, 2, 3), clients=2) + _cells((1, 2, 3), mode="sync")))
    assert [change.case.setting.mode for change in compare(old, new)] == ["sync"]


def test_the_command_prints_verdicts_what_differs_and_what_has_no_counterpart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _report(_cells((1000, 1010, 990)) + _cells((10, 11, 12), "[lmdb]"))
    new = _report(_cells((500, 505, 495)))
    new["environment"]["kernel"] = "Linux [7.0]"
    paths = [_write(tmp_path / "old.json", old), _write(tmp_path / "new.json", new)]
    assert main(["compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert "slower" in printed
    assert "0.50" in printed
    assert "warning: kernel was Linux 6.1 x86_64, is Linux [7.0]" in printed
    assert "only in the old: A, [lmdb], relaxed, 1,000,000 records, 1 client" in printed


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"format": 2, "benchmark": "ycsb", "cells": [1]}, "format 2"),
        ({"format": 1, "plan": {}, "cells": []}, "not a result of"),
        ({"format": 1, "benchmark": "ycsb", "cells": []}, "has no cells"),
        ({"format": 1, "benchmark": "ycsb", "cells": [{}]}, "damaged"),
        ([], "not a result of"),
        (_report(_cells((1,)), "dbbench"), "of dbbench"),
        (_report([{**make_cell(), "operations": 0}]), "measured nothing"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    new: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = _write(tmp_path / "old.json", _report(_cells((1, 2, 3))))
    assert main(["compare", old, _write(tmp_path / "new.json", new)]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there_or_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="nothing"):
        read_report(tmp_path / "nothing.json")
    (tmp_path / "text.json").write_text("text", encoding="utf-8")
    with pytest.raises(ResultError, match="not JSON"):
        read_report(tmp_path / "text.json")


def test_ratios_are_to_the_best_peer_within_a_repetition() -> None:
    outcomes = read_outcomes(
        _report(
            _cells((300, 330, 360))
            + _cells((150, 150, 150), "lmdb")
            + _cells((200, 220, 180), "plyvel")
            + _cells((9000, 9000, 9000), "no-op")
            + _cells((400, 400, 400), "kvstore (asyncio)", clients_by="tasks")
            + _cells((9000, 9000, 9000), "rocksdict", mode="sync")
        )
    )
    threads, tasks = ratios_to_best_peer(outcomes)
    assert (threads.engine, threads.peer) == ("kvstore", "plyvel")
    assert threads.spread.median == pytest.approx(1.5)
    assert (threads.repetitions, tasks.repetitions) == (3, 3)
    assert threads.spread.upper_quartile == pytest.approx(2.0)
    assert (tasks.engine, tasks.peer) == ("kvstore (asyncio)", "plyvel")
    assert tasks.spread.median == pytest.approx(2.0)


def test_an_open_loop_and_a_case_without_peers_have_no_ratio() -> None:
    cells = _cells((1, 2)) + _cells((5, 5), target=5) + _cells((5, 5), "lmdb", target=5)
    assert ratios_to_best_peer(read_outcomes(_report(cells))) == []


def test_the_markdown_has_a_row_for_each_workload_and_a_column_for_each_mode() -> None:
    ratios = ratios_to_best_peer(read_outcomes(make_report(clients=(1,))))
    lines = markdown_tables(ratios).splitlines()
    assert lines[0] == (
        "| ycsb, 1,000,000 records, 1 client | kvstore, sync | kvstore (asyncio), sync "
        "| kvstore, relaxed | kvstore (asyncio), relaxed |"
    )
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["load", *"ABCFDE"]
    assert {line.count("|") for line in lines} == {6}
