"""One cell: an engine, a task, so many clients, in a process of its own. Or one of its processes.

Asked: see ``Asked``. Answers once: what was measured and verified.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import resource
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import OURS
from bench.load.limit import enter
from bench.load.subject import Form, Subject, subject_of
from bench.load.tape import Tape, by_kind
from bench.load.verify import SAMPLE, verify
from bench.load.walk import walk
from bench.process import emit, memory, request
from bench.stores import ASYNC_STORES, NOOP, STORES, loader
from bench.stores.base import Client, Misses, Settings, Span, Store
from bench.stores.kvstore_store import watch
from bench.sync_counter import read_counts
from bench.ycsb.script import Kind, Script

__all__ = ["Asked", "settings_of"]

_START_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Asked:
    """What a child is told, all of it plain data.

    ``script``, ``writer_script``: files with a pickled Script; None where there is none. ``loaded``
    records are in the store at ``directory``. ``share`` of ``shares``: this process's part of the
    script; with several of them, ``start_file`` appears when all are ready. ``memory_group``: the
    control group to enter first, "" for none. ``sample``: how many records are looked up
    afterwards, of each sort.
    """

    benchmark: str
    options: dict[str, Any]
    engine: str
    task: str
    form: str
    durable: bool
    clients_by: str
    clients: int
    directory: str
    script: str | None
    writer_script: str | None
    loaded: int
    records: int
    seconds: float
    target: float | None
    cache_bytes: int
    seed: int
    sample: int = SAMPLE
    share: int = 0
    shares: int = 1
    start_file: str = ""
    memory_group: str = ""

    @property
    def subject(self) -> Subject:
        return subject_of(self.benchmark, self.seed, self.options)


def settings_of(asked: Asked, subject: Subject) -> Settings:
    """How the store is opened."""
    data_bytes = asked.records * (subject.key_bytes + subject.layout.record_bytes)
    return Settings(asked.durable, data_bytes, asked.cache_bytes, subject.layout)


class _Meter:
    """What the kernel and the engine count, between two moments."""

    def __init__(self) -> None:
        self._syncs = read_counts()
        self._usage = resource.getrusage(resource.RUSAGE_SELF)
        self.epoch_less_clock = time.time() - time.perf_counter_ns() / 1e9

    def since(self) -> dict[str, Any]:
        """Of the clients' whole run, the warm-up included."""
        usage, before = resource.getrusage(resource.RUSAGE_SELF), self._usage
        syncs = read_counts()
        return {
            "cpu_seconds": {
                "user": usage.ru_utime - before.ru_utime,
                "system": usage.ru_stime - before.ru_stime,
            },
            "syncs": {kind: syncs[kind] - self._syncs[kind] for kind in syncs}
            if syncs and self._syncs
            else None,
        }


