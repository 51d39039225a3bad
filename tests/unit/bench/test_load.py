"""The machinery of ycsb and dbbench measures, checks and reports what it says."""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.load.answers import check, make_cell, set_generator_cost
from bench.load.copies import copy_store
from bench.load.limit import evict_all, limited, read_all
from bench.load.plan import PROCESSES, THREADS, Plan, Run, Setting, why_not
from bench.load.results import Results
from bench.load.subject import RELAXED, SYNC, subject_of
from bench.load.tape import Tape, by_kind
from bench.load.verify import verify
from bench.load.walk import walk
from bench.stores import NOOP, OURS_ASYNC, STORES
from bench.stores.base import Layout, Settings
from bench.ycsb.script import Kind, Script, Written
from tests.support.pages import drop_pages, resident_pages

SUBJECT = subject_of("ycsb", 7, {})
A, D, E = (task for task in SUBJECT.tasks if task.name in "ADE")
LOAD = SUBJECT.tasks[0]
DBBENCH = {task.name: task for task in subject_of("dbbench", 7, {}).tasks}
ONE, MANY = Setting(SYNC, 1, THREADS, 2), Setting(SYNC, 16, THREADS, 1)
NO_SYNCS = {"fsync": 0, "fdatasync": 0, "msync": 0, "sync_write": 0, "sync_file_range": 0}


def _script(*operations: tuple[Kind, bytes, Written]) -> Script:
    kinds, keys, values = zip(*operations, strict=True)
    return Script(bytes(kinds), keys, values, array("H", bytes(2 * len(operations))))


def _reads(count: int) -> Script:
    return _script(*[(Kind.READ, b"%d" % number, None) for number in range(count)])


def _calling(read: Callable[[bytes], object]) -> list[Any]:
    """Operations of a client that only reads."""
    return [lambda key, _: read(key)] * len(Kind)


def _nothing(_key: bytes) -> None: ...


def _plan(**changes: Any) -> Plan:
    plan = Plan(
        engines=("kvstore", OURS_ASYNC, "sqlite3", "diskcache", NOOP),
        tasks=tuple(SUBJECT.tasks),
        settings=(ONE,),
        records=100,
        operations=100,
        seconds=1.0,
        load_seconds=1.0,
        cache_bytes=None,
        seed=1,
    )
    return dataclasses.replace(plan, **changes)


def _cell(**changes: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "operations": 90,
        "acknowledged": 100,
        "seconds": 0.5,
        "writes": 50,
        "latency_counts": {"READ": [[1000, 60]], "UPDATE": [[3000, 40]]},
        "series": [50, 40],
        "not_reached": 0,
        "syncs": {**NO_SYNCS, "fdatasync": 50},
        "memory": {"anonymous": 1, "peak": 2},
        "cpu_seconds": {"user": 0.25, "system": 0.125},
        "disk_bytes": 4096,
        "compactions": [],
        "missed": 0,
        "unexpected": 0,
        "scanned": 0,
        "to_scan": 0,
        "verified": 100,
    }
    engine = changes.pop("engine", "kvstore")
    run = Run(changes.pop("setting", ONE), 0, changes.pop("task", A), engine)
    return make_cell(_plan(), run, [answer | changes], 8192)


# ---- the tape ----


def test_in_a_closed_loop_only_what_ends_behind_the_warm_up_and_before_the_end_is_counted() -> None:
    tape = Tape(_reads(1000), seconds=0.1)
    tape.start()
    tape.run(_calling(lambda _: time.sleep(0.001)))
    result = tape.result()
    assert 0.06 < result["seconds"] <= 0.0701, "30% are the warm-up"
    assert 0 < result["operations"] < len(tape.acknowledged()) < 1000
    assert sum(result["series"]) == result["operations"]
    [(kind, counts)] = result["latency_counts"].items()
    assert kind == "READ"
    # What was under way at the end belongs to the latencies.
    assert sum(times for _, times in counts) == result["operations"] + 1
    assert min(ns for ns, _ in counts) >= 1_000_000


