"""Stores whose log operations complete late, in any order, or only when they are let."""

from __future__ import annotations

import contextlib
import errno
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from kvstore import WriteBatch
from kvstore.fs import PosixFileSystem
from kvstore.wal import LogReader, core
from kvstore.wal.core import PythonEngine
from tests.support.faultfs import FaultFileSystem

__all__ = ["History", "Shuffler", "batches", "log_payloads", "shuffled"]


class Shuffler(PythonEngine):
    """Carries out operations in any order, at most two at a time; none while ``held``.

    Each begins to matter when it completes, as if the device had delayed it. Operation number
    ``fail_at`` of those that complete fails with EIO, and whatever comes after it. ``dsync``: takes
    writes that sync themselves; None: chance tells.
    """

    def __init__(self, chance: random.Random, *, dsync: bool | None = None) -> None:
        super().__init__()
        self.chance = chance
        self.dsync = chance.random() < 0.5 if dsync is None else dsync
        self.waiting: list[tuple[int, int, bytes, int]] = []
        self.free = threading.Event()
        self.free.set()
        self.completed = 0
        self.fail_at: int | None = None
        self.in_flight_max = 0

    def hold(self) -> None:
        """From now on nothing completes, until ``free`` is set."""
        self.free.clear()

    def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
        self.waiting.append((identity, kind, data, offset))
        self.in_flight_max = max(self.in_flight_max, len(self.waiting))

    def wait(self, block: bool) -> list[tuple[int, int]]:
        if block:
            assert self.free.wait(20)
        elif not self.free.is_set():
            return []
        self.chance.shuffle(self.waiting)
        least = 1 if block and self.waiting else 0
        count = self.chance.randint(least, max(least, min(2, len(self.waiting))))
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return [(operation[0], self._complete(*operation[1:])) for operation in taken]

    def _complete(self, kind: int, data: bytes, offset: int) -> int:
        number, self.completed = self.completed, self.completed + 1
        if self.fail_at is not None and number >= self.fail_at:
            return -errno.EIO
        return self.carry_out(kind, data, offset)


@contextlib.contextmanager
def shuffled(seed: int, *, dsync: bool | None = None) -> Iterator[tuple[Shuffler, FaultFileSystem]]:
    """An engine, and a file system: the next store opened on it has that engine."""
    engine = Shuffler(random.Random(seed), dsync=dsync)
    with mock.patch.object(core, "PythonEngine", return_value=engine):
        yield engine, FaultFileSystem()


@dataclass
class History:
    """What was written, acknowledged and seen of an empty store, to be held against its log."""

    changes: dict[bytes, dict[bytes, bytes | None]] = field(default_factory=dict)
    durable: set[bytes] = field(default_factory=set)
    acknowledged: list[bytes] = field(default_factory=list)
    """Payloads, in the order in which their writers came to hear of them."""
    seen: list[tuple[dict[bytes, bytes], int]] = field(default_factory=list)
    log: list[tuple[int, bytes]] = field(default_factory=list)

    def begin(self, batch: WriteBatch, *, sync: bool) -> bytes:
        """A batch is about to be written; its payload, which no other has."""
        payload = batch.encode()
        assert payload not in self.changes
        self.changes[payload] = batch.changes
        if sync:
            self.durable.add(payload)
        return payload

    def see(self, state: dict[bytes, bytes], durable_lsn: int) -> None:
        """What was visible, and the durable LSN afterwards."""
        if not self.seen or self.seen[-1][0] != state:
            self.seen.append((state, durable_lsn))

    def check(self, directory: Path, *, in_order: bool) -> None:
        """Holds it all against the log of the store, which is closed. ``in_order``: whoever writes
        heard in the order of the log."""
        self.log = [entry for entry in log_payloads(directory) if entry[1] in self.changes]
        order = [payload for _, payload in self.log]
        assert sorted(order) == sorted(self.acknowledged)
        if in_order:
            # A relaxed write may return at once, before tasks run that have been told of others.
            places = {payload: lsn for lsn, payload in self.log if payload in self.durable}
            heard = [places[payload] for payload in self.acknowledged if payload in places]
            assert heard == sorted(heard)
        state: dict[bytes, bytes] = {}
        prefixes = [(state, 0)]  # what is visible, and up to where the log must be durable then
        for lsn, payload in self.log:
            state = dict(state)
            for key, value in self.changes[payload].items():
                state.pop(key, None)
                if value is not None:
                    state[key] = value
            prefixes.append((state, lsn if payload in self.durable else prefixes[-1][1]))
        at = 0
        for seen, durable_lsn in self.seen:
            while at < len(prefixes) and prefixes[at][0] != seen:
                at += 1
            assert at < len(prefixes), f"no prefix of the log, or one from before: {sorted(seen)}"
            assert prefixes[at][1] <= durable_lsn
        self._last = state

    def last(self) -> dict[bytes, bytes]:
        """What the whole log amounts to, in key order."""
        return dict(sorted(self._last.items()))


_SHARED = [b"shared %d" % i for i in range(3)]


def batches(
    seed: int, writers: int, each: int, *, alike: bool = False
) -> Iterator[tuple[WriteBatch, bool]]:
    """What writers write, one after the other: each with a key of its own, and shared ones; whether
    durable. ``alike``: durable puts of one key only."""
    chance = random.Random(seed)
    for number in range(writers * each):
        batch = WriteBatch()
        batch.put(b"own %d" % number, bytes(chance.choice([1, 100, 3000])))
        if alike:
            yield batch, True
            continue
        if chance.random() < 0.5:
            batch.put(b"own %d too" % number, b"")
        for key in chance.sample(_SHARED, chance.randrange(3)):
            batch.put(key, b"%d" % number)
        if chance.random() < 0.2:
            batch.delete(chance.choice(_SHARED))
        yield batch, chance.random() < 0.7


def log_payloads(directory: Path) -> list[tuple[int, bytes]]:
    """(LSN, payload) of all that the log of a closed store holds, in order."""
    found = []
    for path in sorted(directory.glob("*.wal")):
        file = PosixFileSystem().open_read_only(str(path))
        try:
            found += [(entry.lsn, entry.payload) for entry in LogReader(file).entries()]
        finally:
            file.close()
    return found
