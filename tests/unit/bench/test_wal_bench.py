"""The wal benchmark runs end to end. Nothing here looks at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench.__main__ import main
from bench.bare import BareLoops
from bench.samples import Spread, percentile
from bench.wal_plan import Axes, Case, Effort
from kvstore.wal import PortableWalWriter, is_io_uring_available
from kvstore.wal.config import IoUringConfig

pytestmark = pytest.mark.slow  # a tool for the main interpreter


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    try:
        BareLoops()
    except RuntimeError as error:
        pytest.skip(str(error))


def _run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    report = tmp_path / "report.json"
    tiny = ("--quick", "--repetitions", "3", "--slice-batches", "4", "--replay-entries", "500")
    assert main(["wal", *tiny, "--dir", str(tmp_path), "--json", str(report), *arguments]) == 0
    loaded: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return loaded


def test_a_tiny_run_reports_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = _run(tmp_path, "--entries", "1,8", "--sizes", "100", "--in-flight", "1,2")
    assert set(report) == {
        "format",
        "environment",
        "one_client",
        "framing",
        "replay",
        "matrix",
        "left_out",
    }
    assert {"kernel", "cpu", "memory", "file system", "device", "backend", "liburing"} <= set(
        report["environment"]
    )
    assert len(report["matrix"]) == 2 * 2 * 2
    assert report["replay"]["entries"] == 500
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"], "it cleans up"
    printed = capsys.readouterr().out
    for bar in ("bar 1", "bar 2", "bar 3"):
        assert bar in printed


def test_all_sides_write_the_same_bytes_and_none_saves_a_sync(tmp_path: Path) -> None:
    report = _run(
        tmp_path, "--parts", "one-client,matrix", "--entries", "1,8", "--sizes", "100,5000"
    )
    expected = ["io_uring", "pwrite"] if is_io_uring_available() else ["pwrite"]
    for result in (report["one_client"], *report["matrix"]):
        sides = [*result["kvstore"], result["bare"], *result["other_bare"]]
        assert [side["side"] for side in result["kvstore"]] == expected
        batches = result["repetitions"] * result["slice_batches"]
        for side in sides:
            assert side["batches"] == batches
            # With several in flight, one sync may cover those written before it.
            least = batches if result["case"]["in_flight"] == 1 else 1
            assert least <= side["syncs"] <= batches
            assert side["bytes_written"] == batches * result["batch_bytes"]
            assert len(side["ratios"]) == result["repetitions"]
        assert result["bare"]["ratio"]["median"] == 1.0


@pytest.mark.parametrize("io", ["buffered", "direct"])
@pytest.mark.parametrize("size", [0, 100, 4045, 4050, 8192])
def test_a_case_knows_what_the_log_writes_for_it(tmp_path: Path, io: str, size: int) -> None:
    case = Case(entries=3, entry_size=size, io=io, in_flight=1)
    path = tmp_path / "case.wal"
    with PortableWalWriter(path, IoUringConfig(direct_io=case.direct), backend="pwrite") as log:
        if case.direct and "direct" in log.backend_reason:
            pytest.skip(log.backend_reason)
        for _ in range(case.entries):
            log.append_with_checksum_batched(bytes(size))
        log.flush_batch()
        assert log.stats().bytes_written == case.batch_bytes


def test_the_bare_loop_writes_its_batches_side_by_side(tmp_path: Path) -> None:
    loops = BareLoops()
    batch = memoryview(b"0123456789abcdef")
    for strategy in loops.strategies():
        for threads in (1, 3):
            path = tmp_path / f"{strategy}-{threads}"
            with path.open("wb") as file:
                taken = loops.write(
                    file.fileno(), batch, first=8, count=7, threads=threads, strategy=strategy
                )
            assert path.read_bytes() == bytes(8) + bytes(batch) * 7
            assert len(taken.latency_ns) == 7
            assert all(latency > 0 for latency in taken.latency_ns)


def test_an_error_of_the_bare_loop_is_raised(tmp_path: Path) -> None:
    loops = BareLoops()
    path = tmp_path / "read-only"
    path.touch()
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        loops.write(
            file.fileno(),
            memoryview(b"x"),
            first=0,
            count=1,
            threads=2,
            strategy=loops.strategies()[0],
        )


def test_cases_with_too_much_in_flight_are_named_not_run() -> None:
    axes = Axes((1, 512), (16384,), ("buffered",), (1, 8))
    assert [(c.entries, c.in_flight) for c in axes.cases()] == [(1, 1), (1, 8), (512, 1)]
    assert [(c.entries, c.in_flight) for c in axes.left_out()] == [(512, 8)]


def test_effort_shrinks_with_the_batch_but_keeps_the_depth() -> None:
    effort = Effort(repetitions=10, slice_batches=40, side_bytes_max=64 << 20)
    assert effort.slices(Case(1, 100, "buffered", 1)) == (10, 40)
    repetitions, batches = effort.slices(Case(64, 16384, "buffered", 8))
    assert repetitions >= 3
    assert batches >= 8


def test_percentile_and_spread() -> None:
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([1, 2], 0.99) == 2
    assert percentile([7], 0.0) == 7
    assert Spread.of([4, 1, 3, 2]) == Spread(2.5, 1, 3)


def test_unknown_values_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--io", "psychic"], ["--in-flight", "0"], ["--parts", "all"]):
        with pytest.raises(SystemExit):
            main(["wal", *arguments])
    assert "psychic" in capsys.readouterr().err
