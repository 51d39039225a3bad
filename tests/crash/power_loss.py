"""Simulated power cuts: scripts run on SimFS, and what a cut at each moment may leave is recovered.

Two kinds of scripts. Every sequence of up to three operations is crashed in its last one (in those
before, the shorter sequences are), in all states where these are few: most bugs of crash
consistency need no more. And long ones that a seed makes, with flushes, compactions, rotations and
manifests that are full soon, and several batches in flight: in a few states at each moment.

Recovery is crashed as well, and the recovery of that, and killed stores whose page cache is lost
later. One thread does everything in an order that depends on the seed alone (simulation.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvstore import AsyncKVStore, KVStore, Options, WriteBatch
from tests.support.history import Bounds, History, Recovered, recover
from tests.support.power_cut import Disk
from tests.support.simfs import Event, Image, SimFS
from tests.support.simulation import PATH, simulated, tiny

# Odd, so that each has sequences of both kinds, buffered and direct.
_SLICES = 81
_LONG_SCRIPTS, _LIVES = 12, 3
_STATES_OF_SHORT, _STATES_OF_LONG = 200, 3
_THOROUGHLY_EACH = 4
_RECOVERY_CRASHED, _KILLED = 0.1, 0.1
_DEPTH_MAX = 2
_KEYS = [b"a", b"b", b"c", b"dd", b"eee"]

Changes = dict[bytes, bytes | None]


# ---- what is run ----


class Script:
    """A store on a SimFS, what was written to it, and the operations that sequences are made of.

    When it is ``busy``, others write while a flush or a compaction is under way.
    """

    def __init__(
        self,
        options: Options,
        chance: random.Random,
        image: Image | None = None,
        history: History | None = None,
        *,
        busy: bool = False,
    ) -> None:
        self.options = options
        self.chance = chance
        self.fs = SimFS(image)
        self.history = history or History()
        self._busy = busy
        self._beside = False
        self.fs.meanwhile = self._meanwhile
        self.db = KVStore(PATH, options, fs=self.fs)

    def _changes(self, keys: int = 1, *, deleted: bool = False, size: int = 40) -> Changes:
        """No two are alike: they say how many there were before."""
        value = b"%d." % len(self.history.models)
        value += self.chance.randbytes(max(0, size - len(value)))
        changes: Changes = dict.fromkeys(self.chance.sample(_KEYS, keys), value)
        if deleted:
            changes[next(iter(changes))] = None
            changes[b"last"] = value
        return changes

    def _write(self, changes: Changes, *, sync: bool) -> None:
        number = self.history.submit(self.fs, changes)
        if len(changes) == 1:
            ((key, value),) = changes.items()
            if value is None:
                self.db.delete(key, sync=sync)
            else:
                self.db.put(key, value, sync=sync)
        else:
            self.db.write(batch_of(changes), sync=sync)
        if sync:
            self.history.acknowledge(self.fs, number)

    def _settle(self, work: Callable[[], None]) -> None:
        """Something that makes all durable that was written before it."""
        number = len(self.history.models) - 1
        work()
        self.history.acknowledge(self.fs, number)

    def _with_others(self, work: Callable[[], None]) -> None:
        """Others may write while this writes tables and manifests."""
        self._beside = self._busy
        work()
        self._beside = False

    def _meanwhile(self, operation: str, name: str) -> None:
        if self._beside and (".sst" in name or "MANIFEST" in name) and self.chance.random() < 0.1:
            self._beside = False
            if not self.db._pressure.closed:
                self._write(self._changes(), sync=self.chance.random() < 0.5)
            self._beside = True

    # ---- operations ----

    def put(self) -> None:
        self._write(self._changes(), sync=True)

    def put_relaxed(self) -> None:
        self._write(self._changes(), sync=False)

    def put_large(self) -> None:
        self._write(self._changes(size=1100), sync=True)

    def batch(self) -> None:
        self._write(self._changes(2, deleted=True, size=300), sync=True)

    def batch_relaxed(self) -> None:
        self._write(self._changes(3, size=200), sync=False)

    def delete(self) -> None:
        # Its model is like no other, for it counts, too.
        self._write({self.chance.choice(_KEYS): None, b"last": self._changes().popitem()[1]},
                    sync=True)  # fmt: skip

    def sync(self) -> None:
        self._settle(self.db.sync)

    def flush(self) -> None:
        self._with_others(lambda: self._settle(self.db.flush))

    def compact(self) -> None:
        self._with_others(lambda: self._settle(self.db.compact))

    def background(self) -> None:
        """What the background thread would do next."""
        self._with_others(self.db._worker.serve)

    def mark(self) -> None:
        """What an idle log gets."""
        self.db._wal.mark()

    def rotate(self) -> None:
        """Relaxed writes, until the log goes on in another file."""
        segment = self.db._wal.segment_number
        while self.db._wal.segment_number == segment:
            self._write(self._changes(size=1500), sync=False)

    def reopen(self) -> None:
        self._settle(self.db.close)
        self.db = KVStore(PATH, self.options, fs=self.fs)

    def end(self) -> None:
        """Nobody looks at the disk any more."""
        self.db.close()


def batch_of(changes: Changes) -> WriteBatch:
    """The same as a batch."""
    batch = WriteBatch()
    for key, value in changes.items():
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


OPERATIONS = [
    *("put", "put_relaxed", "put_large", "batch", "delete", "sync", "flush", "compact"),
    *("mark", "rotate", "reopen"),
]
_WEIGHTS = {
    **dict.fromkeys(OPERATIONS, 2),
    "put": 6,
    "put_relaxed": 8,
    "batch_relaxed": 6,
    "background": 6,
    "compact": 1,
    "reopen": 1,
}


def sequences() -> Iterator[tuple[bool, tuple[str, ...]]]:
    """Every one of one, two and three operations, buffered and direct."""
    for length in (1, 2, 3):
        for names in itertools.product(OPERATIONS, repeat=length):
            for direct in (False, True):
                yield direct, names


GOAL = {"states": 1_000_000, "short scripts": sum(1 for _ in sequences())}


# ---- what is crashed ----


@dataclass
class Search:
    """Crashes one script's events. ``seen``: images that were recovered, and to how many changes.
    ``tried`` counts by the kind of crash; of each image once."""

    options: Options
    chance: random.Random
    history: History
    limit: int
    seen: dict[int, int] = field(default_factory=dict)
    tried: Counter[str] = field(default_factory=Counter)
    left: tuple[Image, int, list[bytes]] | None = None
    """A state that was recovered, its number of changes, and what the disk has in its free room."""
    keep: Path | None = None

    def run(self, disk: Disk, events: Sequence[Event], first: int = 0) -> None:
        """Crashes at each event from number ``first`` on."""
        bounds = Bounds()
        for index, event in enumerate(events):
            changed = disk.apply(event)
            promised = bounds.apply(event)
            if index < first or not (changed or promised):
                continue
            with self._telling(index, event):
                for image in disk.states(self.chance, self.limit):
                    self._crash(image, disk, bounds, "power cuts", depth=0)
                if self.chance.random() < _KILLED:
                    self._kill(copy.deepcopy(disk), bounds)

    def _crash(self, image: Image, disk: Disk, bounds: Bounds, kind: str, *, depth: int) -> None:
        key = image.key()
        if key in self.seen:
            count = self.seen[key]
            promise = f"{count} changes are there, {bounds.least} were acknowledged"
            assert bounds.least <= count <= bounds.most, promise
            return
        recovered = self._recover(image, bounds)
        self.seen[key] = recovered.count
        self.tried[kind] += 1
        if self.left is None or self.chance.random() < 0.05:
            self.left = image, recovered.count, disk.freed(image)
        if depth < _DEPTH_MAX and self.chance.random() < _RECOVERY_CRASHED * (1 + 4 * depth):
            again = Disk(image, disk.stale)
            exactly = Bounds(recovered.count, recovered.count)
            kind = "in recovery" if depth == 0 else "in recovery of that"
            self._crash_some(again, recovered.events, exactly, exactly, kind=kind, depth=depth + 1)

    def _kill(self, disk: Disk, bounds: Bounds) -> None:
        """Nothing is lost at first; only after the recovery, or in it, the power goes."""
        recovered = self._recover(disk.killed(), bounds)
        after = Bounds(recovered.count, recovered.count)
        self._crash_some(disk, recovered.events, bounds, after, kind="after kills", depth=1)

    def _crash_some(
        self,
        disk: Disk,
        events: Sequence[Event],
        during: Bounds,
        after: Bounds,
        *,
        kind: str,
        depth: int,
    ) -> None:
        """Crashes at an event of a recovery, and when it is over."""
        at = self.chance.randrange(len(events) + 1)
        for index, event in enumerate(events):
            if index == at:
                self._crash_all(disk, during, kind, depth)
            disk.apply(event)
        self._crash_all(disk, after, kind, depth)

    def _crash_all(self, disk: Disk, bounds: Bounds, kind: str, depth: int) -> None:
        for image in disk.states(self.chance, _STATES_OF_LONG):
            self._crash(image, disk, bounds, kind, depth=depth)

    def _recover(self, image: Image, bounds: Bounds) -> Recovered:
        thoroughly = len(self.seen) % _THOROUGHLY_EACH == 0
        try:
            return recover(image, self.history, bounds, self.options, thoroughly=thoroughly)
        except Exception as error:
            self._keep(image)
            sizes = {name: len(image.file(name)) for name in image.names}
            raise AssertionError(f"{type(error).__name__}: {error}\nof {sizes}") from error

    def _keep(self, image: Image) -> None:
        if self.keep is not None:
            (self.keep / "image").mkdir(parents=True, exist_ok=True)
            for name in image.names:
                (self.keep / "image" / name).write_bytes(image.file(name))

    @contextlib.contextmanager
    def _telling(self, index: int, event: Event) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            raise AssertionError(
                f"crash behind event {index}, {str(event)[:80]}: {error}"
            ) from error


@contextlib.contextmanager
def _in_context(what: str, keep: Path | None = None) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        kept = f"\nthe image is in {keep / 'image'}" if keep else ""
        raise AssertionError(f"{what}\n{error}{kept}") from error


def short_script(
    names: tuple[str, ...],
    chance: random.Random,
    *,
    direct: bool,
    limit: int = _STATES_OF_SHORT,
    keep: Path | None = None,
) -> Counter[str]:
    """Runs a sequence and crashes it in its last operation (also in its opening, if that is the
    only one); how many states were tried."""
    with _in_context(f"{'direct' if direct else 'buffered'}: {', '.join(names)}", keep):
        script = Script(tiny(direct=direct), chance)
        for name in names[:-1]:
            getattr(script, name)()
        first = len(script.fs.events) if len(names) > 1 else 0
        getattr(script, names[-1])()
        events = script.fs.events[:]
        script.end()
        search = Search(script.options, chance, script.history, limit, keep=keep)
        search.run(Disk(Image()), events, first)
    return search.tried


def long_script(chance: random.Random, *, keep: Path | None = None) -> Counter[str]:
    """Three lives of a store, each made by chance, the next beginning with a state that a crash of
    the one before left; how many states were tried."""
    tried: Counter[str] = Counter()
    image, history = Image(), History()
    stale: list[bytes] = []
    for life in range(_LIVES):
        direct = chance.random() < 0.3
        run = chance.choice([_script_life, _script_life, _loop_life])
        with _in_context(f"{run.__name__} number {life} of a store, direct: {direct}", keep):
            options = tiny(direct=direct, wal_batches_in_flight=chance.choice([1, 2, 4]))
            events = run(options, chance, image, history)
            search = Search(options, chance, history, _STATES_OF_LONG, keep=keep)
            search.run(Disk(image, stale), events)
        tried += search.tried
        assert search.left is not None
        image, count, stale = search.left
        history = History([history.models[count]])
    return tried


def _script_life(
    options: Options, chance: random.Random, image: Image, history: History
) -> list[Event]:
    script = Script(options, chance, image, history, busy=True)
    names = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=chance.randrange(8, 40))
    for name in names:
        getattr(script, name)()
    events = script.fs.events[:]
    script.end()
    return events


def _loop_life(
    options: Options, chance: random.Random, image: Image, history: History
) -> list[Event]:
    fs = SimFS(image)
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_tasks(options, chance, fs, history))
    finally:
        loop.close()


async def _tasks(
    options: Options, chance: random.Random, fs: SimFS, history: History
) -> list[Event]:
    async with AsyncKVStore(PATH, options, fs=fs) as db:

        async def writer(number: int) -> None:
            for _ in range(6):
                await _write_something(db, number, chance, fs, history)

        await asyncio.gather(*map(writer, range(chance.randrange(1, 6))))
        if chance.random() < 0.5:
            await db.flush()
            history.acknowledge(fs)
        return fs.events[:]


async def _write_something(
    db: AsyncKVStore, writer: int, chance: random.Random, fs: SimFS, history: History
) -> None:
    value = b"%d." % len(history.models) + chance.randbytes(chance.choice([20, 20, 300, 900]))
    what: Any = chance.choice(["put", "put", "put", "relaxed", "batch", "sync"])
    if what == "sync":
        number = len(history.models) - 1
        await db.sync()
        history.acknowledge(fs, number)
        return
    changes: Changes = {b"of %d" % writer: value}
    if what == "batch":
        changes |= {chance.choice(_KEYS): value, b"of %d too" % writer: None}
    number = history.submit(fs, changes)
    if what == "batch":
        await db.write(batch_of(changes))
    else:
        await db.put(*changes.popitem(), sync=what == "put")  # type: ignore[arg-type]
    if what != "relaxed":
        history.acknowledge(fs, number)


def chunk(index: int, directory: Path) -> Counter[str]:
    """A share of all short scripts, and long ones. _SLICES of them have every short script; those
    that follow begin with the first again, and throw other dice.

    A failure leaves the image that was not recovered as it should be in ``directory``.
    """
    tried: Counter[str] = Counter()
    short = list(itertools.islice(sequences(), index % _SLICES, None, _SLICES))
    with simulated(index) as chance, _in_context(f"repeat: power_loss.chunk({index}, directory)"):
        for direct, names in short:
            tried += short_script(names, chance, direct=direct, keep=directory)
        for _ in range(_LONG_SCRIPTS):
            tried += long_script(chance, keep=directory)
    return Counter({"states": tried.total(), "short scripts": len(short)})
