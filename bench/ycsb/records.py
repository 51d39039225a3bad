"""YCSB's keys and records, and whether a record that was read can be the one of its key.

A record has ten fields of 100 B. In a store that knows only values it is one of 1,000 B, field i
from byte 100 i on. What a field may hold is drawn once from the seed: what was inserted, and forty
updates, for each of 250 classes of keys. So scripts hold references and not gigabytes, and a field
that is another key's, or another field's, or torn, is told from the key alone (one record in 250
has the class of another).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

from bench.ycsb.generators import fnv_64

__all__ = [
    "FIELDS",
    "FIELD_BYTES",
    "RECORD_BYTES",
    "UPDATES",
    "Records",
    "make_key",
    "splice",
    "split",
]

FIELDS = 10
FIELD_BYTES = 100
RECORD_BYTES = FIELDS * FIELD_BYTES
_CLASSES = 250
_UPDATES_PER_FIELD = 40  # few change nothing, which SQLite would notice and not write
UPDATES = FIELDS * _UPDATES_PER_FIELD
_PREFIX = b"user"
_STARTS = range(0, RECORD_BYTES, FIELD_BYTES)


def make_key(number: int) -> bytes:
    """The key of record ``number``: inserted by their numbers, keys come in a hashed order."""
    return b"user%d" % fnv_64(number)


def split(record: bytes) -> list[bytes]:
    """Its fields."""
    return [record[start : start + FIELD_BYTES] for start in _STARTS]


def splice(record: bytes, field: int, value: bytes) -> bytes:
    """The record with one field changed."""
    start = field * FIELD_BYTES
    return record[:start] + value + record[start + FIELD_BYTES :]


class Records:
    """What may be in the records. The same for the same ``seed``, in every process."""

    def __init__(self, seed: int) -> None:
        generator = random.Random(seed)
        self._inserted = tuple(generator.randbytes(RECORD_BYTES) for _ in range(_CLASSES))
        self._fields = tuple(
            tuple(
                (inserted, *(generator.randbytes(FIELD_BYTES) for _ in range(_UPDATES_PER_FIELD)))
                for inserted in split(record)
            )
            for record in self._inserted
        )

    def record(self, key: bytes) -> bytes:
        """What is inserted under ``key``."""
        return self._inserted[_class_of(key)]

    def pairs(self, numbers: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
        """(key, record as inserted) of each number, made as they are asked for."""
        for number in numbers:
            key = make_key(number)
            yield key, self.record(key)

    def update(self, key: bytes, choice: int) -> tuple[int, bytes]:
        """(field, what it becomes): one of the ``UPDATES`` of this key, by ``choice`` from 0 on."""
        version, field = divmod(choice, FIELDS)
        return field, self._fields[_class_of(key)][field][1 + version]

    def holds(self, key: bytes, record: bytes) -> bool:
        """Whether ``record`` can be what ``key`` holds, after whatever updates."""
        return len(record) == RECORD_BYTES and self.holds_fields(key, split(record))

    def holds_fields(self, key: bytes, fields: Sequence[bytes]) -> bool:
        """The same of a record that was read field by field."""
        known = self._fields[_class_of(key)]
        return len(fields) == FIELDS and all(
            field in may_be for field, may_be in zip(fields, known, strict=True)
        )


def _class_of(key: bytes) -> int:
    return int(key[len(_PREFIX) :]) % _CLASSES
