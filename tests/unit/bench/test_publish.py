"""``bench report``: the page needs nothing else, says what is missing, and shows what is there."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich")

from bench import page, page_tables
from bench.amounts import format_bytes, format_count, format_rate, format_us
from bench.charts.canvas import Picture
from bench.charts.captions import WORKLOADS, caption
from bench.charts.settings import slug, why_left_out
from bench.colours import STYLES, style_of
from bench.outcomes import read_outcomes, settings_of
from bench.ratios import ratios_to_best_peer
from tests.support.bench_results import DBBENCH_KINDS, ENGINES, KINDS, make_cell, make_report


class _Links(html.parser.HTMLParser):
    """Every address that the page would load or lead to; and its elements, which have to close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.closed_wrongly: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open.pop() != tag:
            self.closed_wrongly.append(tag)


def _read(text: str) -> _Links:
    links = _Links()
    links.feed(text)
    links.close()
    return links


def _write(directory: Path, name: str, report: object) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(json.dumps(report), encoding="utf-8")


def _small_report() -> dict[str, Any]:
    cells = [
        make_cell("A", engine, 1000.0 * factor, repetition=repetition, mode=mode)
        for engine, factor in ENGINES.items()
        for mode in ("sync", "relaxed")
        for repetition in (1, 2, 3)
    ]
    return {**make_report(repetitions=1), "cells": cells}


def test_texts_are_escaped_wherever_they_go() -> None:
    evil = "<script>alert('&')</script>"
    parts = [
        page.heading(evil),
        page.paragraph(evil),
        page.bullets([evil]),
        page.table([evil], [[evil], [(evil, "words")]]),
        page.fold(evil, page.paragraph(evil)),
    ]
    text = page.document(evil, parts)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 10
    links = _read(text)
    assert (links.open, links.closed_wrongly) == ([], [])


def test_a_picture_is_in_the_page_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert page.picture(tmp_path / "a.png", 'a "chart"') == (
        '<img alt="a &quot;chart&quot;" src="data:image/png;base64,iVBORw==">'
    )


def test_a_ratio_is_marked_only_when_its_quartiles_agree() -> None:
    def cells(engine: str, rates: tuple[float, ...]) -> list[dict[str, Any]]:
        return [
            make_cell(workload, engine, rate, repetition=number)
            for workload, factor in (("A", 2.0), ("B", 0.5), ("C", 1.0))
            for number, rate in enumerate((rate * factor for rate in rates), 1)
        ]

    peers = [
        make_cell(workload, "lmdb", 100, repetition=number)
        for workload in "ABC"
        for number in (1, 2, 3)
    ]
    report = {**make_report(repetitions=1), "cells": cells("kvstore", (90, 100, 110)) + peers}
    text = page_tables.ratio_tables(ratios_to_best_peer(read_outcomes(report)))
    found = re.findall(r'<td(?: class="(\w+)")?>([\d.]+) \(', text)
    assert found == [("ahead", "2.00"), ("behind", "0.50"), ("", "1.00")]
    report["cells"] = [cell for cell in report["cells"] if cell["repetition"] == 1]
    text = page_tables.ratio_tables(ratios_to_best_peer(read_outcomes(report)))
    assert re.findall(r"<td[^>]*>([\d.]+ [^<]*)", text) == ["1.80 lmdb", "0.45 lmdb", "0.90 lmdb"]
    assert "ahead" not in text


def test_syncs_per_write_are_those_that_make_durable() -> None:
    cell = make_cell(mode="sync", rate=100)
    cell["syncs"] = {"fsync": 10, "fdatasync": 40, "sync_file_range": 900}
    cell["writes"] = 50
    outcomes = read_outcomes({**make_report(repetitions=1), "cells": [cell]})
    assert page_tables.syncs_per_write(outcomes[0]) == 1.0
    cell["syncs"] = None
    outcomes = read_outcomes({**make_report(repetitions=1), "cells": [cell]})
    assert page_tables.syncs_per_write(outcomes[0]) is None


def test_the_generators_cost_is_that_of_the_store_that_does_nothing() -> None:
    cells = [make_cell("A", "no-op", 1e7), make_cell("B", "no-op", 5e6), make_cell("A", "lmdb", 10)]
    report = {**make_report(repetitions=1), "cells": cells}
    assert "100 to 200 ns" in page_tables.generator_cost(read_outcomes(report))
    assert "not measured" in page_tables.generator_cost([])


def test_why_something_was_left_out_is_found_by_engine_workload_and_mode() -> None:
    report = make_report(repetitions=1)
    assert why_left_out(report, "dbm", "E", "sync") == "it has no scans in key order"
    assert why_left_out(report, "dbm", "A", "sync") == "not run"
    assert "it has no scans in key order" in page_tables.left_out_table([report])
    assert page_tables.left_out_table([{"benchmark": "ycsb"}]) == ""


def test_every_case_has_a_row() -> None:
    outcomes = read_outcomes(make_report(repetitions=2, clients=(1,)))
    links = page_tables.case_tables(outcomes)
    assert links.count("<tr>") == len(outcomes) + len(settings_of(outcomes))
    assert links.count("<details>") == len(settings_of(outcomes)) == 2


