"""Ours against the best of the peers, workload by workload: what the README's tables say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.outcomes import Outcome, Setting, is_ours, is_peer
from bench.report import format_quartiles
from bench.samples import Spread

__all__ = ["Ratio", "by_heading", "columns_of", "markdown_tables", "ratios_to_best_peer"]


@dataclass(frozen=True)
class Ratio:
    """``spread``: operations per second of ``engine`` to the ``peer``'s; above 1 we are faster.

    It is of ``repetitions`` pairs.
    """

    benchmark: str
    workload: str
    setting: Setting
    engine: str
    peer: str
    spread: Spread
    repetitions: int

    @property
    def text(self) -> str:
        """As a table shows it: "1.43 (1.39-1.50) rocksdict"; of one pair "1.43 rocksdict"."""
        if self.repetitions == 1:
            return f"{self.spread.median:.2f} {self.peer}"
        return f"{self.spread.median:.2f} ({format_quartiles(self.spread)}) {self.peer}"


def ratios_to_best_peer(outcomes: Sequence[Outcome]) -> list[Ratio]:
    """One for each workload, setting and engine of ours that has a peer in it.

    The best peer is the one with the highest median of all that ran the workload in the same
    setting; ratios are taken within a repetition. Of open loops there are none: their rate is
    given.
    """
    ratios = []
    for own in outcomes:
        case = own.case
        if not is_ours(case.engine) or case.setting.target is not None:
            continue
        peers = [
            other
            for other in outcomes
            if is_peer(other.case.engine)
            and (other.case.benchmark, other.case.workload, other.case.setting)
            == (case.benchmark, case.workload, case.setting)
        ]
        if peers:
            best = max(peers, key=lambda peer: peer.rate.median)
            within = _ratios_within_repetitions(own, best)
            ratios.append(
                Ratio(
                    case.benchmark,
                    case.workload,
                    case.setting,
                    case.engine,
                    best.case.engine,
                    Spread.of(within),
                    len(within),
                )
            )
    return ratios


def _ratios_within_repetitions(own: Outcome, other: Outcome) -> list[float]:
    """Of the medians where the two have no repetition in common."""
    theirs = {cell["repetition"]: rate for cell, rate in zip(other.cells, other.rates, strict=True)}
    ratios = [
        rate / theirs[cell["repetition"]]
        for cell, rate in zip(own.cells, own.rates, strict=True)
        if cell["repetition"] in theirs
    ]
    return ratios or [own.rate.median / other.rate.median]


def markdown_tables(ratios: Sequence[Ratio]) -> str:
    """One table for each benchmark, number of records and of clients; a row for each workload."""
    return "\n".join(
        _markdown_table(heading, members) for heading, members in by_heading(ratios).items()
    )


def by_heading(ratios: Sequence[Ratio]) -> dict[str, list[Ratio]]:
    """Those that differ in workload, mode and engine only share a table, under their heading."""
    groups: dict[str, list[Ratio]] = {}
    for ratio in ratios:
        heading = f"{ratio.benchmark}, {ratio.setting.text_without_mode}"
        groups.setdefault(heading, []).append(ratio)
    return groups


def columns_of(ratios: Sequence[Ratio]) -> list[tuple[str, str]]:
    """(mode, engine of ours) of a table's columns: sync first, then threads first."""
    return sorted(
        dict.fromkeys((ratio.setting.mode, ratio.engine) for ratio in ratios),
        key=lambda column: (column[0] != "sync", column[1]),
    )


def _markdown_table(heading: str, ratios: Sequence[Ratio]) -> str:
    columns = columns_of(ratios)
    cells = {(ratio.workload, ratio.setting.mode, ratio.engine): ratio.text for ratio in ratios}
    lines = [
        f"| {heading} | " + " | ".join(f"{engine}, {mode}" for mode, engine in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for workload in dict.fromkeys(ratio.workload for ratio in ratios):
        texts = [cells.get((workload, *column), "") for column in columns]
        lines.append(f"| {workload} | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"
