"""One script, the same answers in every configuration.

A seeded script of calls (writes, batches, scans, snapshots, flushes, compactions, reopenings) is
played to a store in each configuration, and to a dict. Settings change when things happen: how many
tables there are, what is in memory, which engine writes. No answer may depend on them.

Of all configurations so many are taken that every three values of different settings meet in one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import WriteBatch
from kvstore.wal.backends import ENVIRONMENT
from tests.support.stores import HAS_RING, SMALLEST_SEGMENT, contents
from tests.support.wal import direct_io_refusal

SEED = 5
STEPS = 300
KEYS = [
    b"%s%03d" % (prefix, number)
    for prefix in (b"a", b"b", b"long key " * 20)
    for number in range(60)
]
VALUE_BYTES = [0, 1, 20, 300, 300, 2000, 2000, 70_000]
SNAPSHOTS_MAX = 3

SETTINGS: dict[str, tuple[Any, ...]] = {
    "wal_backend": ("pwrite", "io_uring"),
    "wal_direct_io": (False, True),
    "wal_segment_bytes": (SMALLEST_SEGMENT, 16 << 20),
    "memtable_bytes_max": (64 << 10, 64 << 20),
    "level_bytes_base": (64 << 10, 256 << 20),
    "block_bytes": (256, 4096),
    "block_cache_bytes": (0, 32 << 20),
    "filter_bits_per_key": (10, 0),
    "compression": ("none", "lz4", "zstd"),
    "sync": (True, False),
    "asynchronous": (False, True),
}
Configuration = dict[str, Any]
Step = tuple[Any, ...]
"""The name of a call, and its arguments."""


def covering(strength: int) -> list[Configuration]:
    """Configurations in which every ``strength`` values of different settings meet. Not the fewest,
    but always the same."""
    rng = random.Random(SEED)
    groups = list(itertools.combinations(SETTINGS, strength))
    missing = {
        (group, values)
        for group in groups
        for values in itertools.product(*(SETTINGS[name] for name in group))
    }
    chosen: list[Configuration] = []
    while missing:
        best: Configuration = {}
        met: set[Any] = set()
        for _ in range(30):
            one = {name: rng.choice(values) for name, values in SETTINGS.items()}
            meets = missing & {(group, tuple(one[name] for name in group)) for group in groups}
            if len(meets) > len(met):
                best, met = one, meets
        missing -= met
        chosen += [best] if met else []
    return chosen


def make_script(seed: int, steps: int) -> list[Step]:
    """Calls that fit each other: at most SNAPSHOTS_MAX snapshots, none held over a reopening."""
    rng = random.Random(seed)
    held = 0

    def value() -> bytes:
        size = rng.choice(VALUE_BYTES)
        return rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size

    def some(count: int) -> dict[bytes, bytes | None]:
        return {key: None if rng.random() < 0.2 else value() for key in rng.sample(KEYS, count)}

    def part() -> dict[str, Any]:
        start, stop = rng.sample([None, None, b"", b"a03", b"b", *rng.sample(KEYS, 4)], 2)
        prefix = rng.choice([None, None, b"a0", b"long", b"no such"])
        limit = rng.choice([None, None, 0, 1, 7, 100])
        bounds = {"start": start, "stop": stop, "prefix": prefix}
        return {**bounds, "reverse": rng.random() < 0.5, "limit": limit}

    def step(name: str) -> Step:
        sync = rng.choice([None, None, True, False])
        arguments: dict[str, Step] = {
            "put": (rng.choice(KEYS), value(), sync),
            "delete": (rng.choice(KEYS), sync),
            "batch": (some(rng.randrange(1, 8)), sync),
            "dropped_batch": (some(3),),
            "burst": (some(rng.randrange(10, 40)),),
            "get": (rng.choice(KEYS),),
            "scan": (part(),),
            "read_snapshot": (rng.randrange(max(held, 1)), rng.choice(KEYS), part()),
            "close_snapshot": (rng.randrange(max(held, 1)),),
            "compact": tuple(sorted(rng.sample(KEYS, 2))) if rng.random() < 0.5 else (None, None),
        }
        return (name, *arguments.get(name, ()))

    names = [
        *(["put"] * 8 + ["delete"] * 4 + ["batch"] * 4 + ["burst"] * 4 + ["get"] * 8),
        *(["scan"] * 6 + ["take_snapshot"] * 2 + ["read_snapshot"] * 4 + ["close_snapshot"]),
        *("dropped_batch", "count", "sync", "flush", "compact", "verify", "reopen"),
    ]
    script: list[Step] = []
    while len(script) < steps:
        name = rng.choice(names)
        if name == "take_snapshot" and held == SNAPSHOTS_MAX:
            continue
        if name in ("read_snapshot", "close_snapshot") and not held:
            continue
        script.append(step(name))
        held += (name == "take_snapshot") - (name == "close_snapshot")
        held = 0 if name == "reopen" else held
    return script


class Model:
    """What each call of a script answers, by a dict."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.snapshots: list[dict[bytes, bytes]] = []

    def play(self, script: list[Step]) -> list[Any]:
        return [getattr(self, name)(*arguments) for name, *arguments in script]

    def put(self, key: bytes, value: bytes, sync: bool | None) -> None:
        self.entries[key] = value

    def delete(self, key: bytes, sync: bool | None) -> None:
        self.entries.pop(key, None)

    def batch(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        for key, value in changes.items():
            self.entries.pop(key, None)
            if value is not None:
                self.entries[key] = value

    def dropped_batch(self, changes: dict[bytes, bytes | None]) -> None:
        pass

    def burst(self, changes: dict[bytes, bytes | None]) -> None:
        self.batch(changes, None)

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def scan(self, part: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        return self._scan(self.entries, **part)

    def _scan(
        self,
        entries: dict[bytes, bytes],
        *,
        start: bytes | None,
        stop: bytes | None,
        prefix: bytes | None,
        reverse: bool,
        limit: int | None,
    ) -> list[tuple[bytes, bytes]]:
        found = [
            (key, value)
            for key, value in sorted(entries.items(), reverse=reverse)
            if (start is None or start <= key)
            and (stop is None or key < stop)
            and (prefix is None or key.startswith(prefix))
        ]
        return found[:limit]

    def take_snapshot(self) -> None:
        self.snapshots.append(dict(self.entries))

    def read_snapshot(self, index: int, key: bytes, part: dict[str, Any]) -> tuple[Any, Any]:
        snapshot = self.snapshots[index]
        return snapshot.get(key), self._scan(snapshot, **part)

    def close_snapshot(self, index: int) -> None:
        self.snapshots.pop(index)

    def count(self) -> int:
        return len(self.entries)

    def sync(self) -> None:
        pass

    def flush(self) -> None:
        pass

    def compact(self, start: bytes | None, stop: bytes | None) -> None:
        pass

    def verify(self) -> bool:
        return True

    def reopen(self) -> None:
        self.snapshots.clear()


async def done(result: Any) -> Any:
    """Of a call of either store."""
    return await result if inspect.isawaitable(result) else result


async def entries_of(scan: Iterator[Any] | AsyncIterator[Any]) -> list[Any]:
    if isinstance(scan, AsyncIterator):
        return [entry async for entry in scan]
    return list(scan)


class Player:
    """Plays the same calls to a KVStore or an AsyncKVStore."""

    def __init__(self, path: Path, configuration: Configuration) -> None:
        self._options = dict(configuration)
        self._asynchronous = self._options.pop("asynchronous")
        self._path = path
        self._snapshots: list[Any] = []

    async def play(self, script: list[Step]) -> list[Any]:
        await self._open()
        try:
            return [await getattr(self, name)(*arguments) for name, *arguments in script]
        finally:
            await done(self._db.close())

    async def _open(self, **options: Any) -> None:
        opener = kvstore.open_async if self._asynchronous else kvstore.open
        self._db: Any = await done(opener(self._path, **self._options, **options))
        assert (await done(self._db.stats())).backend == self._options["wal_backend"]

    async def put(self, key: bytes, value: bytes, sync: bool | None) -> None:
        await done(self._db.put(key, value, sync=sync))

    async def delete(self, key: bytes, sync: bool | None) -> None:
        await done(self._db.delete(key, sync=sync))

    async def batch(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        batch = WriteBatch()
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        await done(self._db.write(batch, sync=sync))

    async def dropped_batch(self, changes: dict[bytes, bytes | None]) -> None:
        with contextlib.suppress(ZeroDivisionError):
            if self._asynchronous:
                async with self._db.batch() as batch:
                    batch.put(min(changes), b"dropped")
                    raise ZeroDivisionError
            with self._db.batch() as batch:
                batch.put(min(changes), b"dropped")
                raise ZeroDivisionError

    async def burst(self, changes: dict[bytes, bytes | None]) -> None:
        """Many at the same time, where that can be."""
        calls = (
            self.delete(key, None) if value is None else self.put(key, value, None)
            for key, value in changes.items()
        )
        await asyncio.gather(*calls)

    async def get(self, key: bytes) -> bytes | None:
        return await done(self._db.get(key))

    async def scan(self, part: dict[str, Any]) -> list[tuple[bytes, bytes]]:
        return await entries_of(self._db.scan(**part))

    async def take_snapshot(self) -> None:
        self._snapshots.append(self._db.snapshot())

    async def read_snapshot(self, index: int, key: bytes, part: dict[str, Any]) -> tuple[Any, Any]:
        snapshot = self._snapshots[index]
        return await done(snapshot.get(key)), await entries_of(snapshot.scan(**part))

    async def close_snapshot(self, index: int) -> None:
        await done(self._snapshots.pop(index).close())

    async def count(self) -> int:
        return await self._db.count() if self._asynchronous else len(self._db)

    async def sync(self) -> None:
        await done(self._db.sync())

    async def flush(self) -> None:
        await done(self._db.flush())

    async def compact(self, start: bytes | None, stop: bytes | None) -> None:
        await done(self._db.compact(start, stop))

    async def verify(self) -> bool:
        return (await done(self._db.verify())).ok

    async def reopen(self) -> None:
        await done(self._db.close())
        self._snapshots.clear()
        await self._open(recovery="strict")


SCRIPT = make_script(SEED, STEPS)
MODEL = Model()
ANSWERS = MODEL.play(SCRIPT)


def name_of(configuration: Configuration) -> str:
    return "-".join(str(value) for value in configuration.values())


@pytest.mark.slow
@pytest.mark.parametrize("configuration", covering(3), ids=name_of)
def test_the_script_is_answered_as_a_dict_answers_it(
    tmp_path: Path, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    if configuration["wal_backend"] == "io_uring" and not HAS_RING:
        pytest.skip("no io_uring on this machine")
    refusal = direct_io_refusal(tmp_path) if configuration["wal_direct_io"] else None
    if refusal:
        pytest.skip(f"no direct I/O on this file system: {refusal}")
    answers = asyncio.run(Player(tmp_path / "db", configuration).play(SCRIPT))
    for number, (step, answer, expected) in enumerate(zip(SCRIPT, answers, ANSWERS, strict=True)):
        assert answer == expected, f"seed {SEED}, step {number}: {step}"
    assert contents(tmp_path / "db", recovery="strict") == MODEL.entries


def test_the_script_makes_every_call() -> None:
    calls = {name for name in vars(Model) if not name.startswith("_")} - {"play"}
    assert {name for name, *_ in SCRIPT} == calls
