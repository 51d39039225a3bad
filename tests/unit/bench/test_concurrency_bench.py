"""The concurrency benchmark runs end to end, and what judges its figures judges rightly."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench import concurrency
from bench.__main__ import main
from bench.async_putters import ASYNC_PUTTERS
from bench.concurrency_bars import best_up_to, judge
from bench.concurrency_child import Tape
from bench.concurrency_measure import Cell, check_durability, merge
from bench.concurrency_plan import PEERS, QUICK, SIDES, Run, Side
from bench.engines import OURS, installed
from bench.keys import Values, make_key
from bench.labels import nudge
from bench.putters import PUTTERS, READERS
from bench.samples import percentiles_of_counts, rounded_counts
from bench.sync_counter import build_counter, durable_syncs, preloading
from kvstore.wal import is_io_uring_available

pytestmark = pytest.mark.slow  # a tool for the main interpreter

SQLITE = Side("sqlite3", "threads")
PWRITE = Side(OURS, "threads", "pwrite")
RING = Side(OURS, "asyncio", "io_uring")
NO_SYNCS = {"fsync": 0, "fdatasync": 0, "msync": 0, "sync_write": 0, "sync_file_range": 0}


@pytest.fixture
def counter(tmp_path: Path) -> str:
    if sys.platform != "linux":
        pytest.skip("nothing is preloaded here")
    try:
        return build_counter(str(tmp_path))
    except RuntimeError as error:
        pytest.skip(str(error))


def _answer(**changes: Any) -> dict[str, Any]:
    answer = {
        "acknowledged": 100,
        "seconds": 2.0,
        "puts": 80,
        "latency_counts": [[1000, 100]],
        "syncs": NO_SYNCS | {"fdatasync": 100},
        "log": None,
    }
    return answer | changes


def _cell(side: Side, clients: int, rate: float, **changes: Any) -> Cell:
    cell = merge(100, clients, side, [_answer(log={"syncs": 100, "edits": 0})])
    return dataclasses.replace(cell, puts_per_second=(rate,), **changes)


def test_a_tiny_run_reports_every_side_and_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = dataclasses.replace(QUICK, clients=(1, 2), warmup_seconds=0.02)
    monkeypatch.setattr(concurrency, "QUICK", tiny)
    monkeypatch.setattr(concurrency, "installed", lambda _names: ("sqlite3",))
    output = tmp_path / "output"
    arguments = ["concurrency", "--quick", "--seconds", "0.05", "--clients", "2"]
    arguments += ["--engines", "kvstore,sqlite3,plyvel"]
    place = ("--directory", str(tmp_path), "--output", str(output))
    assert main([*arguments, *place]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["output"], "it cleans up"

    report = json.loads((output / "concurrency.json").read_text(encoding="utf-8"))
    backends = ("io_uring", "pwrite") if is_io_uring_available() else ("pwrite",)
    ours = [(OURS, by, backend) for by in ("asyncio", "threads") for backend in backends]
    sides = [(cell["engine"], cell["clients_by"], cell["backend"]) for cell in report["cells"]]
    assert sides == [*ours, ("sqlite3", "threads", "")]
    counted = report["environment"]["syncs"].startswith("counted")
    for cell in report["cells"]:
        assert cell["median"] > 0
        latency_us = cell["latency_us"]
        assert 0 < latency_us["p50"] <= latency_us["p99"] <= latency_us["p99.9"]
        assert (cell["syncs"] is not None) == counted
        # Two clients: a sync makes one put of each durable, at most.
        assert not counted or 0 < cell["puts_per_sync"] <= 2
    printed = capsys.readouterr().out
    assert "plyvel left out" in printed
    for bar in report["bars"]:
        assert f"bar: {bar['name']}" in printed

    if importlib.util.find_spec("matplotlib") is None:
        assert "charts not drawn" in printed
        return
    charts = sorted(path.name for path in output.glob("*.svg"))
    assert charts == ["concurrency-100B.svg", "concurrency-latency-100B.svg"]
    drawn = {path.name: path.read_bytes() for path in output.glob("*.svg")}
    assert main(["concurrency", "--redraw", "--output", str(output)]) == 0
    assert {path.name: path.read_bytes() for path in output.glob("*.svg")} == drawn


@pytest.mark.parametrize("engine", [OURS, *installed(PEERS)])
def test_a_store_holds_what_was_put_into_it(tmp_path: Path, engine: str) -> None:
    values = Values(20, seed=1)
    pairs = list(values.pairs(map(make_key, range(6))))
    backend = "pwrite" if engine == OURS else ""
    if engine in PUTTERS:
        store = PUTTERS[engine](str(tmp_path), backend)
        for put in (store.client(), store.client()):
            for key, value in pairs[:3]:
                put(key, value)
        store.close()
    if engine in ASYNC_PUTTERS:

        async def put_all(clients: int, few: list[tuple[bytes, bytes]]) -> None:
            store = ASYNC_PUTTERS[engine](str(tmp_path), backend, clients)
            put = await store.open()
            for key, value in few:
                await put(key, value)
            await store.close()

        asyncio.run(put_all(1, pairs[3:5]))
        asyncio.run(put_all(2, pairs[5:]))
    with READERS[engine](str(tmp_path)) as get:
        both = engine in PUTTERS and engine in ASYNC_PUTTERS
        expected = pairs if both else pairs[:3] if engine in PUTTERS else pairs[3:]
        assert [get(key) for key, _ in expected] == [value for _, value in expected]
        assert get(make_key(7)) is None


def test_the_counter_counts_every_kind_of_sync_that_succeeded(counter: str, tmp_path: Path) -> None:
    script = f"""
