"""What is expected of durable puts by many clients, relative to the peers in the same run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.bars import Bar
from bench.concurrency_measure import Cell
from bench.engines import OURS

__all__ = ["best_up_to", "judge"]

VALUE_BYTES = 100
_ASYNCIO_MIN = {16: 2.0, 64: 3.0, 256: 5.0, 1024: 6.0}
_THREADS_PEER, _THREADS_CLIENTS, _THREADS_MIN = "plyvel", (4, 16, 64), 1.2
_ONE_CLIENT_MIN = 1.25
_TAIL_CLIENTS, _TAIL_MAX = 64, 10.0


def best_up_to(cells: Iterable[Cell], clients: int) -> Cell | None:
    """The cell with the most puts per second among those of at most ``clients`` clients."""
    return max(
        (cell for cell in cells if cell.clients <= clients),
        key=lambda cell: cell.rate,
        default=None,
    )


def judge(cells: Sequence[Cell], backend: str) -> list[Bar]:
    """The bars, of values of 100 B; ours on ``backend``. Medians against medians."""
    cells = [cell for cell in cells if cell.value_bytes == VALUE_BYTES]
    ours = {
        (cell.clients_by, cell.clients): cell
        for cell in cells
        if cell.engine == OURS and cell.backend == backend
    }
    peers = [cell for cell in cells if cell.engine != OURS]
    bars = []
    for clients, limit in _ASYNCIO_MIN.items():
        name = f"asyncio, {clients} clients, puts/s to the best peer's with at most as many"
        bars.append(
            _compare(name, ours.get(("asyncio", clients)), best_up_to(peers, clients), limit)
        )
    for clients in _THREADS_CLIENTS:
        name = f"threads, {clients} clients, puts/s to {_THREADS_PEER}'s"
        own = ours.get(("threads", clients))
        same = [c for c in peers if c.clients == clients and c.engine == _THREADS_PEER]
        bars.append(_compare(name, own, best_up_to(same, clients), _THREADS_MIN))
    best_alone = best_up_to(peers, 1)
    name = "threads, one client, puts/s to the best peer's"
    bars.append(_compare(name, ours.get(("threads", 1)), best_alone, _ONE_CLIENT_MIN))
    bars.append(_judge_tail(ours.get(("threads", _TAIL_CLIENTS))))
    return bars


def _compare(name: str, own: Cell | None, peer: Cell | None, limit: float) -> Bar:
    if own is None or peer is None:
        return Bar(name, None, limit, "not measured", "x", at_least=True)
    if not peer.rate:
        return Bar(name, None, limit, f"{peer.side} completed no put", "x", at_least=True)
    detail = (
        f"{own.rate:,.0f} by {own.backend}, {peer.rate:,.0f} by {peer.side} with {peer.clients}"
    )
    return Bar(name, own.rate / peer.rate, limit, detail, "x", at_least=True)


def _judge_tail(own: Cell | None) -> Bar:
    name = f"threads, {_TAIL_CLIENTS} clients, p99.9 to p50"
    if own is None:
        return Bar(name, None, _TAIL_MAX, "not measured", "x")
    slow, middle = own.latency_us["p99.9"], own.latency_us["p50"]
    detail = f"{slow:,.0f} us to {middle:,.0f} us by {own.backend}"
    return Bar(name, slow / middle, _TAIL_MAX, detail, "x")
