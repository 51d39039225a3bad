"""Sizes and types of keys and values, at their edges, also after reopening."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

import kvstore
from kvstore import LimitError
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX
from tests.support.stores import SMALLEST_BUFFER, SMALLEST_SEGMENT, contents, each_backend

KIB = 1 << 10


@each_backend
@pytest.mark.parametrize("sync", [True, False])
def test_entries_of_every_size_come_back(tmp_path: Path, backend: str, *, sync: bool) -> None:
    # Around what one buffer, one segment and one alignment unit hold.
    sizes = {0, 1, 7, 8, 9, 4095, 4096, 64 * KIB, 200 * KIB, 3 << 20}
    for edge in (SMALLEST_BUFFER, SMALLEST_SEGMENT, 64 * KIB):
        sizes |= {edge - 100, edge - 32, edge - 24, edge - 1, edge, edge + 1}
    model = {}
    with kvstore.open(
        tmp_path / "db",
        wal_backend=backend,
        wal_buffer_bytes=SMALLEST_BUFFER,
        wal_segment_bytes=SMALLEST_SEGMENT,
        sync=sync,
    ) as db:
        for size in sorted(sizes):
            key = b"%d" % size
            model[key] = (key + b"-") * (size // (len(key) + 1)) + b"x" * (size % (len(key) + 1))
            assert len(model[key]) == size
            db.put(key, model[key])
            assert db[key] == model[key]
        assert db == model
    assert contents(tmp_path / "db") == model


@each_backend
def test_the_longest_and_the_shortest_key_come_back(tmp_path: Path, backend: str) -> None:
    model = {bytes([i]): b"" for i in range(256)}
    model |= {bytes([i]) * KEY_BYTES_MAX: bytes([i]) for i in (0, 7, 255)}
    with kvstore.open(tmp_path / "db", wal_backend=backend) as db:
        with db.batch() as batch:
            for key, value in model.items():
                batch.put(key, value)
        db.delete(b"\1" * KEY_BYTES_MAX)
        assert db == model
    assert contents(tmp_path / "db") == model


@pytest.mark.parametrize("size", [0, KEY_BYTES_MAX + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_key_out_of_range_is_refused_everywhere(tmp_path: Path, size: int, kind: type) -> None:
    with kvstore.open(tmp_path / "db") as db:
        key = kind(size)
        calls = {
            "put": lambda: db.put(key, b""),
            "put relaxed": lambda: db.put(key, b"", sync=False),
            "[]=": lambda: db.__setitem__(key, b""),
            "delete": lambda: db.delete(key),
            "get": lambda: db.get(key),
            "[]": lambda: db[key],
            "in": lambda: key in db,
            "del": lambda: db.__delitem__(key),
        }
        for name, call in calls.items():
            with pytest.raises(LimitError, match=f"1 to {KEY_BYTES_MAX} bytes, not {size}"):
                call()
            assert db.stats().last_lsn == 0, name


@pytest.mark.parametrize("wrong", ["text", 5, None, 1.5, ["k"], object()])
def test_text_and_numbers_are_type_errors(tmp_path: Path, wrong: object) -> None:
    with kvstore.open(tmp_path / "db") as db:
        calls = {
            "put key": lambda: db.put(wrong, b""),  # type: ignore[arg-type]
            "put value": lambda: db.put(b"k", wrong),  # type: ignore[arg-type]
            "relaxed": lambda: db.put(b"k", wrong, sync=False),  # type: ignore[arg-type]
            "[]=": lambda: db.__setitem__(b"k", wrong),  # type: ignore[assignment]
            "delete": lambda: db.delete(wrong),  # type: ignore[arg-type]
            "get": lambda: db.get(wrong),  # type: ignore[call-overload]
            "[]": lambda: db[wrong],  # type: ignore[index]
            "in": lambda: wrong in db,
        }
        for name, call in calls.items():
            with pytest.raises(TypeError, match=type(wrong).__name__):
                call()
            assert db.stats().last_lsn == 0, name
        assert db == {}


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_value_too_large_is_refused_without_copying_it(tmp_path: Path, kind: type) -> None:
    # Zeros that nobody touches take no memory; a copy would.
    huge = kind(bytes(VALUE_BYTES_MAX + 1))
    with kvstore.open(tmp_path / "db") as db:
        tracemalloc.start()
        try:
            for sync in (True, False):
                with pytest.raises(LimitError, match=f"at most {VALUE_BYTES_MAX} bytes"):
                    db.put(b"k", huge, sync=sync)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        assert db == {}
        db.put(b"k", b"v")
    assert contents(tmp_path / "db") == {b"k": b"v"}


def test_a_subclass_of_bytes_is_stored_as_bytes(tmp_path: Path) -> None:
    class Name(bytes):
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = bytes.__hash__

    with kvstore.open(tmp_path / "db") as db:
        db.put(Name(b"k"), Name(b"v"))
        assert [type(x) for x in next(iter(db.items()))] == [bytes, bytes]
        assert db[Name(b"k")] == b"v"