import contextlib, json, mmap, os, sys
sys.path[:] = {sys.path!r}
from bench.sync_counter import read_counts
file = os.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_CREAT)
synced = os.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_DSYNC)
os.pwrite(file, bytes(8192), 0)
before = read_counts()
for _ in range(2):
    os.fsync(file)
with contextlib.suppress(OSError):
    os.fsync(12345)
for _ in range(3):
    os.fdatasync(file)
with mmap.mmap(file, 8192) as memory:
    memory.flush()
os.write(file, b"plain")
os.pwritev(file, [b"plain"], 0)
os.write(synced, b"x")
os.writev(os.dup(synced), [b"x"])
os.pwrite(synced, b"x", 0)
os.pwritev(synced, [b"x"], 0)
os.pwritev(file, [b"x"], 0, os.RWF_DSYNC)
os.pwritev(file, [b"x"], 0, os.RWF_SYNC)
after = read_counts()
print(json.dumps({{kind: after[kind] - before[kind] for kind in after}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=preloading(counter),
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    assert counts == {
        "fsync": 2, "fdatasync": 3, "msync": 1, "sync_write": 6, "sync_file_range": 0,
    }  # fmt: skip
    assert durable_syncs(counts) == 12
    assert durable_syncs(counts | {"sync_file_range": 5}) == 12


def test_too_few_syncs_for_what_was_acknowledged_are_an_error_that_names_the_side() -> None:
    run = Run(SQLITE, clients=4, value_bytes=100, repetition=0)
    check_durability(run, _answer(syncs=NO_SYNCS | {"fdatasync": 25}))
    with pytest.raises(RuntimeError, match=r"sqlite3: 100 puts of 4 clients with 24 syncs"):
        check_durability(run, _answer(syncs=NO_SYNCS | {"fdatasync": 24, "sync_file_range": 9}))
    check_durability(run, _answer(syncs=None))  # nothing counted
    # The ring is not seen from outside: what the log counts holds.
    run = dataclasses.replace(run, side=RING)
    check_durability(run, _answer(syncs=NO_SYNCS, log={"syncs": 25, "edits": 0}))
    with pytest.raises(RuntimeError, match="asyncio, io_uring"):
        check_durability(run, _answer(log={"syncs": 24, "edits": 0}))


def test_a_log_that_counts_other_syncs_than_are_seen_is_an_error() -> None:
    run = Run(PWRITE, clients=4, value_bytes=100, repetition=0)
    seen = NO_SYNCS | {"fsync": 50, "fdatasync": 30, "sync_write": 10}
    check_durability(run, _answer(syncs=seen, log={"syncs": 40, "edits": 0}))
    check_durability(run, _answer(syncs=seen, log={"syncs": 35, "edits": 5}))
    for log in ({"syncs": 41, "edits": 9}, {"syncs": 30, "edits": 0}):
        with pytest.raises(RuntimeError, match=r"threads, pwrite counts .* 40 were seen"):
            check_durability(run, _answer(syncs=seen, log=log))


def test_latencies_of_repetitions_are_merged_before_percentiles_are_taken() -> None:
    generator = random.Random(1)
    repetitions = [[int(generator.lognormvariate(12, 2)) for _ in range(n)] for n in (900, 5000)]
    answers = [
        _answer(puts=n, latency_counts=sorted(rounded_counts(values).items()))
        for n, values in zip((40, 60), repetitions, strict=True)
    ]
    cell = merge(100, 4, SQLITE, answers)
    everything = Counter(value for values in repetitions for value in values)
    exact = percentiles_of_counts(everything, [0.5, 0.99, 0.999, 1.0])
    assert list(cell.latency_us.values()) == pytest.approx([ns / 1000 for ns in exact], rel=1e-3)
    assert list(cell.puts_per_second) == [20, 30]
    assert cell.rate == 25
    assert cell.puts_per_sync == 1
    assert merge(100, 4, SQLITE, [_answer(), _answer(syncs=None)]).puts_per_sync is None


def test_bars_hold_us_against_the_best_that_a_peer_reached_so_far() -> None:
    plyvel, aiosqlite = Side("plyvel", "threads"), Side("aiosqlite", "asyncio")
    peers = [_cell(plyvel, 4, 900), _cell(plyvel, 16, 1000), _cell(plyvel, 64, 700)]
    peers += [_cell(aiosqlite, 16, 400), _cell(aiosqlite, 256, 1100)]
    assert best_up_to(peers, 64) is peers[1]
    assert best_up_to(peers, 1) is None
    tail = {"p50": 10.0, "p99.9": 101.0}
    ours = [_cell(RING, 16, 1999), _cell(RING, 64, 3000), _cell(RING, 256, 5000)]
    by_threads = Side(OURS, "threads", "io_uring")
    ours += [_cell(by_threads, 16, 1200), _cell(by_threads, 64, 839, latency_us=tail)]
    others = [_cell(PWRITE, 16, 9999), dataclasses.replace(_cell(RING, 16, 1), value_bytes=1000)]
    bars = judge([*peers, *ours, *others], "io_uring")
    values = [bar.value and round(bar.value, 3) for bar in bars]
    assert values == [
        1.999,
        3,
        round(5000 / 1100, 3),
        None,
        None,
        1.2,
        round(839 / 700, 3),
        None,
        10.1,
    ]
    assert [bar.met for bar in bars] == [False, True, False, None, None, True, False, None, False]
    alone = judge([_cell(plyvel, 1, 100), _cell(PWRITE, 1, 125)], "pwrite")
    assert [bar.met for bar in alone if bar.value is not None] == [True]


def test_labels_are_moved_as_little_as_keeps_them_apart() -> None:
    assert nudge([30, 0, 15], 10, 0, 100) == [30, 0, 15]
    assert nudge([50, 50], 10, 0, 100) == [45, 55]
    assert nudge([50, 49, 80, 48], 10, 0, 100) == [59, 49, 80, 39]
    assert nudge([1, 0, 99], 10, 0, 100) == [10, 0, 99]
    assert nudge([100, 99, 98], 10, 0, 100) == [100, 90, 80]
    assert nudge([5, 5, 5], 10, 0, 15) == [0, 10, 20], "too many: beyond the top"
    assert nudge([], 10, 0, 100) == []


def test_sides_take_turns_and_each_has_enough_keys() -> None:
    plan = dataclasses.replace(QUICK, clients=(1, 4), value_bytes=(100,), repetitions=2)
    sides = [SQLITE, PWRITE, RING]
    order = [(run.repetition, run.clients, run.side) for run in plan.runs(sides)]
    rotated = [PWRITE, RING, SQLITE]
    assert order == [(0, c, side) for c in (1, 4) for side in sides] + [
        (1, c, side) for c in (1, 4) for side in rotated
    ]
    assert {side.engine for side in SIDES} == {*PUTTERS, *ASYNC_PUTTERS} == {*READERS}


def _tape(keys: int) -> Tape:
    asked = {"keys": keys, "seed": 1, "value_bytes": 10, "warmup_seconds": 0, "seconds": 100}
    return Tape(asked)


def test_the_measured_time_ends_when_the_keys_do() -> None:
    tape, held = _tape(50), dict[bytes, bytes]()
    tape.start()
    tape.put_all(held.__setitem__)

    async def put(key: bytes, value: bytes) -> None:
        raise AssertionError("no key is put twice")

    asyncio.run(tape.put_all_async(put))
    result = tape.result()
    assert len(held) == result["puts"] == result["acknowledged"] == 50
    assert sum(count for _, count in result["latency_counts"]) == 50
    assert 0 < result["seconds"] < 50


def test_a_lost_or_changed_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tape, held = _tape(50), dict[bytes, bytes]()
    tape.start()
    tape.put_all(held.__setitem__)

    @contextlib.contextmanager
    def reading(_directory: str) -> Iterator[Any]:
        yield held.get

    monkeypatch.setitem(READERS, "broken", reading)
    assert tape.verify("broken", "", seed=1) == 50
    held[tape.keys[20]] = b"other"
    with pytest.raises(RuntimeError, match="broken has lost or changed"):
        tape.verify("broken", "", seed=1)
