"""KVStore against a dict, through any sequence of calls, reopenings and power cuts.

A power cut is simulated by copying the directory while the store is open: the copy must open, and
hold one of the states the store was in since it last said that everything was durable.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import kvstore
from tests.support.stores import HAS_RING, NEVER, SMALLEST_BUFFER, SMALLEST_SEGMENT, contents

KEYS = st.sampled_from([b"a", b"b", b"c", b"ab", b"\xff", b"\0"]) | st.binary(
    min_size=1, max_size=3
)
VALUES = st.binary(max_size=5) | st.builds(
    lambda size, byte: bytes([byte]) * size,
    st.sampled_from([100, 5000, 40_000, 70_000]),
    st.integers(0, 255),
)
CHANGES = st.dictionaries(KEYS, st.none() | VALUES, min_size=1, max_size=4)
BOUNDS = st.none() | KEYS
OPTIONS = st.fixed_dictionaries(
    {
        "wal_backend": st.sampled_from(["pwrite", "io_uring"] if HAS_RING else ["pwrite"]),
        "wal_direct_io": st.booleans(),
        "wal_buffer_bytes": st.sampled_from([SMALLEST_BUFFER, 4 << 20]),
        "wal_segment_bytes": st.sampled_from([SMALLEST_SEGMENT, 1 << 20]),
        "flush_interval_ms": st.sampled_from([0, 1, NEVER]),
        "sync": st.booleans(),
    }
)


class StoreMachine(RuleBasedStateMachine):
    """Calls in any order; ``legal`` are the states that a power cut now may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="kvstore-machine-"))
        self.path = self.root / "db"
        self.model: dict[bytes, bytes] = {}
        self.legal: list[dict[bytes, bytes]] = [{}]
        self.copies = 0

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
        shutil.rmtree(self.root)

    @initialize(options=OPTIONS)
    def begin(self, options: dict[str, Any]) -> None:
        self.options = options
        self.db = kvstore.open(self.path, **options)

    def _wrote(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        for key, value in changes.items():
            self.model.pop(key, None)
            if value is not None:
                self.model[key] = value
        if self.options["sync"] if sync is None else sync:
            self.legal.clear()
        self.legal.append(dict(self.model))

    @rule(key=KEYS, value=VALUES, sync=st.sampled_from([None, True, False]))
    def put(self, key: bytes, value: bytes, sync: bool | None) -> None:
        self.db.put(key, value, sync=sync)
        self._wrote({key: value}, sync)

    @rule(key=KEYS, value=VALUES)
    def set_item(self, key: bytes, value: bytes) -> None:
        self.db[key] = value
        self._wrote({key: value}, None)

    @rule(key=KEYS, sync=st.sampled_from([None, True, False]))
    def delete(self, key: bytes, sync: bool | None) -> None:
        self.db.delete(key, sync=sync)
        self._wrote({key: None}, sync)

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        expected = self.model.get(key)
        assert self.db.pop(key, None) == expected
        if expected is not None:
            self._wrote({key: None}, None)

    @rule(changes=CHANGES, sync=st.sampled_from([None, True, False]))
    def batch(self, changes: dict[bytes, bytes | None], sync: bool | None) -> None:
        with self.db.batch(sync=sync) as batch:
            for key, value in changes.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
        self._wrote(changes, sync)

    @rule()
    def clear(self) -> None:
        self.db.clear()
        if self.model:
            self._wrote(dict.fromkeys(self.model), None)

    @rule()
    def sync(self) -> None:
        self.db.sync()
        self.legal[:] = [dict(self.model)]

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.model.get(key)
        assert (key in self.db) == (key in self.model)

    @rule(start=BOUNDS, stop=BOUNDS, prefix=BOUNDS, reverse=st.booleans())
    def scan(
        self, start: bytes | None, stop: bytes | None, prefix: bytes | None, *, reverse: bool
    ) -> None:
        assert list(self.db.scan(start, stop, prefix=prefix, reverse=reverse)) == [
            (key, value)
            for key, value in sorted(self.model.items(), reverse=reverse)
            if (start is None or start <= key)
            and (stop is None or key < stop)
            and (prefix is None or key.startswith(prefix))
        ]

    @rule(options=OPTIONS, mode=st.sampled_from(["tolerate_torn_tail", "strict", "point_in_time"]))
    def reopen(self, options: dict[str, Any], mode: str) -> None:
        self.db.close()
        self.options = options
        self.db = kvstore.open(self.path, recovery=mode, **options)
        self.legal[:] = [dict(self.model)]

    @precondition(lambda self: self.copies < 4)
    @rule(again=st.booleans())
    def power_cut(self, *, again: bool) -> None:
        self.copies += 1
        copy = self.root / f"copy{self.copies}"
        shutil.copytree(self.path, copy)
        found = contents(copy)
        assert found in self.legal
        assert contents(copy, recovery="strict") == found
        if again:  # and what was recovered can be written to
            with kvstore.open(copy) as db:
                db.put(b"after the cut", b"")
            assert contents(copy) == {**found, b"after the cut": b""}

    @rule()
    def salvage(self) -> None:
        """What a closed store holds can also be read without touching it."""
        self.db.close()
        assert contents(self.path, recovery="salvage") == self.model
        self.db = kvstore.open(self.path, **self.options)
        self.legal[:] = [dict(self.model)]

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "db"):
            assert dict(self.db.items()) == self.model
            assert len(self.db) == len(self.model)
            self.db._tree.state.memtable._check()
            assert not self.db._pending


TestStoreMachine = pytest.mark.slow(StoreMachine.TestCase)
TestStoreMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
