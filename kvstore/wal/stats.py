"""IoUringStatsSnapshot: what a log writer has done so far."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY_BUCKETS = 32


@dataclass(frozen=True)
class IoUringStatsSnapshot:
    """Counters of one writer at one moment, since it was opened; both backends keep them.

    ``ops_submitted``, ``ops_completed``  writes and syncs handed to the device, and answered
    ``bytes_written``, ``bytes_read``     bytes; reading happens only when a log is reopened
    ``cqe_overflows``, ``sq_dropped``     what the ring itself counts; 0 is healthy
    ``syncs``                             times the device was asked to make data durable
    ``entries``                           entries framed, the log's own (MARK, PAD, SEAL) included
    ``batches``                           groups of entries that became durable together
    ``sync_latency_us``                   histogram: bucket i counts batches that took less than
                                          2**i microseconds from submission until durable
    """

    ops_submitted: int
    ops_completed: int
    bytes_written: int
    bytes_read: int
    cqe_overflows: int
    sq_dropped: int
    syncs: int = 0
    entries: int = 0
    batches: int = 0
    sync_latency_us: tuple[int, ...] = (0,) * LATENCY_BUCKETS

    def in_flight(self) -> int:
        """Operations handed over and not yet answered."""
        return self.ops_submitted - self.ops_completed

    def completion_rate(self) -> float:
        """Answered / submitted, 0.0 to 1.0; 1.0 when nothing was submitted."""
        return self.ops_completed / self.ops_submitted if self.ops_submitted else 1.0

    def sync_latency_percentile_us(self, fraction: float) -> int:
        """An upper bound, in microseconds, of the ``fraction`` fastest batches; 0 when none ran."""
        rank = fraction * sum(self.sync_latency_us)
        seen = 0
        for exponent, count in enumerate(self.sync_latency_us):
            seen += count
            if count and seen >= rank:
                return 1 << exponent
        return 0
