"""The concurrency benchmark's tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from bench.concurrency_measure import Cell
from bench.keys import KEY_BYTES

__all__ = ["print_cells"]


def print_cells(console: Console, cells: Sequence[Cell]) -> None:
    """A table for each value size, which they come sorted by, then by clients."""
    for value_bytes, same_size in groupby(cells, key=lambda cell: cell.value_bytes):
        table = Table(
            title=f"durable puts, {KEY_BYTES} B random keys, {value_bytes} B values",
            title_justify="left",
            box=SIMPLE,
        )
        table.add_column("clients", justify="right")
        table.add_column("side", no_wrap=True)
        for heading in ("puts/s", "least-most", "p50 us", "p99 us", "p99.9 us", "max us"):
            table.add_column(heading, justify="right")
        table.add_column("puts/sync", justify="right")
        for clients, row in groupby(same_size, key=lambda cell: cell.clients):
            head = str(clients)
            for cell in row:
                table.add_row(head, *_texts(cell))
                head = ""
            table.add_section()
        console.print(table)
    console.print(
        "puts/s: median of the repetitions; latencies: of all repetitions together, the loop's own "
        "0.3 us included; puts/sync: over the whole run, the syncs of all files, but of the log "
        "alone with io_uring, which only the log can count",
        soft_wrap=True,
    )


def _texts(cell: Cell) -> list[str]:
    rates = cell.puts_per_second
    return [
        cell.side,
        f"{cell.rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        *(f"{us:,.0f}" for us in cell.latency_us.values()),
        "not counted" if cell.puts_per_sync is None else f"{cell.puts_per_sync:,.2f}",
    ]