def test_a_script_that_is_over_ends_the_measured_time() -> None:
    tape = Tape(_reads(100), seconds=60.0)
    tape.start()
    tape.run(_calling(_nothing))
    result = tape.result()
    assert result["seconds"] < 1
    assert result["operations"] == 70, "the first 30% of a short script are the warm-up"
    assert tape.acknowledged() == list(range(100))


def test_an_operation_that_takes_longer_than_the_measured_time_is_measured_all_the_same() -> None:
    tape = Tape(_reads(100), seconds=0.01)
    tape.start()
    tape.run(_calling(lambda _: time.sleep(0.03)))
    result = tape.result()
    assert result["operations"] == 1
    assert result["seconds"] > 0.025


def test_in_an_open_loop_what_waited_behind_a_slow_operation_is_slow_too() -> None:
    target, stalled = 1000.0, 50

    def stall_once(key: bytes) -> None:
        if key == b"%d" % stalled:
            time.sleep(0.04)

    tape = Tape(_reads(100), seconds=0.1, target=target, alone=True)
    tape.start()
    tape.run(_calling(stall_once))
    assert len(tape.acknowledged()) == 100, "late ones are not skipped"
    waited_ms = [ns / 1e6 for ns in tape.latency_ns]
    assert waited_ms[stalled] >= 40
    # Each of the next ones was due a millisecond later: it waited that much less, and no less.
    assert all(waited_ms[stalled + behind] >= 40 - behind - 0.001 for behind in range(1, 30))
    assert tape.result()["not_reached"] == 0


def test_in_an_open_loop_nothing_is_done_before_it_is_due() -> None:
    called: list[int] = []
    tape = Tape(_reads(50), seconds=0.05, target=1000.0, alone=True)
    tape.start()
    tape.run(_calling(lambda _: called.append(time.perf_counter_ns())))
    assert all(moment >= tape.began_ns + 1_000_000 * slot for slot, moment in enumerate(called))


def test_an_engine_far_behind_its_target_is_not_waited_for_and_the_rest_is_counted() -> None:
    tape = Tape(_reads(1000), seconds=0.02, target=10_000.0, alone=True)
    tape.start()
    tape.run(_calling(lambda _: time.sleep(0.001)))
    result = tape.result()
    assert result["not_reached"] == 200 - len(tape.acknowledged()) > 100


def test_scans_are_given_their_length_and_writes_their_value() -> None:
    script = Script(
        bytes((Kind.SCAN, Kind.INSERT, Kind.READ)),
        (b"a", b"b", b"c"),
        (None, b"record", None),
        array("H", (7, 0, 0)),
    )
    assert Tape(script, seconds=1.0).arguments == [7, b"record", None]
    client = STORES[NOOP]("", Settings(False, 0, 0, Layout(1, 1))).client()
    assert len(by_kind(client)) == len(Kind)


def test_a_walk_that_does_not_find_every_entry_is_an_error() -> None:
    entries = [(b"%d" % number, b"") for number in range(10)]
    assert walk(lambda: iter(entries), 10, 0.01)["operations"] >= 10
    with pytest.raises(RuntimeError, match="10 of 11 entries"):
        walk(lambda: iter(entries), 11, 0.01)


# ---- what is checked afterwards ----


def _loaded(count: int) -> dict[bytes, bytes]:
    return dict(SUBJECT.contents.pairs(range(count)))


def test_everything_in_its_place_is_verified_and_counted() -> None:
    store = _loaded(50)
    key, other = SUBJECT.key(0), SUBJECT.key(1)
    update = (3, b"x" * 100)
    script = _script((Kind.UPDATE, key, (3, store[key][300:400])), (Kind.DELETE, other, None))
    del store[other]
    assert verify(store.get, SUBJECT, script, [0, 1], loaded=50, seed=1) == 50
    with pytest.raises(RuntimeError, match="written last"):
        verify(store.get, SUBJECT, _script((Kind.UPDATE, key, update)), [0], loaded=1, seed=1)


