"""Writes the tables of format 1, by the oracle alone: python -m tests.formats.generate_table_v1

The files are checked in. They are made anew only if this script or the oracle was wrong; a table
that was written once must be readable for ever.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.table_oracle import LZ4, PLAIN, ZSTD, Entry, encode

PATH = Path(__file__).with_name("table-v1.sst")
COMPRESSED_PATH = Path(__file__).with_name("table-v1-compressed.sst")
SALT = bytes(range(16))
LSNS = (7, 300)
BLOCK_BYTES = 1024
FILTER_BITS = 10

# Prefixes long and short, tombstones, a key that begins the next, a block of wide offsets.
ENTRIES: list[Entry] = sorted(
    {
        b"\0": b"",
        b"\0\0": b"zeros",
        **{b"number%04d" % n: b"value %d" % n * (n % 5) for n in range(60)},
        **{b"number%04d" % n: None for n in range(3, 60, 7)},
        **{b"/usr/share/%d/" % (n // 4) * 3 + b"file%d" % n: b"/" * n for n in range(40)},
        b"wide": b"w" * 33_000,
        b"\xff" * 40: None,
        b"\xff" * 41: bytes(range(256)),
    }.items()
)


def main() -> None:
    """Writes the files."""
    options: dict[str, Any] = {"block_bytes": BLOCK_BYTES, "filter_bits": FILTER_BITS}
    PATH.write_bytes(encode(ENTRIES, salt=SALT, lsns=LSNS, **options))
    kinds = (LZ4, ZSTD, PLAIN)
    COMPRESSED_PATH.write_bytes(encode(ENTRIES, salt=SALT, lsns=LSNS, kinds=kinds, **options))


if __name__ == "__main__":
    main()