class Cell:
    """A run from the opening of the store to its verification."""

    def __init__(self, asked: Asked) -> None:
        self._asked, self._subject = asked, asked.subject
        self._settings = settings_of(asked, self._subject)
        self._script = _read_script(asked.script)
        self._writer_script = _read_script(asked.writer_script)
        if self._script is not None and asked.shares > 1:
            self._script = self._script.share(asked.share, asked.shares)
        self._tape = None
        if self._script is not None:
            alone = asked.clients == 1 and asked.writer_script is None
            self._tape = Tape(self._script, asked.seconds, asked.target, alone=alone)
        self._misses: list[Misses] = []

    def run(self) -> dict[str, Any]:
        gc.collect()
        gc.freeze()
        _forget_peak()
        memory_before = memory()
        if self._asked.engine in ASYNC_STORES:
            answer, spans = asyncio.run(self._run_tasks())
        else:
            store = STORES[self._asked.engine](self._asked.directory, self._settings)
            try:
                answer = self._run_store(store)
                memory_after = memory()
            finally:
                store.close()
            spans = store.background()
        if self._asked.engine in ASYNC_STORES:
            memory_after = memory()
        first = answer.pop("measured_from_ns") / 1e9 + answer.pop("epoch_less_clock")
        acknowledged = self._tape.acknowledged() if self._tape else []
        return answer | {
            "acknowledged": len(acknowledged) if self._tape else answer["operations"],
            "writes": self._writes(acknowledged),
            "memory": {
                "anonymous": memory_after.anonymous - memory_before.anonymous,
                "peak": memory_after.peak - memory_before.peak,
            }
            if memory_before and memory_after
            else None,
            "disk_bytes": _disk_bytes(self._asked.directory),
            "compactions": _relative(spans, first, answer["seconds"]),
            "missed": sum(misses.lost for misses in self._misses),
            "unexpected": sum(misses.unexpected for misses in self._misses),
            "scanned": sum(misses.scanned for misses in self._misses),
            "to_scan": sum(self._script.lengths[slot] for slot in acknowledged)
            if self._script
            else 0,
            "verified": self._verify(acknowledged),
        }

    # ---- threads ----

    def _run_store(self, store: Store) -> dict[str, Any]:
        if self._tape is None:
            meter = _Meter()
            backwards = self._asked.form == Form.BACKWARDS.value
            found = walk(lambda: store.entries(backwards), self._asked.loaded, self._asked.seconds)
            return found | meter.since() | {"epoch_less_clock": meter.epoch_less_clock}
        own_before = store.own_syncs()
        if self._asked.clients == 1 and self._writer_script is None:
            operations = self._operations_of(store)
            meter = self._start()
            self._tape.run(operations)
        else:
            meter = self._run_threads(store, self._tape)
        measured = meter.since()
        own = store.own_syncs()
        _count_own(measured, own_before, own)
        return self._tape.result() | measured | {"epoch_less_clock": meter.epoch_less_clock}

    def _operations_of(self, store: Store) -> list[Any]:
        client = store.client()
        self._misses.append(client.misses)
        return by_kind(client)

    def _start(self) -> _Meter:
        """The clock runs from here."""
        assert self._tape is not None
        began_ns = _await_start(self._asked.start_file) if self._asked.start_file else None
        meter = _Meter()
        self._tape.start(began_ns)
        return meter

    def _run_threads(self, store: Store, tape: Tape) -> _Meter:
        meters: list[_Meter] = []
        failures: list[BaseException] = []
        done = threading.Event()
        with_writer = self._writer_script is not None
        barrier = threading.Barrier(
            self._asked.clients + with_writer, action=lambda: meters.append(self._start())
        )

        def guarded(work: Callable[[list[Any]], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    operations = self._operations_of(store)
                    barrier.wait()
                    work(operations)
                except BaseException as error:
                    failures.append(error)
                    barrier.abort()

            return run

        threads = [threading.Thread(target=guarded(tape.run)) for _ in range(self._asked.clients)]
        writer = threading.Thread(target=guarded(lambda operations: self._write(operations, done)))
        if with_writer:
            writer.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        if with_writer:
            writer.join()
        if failures:
            raise failures[0]
        return meters[0]

    def _write(self, operations: list[Any], done: threading.Event) -> None:
        """The writer beside the readers: over and over until they are done."""
        script = self._writer_script
        assert script is not None
        put = operations[Kind.PUT]
        while not done.is_set():
            for key, value in zip(script.keys, script.values, strict=True):
                put(key, value)
                if done.is_set():
                    return

    # ---- tasks ----

    async def _run_tasks(self) -> tuple[dict[str, Any], list[Span]]:
        tape = self._tape
        assert tape is not None, "a walk is one client's: it is left to the threads"
        store = ASYNC_STORES[self._asked.engine](self._asked.directory, self._settings)
        await store.open()
        client = store.client()
        self._misses.append(client.misses)
        operations = by_kind(client, tasks=True)
        own_before = await store.own_syncs()
        writer = asyncio.create_task(self._write_async(client)) if self._writer_script else None
        meter = self._start()
        await asyncio.gather(*(tape.run_async(operations) for _ in range(self._asked.clients)))
        if writer is not None:
            writer.cancel()
            await asyncio.wait((writer,))
        measured = meter.since()
        own = await store.own_syncs()
        _count_own(measured, own_before, own)
        await store.close()
        found = tape.result() | measured | {"epoch_less_clock": meter.epoch_less_clock}
        return found, store.background()

    async def _write_async(self, client: Client[Any]) -> None:
        script = self._writer_script
        assert script is not None
        while True:
            for key, value in zip(script.keys, script.values, strict=True):
                await client.insert(key, value)
                await asyncio.sleep(0)  # a relaxed put gives up the loop for nobody

    # ---- afterwards ----

    def _writes(self, acknowledged: list[int]) -> int:
        """Those that had to be synced: a key that is gone cannot be deleted again."""
        if self._script is None:
            return 0
        kinds, keys = self._script.kinds, self._script.keys
        writing = bytes(kind for kind in Kind if kind.writes and kind != Kind.DELETE)
        deleted = {keys[slot] for slot in acknowledged if kinds[slot] == Kind.DELETE}
        return sum(kinds[slot] in writing for slot in acknowledged) + len(deleted)

    def _verify(self, acknowledged: list[int]) -> int:
        asked = self._asked
        if asked.engine == NOOP:
            return 0
        store = STORES[loader(asked.engine)](asked.directory, self._settings)
        try:
            return verify(
                store.get,
                self._subject,
                self._script,
                acknowledged,
                loaded=asked.loaded,
                seed=asked.seed,
                clients=asked.clients,
                shares=asked.shares,
                sample=asked.sample,
            )
        except RuntimeError as error:
            raise RuntimeError(f"{asked.engine}, {asked.task}: {error}") from error
        finally:
            store.close()


def _read_script(path: str | None) -> Script | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        script: Script = pickle.load(file)
    return script


def _await_start(path: str) -> int:
    """When the others are ready too: the moment that was agreed on, perf_counter_ns of them all."""
    emit({"ready": True})
    began = time.monotonic()
    while not os.path.exists(path):
        if time.monotonic() - began > _START_SECONDS_MAX:
            raise RuntimeError("the other processes never came")
        time.sleep(0.001)
    moment = int(Path(path).read_text(encoding="ascii"))
    time.sleep(max(0.0, (moment - time.perf_counter_ns()) / 1e9))
    return moment


def _count_own(measured: dict[str, Any], before: int | None, after: int | None) -> None:
    """The engine's own count instead of what was seen of the same: a log on a ring does some of its
    syncs there, where no library sees them, and some by calls. What only files get, stays.
    """
    if measured["syncs"] is None or before is None or after is None:
        return
    del measured["syncs"]["fdatasync"], measured["syncs"]["sync_write"]
    measured["syncs"]["log"] = after - before


def _forget_peak() -> None:
    """From here on the peak of the resident memory is counted anew, where the kernel can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _disk_bytes(directory: str) -> int:
    total = 0
    for where, _, names in os.walk(directory):
        total += sum(os.lstat(os.path.join(where, name)).st_blocks * 512 for name in names)
    return total


def _relative(spans: list[Span], first: float, seconds: float) -> list[list[Any]]:
    """Those within the measured time, in seconds since its beginning."""
    return [
        [round(max(0.0, began - first), 3), round(min(seconds, ended - first), 3), what]
        for began, ended, what in spans
        if ended > first and began < first + seconds
    ]


def main() -> None:
    asked = Asked(**request())
    if asked.memory_group:
        enter(asked.memory_group)
    if loader(asked.engine) == OURS:
        watch()
    emit(Cell(asked).run())


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an engine's own threads may not let the interpreter end
