"""Writes manifest-v1/, a manifest and its CURRENT, from the specification alone.

python -m tests.formats.generate_manifest_v1

The files are checked in. They are made anew only if this script or the oracle was wrong; a manifest
that was written once must be readable for ever.
"""

from __future__ import annotations

import struct
from pathlib import Path

from tests.support.oracle import CHECKED, MARK, SEAL, Header, crc32c, encode_log

DIRECTORY = Path(__file__).with_name("manifest-v1")
NAME = "MANIFEST-000001"
SALT = LOG_ID = bytes(range(16))
STORE_LOG_ID = b"the store's log."


def record(tag: int, body: bytes = b"") -> bytes:
    """One record of an edit."""
    return struct.pack("<BI", tag, len(body)) + body


def number(tag: int, value: int) -> bytes:
    """A record that holds a number."""
    return record(tag, struct.pack("<Q", value))


def added(level: int, numbers: tuple[int, ...], smallest: bytes, largest: bytes) -> bytes:
    """A table that is added."""
    head = struct.pack("<BQQQQQQQQI", level, *numbers, len(smallest))
    return record(8, head + smallest + largest)


# number, bytes, entries, tombstones, key bytes, value bytes, first LSN, last LSN
TABLE_1 = (1, 4096, 3, 1, 3, 10, 1, 3)
TABLE_2 = (2, 8192, 2, 0, 301, 1 << 33, 4, 5)
TABLE_3 = (3, 10000, 4, 0, 303, 1 << 33, 1, 5)
SMALLEST = b"\0" * 300
EDITS = [
    # a new store
    record(1) + record(2, STORE_LOG_ID) + number(3, 0) + number(4, 1) + number(5, 1) + number(6, 1),
    # two flushes
    number(3, 3) + number(4, 2) + number(5, 2) + number(6, 2) + added(0, TABLE_1, b"a", b"c"),
    number(3, 5) + number(4, 2) + number(5, 3) + number(6, 3) + added(0, TABLE_2, SMALLEST, b"b"),
    # a compaction, and a record of a later version that may be ignored
    number(6, 4)
    + record(7, struct.pack("<BQ", 0, 2))
    + record(7, struct.pack("<BQ", 0, 1))
    + added(1, TABLE_3, SMALLEST, b"c")
    + record(200, b"from the future"),
]


def entries() -> list[tuple[int, bytes, int]]:
    """(kind, payload, unsynced): each edit is followed by its MARK."""
    listed: list[tuple[int, bytes, int]] = []
    for edit in EDITS:
        listed += [(CHECKED, edit, 1 if listed else 0), (MARK, b"", 0)]
    return [*listed, (SEAL, b"", 0)]


def manifest() -> bytes:
    """The manifest's bytes."""
    return encode_log(Header(salt=SALT, log_id=LOG_ID), entries())


def current() -> bytes:
    """The bytes of CURRENT."""
    line = f"{NAME}\n".encode()
    return line + b"crc32c %08x\n" % crc32c(line)


def main() -> None:
    """Writes the files."""
    DIRECTORY.mkdir(exist_ok=True)
    (DIRECTORY / NAME).write_bytes(manifest())
    (DIRECTORY / "CURRENT").write_bytes(current())


if __name__ == "__main__":
    main()
