"""Writes v1.wal, a log of format 1, by the oracle alone: python -m tests.formats.generate_v1

The file is checked in. It is made anew only if this script or the oracle was wrong; a log that was
written once must be readable for ever.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.oracle import CHECKED, MARK, PLAIN, SEAL, Header, encode_log

PATH = Path(__file__).with_name("v1.wal")
SALT = LOG_ID = bytes(range(16))

# (kind, payload, unsynced), with LSNs from 1.
ENTRIES = [
    (PLAIN, b"plain, written at once", 0),
    (CHECKED, b"checked, written at once", 1),
    (PLAIN, b"", 0),
    (CHECKED, b"", 1),
    (CHECKED, bytes(range(256)), 2),
    (PLAIN, b"1234567", 3),
    (PLAIN, b"12345678", 4),
    (PLAIN, b"123456789", 5),
    (MARK, b"", 0),
    (CHECKED, b"behind the mark", 1),
    (SEAL, b"", 0),
]


def main() -> None:
    """Writes the file."""
    PATH.write_bytes(encode_log(Header(salt=SALT, log_id=LOG_ID), ENTRIES))


if __name__ == "__main__":
    main()
