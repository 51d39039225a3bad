"""The tree benchmark's tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.engines import OURS
from bench.report import format_quartiles
from bench.rounds import Comparison
from bench.tree_load import VALUE_BYTES, Load
from bench.tree_open import Opening
from bench.tree_queue import Queue

__all__ = ["print_comparisons", "print_loads", "print_openings", "print_queue"]


def print_comparisons(console: Console, title: str, comparisons: Sequence[Comparison]) -> None:
    """One row per case: the median of each engine, and ours as a multiple of each peer's."""
    engines = list(comparisons[0].elapsed_ns)
    peers = [engine for engine in engines if engine != OURS]
    table = _table(title, "case")
    for engine in engines:
        table.add_column(f"{engine} us", justify="right")
    for peer in peers:
        table.add_column(f"to {peer}", justify="right")
    for comparison in comparisons:
        cells = [f"{comparison.microseconds(engine).median:.3f}" for engine in engines]
        for peer in peers:
            ratio = comparison.ratio(OURS, peer)
            cells.append(f"{ratio.median:.2f} ({format_quartiles(ratio)})")
        table.add_row(comparison.case, *cells)
    console.print(table)
    console.print(
        f"to a peer: time of {OURS} to the peer's in the same repetition: median (quartiles)"
    )


def print_loads(console: Console, rounds: Sequence[Sequence[Load]]) -> None:
    """One row per engine and round."""
    first = rounds[0][0]
    table = _table(
        f"load of {first.answer['keys']:,} random keys, {VALUE_BYTES} B values, relaxed, "
        f"memtable {first.memtable_bytes >> 20} MiB",
        "engine",
    )
    headings = ("s", "puts/s", "p50 us", "p99", "p99.9", "max", "quiet s", "w-amp", "w-amp io")
    for heading in (*headings, "s-amp", "disk MB", "tables MB", "anon MiB", "peak MiB"):
        table.add_column(heading, justify="right")
    for loads in rounds:
        for load in loads:
            answer, put_us = load.answer, load.answer["put_us"]
            table.add_row(
                load.engine,
                f"{answer['seconds']:.2f}",
                f"{load.puts_per_second:,.0f}",
                *(f"{put_us[name]:.1f}" for name in ("p50", "p99", "p99.9")),
                f"{put_us['max']:,.0f}",
                _text(answer["quiet_seconds"], 2, "too long"),
                _text(answer["write_amplification"], 2),
                _text(answer["write_amplification_io"], 2),
                f"{answer['space_amplification']:.2f}",
                f"{answer['disk_bytes'] / 1e6:,.0f}",
                f"{answer['table_bytes'] / 1e6:,.0f}",
                _text(_mebibytes(load.anonymous_peak), 0),
                _text(_mebibytes(load.resident_peak), 0),
            )
        table.add_section()
    clock_us = [load.answer["clock_us"] for loads in rounds for load in loads]
    console.print(table)
    console.print(
        f"a put's time includes {min(clock_us):.2f} to {max(clock_us):.2f} us of the loop and its "
        "clock; quiet: after the last put, until no compaction is due; w-amp: bytes of tables "
        "written for each flushed, as the engine counts; w-amp io: bytes written, the log's too, "
        "as the kernel counts, to live bytes; s-amp: bytes on the disk then, the log's too, to "
        "live bytes; anon: most RssAnon beyond what the process had before; peak: VmHWM",
        soft_wrap=True,
    )


def print_openings(console: Console, openings: Sequence[Opening]) -> None:
    """One row for cached files, one for evicted ones."""
    table = _table("open after a clean close, in a fresh process", "files")
    for heading in ("tables", "MB", "seconds", "recovery's own", "log MB", "first get us"):
        table.add_column(heading, justify="right")
    for opening in openings:
        table.add_row(
            "cached" if opening.cached else "evicted",
            str(opening.tables),
            f"{opening.table_bytes / 1e6:,.0f}",
            _range(opening.seconds, 4),
            _range(opening.recovery_seconds, 4),
            f"{opening.log_bytes / 1e6:.1f}",
            _range(opening.first_get_us, 0),
        )
    console.print(table)


def print_queue(console: Console, queue: Queue) -> None:
    """One row per tenth."""
    table = _table(
        "queue",
        "tenth",
    )
    table.add_column("pairs/s", justify="right")
    table.add_column("head us, p50", justify="right")
    for number, (rate, head_us) in enumerate(
        zip(queue.pairs_per_second, queue.head_us_by_tenth, strict=True), 1
    ):
        table.add_row(str(number), f"{rate:,.0f}", f"{head_us:.1f}")
    console.print(table)
    head = ", ".join(f"{name} {us:,.1f} us" for name, us in queue.head_us.items())
    console.print(
        f"{queue.pairs:,} pairs of put and delete, relaxed, backlog {queue.backlog:,}, memtable "
        f"{queue.memtable_bytes >> 10:,} KiB; at most {queue.disk_bytes_max / 1e6:,.1f} MB, "
        f"{queue.table_bytes_max / 1e6:,.1f} MB of it tables"
    )
    console.print(f"scan for the first entry, every {queue.block_pairs:,} pairs: {head}")


def _table(title: str, first: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    table.add_column(first, no_wrap=True)
    return table


def _text(value: float | None, digits: int, missing: str = "-") -> str:
    return missing if value is None else f"{value:,.{digits}f}"


def _mebibytes(count: int | None) -> float | None:
    return None if count is None else count / (1 << 20)


def _range(values: Sequence[float], digits: int) -> str:
    return f"{min(values):,.{digits}f}-{max(values):,.{digits}f}"
