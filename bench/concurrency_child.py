"""One store, written to durably by many clients at once, in a process of its own.

Asked: engine, clients_by ("threads" or "asyncio"), backend, loop, clients, value_bytes,
warmup_seconds, seconds, keys, directory, seed. Answers once: what was measured and verified.

A client puts, waits until that is durable, and puts again. All take their keys from one iterator.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
import traceback
from array import array
from collections.abc import Iterator
from operator import length_hint
from typing import Any

from bench.async_putters import ASYNC_PUTTERS, AsyncPut
from bench.keys import KEY_BYTES, Values, random_keys
from bench.process import emit, request
from bench.putters import PUTTERS, READERS, LogCounts, Put
from bench.samples import rounded_counts
from bench.sync_counter import read_counts

_SAMPLE_KEYS = 10_000


class Tape:
    """What is put, and when: made beforehand, so that a client only reads and writes slots.

    Slot i belongs to key i: ``ended_ns`` is when its put returned (0: not yet), ``latency_ns`` what
    that took: since the client's put before, so the loop's own 0.3 us are in it.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        count: int = asked["keys"]
        self._warmup_ns = int(1e9 * asked["warmup_seconds"])
        self._measured_ns = int(1e9 * asked["seconds"])
        joined = random_keys(count, asked["seed"])
        self.keys = [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]
        self.values = Values(asked["value_bytes"], asked["seed"])
        self.ended_ns = array("q", bytes(8 * count))
        self.latency_ns = array("q", bytes(8 * count))
        # Under the GIL, the next number is each client's own.
        self.slots: Iterator[int] = iter(range(count))
        self.measured_from_ns = self.deadline_ns = 0
        self.dried_up_ns: list[int] = []
        self.syncs_before: dict[str, int] | None = None

    def start(self) -> None:
        """The clock runs from here; called once, when all clients are ready."""
        self.syncs_before = read_counts()
        self.measured_from_ns = time.perf_counter_ns() + self._warmup_ns
        self.deadline_ns = self.measured_from_ns + self._measured_ns

    def put_all(self, put: Put) -> None:
        """One client, in a thread."""
        clock, keys, pool = time.perf_counter_ns, self.keys, self.values.pool
        ended_ns, latency_ns, deadline_ns = self.ended_ns, self.latency_ns, self.deadline_ns
        before = clock()
        for slot in self.slots:
            key = keys[slot]
            put(key, pool[key[0]])
            now = clock()
            latency_ns[slot] = now - before
            ended_ns[slot] = before = now
            if now >= deadline_ns:
                return
        self.dried_up_ns.append(clock())

    async def put_all_async(self, put: AsyncPut) -> None:
        """The same in a task: spelled out again, for a shared loop would cost a call per put."""
        clock, keys, pool = time.perf_counter_ns, self.keys, self.values.pool
        ended_ns, latency_ns, deadline_ns = self.ended_ns, self.latency_ns, self.deadline_ns
        before = clock()
        for slot in self.slots:
            key = keys[slot]
            await put(key, pool[key[0]])
            now = clock()
            latency_ns[slot] = now - before
            ended_ns[slot] = before = now
            if now >= deadline_ns:
                return
        self.dried_up_ns.append(clock())

    def result(self) -> dict[str, Any]:
        """Throughput is of what returned within the measured time, which ends early when the keys
        do. Latencies are also of what was under way at its end: to leave those out would be to
        leave out the slowest.
        """
        first, last = self.measured_from_ns, min((self.deadline_ns, *self.dried_up_ns))
        syncs, before = read_counts(), self.syncs_before
        if last <= first:
            raise RuntimeError("the keys did not last beyond the warm-up")
        used = len(self.keys) - length_hint(self.slots)
        pairs = list(zip(self.ended_ns[:used], self.latency_ns[:used], strict=True))
        puts = sum(first <= ended <= last for ended, _ in pairs)
        counts = rounded_counts(latency for ended, latency in pairs if ended >= first)
        return {
            "acknowledged": sum(ended > 0 for ended, _ in pairs),
            "seconds": (last - first) / 1e9,
            "puts": puts,
            "latency_counts": sorted(counts.items()),
            "syncs": {kind: syncs[kind] - before[kind] for kind in syncs}
            if syncs and before
            else None,
        }

    def verify(self, engine: str, directory: str, seed: int) -> int:
        """Looks up what was acknowledged, or a sample; how many. RuntimeError when one is lost."""
        acknowledged = [slot for slot, ended in enumerate(self.ended_ns) if ended]
        if len(acknowledged) > _SAMPLE_KEYS:
            acknowledged = random.Random(seed).sample(acknowledged, _SAMPLE_KEYS)
        with READERS[engine](directory) as get:
            for slot in acknowledged:
                key = self.keys[slot]
                if get(key) != self.values.of(key):
                    raise RuntimeError(f"{engine} has lost or changed an acknowledged key")
        return len(acknowledged)


def main() -> None:
    asked = request()
    tape = Tape(asked)
    gc.collect()
    gc.freeze()
    if asked["clients_by"] == "threads":
        answer = _run_threads(tape, asked)
    else:
        answer = _run_tasks(tape, asked)
    verified = tape.verify(asked["engine"], asked["directory"], asked["seed"])
    emit({**answer, "verified": verified})


def _run_threads(tape: Tape, asked: dict[str, Any]) -> dict[str, Any]:
    store = PUTTERS[asked["engine"]](asked["directory"], asked["backend"])
    barrier = threading.Barrier(asked["clients"], action=tape.start)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            put = store.client()
            barrier.wait()
            tape.put_all(put)
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    before = store.log_counts()
    threads = [threading.Thread(target=run) for _ in range(asked["clients"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    answer = tape.result() | _since(before, store.log_counts())
    store.close()
    return answer


def _run_tasks(tape: Tape, asked: dict[str, Any]) -> dict[str, Any]:
    if asked["loop"] == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    try:
        answer: dict[str, Any] = loop.run_until_complete(_run_async(tape, asked))
    finally:
        loop.close()
    return answer


async def _run_async(tape: Tape, asked: dict[str, Any]) -> dict[str, Any]:
    clients: int = asked["clients"]
    store = ASYNC_PUTTERS[asked["engine"]](asked["directory"], asked["backend"], clients)
    put = await store.open()
    before = await store.log_counts()
    tape.start()
    await asyncio.gather(*(tape.put_all_async(put) for _ in range(clients)))
    answer = tape.result() | _since(before, await store.log_counts())
    await store.close()
    return answer


def _since(before: LogCounts | None, after: LogCounts | None) -> dict[str, Any]:
    if before is None or after is None:
        return {"log": None}
    return {
        "log": {"syncs": after.syncs - before.syncs, "edits": after.edits - before.edits},
    }


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an engine's own threads may not let the interpreter end
