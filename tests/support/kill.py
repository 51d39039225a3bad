"""Processes that write to a store until they are killed, and what their stores may hold then.

Run as a module it is a server: for every line on its standard input (a JSON object, see ``Round``)
it forks a worker, which opens the store and writes, and reports on its standard output in records
of three numbers: START with the worker's process id, the thread and index of each operation that
was acknowledged, END with the wait status and the phases it was in. Forking spares an interpreter's
start in every round; the server itself has no threads and no store.

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
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kvstore
from tests.support.phases import PhaseMap, names

if TYPE_CHECKING:
    from typing_extensions import Self

THREADS = 4
START, END = 1 << 30, (1 << 30) + 1
OPERATIONS_MAX = 100_000
ROOT = Path(__file__).resolve().parents[2]
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

    @property
    def writers(self) -> int:
        """Threads or tasks."""
        return self.tasks or THREADS


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


def state_after(work: Round, thread: int, count: int) -> dict[bytes, bytes]:
    """What a thread's keys hold after its first ``count`` operations."""
    state: dict[bytes, bytes] = {}
    for index in range(count):
        for key, value in operation(work, thread, index).changes.items():
            state.pop(key, None)
            if value is not None:
                state[key] = value
    return state


def check_kept(work: Round, acknowledged: list[int], found: dict[bytes, bytes]) -> None:
    """Each thread's keys are what some first operations of its leave, whole and without a gap, and
    all that it acknowledged are among them."""
    by_thread: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
    for key, value in found.items():
        name, _, rest = key.partition(b"/")
        if name == work.name.encode():
            by_thread[int(rest.partition(b"/")[0])][key] = value
    assert by_thread.keys() <= set(range(work.writers)), f"keys of nobody: {by_thread.keys()}"
    for thread, count in enumerate(acknowledged):
        mine = by_thread[thread]
        # An operation's own key is deleted by later ones only: the greatest is the last one's.
        last = max((key.rpartition(b"/")[2] for key in mine if key[-4:] != b"last"), default=None)
        kept = 0 if last is None else int(last.partition(b"+")[0]) + 1
        wanted = state_after(work, thread, kept)
        wrong = sorted(key for key in {*wanted, *mine} if wanted.get(key) != mine.get(key))
        assert not wrong, (
            f"{work.name}, writer {thread}: {count} operations acknowledged, the last one there is "
            f"number {kept}, and {len(wrong)} keys are not as the first {kept} leave them: "
            f"{[key.decode() for key in wrong[:5]]}"
        )
        assert kept >= count, (
            f"{work.name}, writer {thread}: {count} operations acknowledged, {kept} there"
        )


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
    phases = PhaseMap()
    phases.watch()
    for line in sys.stdin:
        work = Round(**json.loads(line))
        phases.clear()
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
        code = os.waitstatus_to_exitcode(status) & 0xFFFF
        os.write(1, _RECORD.pack(END, code, phases.bits()))


class Life:
    """A worker, from its start to its end, as the test sees it."""

    def __init__(self, work: Round, server: subprocess.Popen[bytes]) -> None:
        self.work = work
        self.acknowledged = [0] * work.writers
        """For each thread the index behind its last acknowledged operation; 0: none."""
        self.ended = self.killed = False
        self.phases: list[str] = []
        """What it was killed in the middle of: of PHASES, or "load"."""
        self._server = server
        self._pid = 0
        self._data = b""
        assert server.stdin is not None
        server.stdin.write(json.dumps(asdict(work)).encode() + b"\n")
        while not self._pid:
            self._take(timeout=None)

    def until(self, deadline: float) -> None:
        """Notes what it acknowledges until that time, at least what it has by now."""
        self._take(timeout=0)
        while not self.ended and (left := deadline - time.monotonic()) > 0:
            self._take(timeout=left)

    def end(self) -> None:
        """SIGKILL, now, unless it has ended."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def kill(self) -> None:
        """The same, and then everything that it had acknowledged is known."""
        self.end()
        while not self.ended:
            self._take(timeout=None)

    def _take(self, timeout: float | None) -> None:
        """Takes the records there are, waiting so long for the first."""
        assert self._server.stdout is not None
        pipe = self._server.stdout.fileno()
        if not select.select([pipe], [], [], timeout)[0]:
            return
        data = os.read(pipe, 1 << 16)
        if not data:
            assert self._server.stderr is not None
            raise AssertionError(f"the server ended: {self._server.stderr.read().decode()}")
        data = self._data + data
        whole = len(data) // _RECORD.size * _RECORD.size
        self._data = data[whole:]
        for kind, value, more in _RECORD.iter_unpack(data[:whole]):
            if kind == START:
                self._pid = value
            elif kind == END:
                assert value in ((-signal.SIGKILL) & 0xFFFF, 0), f"the worker failed: {value}"
                self.ended, self.killed = True, value != 0
                self.phases = names(more)
            else:
                self.acknowledged[kind] = max(self.acknowledged[kind], value + 1)


class Killer:
    """The server, as the test sees it. A context manager; at its end nobody may have complained."""

    def __init__(self) -> None:
        # A worker that is killed while it tries io_uring leaves its scratch file behind.
        self._scratch = tempfile.TemporaryDirectory(prefix="kvstore-killer-")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kill"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": self._scratch.name},
        )
        self._life: Life | None = None

    def begin(self, work: Round) -> Life:
        """A worker that has just begun; the one before has ended."""
        self._life = Life(work, self._server)
        return self._life

    def run(self, work: Round, seconds: float) -> Life:
        """A worker that was killed after so long, or ended before."""
        life = self.begin(work)
        life.until(time.monotonic() + seconds)
        life.kill()
        return life

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._life is not None:
            self._life.end()
        complaints = self._server.communicate()[1]
        self._scratch.cleanup()
        if kind is None:
            assert complaints == b"", complaints.decode()
        sys.stderr.write(complaints.decode())  # why a worker failed


if __name__ == "__main__":
    serve()
