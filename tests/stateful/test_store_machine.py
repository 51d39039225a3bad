"""KVStore against a dict, through any sequence of calls, reopenings and power cuts.

Memtables, tables and levels are small, so that flushes and compactions go on in the background all
the time. A power cut is simulated by copying the directory while the store is open: the copy must
open, and hold one of the states the store was in since it last said that everything was durable.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kvstore
from kvstore import ClosedError, KVStore, LimitError, LockedError, Options, WriteBatch
from kvstore.options import KEY_BYTES_MAX
from kvstore.snapshot import Snapshot
from tests.support.pausefs import PausingFileSystem
from tests.support.stores import HAS_RING, NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents

SMALLEST = 64 << 10
HELD_MAX = 3
FILL_KEYS = 60

Model = dict[bytes, bytes]

NUMBERED = st.integers(0, FILL_KEYS - 1).map(lambda number: b"k%02d" % number)
KEYS = (
    st.sampled_from([b"a", b"b", b"c", b"ab", b"\xff", b"\0"])
    | st.binary(min_size=1, max_size=3)
    | NUMBERED
)


def noise(size: int, seed: int) -> bytes:
    """Bytes that cannot be compressed."""
    return random.Random(seed).randbytes(size)


SEEDS = st.integers(0, 255)
VALUES = (
    st.binary(max_size=5)
    | st.builds(noise, st.sampled_from([100, 5000, 40_000, 70_000]), SEEDS)
    | st.builds(lambda size, seed: bytes([seed]) * size, st.sampled_from([100, 5000]), SEEDS)
)
CHANGES = st.dictionaries(KEYS, st.none() | VALUES, min_size=1, max_size=4)
BOUNDS = st.none() | KEYS
SYNC = st.sampled_from([None, True, False])
BAD_CALLS: dict[str, tuple[type[Exception], Callable[[KVStore], object]]] = {
    "put no key": (LimitError, lambda db: db.put(b"", b"")),
    "put a long key": (LimitError, lambda db: db.put(bytes(KEY_BYTES_MAX + 1), b"")),
    "put a string": (TypeError, lambda db: db.put("key", b"")),  # type: ignore[arg-type]
    "put None": (TypeError, lambda db: db.put(b"key", None)),  # type: ignore[arg-type]
    "delete no key": (LimitError, lambda db: db.delete(b"")),
    "batch of no key": (LimitError, lambda db: WriteBatch().put(b"", b"")),
    "get no key": (LimitError, lambda db: db.get(b"")),
    "get a string": (TypeError, lambda db: db.get("key")),  # type: ignore[call-overload]
    "contains a number": (TypeError, lambda db: db.__contains__(1)),
    "scan a string": (TypeError, lambda db: db.scan("a")),  # type: ignore[arg-type]
    "scan backwards by limit": (ValueError, lambda db: db.scan(limit=-1)),
    "compact a string": (TypeError, lambda db: db.compact("a")),  # type: ignore[arg-type]
    "open it twice": (LockedError, lambda db: kvstore.open(db.path)),
}
OPTIONS = st.fixed_dictionaries(
    {
        "wal_backend": st.sampled_from(["pwrite", "io_uring"] if HAS_RING else ["pwrite"]),
        "wal_direct_io": st.booleans(),
        "wal_buffer_bytes": st.sampled_from([SMALLEST_BUFFER, 4 << 20]),
        "wal_segment_bytes": st.sampled_from([SMALLEST_SEGMENT, 1 << 20]),
        "flush_interval_ms": st.sampled_from([0, 1, NEVER]),
        "sync": st.booleans(),
        "memtable_bytes_max": st.sampled_from([SMALLEST, SMALLEST, SMALLEST, 64 << 20]),
        "block_bytes": st.sampled_from([256, 4096]),
        "filter_bits_per_key": st.sampled_from([0, 10]),
        "compression": st.sampled_from(["none", "lz4", "zstd"]),
        "block_cache_bytes": st.sampled_from([0, 8192, 32 << 20]),
        "table_bytes_max": st.just(SMALLEST),
        "level_bytes_base": st.just(SMALLEST),
    }
)


@dataclass(frozen=True)
class Range:
    """What a scan is asked for."""

    start: bytes | None
    stop: bytes | None
    prefix: bytes | None
    reverse: bool
    limit: int | None

    def arguments(self) -> dict[str, Any]:
        return dict(vars(self))

    def of(self, model: Model) -> list[tuple[bytes, bytes]]:
        """What it comes to."""
        found = [
            (key, value)
            for key, value in sorted(model.items(), reverse=self.reverse)
            if (self.start is None or self.start <= key)
            and (self.stop is None or key < self.stop)
            and (self.prefix is None or key.startswith(self.prefix))
        ]
        return found[: self.limit]


RANGES = st.builds(
    Range, BOUNDS, BOUNDS, BOUNDS | st.just(b"k"), st.booleans(), st.none() | st.integers(0, 70)
)


def collect(batch: WriteBatch, changes: dict[bytes, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)


class StoreMachine(RuleBasedStateMachine):
    """Calls in any order; ``legal`` are the states that a power cut now may leave. ``snapshots``
    and ``iterators`` are held, each with what it must show."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kvstore-machine-"))
        self.path = self.root / "db"
        self.fs = PausingFileSystem()
        self.model: Model = {}
        self.legal: list[Model] = [{}]
        self.snapshots: list[tuple[Snapshot, Model]] = []
        self.iterators: list[tuple[Iterator[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]] = []
        self.copies = 0

    def teardown(self) -> None:
        try:
            if hasattr(self, "db"):
                report = self.db.verify()
                assert report.ok, report
                self._close()
                assert contents(self.path, recovery="strict") == self.model
        finally:
            if hasattr(self, "db"):
                self.db.close()
            shutil.rmtree(self.root)

    @initialize(options=OPTIONS, levels=st.integers(0, 3))
    def begin(self, options: dict[str, Any], levels: int) -> None:
        self._open(options)
        for level in range(levels):  # tables to begin with, in a level each
            self.fill(3000, level, 1 + level, sync=False)
            self.compact(None, None)
        if levels:
            self.fill(1000, 100, 2, sync=False)

    def _open(self, options: dict[str, Any]) -> None:
        self.options = options
        self.db = KVStore(self.path, Options(**options), fs=self.fs)
        self.legal[:] = [dict(self.model)]

    def _close(self) -> None:
        self.db.close()
        for snapshot, _ in self.snapshots:
            with pytest.raises(ClosedError):
                snapshot.get(b"a")
            snapshot.close()
        for iterator, left in self.iterators:
            if left:
                with pytest.raises(ClosedError):
                    next(iterator)
        self.snapshots.clear()
        self.iterators.clear()

    def _wrote(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        for key, value in changes.items():
            self.model.pop(key, None)
            if value is not None:
                self.model[key] = value
        if self.options["sync"] if sync is None else sync:
            self.legal.clear()
        self.legal.append(dict(self.model))

    # ---- writing ----

    @rule(key=KEYS, value=VALUES, sync=SYNC)
    def put(self, key: bytes, value: bytes, sync: bool | None) -> None:
        self.db.put(key, value, sync=sync)
        self._wrote({key: value}, sync)

    @rule(key=KEYS, value=VALUES)
    def set_item(self, key: bytes, value: bytes) -> None:
        self.db[key] = value
        self._wrote({key: value}, None)

    @rule(size=st.sampled_from([50, 1000, 3000]), seed=SEEDS, step=st.integers(1, 3), sync=SYNC)
    def fill(self, size: int, seed: int, step: int, sync: bool | None) -> None:
        """Enough for a table or several."""
        for number in range(seed % step, FILL_KEYS, step):
            key, value = b"k%02d" % number, noise(size, seed + number)
            self.db.put(key, value, sync=sync)
            self._wrote({key: value}, sync)

    @rule(key=KEYS, sync=SYNC)
    def delete(self, key: bytes, sync: bool | None) -> None:
        self.db.delete(key, sync=sync)
        self._wrote({key: None}, sync)

    @rule(prefix=st.sampled_from([b"k", b"k1", b"k3"]))
    def delete_all(self, prefix: bytes) -> None:
        for key in list(self.model):
            if key.startswith(prefix):
                self.db.delete(key, sync=False)
                self._wrote({key: None}, sync=False)

    @rule(key=KEYS)
    def delete_item(self, key: bytes) -> None:
        if key in self.model:
            del self.db[key]
            self._wrote({key: None}, None)
        else:
            with pytest.raises(KeyError):
                del self.db[key]

    @rule(key=KEYS, value=VALUES)
    def set_default(self, key: bytes, value: bytes) -> None:
        assert self.db.setdefault(key, value) == self.model.get(key, value)
        if key not in self.model:
            self._wrote({key: value}, None)

    @rule(entries=st.dictionaries(KEYS, VALUES, max_size=3))
    def update(self, entries: dict[bytes, bytes]) -> None:
        self.db.update(entries)
        for key, value in entries.items():
            self._wrote({key: value}, None)

    @precondition(lambda self: self.model)
    @rule()
    def pop_item(self) -> None:
        first = min(self.model)
        assert self.db.popitem() == (first, self.model[first])
        self._wrote({first: None}, None)

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        expected = self.model.get(key)
        assert self.db.pop(key, None) == expected
        if expected is not None:
            self._wrote({key: None}, None)

    @rule(changes=CHANGES, sync=SYNC)
    def batch(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        with self.db.batch(sync=sync) as batch:
            collect(batch, changes)
        self._wrote(changes, sync)

    @rule(changes=CHANGES, sync=SYNC)
    def write(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        batch = WriteBatch()
        self.db.write(batch, sync=sync)  # nothing
        collect(batch, changes)
        self.db.write(batch, sync=sync)
        self._wrote(changes, sync)

    @rule(changes=CHANGES, sync=SYNC)
    def drop_batch(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        with contextlib.suppress(ZeroDivisionError), self.db.batch(sync=sync) as batch:
            collect(batch, changes)
            raise ZeroDivisionError

    @rule(name=st.sampled_from(sorted(BAD_CALLS)))
    def bad_call(self, name: str) -> None:
        error, call = BAD_CALLS[name]
        with pytest.raises(error):
            call(self.db)

    @rule()
    def clear(self) -> None:
        self.db.clear()
        if self.model:
            self._wrote(dict.fromkeys(self.model), None)

    @rule()
    def sync(self) -> None:
        last_lsn = self.db.stats().last_lsn
        self.db.sync()
        assert self.db.stats().durable_lsn >= last_lsn
        self.legal[:] = [dict(self.model)]

    @rule()
    def flush(self) -> None:
        self.db.flush()
        assert self.db.stats().sealed_memtables == 0
        self.legal[:] = [dict(self.model)]

    @rule(start=BOUNDS, stop=BOUNDS)
    def compact(self, start: bytes | None, stop: bytes | None) -> None:
        shares: list[float] = []
        self.db.compact(start, stop, progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        self.legal[:] = [dict(self.model)]

    @rule()
    def give_a_compaction_up(self) -> None:
        def give_up(share: float) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.db.compact(progress=give_up)
        self.legal[:] = [dict(self.model)]  # it flushed first

    # ---- reading ----

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.model.get(key)
        assert self.db.get(key, b"default") == self.model.get(key, b"default")
        assert (key in self.db) == (key in self.model)
        if key in self.model:
            assert self.db[key] == self.model[key]
        else:
            with pytest.raises(KeyError):
                self.db[key]

    @rule()
    def views(self) -> None:
        keys = sorted(self.model)
        assert list(self.db) == list(self.db.keys()) == keys
        assert list(reversed(self.db)) == keys[::-1]
        assert list(self.db.values()) == [self.model[key] for key in keys]
        assert self.db == self.model

    @rule()
    def stats(self) -> None:
        stats = self.db.stats()
        assert stats.durable_lsn <= stats.last_lsn
        assert stats.entries >= len(self.model)
        assert stats.table_bytes == sum(level.bytes for level in stats.levels)

    @rule(range=RANGES)
    def scan(self, range: Range) -> None:
        assert list(self.db.scan(**range.arguments())) == range.of(self.model)

    @precondition(lambda self: len(self.iterators) < HELD_MAX)
    @rule(range=RANGES)
    def begin_iterator(self, range: Range) -> None:
        iterator, left = self.db.scan(**range.arguments()), range.of(self.model)
        assert next(iterator, None) == (left[0] if left else None)
        self.iterators.append((iterator, left[1:]))

    @precondition(lambda self: self.iterators)
    @rule(count=st.sampled_from([1, 10, FILL_KEYS * 2]))
    def go_on_iterating(self, count: int) -> None:
        iterator, left = self.iterators.pop(0)
        assert list(itertools.islice(iterator, count)) == left[:count]
        if left[count:]:
            self.iterators.append((iterator, left[count:]))
        else:
            assert next(iterator, None) is None

    @precondition(lambda self: len(self.snapshots) < HELD_MAX)
    @rule()
    def take_snapshot(self) -> None:
        self.snapshots.append((self.db.snapshot(), dict(self.model)))

    @precondition(lambda self: self.snapshots)
    @rule(key=KEYS, range=RANGES, close=st.booleans())
    def read_snapshot(self, key: bytes, range: Range, *, close: bool) -> None:
        snapshot, model = self.snapshots.pop(0)
        assert snapshot.get(key) == model.get(key)
        for known in model.keys() | self.model.keys():
            assert snapshot.get(known) == model.get(known)
            assert (known in snapshot) == (known in model)
        assert list(snapshot.scan(**range.arguments())) == range.of(model)
        assert list(snapshot) == sorted(model)
        assert len(snapshot) == len(model)
        if close:
            snapshot.close()
        else:
            self.snapshots.append((snapshot, model))

    # ---- life ----

    @rule(options=OPTIONS, mode=st.sampled_from(["tolerate_torn_tail", "strict", "point_in_time"]))
    def reopen(self, options: dict[str, Any], mode: str) -> None:
        self._close()
        self._open({**options, "recovery": mode})

    @precondition(lambda self: self.copies < 4)
    @rule(again=st.booleans(), compacted=st.booleans())
    def power_cut(self, *, again: bool, compacted: bool) -> None:
        self.copies += 1
        copy = self.fs.copy_store(self.path, self.root / f"copy{self.copies}")
        found = contents(copy)
        assert found in self.legal
        assert contents(copy, recovery="strict") == found
        if again:  # and what was recovered can be written to
            with kvstore.open(copy) as db:
                db.put(b"after the cut", b"")
                if compacted:
                    db.compact()
                assert db.verify().ok
            assert contents(copy) == {**found, b"after the cut": b""}
        shutil.rmtree(copy)

    @rule()
    def salvage(self) -> None:
        """What a closed store holds can also be read without touching it."""
        self._close()
        assert kvstore.verify(self.path).ok
        assert contents(self.path, recovery="salvage") == self.model
        self._open(self.options)

    @rule()
    def verify(self) -> None:
        report = self.db.verify()
        assert report.ok, report

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "db"):
            return
        assert dict(self.db.items()) == self.model
        assert len(self.db) == len(self.model)
        state = self.db._tree.state
        state.memtable._check()
        state.version._check()
        assert not self.db._pipeline._pending
        assert self.db.stats().background_error == ""


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
TestStoreMachine.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
