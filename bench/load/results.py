"""The result of a run as files: JSON while it goes on, CSV and .hdr at its end."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.load import histogram
from bench.load.answers import set_generator_cost
from bench.load.plan import LeftOut, Plan

__all__ = ["FORMAT", "Results", "case_of", "write_histograms"]

FORMAT = 1
_CASE = ("workload", "engine", "mode", "clients_by", "clients", "target", "memory_bytes")
_PERCENTILES = ("mean_ns", "p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns")


def case_of(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """What all repetitions of a cell have in common."""
    return tuple(cell[name] for name in _CASE)


class Results:
    """A result that grows; with a path, it is on the disk after every cell, whole.

    ``resumed``: one of the same plan that was cut off, whose cells are not run again.
    """

    def __init__(
        self,
        benchmark: str,
        environment: dict[str, str],
        plan: Plan,
        *,
        path: Path | None,
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.cells: list[dict[str, Any]] = list(resumed["cells"]) if resumed else []
        self.histograms: list[dict[str, Any]] = []
        self._benchmark, self._environment, self._plan = benchmark, environment, plan
        self._left_out, self._path = plan.left_out(), path
        self.loading_seconds: dict[str, float] = {}
        self._done = {(*case_of(cell), cell["repetition"]) for cell in self.cells}

    def has(self, cell_like: Mapping[str, Any]) -> bool:
        """Whether that cell is there already."""
        return (*case_of(cell_like), cell_like["repetition"]) in self._done

    def add(self, cell: dict[str, Any]) -> None:
        """One more, and the file with it."""
        self.cells.append(cell)
        self.write()

    @property
    def left_out(self) -> list[LeftOut]:
        """What is not run, and why."""
        return list(self._left_out)

    def leave_out(self, left_out: LeftOut) -> None:
        """Something that turned out to be impossible while running."""
        self._left_out.append(left_out)

    def finish(self) -> None:
        """The generator's cost goes into each cell, the repetitions' histograms become one."""
        set_generator_cost(self.cells)
        self.histograms = _merge_histograms(self.cells)
        self.write()

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "benchmark": self._benchmark,
            "environment": self._environment,
            "plan": self._plan.as_json() | {"loading_seconds": self.loading_seconds},
            "left_out": [asdict(left_out) for left_out in self._left_out],
            "cells": self.cells,
            "histograms": self.histograms,
        }

    def write(self) -> None:
        """The old file until the new one is whole."""
        if self._path is None:
            return
        whole = {name: value for name, value in self.as_json().items() if name != "cells"}
        # A cell a line: 600 of them are still read, and compared, by people.
        head = json.dumps(whole, indent=1).removesuffix("\n}")
        cells = ",\n".join(json.dumps(cell) for cell in self.cells)
        beside = self._path.with_name(self._path.name + ".tmp")
        beside.write_text(f'{head},\n "cells": [\n{cells}\n ]\n}}\n', encoding="utf-8")
        os.replace(beside, self._path)

    def write_csv(self, path: Path) -> None:
        """One row for each cell; latencies are those of all its operations."""
        rows = [_row(cell) for cell in self.cells]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)


def write_histograms(histograms: Iterable[Mapping[str, Any]], directory: Path) -> int:
    """One .hdr file for each case, a tagged line for each kind of operation; how many files."""
    directory.mkdir(parents=True, exist_ok=True)
    written = 0
    for entry in histograms:
        words = [str(entry[name]) for name in _CASE if entry[name] is not None]
        name = "-".join("".join(c if c.isalnum() else "_" for c in word) for word in words)
        histogram.write_log(directory / f"{name}.hdr", entry["latency"], entry["seconds"])
        written += 1
    return written


def _merge_histograms(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all repetitions of a case together, which the cells then have no longer."""
    cases: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        cases.setdefault(case_of(cell), []).append(cell)
    merged = []
    for case, repetitions in cases.items():
        texts: dict[str, list[str]] = {}
        for cell in repetitions:
            for kind, latency in cell["latency"].items():
                if text := latency.pop("hdr", None):
                    texts.setdefault(kind, []).append(text)
        if texts:
            latencies = {kind: histogram.merge(some) for kind, some in texts.items()}
            seconds = sum(cell["seconds"] for cell in repetitions)
            named = dict(zip(_CASE, case, strict=True))
            merged.append(named | {"seconds": round(seconds, 3), "latency": latencies})
    return merged


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    everything = cell["latency"].get("ALL", {})
    syncs, memory = cell["syncs"], cell["memory"] or {}
    return {
        **{name: cell[name] for name in _CASE},
        "records": cell["records"],
        "repetition": cell["repetition"],
        "operations": cell["operations"],
        "seconds": cell["seconds"],
        "operations_per_second": round(cell["operations"] / cell["seconds"], 1),
        **{name: everything.get(name) for name in _PERCENTILES},
        "writes": cell["writes"],
        "syncs": None if syncs is None else sum(syncs.values()),
        "cpu_user_seconds": cell["cpu_seconds"]["user"],
        "cpu_system_seconds": cell["cpu_seconds"]["system"],
        "memory_anonymous_bytes": memory.get("anonymous"),
        "memory_peak_bytes": memory.get("peak"),
        "bytes_written": cell["bytes_written"],
        "disk_bytes": cell["disk_bytes"],
        "generator_ns_per_operation": cell["generator_ns_per_operation"],
        "verified": cell["verified"],
    }