def test_every_workload_has_a_caption_and_every_engine_a_colour_of_its_own() -> None:
    assert {*KINDS, *DBBENCH_KINDS} <= set(WORKLOADS)
    assert caption("C") == "C: reads only"
    assert caption("another") == "another"
    assert set(ENGINES) <= set(STYLES)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    assert len({style.marker for style in STYLES.values()}) == len(STYLES)
    assert style_of("unheard of") == STYLES["no-op"]


def test_settings_have_names_of_their_own() -> None:
    cells = [
        make_cell(),
        make_cell(mode="sync"),
        make_cell(clients=4),
        make_cell(clients=4, clients_by="processes"),
        make_cell(target=500.0),
        make_cell(clients_by="tasks"),  # compared with threads
        {**make_cell(), "memory_bytes": 512 << 20},
    ]
    settings = settings_of(read_outcomes({**make_report(repetitions=1), "cells": cells}))
    assert settings[0].mode == "sync"
    assert len({slug(setting) for setting in settings}) == len(settings) == 6
    assert settings[-2].text == "relaxed, 1,000,000 records, 4 processes"
    assert settings[-1].text == "relaxed, 1,000,000 records, 1 client, 512 MiB of memory"
    assert {setting.text for setting in settings} >= {
        "relaxed, 1,000,000 records, 1 client, 500 operations/s asked for"
    }


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (format_rate(940), "940"),
        (format_rate(3_460), "3.5k"),
        (format_rate(999_600), "1M"),
        (format_count(10_000_000), "10M"),
        (format_us(0.253), "0.25 us"),
        (format_us(0), "0 us"),
        (format_us(1_234), "1.2 ms"),
        (format_us(12_000_000), "12 s"),
        (format_us(5_000_000_000), "5,000 s"),
        (format_bytes(1_200_000_000), "1.2 GB"),
    ],
)
def test_amounts_have_few_digits_and_the_unit_that_fits(text: str, wanted: str) -> None:
    assert text == wanted


@pytest.mark.slow
def test_the_report_is_self_contained_and_names_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    from bench.__main__ import main

    _write(tmp_path / "in", "ycsb.json", _small_report())
    wanted = ["report", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main(wanted) == 0
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    links = _read(text)
    assert (links.open, links.closed_wrongly) == ([], [])
    assert links.addresses
    assert all(address.startswith("data:image/png;base64,") for address in links.addresses)
    assert "@import" not in text
    assert "url(" not in text
    assert "Some &lt;CPU&gt; &amp; more" in text
    for name in ("ycsb-10M", "dbbench", "concurrency-100B", "recovery", "growth"):
        assert f"{name}.json, of python -m bench" in text
    assert "ycsb.json, of" not in text
    assert "| A | " in capsys.readouterr().out


def test_without_a_result_there_is_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bench.__main__ import main

    assert main(["report", "--input", str(tmp_path)]) == 2
    assert "has none of ycsb.json" in capsys.readouterr().err
    _write(tmp_path, "growth.json", [])
    (tmp_path / "growth.json").write_text("{", encoding="utf-8")
    assert main(["report", "--input", str(tmp_path)]) == 2
    assert "not JSON" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def _saved(pictures: list[Picture], directory: Path) -> list[str]:
    """The stems; each was saved as both kinds, and none beyond them."""
    stems = [picture.stem for picture in pictures]
    kinds = sorted(f"{stem}.{kind}" for stem in stems for kind in ("svg", "png"))
    assert sorted(path.name for path in directory.iterdir()) == kinds
    return stems


def test_timelines_are_of_relaxed_runs_that_compacted(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.charts.timeline import draw_timelines

    cells = [make_cell("A", mode="sync"), make_cell("A"), make_cell("C"), make_cell("A", "lmdb")]
    cells[2]["compactions"] = []
    slow = make_cell("A", "diskcache")
    slow["seconds"] = 100.0
    short = make_cell("B")
    short["series"]["operations"] = [100, 90]
    cells += [slow, short, make_cell("A", "no-op")]
    report = {**make_report(repetitions=1), "cells": cells}
    stems = _saved(draw_timelines(report, read_outcomes(report), str(tmp_path)), tmp_path)
    assert stems == ["ycsb-time-A-relaxed-1000000-1clients"]


def test_growth_and_recovery_are_drawn_from_what_their_commands_write(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from bench.charts.growth import draw_growth
    from bench.charts.recovery import draw_recovery

    environment = make_report(repetitions=1)["environment"]
    growth = [
        {"records": records, "operation": "get", "engine": engine, "microseconds": [1.0, 2.0]}
        for records in (1000, 10_000)
        for engine in ("kvstore", "lmdb")
    ]
    recovery = [
        {"engine": engine, "log_bytes": size, "seconds": [0.1, 0.2]}
        for engine in ("kvstore", "sqlite3")
        for size in (10**6, 10**7)
    ]
    plan = {"scan_entries": 50, "value_bytes": 100}
    drawn = draw_growth({"environment": environment, "plan": plan, "cells": growth}, str(tmp_path))
    drawn += draw_recovery({"environment": environment, "cells": recovery}, str(tmp_path))
    assert _saved(drawn, tmp_path) == ["growth", "recovery"]
