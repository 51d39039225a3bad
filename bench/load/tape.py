"""A script and when each of its operations returned: all made beforehand, so that a client only
reads and writes slots.

Slot i belongs to operation i: ``ended_ns`` is when it returned (0: not yet), ``latency_ns`` what it
took. In a closed loop that is since the client's operation before, so the loop's own cost is in it,
which a store that does nothing tells. In an open loop operation i is due at i / target seconds, and
its latency counts from there, whenever a client came to it: what waits behind a slow operation is
slow too (to leave that out is known as coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from operator import length_hint
from typing import Any

from bench.samples import rounded_counts
from bench.stores.base import AsyncOperation, Client, Operation
from bench.ycsb.script import Kind, Script

__all__ = ["SERIES_SECONDS", "Tape", "by_kind"]

SERIES_SECONDS = 0.1
WARMUP_SHARE = 0.3
_SPIN_SECONDS = 0.0002
_LOOP_SPIN_SECONDS = 0.002  # an event loop's timers are that coarse
_OVERTIME = 2.0


def by_kind(client: Client[Any], *, tasks: bool = False) -> list[Any]:
    """A client's functions, indexed by Kind; ``tasks``: they are awaited."""
    scan, misses = client.scan, client.misses

    def scan_counted(key: bytes, length: int) -> None:
        assert scan is not None
        misses.scanned += scan(key, length)

    async def scan_counted_async(key: bytes, length: int) -> None:
        assert scan is not None
        misses.scanned += await scan(key, length)

    insert = client.insert

    def insert_own(key: bytes, record: bytes) -> Any:
        # A record of its own, as a caller would have: those of a script are few, and a store that
        # keeps what it is given would have them all in the processor's cache.
        return insert(key, record[:1] + record[1:])

    functions = {
        Kind.READ: client.read,
        Kind.UPDATE: client.update,
        Kind.INSERT: insert_own,
        Kind.SCAN: scan_counted_async if tasks else scan_counted,
        Kind.READ_MODIFY_WRITE: client.read_modify_write,
        Kind.PUT: insert_own,
        Kind.DELETE: client.delete,
        Kind.READ_MISSING: client.read_missing,
        Kind.SEEK: scan_counted_async if tasks else scan_counted,
    }
    return [functions[kind] for kind in sorted(functions)]


