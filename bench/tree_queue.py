"""A queue: first in, first out, with a short backlog. What was deleted must not slow it down."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from itertools import islice

import kvstore
from bench.bars import Bar
from bench.disk import disk_usage
from bench.samples import Spread, percentile
from bench.tree_plan import Plan

__all__ = ["Queue", "judge_queue", "measure_queue"]

_VALUE = bytes(range(100))
_SLOWEST_TENTH_MIN = 0.7
_DISK_MEMTABLES_MAX = 3.0
_BLOCK_PAIRS_MAX = 1000
_BLOCKS_PER_DISK_SAMPLE = 10
_TENTHS = 10


@dataclass(frozen=True)
class Queue:
    """``pairs_per_second`` of each tenth, without the time of looking at the head and the disk.

    ``head_us`` are percentiles of a scan for the first entry, one every ``block_pairs`` pairs,
    ``head_us_by_tenth`` its median in each tenth.
    """

    pairs: int
    backlog: int
    memtable_bytes: int
    block_pairs: int
    pairs_per_second: tuple[float, ...]
    head_us: dict[str, float]
    head_us_by_tenth: tuple[float, ...]
    disk_bytes_max: int
    table_bytes_max: int


def measure_queue(directory: str, plan: Plan) -> Queue:
    """Puts at the tail and deletes at the head, relaxed, as many pairs as the plan says."""
    place = os.path.join(directory, "queue")
    try:
        with kvstore.open(
            place,
            sync=False,
            memtable_bytes_max=plan.queue_memtable_bytes,
            wal_segment_bytes=max(min(plan.queue_memtable_bytes // 4, 16 << 20), 64 << 10),
        ) as store:
            return _run(store, place, plan)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _run(store: kvstore.KVStore, place: str, plan: Plan) -> Queue:
    for number in range(plan.queue_backlog):
        store.put(_key(number), _VALUE)
    tenth_pairs = plan.queue_pairs // _TENTHS
    block_pairs = min(_BLOCK_PAIRS_MAX, tenth_pairs)
    blocks = tenth_pairs // block_pairs
    head, block_number = 0, 0
    rates, head_us_by_tenth = [], []
    disk_bytes_max = table_bytes_max = 0
    for _ in range(_TENTHS):
        elapsed_ns, head_us = 0, []
        for _ in range(blocks):
            keys = [_key(head + number) for number in range(block_pairs + plan.queue_backlog)]
            elapsed_ns += _run_block(store, keys, plan.queue_backlog)
            head += block_pairs
            head_us.append(_look_at_head(store, keys[block_pairs]))
            if block_number % _BLOCKS_PER_DISK_SAMPLE == 0:
                disk_bytes, table_bytes = disk_usage(place)
                disk_bytes_max = max(disk_bytes_max, disk_bytes)
                table_bytes_max = max(table_bytes_max, table_bytes)
            block_number += 1
        rates.append(blocks * block_pairs / (elapsed_ns / 1e9))
        head_us_by_tenth.append(head_us)
    _check_backlog(store, head, plan.queue_backlog)
    all_us = [us for tenth in head_us_by_tenth for us in tenth]
    return Queue(
        pairs=_TENTHS * blocks * block_pairs,
        backlog=plan.queue_backlog,
        memtable_bytes=plan.queue_memtable_bytes,
        block_pairs=block_pairs,
        pairs_per_second=tuple(rates),
        head_us={
            name: percentile(all_us, fraction)
            for name, fraction in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
        head_us_by_tenth=tuple(Spread.of(tenth).median for tenth in head_us_by_tenth),
        disk_bytes_max=disk_bytes_max,
        table_bytes_max=table_bytes_max,
    )


def _key(number: int) -> bytes:
    return b"%016d" % number


def _run_block(store: kvstore.KVStore, keys: list[bytes], backlog: int) -> int:
    """Nanoseconds of putting ``keys[backlog:]`` and deleting as many from the first on."""
    put, delete = store.put, store.delete
    began = time.perf_counter_ns()
    for first, last in zip(keys, islice(keys, backlog, None), strict=False):
        put(last, _VALUE)
        delete(first)
    return time.perf_counter_ns() - began


def _look_at_head(store: kvstore.KVStore, expected: bytes) -> float:
    began = time.perf_counter_ns()
    key, _ = next(iter(store.scan(limit=1)))
    taken = time.perf_counter_ns() - began
    if key != expected:
        raise RuntimeError(f"the first key is {key!r}, not {expected!r}")
    return taken / 1000


def _check_backlog(store: kvstore.KVStore, head: int, backlog: int) -> None:
    if [key for key, _ in store.scan()] != [_key(head + number) for number in range(backlog)]:
        raise RuntimeError("the queue does not hold what it should")


def judge_queue(queue: Queue) -> list[Bar]:
    """Flat: the slowest tenth against the fastest. Disk: the most ever, in memtables."""
    rates = queue.pairs_per_second
    disk = queue.disk_bytes_max / queue.memtable_bytes
    return [
        Bar(
            "queue, slowest tenth to the fastest",
            min(rates) / max(rates),
            _SLOWEST_TENTH_MIN,
            f"{min(rates):,.0f} to {max(rates):,.0f} pairs/s",
            "x",
            at_least=True,
        ),
        Bar(
            "queue, disk space in memtables",
            disk,
            _DISK_MEMTABLES_MAX,
            f"{queue.disk_bytes_max / 1e6:.0f} MB, {queue.table_bytes_max / 1e6:.0f} MB of tables",
        ),
    ]
