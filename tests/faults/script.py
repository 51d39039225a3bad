"""The script whose operations are spoiled: what a store is asked for in two lives, by one thread,
by several, and by the tasks of an event loop.

Whatever is raised has to say what was spoiled; whatever is answered has to be right.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import TracebackType

from kvstore import (
    AsyncKVStore,
    DiskFullError,
    KVStore,
    KVStoreError,
    Options,
    PoisonedError,
    StorageIOError,
    VerifyReport,
    WriteBatch,
)
from kvstore.fs import FileSystem
from tests.faults.history import History, Model, Write, difference
from tests.support.faultfs import Fault
from tests.support.spoiler import Spoiler

__all__ = ["Script", "ScriptInTasks", "ScriptInThreads"]

LIVES = 2
WRITERS = 3
_LARGE = 9_000


def writes(life: int, writer: int, count: int) -> Iterator[Write]:
    """What a writer does in a life: puts, deletes and batches, durable and relaxed."""

    def key(number: int) -> bytes:
        return b"%d/%d" % (writer, number)

    def value(number: int, size: int) -> bytes:
        return b"%d %d " % (life, number) * (size // 4)

    for number in range(count):
        kind = number % 6
        if kind == 0:
            yield Write({key(number): value(number, 100)}, sync=True)
        elif kind == 1:
            yield Write({key(number): value(number, _LARGE)}, sync=False)
        elif kind == 2:
            changes = {key(number): value(number, _LARGE), key(number + 50): b"", key(0): None}
            yield Write(changes, sync=True)
        elif kind == 3:
            yield Write({key(number - 2): None}, sync=False)
        elif kind == 4:
            yield Write({key(number): value(number, _LARGE), key(4): value(0, 10)}, sync=False)
        else:
            yield Write({key(number - 3 + 50): None}, sync=True)


class Guard:
    """A block that ends with an error of kvstore's, which is told, or without one."""

    def __init__(self, tell: Callable[[KVStoreError], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, KVStoreError):
            return False
        self._tell(error)
        return True


class Script:
    """Both lives of a store in one thread; ``run`` opens, uses and closes it, twice."""

    writers = 1
    writes = 12
    flush_interval_ms = 60_000.0

    def __init__(self, path: Path, options: Options, fault: Fault) -> None:
        self.path, self.options, self.fault = path, options, fault
        self.histories = [History() for _ in range(self.writers)]
        self.errors: list[KVStoreError] = []
        self._goes_on = fault.error == errno.ENOSPC and fault.operations == {"preallocate"}
        self._reads_fail = fault.error != 0 and bool({"read", "open"} & fault.operations)

    # ---- what may be raised, what may be shown ----

    def note(self, error: KVStoreError) -> None:
        """Checks that an error says what failed, and where."""
        cause: BaseException = error
        if isinstance(error, PoisonedError):
            cause = error.cause
            assert error.__cause__ is cause, f"its cause is {error.__cause__!r}, not {cause!r}"
        assert isinstance(cause, StorageIOError), f"{type(cause).__name__}: {cause}"
        assert cause.errno == (self.fault.error or 5), str(cause)
        assert isinstance(cause, DiskFullError) == (cause.errno in (27, 28)), str(cause)
        assert cause.operation
        assert str(cause.filename).startswith(str(self.path)), cause.filename
        self.errors.append(error.with_traceback(None))

    def guard(self) -> Guard:
        """What is raised in the block is noted."""
        return Guard(self.note)

    def expected(self) -> Model:
        """All that the store shows."""
        return {key: value for history in self.histories for key, value in history.now.items()}

    def compare(self, found: list[tuple[bytes, bytes]]) -> None:
        """A scan against what was acknowledged."""
        expected = self.expected()
        assert found == sorted(expected.items()), difference(dict(found), [expected])

    def reopened(self, found: list[tuple[bytes, bytes]]) -> None:
        """What a store that was opened again shows."""
        assert [key for key, _ in found] == sorted({key for key, _ in found})
        for writer, history in enumerate(self.histories):
            own = b"%d/" % writer
            history.reopened({key: value for key, value in found if key.startswith(own)})
        self.compare(found)

    def durable(self) -> None:
        """Every writer's acknowledged writes are durable."""
        for history in self.histories:
            history.durable()

    def closed(self) -> None:
        """A close that raises nothing has made everything durable, but for what somebody heard of
        before."""
        if not self.errors:
            self.durable()

    # ---- the script ----

    def run(self, spoiler: Spoiler, fs: FileSystem) -> None:
        """All of it. Before the second life ends nothing fails any more."""
        for life in range(LIVES):
            db = None
            with self.guard():
                db = KVStore(self.path, self.options, fs=fs)
            if db is None:
                return
            if life:
                self._read_first(db, spoiler.heal)
            self.live(db, life)
            if life == LIVES - 1:
                spoiler.heal()
                self.healed(db, life)
            with self.guard():
                db.close()
                self.closed()
            spoiler.cut_power()

    def _read_first(self, db: KVStore, heal: Callable[[], None]) -> None:
        found = None
        with self.guard():
            found = list(db.scan())
        if found is None:  # what the store holds has to be known before it is written to
            heal()
            found = list(db.scan())
        self.reopened(found)

    def live(self, db: KVStore, life: int) -> None:
        """Writes, and between them all that can be done to a store."""
        for number, write in enumerate(writes(life, 0, self.writes)):
            self.write(db, 0, write)
            if number == 5:
                with self.guard(), db.snapshot() as snapshot:
                    before = self.expected()
                    with self.guard():
                        db.flush()
                        self.durable()
                    with self.guard():
                        assert dict(snapshot.scan()) == before
            if number == 9:
                with self.guard():
                    db.compact()
                    self.durable()
                self.verify(db)
        with self.guard():
            db.sync()
            self.durable()
        self.read(db)

    def write(self, db: KVStore, writer: int, write: Write) -> None:
        """One write, and what became of it."""
        history = self.histories[writer]
        try:
            if len(write.changes) > 1:
                with db.batch(sync=write.sync) as batch:
                    fill(batch, write)
            else:
                ((key, value),) = write.changes.items()
                if value is None:
                    db.delete(key, sync=write.sync)
                else:
                    db.put(key, value, sync=write.sync)
        except KVStoreError as error:
            history.failed(write)
            self.note(error)
        else:
            history.acknowledged(write)

    def verify(self, db: KVStore) -> None:
        """A file that cannot be read is in the report; nothing else may be."""
        with self.guard():
            report = db.verify()
            assert report.ok or self._reads_fail, report

    def read(self, db: KVStore) -> None:
        """Every way of reading, each on its own."""
        with self.guard():
            self.compare(list(db.scan()))
        with self.guard():
            self.compare(list(db.scan(reverse=True))[::-1])
        for key in [*self.expected(), b"0/none", b"9/none"]:
            with self.guard():
                assert db.get(key) == self.expected().get(key), key
        with self.guard():
            assert len(db) == len(self.expected())

    def healed(self, db: KVStore, life: int) -> None:
        """Reads are right. Writes go on, or every one says that it cannot."""
        before = len(self.errors)
        self.read(db)
        assert len(self.errors) == before, "a read fails for ever"
        for writer, last_word in self.last_words(life):
            self.write(db, writer, last_word)
        with self.guard():
            db.flush()
            db.compact()
            self.durable()
        self.read(db)
        failed = len(self.errors) > before
        self.write(db, 0, Write({b"0/last": b"%d" % life}, sync=True))
        self.check_poisoned(before, failed=failed)

    def last_words(self, life: int) -> Iterator[tuple[int, Write]]:
        """A write of each writer."""
        for writer in range(self.writers):
            yield writer, Write({b"%d/healed" % writer: b"%d" % life}, sync=True)

    def check_poisoned(self, before: int, *, failed: bool) -> None:
        """Whoever failed although nothing fails any more, fails until the store is reopened: not
        for want of room for another file, which is met before anything is written."""
        since = self.errors[before:]
        assert bool(since) == failed, "writes are accepted again"
        assert not since or not self._goes_on, since[0]
        assert not since or isinstance(since[-1], PoisonedError), since[-1]


class ScriptInThreads(Script):
    """Writers in threads, while the main thread does the rest."""

    writers = WRITERS
    writes = 6
    flush_interval_ms = 1.0

    def live(self, db: KVStore, life: int) -> None:
        failures: list[BaseException] = []

        def write_all(writer: int) -> None:
            try:
                for write in writes(life, writer, self.writes):
                    self.write(db, writer, write)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write_all, args=(w,)) for w in range(self.writers)]
        for thread in threads:
            thread.start()
        with self.guard():
            db.flush()
        self.verify(db)
        with self.guard():
            db.compact()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        self.read(db)