def test_a_lost_a_wrong_and_a_returned_record_are_errors() -> None:
    store = _loaded(50)
    new = SUBJECT.key(50)
    insert = _script((Kind.INSERT, new, _loaded(51)[new]))
    for clients in (1, 2):
        with pytest.raises(RuntimeError, match=r"lost|written last"):
            verify(store.get, SUBJECT, insert, [0], loaded=50, seed=1, clients=clients)
    assert verify(store.get, SUBJECT, insert, [], loaded=50, seed=1) == 50, "never acknowledged"
    delete = _script((Kind.DELETE, SUBJECT.key(7), None))
    with pytest.raises(RuntimeError, match=r"again|written last"):
        verify(store.get, SUBJECT, delete, [0], loaded=50, seed=1)
    swapped = store | {SUBJECT.key(3): store[SUBJECT.key(4)]}
    with pytest.raises(RuntimeError, match="not its own"):
        verify(swapped.get, SUBJECT, None, [], loaded=50, seed=1)
    del store[SUBJECT.key(9)]
    with pytest.raises(RuntimeError, match="lost"):
        verify(store.get, SUBJECT, None, [], loaded=50, seed=1)


def test_too_few_syncs_for_what_was_acknowledged_are_an_error() -> None:
    check(_cell(), may_miss=False)
    too_few = {**NO_SYNCS, "fdatasync": 49, "sync_file_range": 1000}
    with pytest.raises(RuntimeError, match="50 writes of 1 clients with 49 syncs"):
        check(_cell(syncs=too_few), may_miss=False)
    check(_cell(syncs=too_few, setting=MANY), may_miss=False)
    with pytest.raises(RuntimeError, match="with 3 syncs"):
        check(_cell(syncs={**NO_SYNCS, "fsync": 3}, setting=MANY), may_miss=False)
    # Of a log that counts itself, that count is what has to be enough.
    with pytest.raises(RuntimeError, match="with 49 syncs"):
        check(_cell(syncs={"fsync": 100, "log": 49}), may_miss=False)
    check(_cell(syncs=None), may_miss=False)
    check(_cell(syncs=NO_SYNCS, setting=Setting(RELAXED, 1, THREADS, 1)), may_miss=False)


def test_an_engine_that_writes_nothing_where_nothing_changes_may_sync_a_little_less() -> None:
    check(_cell(engine="sqlite3", syncs={**NO_SYNCS, "fsync": 48}), may_miss=False)
    with pytest.raises(RuntimeError, match="sqlite3"):
        check(_cell(engine="sqlite3", syncs={**NO_SYNCS, "fsync": 47}), may_miss=False)


def test_a_record_that_is_not_found_is_an_error_unless_another_may_be_inserting_it() -> None:
    check(_cell(missed=1), may_miss=True)
    for wrong in ({"missed": 1}, {"unexpected": 1}):
        with pytest.raises(RuntimeError, match=r"1 records were not found|, 1 found"):
            check(_cell(**wrong), may_miss=False)


def test_scans_that_give_too_little_are_an_error() -> None:
    check(_cell(scanned=95, to_scan=100), may_miss=False)
    with pytest.raises(RuntimeError, match="89 entries of 100"):
        check(_cell(scanned=89, to_scan=100), may_miss=False)


def test_what_is_measured_warm_is_in_memory_and_what_is_measured_cold_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    drop_pages(path)  # skips where there is no disk below
    read_all(str(tmp_path))
    assert all(resident_pages(path))
    evict_all(str(tmp_path))
    assert not any(resident_pages(path))


# ---- the plan ----


def test_engines_take_turns_in_an_order_that_changes() -> None:
    engines = ("kvstore", "sqlite3", "diskcache")
    plan = _plan(tasks=(LOAD, A), engines=engines)
    order = [(run.repetition, run.task.name, run.engine) for run in plan.runs(ONE)]
    turns = [tuple(engine for *_, engine in order[at : at + 3]) for at in range(0, len(order), 3)]
    assert {frozenset(turn) for turn in turns} == {frozenset(engines)}
    assert len(set(turns)) > 1
    assert plan.cells == len(order) == 12


