"""Metadata of sorted tables that need no file."""

from __future__ import annotations

from kvstore.manifest import TableMeta


def table(number: int, smallest: bytes, largest: bytes, **fields: int) -> TableMeta:
    """A table of a hundred entries, 4096 bytes, and LSNs that no other number has."""
    values = {
        "bytes": 4096,
        "entries": 100,
        "tombstones": 0,
        "key_bytes": 1000,
        "value_bytes": 2000,
        "first_lsn": number * 100 + 1,
        "last_lsn": number * 100 + 100,
    }
    return TableMeta(number=number, **{**values, **fields}, smallest=smallest, largest=largest)
