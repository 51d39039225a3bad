"""Processes that write to a store until they are killed, and what their stores may hold then.

Run as a script it is a server: for every line on its standard input (a JSON object, see ``Round``)
it forks a worker, which opens the store and writes, and reports on its standard output in records
of three numbers: START with the worker's process id, the thread and index of each operation that
was acknowledged, END with the wait status. Forking spares an interpreter's start in every round;
the server itself has no threads and no store.

What a thread does is a function of (seed, thread, index), so the test knows it without being told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import kvstore

THREADS = 4
START, END = 1 << 30, (1 << 30) + 1
OPERATIONS_MAX = 100_000
_RECORD = struct.Struct("<III")


@dataclass(frozen=True)
class Round:
    """One life of a worker; ``name`` is the prefix of its keys. ``write``: not only open.
    ``tasks``: of one event loop, instead of threads."""

    path: str
    name: str
    seed: int
    write: bool = True
    tasks: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """A thread's n-th doing: changes made at once (None deletes), durable or relaxed."""

    changes: dict[bytes, bytes | None]
    sync: bool


def operation(work: Round, thread: int, index: int) -> Operation:
    """What ``thread`` does as number ``index``. Each adds at least one key that is new."""
    chance = random.Random(f"{work.seed} {work.name} {thread} {index}")
    prefix = f"{work.name}/{thread}/".encode()
    size = chance.choice([0, 10, 100, 100, 1000, 4000])
    changes: dict[bytes, bytes | None] = {prefix + b"%06d" % index: bytes([thread % 256]) * size}
    kind = chance.randrange(6)
    if kind == 0 and index:
        changes[prefix + b"%06d" % chance.randrange(index)] = None
    if kind <= 2:
        changes[prefix + b"last"] = b"%d" % index
        for i in range(chance.randrange(5)):
            changes[prefix + b"%06d+%d" % (index, i)] = b"part"
    return Operation(changes, sync=chance.random() < 0.6)


def states(work: Round, thread: int, last: int) -> Iterator[dict[bytes, bytes]]:
    """What a thread's keys hold after its first 0, 1, ... ``last`` operations."""
    state: dict[bytes, bytes] = {}
    yield dict(state)
    for index in range(last):
        for key, value in operation(work, thread, index).changes.items():
            state.pop(key, None)
            if value is not None:
                state[key] = value
        yield dict(state)


def _write(db: kvstore.KVStore, work: Round, thread: int) -> None:
    for index in range(OPERATIONS_MAX):
        what = operation(work, thread, index)
        if len(what.changes) == 1:
            ((key, value),) = what.changes.items()
            assert value is not None
            db.put(key, value, sync=what.sync)
        else:
            with db.batch(sync=what.sync) as batch:
                for key, value in what.changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        if what.sync:
            os.write(1, _RECORD.pack(thread, index, 0))


async def _write_in_task(db: kvstore.AsyncKVStore, work: Round, task: int) -> None:
    for index in range(OPERATIONS_MAX):
        what = operation(work, task, index)
        if len(what.changes) == 1:
            ((key, value),) = what.changes.items()
            assert value is not None
            await db.put(key, value, sync=what.sync)
        else:
            async with db.batch(sync=what.sync) as batch:
                for key, value in what.changes.items():
                    if value is None:
                        batch.delete(key)
                    else:
                        batch.put(key, value)
        if what.sync:
            os.write(1, _RECORD.pack(task, index, 0))
        else:
            await asyncio.sleep(0)


async def _work_in_tasks(work: Round) -> None:
    async with kvstore.open_async(work.path, **work.options) as db:
        await asyncio.gather(*(_write_in_task(db, work, task) for task in range(work.tasks)))


def _work(work: Round) -> None:
    if work.tasks:
        asyncio.run(_work_in_tasks(work))
        return
    db = kvstore.open(work.path, **work.options)
    if not work.write:
        return
    threads = [threading.Thread(target=_write, args=(db, work, i)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve() -> None:
    """The server's loop."""
    for line in sys.stdin:
        work = Round(**json.loads(line))
        worker = os.fork()
        if worker == 0:
            try:
                os.write(1, _RECORD.pack(START, os.getpid(), 0))
                _work(work)
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        os.write(1, _RECORD.pack(END, os.waitstatus_to_exitcode(status) & 0xFFFF, 0))


class Killer:
    """The server, as the test sees it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )

    def run(self, work: Round, seconds: float) -> tuple[list[int], bool]:
        """Runs a worker and kills it after so long; for each thread the index behind its last
        acknowledged operation (0: none), and whether it was killed before it had ended."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(asdict(work)).encode() + b"\n")
        kind, worker, _ = self._record()
        assert kind == START
        deadline = time.monotonic() + seconds
        acknowledged = [0] * (work.tasks or THREADS)
        killed = False
        while True:
            if not killed and not self._readable(max(0.0, deadline - time.monotonic())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                killed = True
            kind, index, _ = self._record()
            if kind == END:
                assert index in ((-signal.SIGKILL) & 0xFFFF, 0), f"the worker failed: {index}"
                return acknowledged, index != 0
            acknowledged[kind] = max(acknowledged[kind], index + 1)
            if not killed and time.monotonic() > deadline:
                os.kill(worker, signal.SIGKILL)
                killed = True

    def _readable(self, seconds: float) -> bool:
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def _record(self) -> tuple[int, int, int]:
        assert self._server.stdout is not None
        data = b""
        while len(data) < _RECORD.size:
            piece = self._server.stdout.read(_RECORD.size - len(data))
            if not piece:
                assert self._server.stderr is not None
                raise AssertionError(f"the server ended: {self._server.stderr.read().decode()}")
            data += piece
        return _RECORD.unpack(data)

    def close(self) -> str:
        """Ends the server; what it and its workers complained about."""
        _, complaints = self._server.communicate()
        return complaints.decode()


if __name__ == "__main__":
    serve()
