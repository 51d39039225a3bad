"""StoreStats: the state of a store at one moment, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from kvstore.compaction import BackgroundWorker, level_bytes_target, pending_bytes
from kvstore.tree import Tree
from kvstore.wal import IoUringStatsSnapshot, SegmentedWalWriter

__all__ = ["LevelStats", "StoreStats", "collect_stats"]


@dataclass(frozen=True)
class LevelStats:
    """A level of sorted tables. ``bytes_target``: beyond it, tables move down (level 0: is moved by
    the number of its tables; 0)."""

    level: int
    tables: int
    bytes: int
    bytes_target: int
    entries: int
    tombstones: int


@dataclass(frozen=True)
class StoreStats:
    """The state of a store at one moment; counters begin when it is opened.

    ``entries``                   keys: exact while all are in memory; once there are tables an
                                  upper bound, for a key may be in several
    ``wal_segment``               the log file in use (0: none yet); ``wal``: what the log did
    ``memtable_bytes``            memory of the active memtable and those being flushed
    ``levels``                    the levels that hold tables
    ``write_amplification``       bytes written to log and tables for each byte given to the log
    ``read_amplification``        tables looked into for each key not found in memory
    ``space_amplification``       bytes of all tables for each byte of the deepest level
    ``pending_compaction_bytes``  what compaction still has to move, estimated
    ``slowdowns``, ``stops``      times that writers were held back, and for how long in all
    ``background_error``          why the last flush or compaction failed; "" when it did not
    """

    path: str
    entries: int
    last_lsn: int
    durable_lsn: int
    backend: str
    backend_reason: str
    sync_strategy: str
    wal_segment: int
    wal: IoUringStatsSnapshot
    memtable_bytes: int
    sealed_memtables: int
    levels: tuple[LevelStats, ...]
    table_bytes: int
    flushes: int
    flush_bytes: int
    compactions: int
    moves: int
    compaction_bytes_read: int
    compaction_bytes_written: int
    tombstones_dropped: int
    pending_compaction_bytes: int
    write_amplification: float
    read_amplification: float
    space_amplification: float
    filter_negatives: int
    blocks_checked: int
    cache_hits: int
    cache_misses: int
    cache_bytes: int
    slowdowns: int
    stops: int
    stall_seconds: float
    background_error: str


def collect_stats(
    path: str, tree: Tree, worker: BackgroundWorker, wal: SegmentedWalWriter
) -> StoreStats:
    """The state as of now. O(tables)."""
    state, counters, pressure = tree.state, worker.counters, worker.pressure
    memtables = (state.memtable, *state.sealed)
    levels = _level_stats(tree)
    wal_stats = wal.stats()
    reads = tree.read_stats
    table_bytes = sum(level.bytes for level in levels)
    written = counters.flush_bytes + counters.compaction_bytes_written
    return StoreStats(
        path=path,
        entries=sum(map(len, memtables))
        + sum(level.entries - level.tombstones for level in levels),
        last_lsn=wal.last_lsn,
        durable_lsn=wal.durable_lsn,
        backend=wal.backend,
        backend_reason=wal.backend_reason,
        sync_strategy=wal.sync_strategy,
        wal_segment=wal.segment_number,
        wal=wal_stats,
        memtable_bytes=sum(memtable.bytes_used for memtable in memtables),
        sealed_memtables=len(state.sealed),
        levels=levels,
        table_bytes=table_bytes,
        flushes=counters.flushes,
        flush_bytes=counters.flush_bytes,
        compactions=counters.compactions,
        moves=counters.moves,
        compaction_bytes_read=counters.compaction_bytes_read,
        compaction_bytes_written=counters.compaction_bytes_written,
        tombstones_dropped=counters.tombstones_dropped,
        pending_compaction_bytes=pending_bytes(state.version, tree.options.level_bytes_base),
        write_amplification=_ratio(wal_stats.bytes_written + written, wal_stats.bytes_written),
        read_amplification=_ratio(reads.tables_probed, reads.gets),
        space_amplification=_ratio(table_bytes, levels[-1].bytes if levels else 0),
        filter_negatives=reads.filter_negatives,
        blocks_checked=reads.blocks_checked,
        cache_hits=tree.cache.hits,
        cache_misses=tree.cache.misses,
        cache_bytes=tree.cache.bytes,
        slowdowns=pressure.slowdowns,
        stops=pressure.stops,
        stall_seconds=pressure.stall_seconds,
        background_error=str(worker.error) if worker.error is not None else "",
    )


def _level_stats(tree: Tree) -> tuple[LevelStats, ...]:
    return tuple(
        LevelStats(
            level=level,
            tables=len(tables),
            bytes=sum(meta.bytes for meta in tables),
            bytes_target=level_bytes_target(level, tree.options.level_bytes_base) if level else 0,
            entries=sum(meta.entries for meta in tables),
            tombstones=sum(meta.tombstones for meta in tables),
        )
        for level, tables in enumerate(tree.state.version.levels)
        if tables
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
