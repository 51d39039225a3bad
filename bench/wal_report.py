"""The wal benchmark's tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report import format_quartiles, verdict
from bench.samples import Spread
from bench.wal_framing import Framing
from bench.wal_measure import CaseResult
from bench.wal_plan import Case
from bench.wal_replay import KEY_BYTES, VALUE_BYTES, Replay

__all__ = [
    "ONE_CLIENT_RATIO_MAX",
    "print_cases",
    "print_framing",
    "print_one_client",
    "print_replay",
]

ONE_CLIENT_RATIO_MAX = 1.05
FRAMING_NS_MAX = 400.0
REPLAY_ENTRIES, REPLAY_SECONDS_MAX = 1_000_000, 1.0


def print_cases(console: Console, results: Iterable[CaseResult], left_out: list[Case]) -> None:
    """One row per side and case; ratios are to the better bare loop of the same case."""
    table = Table(title="time to make batches durable", title_justify="left", box=SIMPLE)
    for heading in ("entries", "size", "io", "depth"):
        table.add_column(heading, justify="right")
    table.add_column("side")
    table.add_column("sync by")
    for heading in ("p50 us", "p99 us", "mean us", "entries/s", "MB/s", "ratio", "quartiles"):
        table.add_column(heading, justify="right")
    table.add_column("syncs/batch", justify="right")
    for result in results:
        case = result.case
        head = (str(case.entries), str(case.entry_size), case.io, str(case.in_flight))
        for row in result.rows():
            table.add_row(
                *head,
                row.side.split()[0],
                row.strategy,
                f"{row.latency_us_p50:.0f}",
                f"{row.latency_us_p99:.0f}",
                f"{row.latency_us_mean:.0f}",
                f"{row.entries_per_second:,.0f}",
                f"{row.payload_mb_per_second:,.1f}",
                f"{row.ratio.median:.2f}",
                format_quartiles(row.ratio),
                f"{row.syncs_per_batch:.2f}",
            )
            head = ("", "", "", "")
        table.add_section()
    console.print(table)
    console.print(
        "ratio: time of a slice to that of the first bare row's in the same repetition, median; "
        "MB/s: payload, 10^6 bytes; fewer syncs than batches: one covered several in flight"
    )
    if left_out:
        console.print(
            f"left out, more than 16 MiB in flight: {'; '.join(c.name for c in left_out)}"
        )


def print_one_client(console: Console, result: CaseResult) -> None:
    """Bar 1."""
    for row in result.kvstore:
        judged = verdict(row.ratio.median <= ONE_CLIENT_RATIO_MAX)
        console.print(
            f"bar 1: one client, {result.case.name}, {row.side}: {row.ratio.median:.3f}x the bare "
            f"loop ({format_quartiles(row.ratio, 3)}; {row.latency_us_p50:.0f} us, bare "
            f"{result.bare.strategy} {result.bare.latency_us_p50:.0f} us, p50), at most "
            f"{ONE_CLIENT_RATIO_MAX}x: ",
            judged,
            sep="",
            soft_wrap=True,
        )


def print_framing(console: Console, framings: Iterable[Framing]) -> None:
    """Bar 2."""
    for framing in framings:
        console.print(
            f"bar 2: framing 100 B, {framing.backend}: {framing.method.median / 1000:.3f} us per "
            f"append_with_checksum_batched ({framing.cffi.median / 1000:.3f} us the call through "
            f"cffi alone, {framing.native.median / 1000:.3f} us inside C), at most "
            f"{FRAMING_NS_MAX / 1000} us: ",
            verdict(framing.method.median <= FRAMING_NS_MAX),
            sep="",
            soft_wrap=True,
        )


def print_replay(console: Console, replay: Replay | str) -> None:
    """Bar 3; a string says why it was not measured."""
    if isinstance(replay, str):
        console.print(f"bar 3: replay not measured: {replay}")
        return
    seconds = Spread.of(replay.seconds)
    rate = replay.entries / seconds.median
    judged = verdict(seconds.median <= REPLAY_SECONDS_MAX)
    if replay.entries < REPLAY_ENTRIES:
        judged = Text(f"not judged, with fewer than {REPLAY_ENTRIES:,}")
    console.print(
        f"bar 3: replay of {replay.entries:,} entries ({KEY_BYTES} B keys, {VALUE_BYTES} B values, "
        f"{replay.log_bytes / 1e6:.0f} MB of log): {seconds.median:.3f} s "
        f"({min(replay.seconds):.3f} to {max(replay.seconds):.3f}), {rate:,.0f} entries/s, at "
        f"most {REPLAY_SECONDS_MAX} s: ",
        judged,
        sep="",
        soft_wrap=True,
    )