def test_what_is_not_run_is_named_with_its_reason() -> None:
    processes = Setting(RELAXED, 4, PROCESSES, 1)
    plan = _plan(settings=(ONE, processes), tasks=(A, E), absent=("lmdb",))
    named = {(one.engine, one.workload, one.mode): one.why for one in plan.left_out()}
    assert named["lmdb", "all", "all"] == "not installed (extra: bench)"
    assert "scan" in named["diskcache", "E", SYNC]
    assert named["kvstore", "A", RELAXED] == "one process at a time (relaxed, 4 processes)"
    left_in = {(run.engine, run.task.name) for run in plan.runs(processes)}
    assert left_in == {
        *[("sqlite3", "A"), ("diskcache", "A"), (NOOP, "A")],
        *[("sqlite3", "E"), (NOOP, "E")],
    }


def test_a_walk_is_one_threads() -> None:
    walk_over_all = DBBENCH["readseq"]
    relaxed = Setting(RELAXED, 1, THREADS, 1)
    assert not why_not("kvstore", walk_over_all, relaxed)
    assert "see kvstore" in why_not(OURS_ASYNC, walk_over_all, relaxed)
    assert why_not("kvstore", walk_over_all, Setting(RELAXED, 2, THREADS, 1))
    assert why_not("kvstore", walk_over_all, Setting(RELAXED, 1, THREADS, 1, target=5.0))


def test_tasks_that_only_read_find_what_was_loaded() -> None:
    begins = [task.begin.name for task in DBBENCH.values()]
    assert begins == [
        *["EMPTY"] * 3,
        *["PRISTINE"] * 2,
        *["AS_LEFT"] * 4,
        *["PRISTINE"] * 2,
    ]


# ---- results ----


def test_latencies_of_all_kinds_are_described_together_too() -> None:
    latency = _cell()["latency"]
    assert set(latency) == {"READ", "UPDATE", "ALL"}
    assert (latency["ALL"]["count"], latency["ALL"]["mean_ns"]) == (100, 1800)
    assert (latency["ALL"]["p50_ns"], latency["ALL"]["p90_ns"]) == (1000, 3000)


def test_processes_are_one_cell() -> None:
    answers = [
        {**_answer_of(_cell()), "series": [1, 2]},
        {**_answer_of(_cell()), "series": [10, 20, 30], "seconds": 0.75},
    ]
    cell = make_cell(_plan(), Run(ONE, 0, A, "sqlite3"), answers, None)
    assert (cell["operations"], cell["seconds"]) == (180, 0.75)
    assert cell["series"]["operations"] == [11, 22, 30]
    assert cell["syncs"]["fdatasync"] == 100
    assert cell["latency"]["ALL"]["count"] == 200


def _answer_of(cell: dict[str, Any]) -> dict[str, Any]:
    return cell | {"latency_counts": {"READ": [[1000, 100]]}}


def test_the_generators_cost_stands_in_every_cell_of_the_same_workload() -> None:
    cells = [_cell(), _cell(engine=NOOP), _cell(task=D)]
    set_generator_cost(cells)
    assert [cell["generator_ns_per_operation"] for cell in cells] == [
        pytest.approx(1e9 * 0.5 / 90, abs=0.1),
        pytest.approx(1e9 * 0.5 / 90, abs=0.1),
        None,
    ]


