"""Stores with known contents, and ways to damage them."""

from __future__ import annotations

import shutil
from pathlib import Path

import kvstore
from kvstore.fs import PosixFileSystem
from kvstore.wal import Entry, LogReader
from tests.support.oracle import Header

HEADER_BYTES = 4096


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Every file of a directory, byte for byte, but for who held the lock; None for folders."""
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in sorted(directory.iterdir())
        if path.name != "LOCK"
    }


def build(directory: Path, *, segments: int = 3, puts: int = 4, **options: object) -> None:
    """A store of ``segments`` log files, each with ``puts`` durable puts, cleanly closed.

    Put p of segment s sets s<s>p<p> to 100 bytes of that name, and the key "last" to it.
    """
    for segment in range(1, segments + 1):
        with kvstore.open(directory, **options) as db:
            for put in range(puts):
                with db.batch() as batch:
                    batch.put(key(segment, put), value(segment, put))
                    batch.put(b"last", key(segment, put))
    assert len(list(directory.glob("*.wal"))) == segments


def key(segment: int, put: int) -> bytes:
    """The key of a put made by ``build``."""
    return b"s%dp%d" % (segment, put)


def value(segment: int, put: int) -> bytes:
    """The value of a put made by ``build``."""
    return key(segment, put).ljust(100, b".")


def expected(puts: list[tuple[int, int]]) -> dict[bytes, bytes]:
    """What a store holds of which just these puts, in this order, have survived."""
    model = {key(*put): value(*put) for put in puts}
    if puts:
        model[b"last"] = key(*puts[-1])
    return dict(sorted(model.items()))


def all_puts(segments: int = 3, puts: int = 4) -> list[tuple[int, int]]:
    """Every (segment, put) of ``build``, in order."""
    return [(segment, put) for segment in range(1, segments + 1) for put in range(puts)]


def entries(path: Path) -> list[Entry]:
    """The users' entries of an undamaged log file."""
    file = PosixFileSystem().open_read_only(str(path))
    try:
        return list(LogReader(file).entries())
    finally:
        file.close()


def flip(path: Path, offset: int, *, bit: int = 0) -> None:
    """Turns one bit around."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def zero(path: Path, offset: int, size: int) -> None:
    """Zeros where something stood."""
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)


def cut(path: Path, size: int) -> None:
    """Makes a file shorter."""
    path.write_bytes(path.read_bytes()[:size])


def extend(path: Path, data: bytes) -> None:
    """Appends to a file."""
    path.write_bytes(path.read_bytes() + data)


def newer_header(number: int = 1) -> bytes:
    """A header block of a format version that does not exist yet, its checksum right."""
    return Header(version=2, segment_number=number).encode()


def copy_store(source: Path, target: Path) -> Path:
    """A second store with the same bytes, as a power cut at this moment might leave it."""
    shutil.copytree(source, target)
    return target