class ScriptInTasks(Script):
    """The same by the tasks of an event loop."""

    writers = WRITERS
    writes = 6
    flush_interval_ms = 1.0

    def run(self, spoiler: Spoiler, fs: FileSystem) -> None:
        asyncio.run(self._run(spoiler, fs))

    async def _run(self, spoiler: Spoiler, fs: FileSystem) -> None:
        for life in range(LIVES):
            db = None
            with self.guard():
                db = await AsyncKVStore(self.path, self.options, fs=fs)
            if db is None:
                return
            if life:
                found = None
                with self.guard():
                    found = await collect(db.scan())
                if found is None:
                    spoiler.heal()
                    found = await collect(db.scan())
                self.reopened(found)
            await asyncio.gather(
                *(self._write_all(db, life, writer) for writer in range(self.writers)),
                self._maintain(db),
            )
            await self._read(db)
            if life == LIVES - 1:
                spoiler.heal()
                await self._healed(db, life)
            with self.guard():
                await db.close()
                self.closed()
            spoiler.cut_power()

    async def _write_all(self, db: AsyncKVStore, life: int, writer: int) -> None:
        for write in writes(life, writer, self.writes):
            await self._write(db, writer, write)

    async def _write(self, db: AsyncKVStore, writer: int, write: Write) -> None:
        history = self.histories[writer]
        try:
            if len(write.changes) > 1:
                async with db.batch(sync=write.sync) as batch:
                    fill(batch, write)
            else:
                ((key, value),) = write.changes.items()
                if value is None:
                    await db.delete(key, sync=write.sync)
                else:
                    await db.put(key, value, sync=write.sync)
        except KVStoreError as error:
            history.failed(write)
            self.note(error)
        else:
            history.acknowledged(write)

    async def _maintain(self, db: AsyncKVStore) -> None:
        steps: list[Callable[[], Awaitable[object]]] = [db.flush, db.verify, db.compact, db.sync]
        for step in steps:
            with self.guard():
                report = await step()
                assert not isinstance(report, VerifyReport) or report.ok or self._reads_fail, report

    async def _read(self, db: AsyncKVStore) -> None:
        with self.guard():
            self.compare(await collect(db.scan()))
        with self.guard():
            self.compare((await collect(db.scan(reverse=True)))[::-1])
        for key in [*self.expected(), b"0/none", b"9/none"]:
            with self.guard():
                assert await db.get(key) == self.expected().get(key), key
        with self.guard():
            async with db.snapshot() as snapshot:
                self.compare(await collect(snapshot.scan()))
        with self.guard():
            assert await db.count() == len(self.expected())

    async def _healed(self, db: AsyncKVStore, life: int) -> None:
        before = len(self.errors)
        await self._read(db)
        assert len(self.errors) == before, "a read fails for ever"
        for writer, last_word in self.last_words(life):
            await self._write(db, writer, last_word)
        with self.guard():
            await db.flush()
            await db.compact()
            self.durable()
        await self._read(db)
        failed = len(self.errors) > before
        await self._write(db, 0, Write({b"0/last": b"%d" % life}, sync=True))
        self.check_poisoned(before, failed=failed)


def fill(batch: WriteBatch, write: Write) -> None:
    """The changes as a batch."""
    for key, value in write.changes.items():
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)


async def collect(entries: AsyncIterator[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """All that an asynchronous scan gives."""
    return [entry async for entry in entries]