def test_a_result_is_whole_on_the_disk_after_every_cell_and_can_be_gone_on_with(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ycsb.json"
    results = Results("ycsb", {"seed": "1"}, _plan(), path=path)
    results.add(_cell())
    cut = json.loads(path.read_text(encoding="utf-8"))
    assert (cut["format"], cut["benchmark"], len(cut["cells"])) == (1, "ycsb", 1)
    again = Results("ycsb", {"seed": "1"}, _plan(), path=path, resumed=cut)
    assert again.has(_cell())
    assert not again.has(_cell() | {"repetition": 2})
    again.add(_cell(engine="sqlite3"))
    again.finish()
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert [cell["engine"] for cell in whole["cells"]] == ["kvstore", "sqlite3"]
    assert all("hdr" not in kind for cell in whole["cells"] for kind in cell["latency"].values())
    again.write_csv(tmp_path / "ycsb.csv")
    text = (tmp_path / "ycsb.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["engine"], row["operations_per_second"]) for row in rows] == [
        ("kvstore", "180.0"),
        ("sqlite3", "180.0"),
    ]
    assert not list(tmp_path.glob("*.tmp"))


def test_histograms_of_repetitions_become_one() -> None:
    pytest.importorskip("hdrh")
    from hdrh.histogram import HdrHistogram

    results = Results("ycsb", {}, _plan(), path=None)
    results.add(_cell())
    results.add(_cell() | {"repetition": 2})
    results.finish()
    [entry] = results.histograms
    merged = HdrHistogram.decode(entry["latency"]["ALL"])
    assert merged.get_total_count() == 200
    assert merged.get_value_at_percentile(50) == pytest.approx(1000, rel=0.002)


def test_a_copy_shares_only_what_no_engine_changes(tmp_path: Path) -> None:
    source, copy = tmp_path / "pristine", tmp_path / "work"
    source.mkdir()
    for name in ("000001.sst", "data.mdb"):
        (source / name).write_bytes(b"before")
    copy_store(str(source), str(copy))
    (copy / "data.mdb").write_bytes(b"after")
    (copy / "000001.sst").unlink()
    assert (source / "data.mdb").read_bytes() == b"before"
    assert (source / "000001.sst").read_bytes() == b"before"


def test_a_group_with_less_memory_is_removed_at_its_end() -> None:
    try:
        with limited(64 << 20) as group:
            assert (Path(group) / "cgroup.procs").exists()
    except OSError as error:
        pytest.skip(f"no control group here: {error}")
    assert not Path(group).exists()


# ---- end to end ----


@pytest.mark.slow
def test_a_tiny_run_reports_every_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    from bench.__main__ import main

    sizes = ["--records", "100", "--operations", "200", "--seconds", "0.1", "--repetitions", "1"]
    engines = ["--engines", f"kvstore,{OURS_ASYNC},sqlite3,dbm"]
    places = ["--directory", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    chosen = ["--workloads", "D", "--modes", "relaxed"]
    assert main(["ycsb", *sizes, *engines, *places, *chosen]) == 0
    report = json.loads((tmp_path / "out" / "ycsb-100.json").read_text(encoding="utf-8"))
    cells = {cell["engine"]: cell for cell in report["cells"]}
    assert set(cells) == {"kvstore", OURS_ASYNC, "sqlite3", "dbm", NOOP}
    assert cells[OURS_ASYNC]["clients_by"] == "tasks"
    for engine, cell in cells.items():
        assert cell["operations"] > 0
        assert cell["generator_ns_per_operation"] > 0
        assert engine == NOOP or cell["verified"] >= 100
    assert not list((tmp_path / "work").iterdir()), "nothing is left behind"
    assert "operations/s" in capsys.readouterr().out


@pytest.mark.slow
def test_threads_beside_a_writer_and_processes_are_measured_and_verified(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    from bench.__main__ import main

    sizes = ["--records", "100", "--operations", "300", "--seconds", "0.1", "--repetitions", "1"]
    places = ["--directory", str(tmp_path / "work"), "--output", str(tmp_path / "out")]
    threads = ["--engines", f"kvstore,{OURS_ASYNC}", "--clients", "3", "--modes", "relaxed"]
    assert main(["dbbench", "--workloads", "readwhilewriting", *sizes, *threads, *places]) == 0
    report = json.loads((tmp_path / "out" / "dbbench-100.json").read_text(encoding="utf-8"))
    assert {cell["engine"] for cell in report["cells"]} == {"kvstore", OURS_ASYNC, NOOP}
    processes = ["--engines", "sqlite3", "--clients", "2", "--by", PROCESSES, "--modes", "sync"]
    assert main(["ycsb", "--workloads", "A", *sizes, *processes, *places]) == 0
    report = json.loads((tmp_path / "out" / "ycsb-100.json").read_text(encoding="utf-8"))
    [cell] = [cell for cell in report["cells"] if cell["engine"] == "sqlite3"]
    assert 0 < cell["operations"] <= cell["acknowledged"] <= 300
    assert (cell["clients_by"], cell["clients"]) == (PROCESSES, 2)