class Tape:
    """A script on its way. It ends after ``seconds``, or with its last operation.

    The first 30% of the time, or of the operations if that is over sooner, are not counted.
    ``target``: operations per second of an open loop; None: a closed one. ``alone``: one client has
    the interpreter to itself.
    """

    def __init__(
        self, script: Script, seconds: float, target: float | None = None, *, alone: bool = False
    ) -> None:
        self.script = script
        self.target = target
        # A sleep ends late by 60 us, so one client is awake before its time. Of several it would
        # only keep the others from the interpreter.
        self._awake_seconds = _SPIN_SECONDS if alone else 0.0
        self._count = len(script)
        if target is not None:
            self._count = min(self._count, max(1, int(target * seconds)))
        self._seconds_ns = int(1e9 * seconds)
        # What a client's function gets beside the key; a scan its length.
        self.arguments: Sequence[Any] = [
            length or value for length, value in zip(script.lengths, script.values, strict=True)
        ]
        self.ended_ns = array("q", bytes(8 * len(script)))
        self.latency_ns = array("q", bytes(8 * len(script)))
        # Under the GIL, the next number is each client's own.
        self.slots: Iterator[int] = iter(range(self._count))
        self.began_ns = self.deadline_ns = 0
        self._dried_up_ns: list[int] = []

    def start(self, began_ns: int | None = None) -> None:
        """The clock (``time.perf_counter_ns``) runs from here; called once, with clients ready."""
        self.began_ns = time.perf_counter_ns() if began_ns is None else began_ns
        self.deadline_ns = self.began_ns + self._seconds_ns

    # ---- one client ----

    def run(self, operations: Sequence[Operation]) -> None:
        """In a thread; ``operations`` are indexed by kind."""
        if self.target is not None:
            self._run_open(operations, self.target)
            return
        clock, kinds, keys, arguments = (
            time.perf_counter_ns,
            self.script.kinds,
            self.script.keys,
            self.arguments,
        )
        ended_ns, latency_ns, deadline_ns = self.ended_ns, self.latency_ns, self.deadline_ns
        before = clock()
        for slot in self.slots:
            operations[kinds[slot]](keys[slot], arguments[slot])
            now = clock()
            latency_ns[slot] = now - before
            ended_ns[slot] = before = now
            if now >= deadline_ns:
                return
        self._dried_up_ns.append(clock())

    def _run_open(self, operations: Sequence[Operation], target: float) -> None:
        clock, script, arguments = time.perf_counter_ns, self.script, self.arguments
        for slot in self.slots:
            due = self.began_ns + int(1e9 * slot / target)
            while (left := (due - clock()) / 1e9) > 0:
                if left > self._awake_seconds:
                    time.sleep(left - self._awake_seconds)
            operations[script.kinds[slot]](script.keys[slot], arguments[slot])
            self._note_due(slot, due, clock())
            if self._is_hopeless(clock()):
                return

    async def run_async(self, operations: Sequence[AsyncOperation]) -> None:
        """In a task: spelled out again, for a shared loop would cost a call per operation."""
        if self.target is not None:
            await self._run_open_async(operations, self.target)
            return
        clock, kinds, keys, arguments = (
            time.perf_counter_ns,
            self.script.kinds,
            self.script.keys,
            self.arguments,
        )
        ended_ns, latency_ns, deadline_ns = self.ended_ns, self.latency_ns, self.deadline_ns
        before = clock()
        for slot in self.slots:
            await operations[kinds[slot]](keys[slot], arguments[slot])
            now = clock()
            latency_ns[slot] = now - before
            ended_ns[slot] = before = now
            if now >= deadline_ns:
                return
        self._dried_up_ns.append(clock())

    async def _run_open_async(self, operations: Sequence[AsyncOperation], target: float) -> None:
        clock, script, arguments = time.perf_counter_ns, self.script, self.arguments
        for slot in self.slots:
            due = self.began_ns + int(1e9 * slot / target)
            while (left := (due - clock()) / 1e9) > 0:
                await asyncio.sleep(max(0.0, left - _LOOP_SPIN_SECONDS))
            await operations[script.kinds[slot]](script.keys[slot], arguments[slot])
            self._note_due(slot, due, clock())
            if self._is_hopeless(clock()):
                return

    def _note_due(self, slot: int, due_ns: int, now_ns: int) -> None:
        self.latency_ns[slot] = now_ns - due_ns
        self.ended_ns[slot] = now_ns

    def _is_hopeless(self, now_ns: int) -> bool:
        """An engine that falls ever further behind its target is not waited for to the end."""
        return now_ns > self.deadline_ns + _OVERTIME * self._seconds_ns

    # ---- afterwards ----

    def acknowledged(self) -> list[int]:
        """The slots whose operation returned."""
        used = self._count - length_hint(self.slots)
        return [slot for slot, ended in enumerate(self.ended_ns[:used]) if ended]

    def result(self) -> dict[str, Any]:
        """Throughput is of what returned within the measured time, which ends early when the script
        does. Latencies are also of what was under way at its end: to leave those out would be to
        leave out the slowest. An engine that finishes nothing in the time is measured until it has.
        RuntimeError: there was nothing to measure.
        """
        used = self._count - length_hint(self.slots)
        first = self._measured_from()
        ended_ns = self.ended_ns[:used]
        if self.target is None:
            last = min((self.deadline_ns, *self._dried_up_ns))
        else:
            last = max(self.deadline_ns, *ended_ns)
        if not any(first <= ended <= last for ended in ended_ns):
            last = max(ended_ns, default=0)
        if last <= first:
            raise RuntimeError("nothing was left to be measured after the warm-up")
        latencies: dict[int, list[int]] = {}
        series: Counter[int] = Counter()
        operations = 0
        interval_ns = int(1e9 * SERIES_SECONDS)
        for kind, ended, latency in zip(self.script.kinds, ended_ns, self.latency_ns, strict=False):
            if ended < first:
                continue  # those that never returned as well
            if kind not in latencies:
                latencies[kind] = []
            latencies[kind].append(latency)
            if ended <= last:
                operations += 1
                series[(ended - first) // interval_ns] += 1
        return {
            "operations": operations,
            "seconds": (last - first) / 1e9,
            "measured_from_ns": first,
            "latency_counts": {
                Kind(kind).name: sorted(rounded_counts(some).items())
                for kind, some in latencies.items()
            },
            "series": [series[number] for number in range(max(series, default=-1) + 1)],
            "not_reached": self._count - used if self.target is not None else 0,
        }

    def _measured_from(self) -> int:
        by_time = self.began_ns + int(WARMUP_SHARE * self._seconds_ns)
        ended = self.ended_ns[int(WARMUP_SHARE * self._count)]
        return min(by_time, ended) if ended else by_time
