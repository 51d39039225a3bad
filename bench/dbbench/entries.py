"""db_bench's keys, and values of which the key tells whether they can be its own.

A key is its number in 8 bytes, big-endian, so that keys sort as numbers do, and "0" up to its size.
Values are drawn once from the seed: for each of 1,000 classes of keys what a store is filled with
and what that is overwritten with.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator

__all__ = ["KEY_BYTES", "NUMBER_BYTES", "VALUE_BYTES", "Entries"]

KEY_BYTES = 16
VALUE_BYTES = 100
NUMBER_BYTES = 8
_CLASSES = 1000
_pack_number = struct.Struct(">Q").pack


class Entries:
    """Keys and values of these sizes. The same for the same ``seed``, in every process."""

    def __init__(
        self, seed: int, *, key_bytes: int = KEY_BYTES, value_bytes: int = VALUE_BYTES
    ) -> None:
        """ValueError: a key of fewer than 8 bytes would not hold its number."""
        if key_bytes < NUMBER_BYTES:
            raise ValueError(f"keys of {key_bytes} B; at least {NUMBER_BYTES} B hold a number")
        generator = random.Random(seed)
        self._padding = b"0" * (key_bytes - NUMBER_BYTES)
        self._filled, self._overwritten = (
            tuple(generator.randbytes(value_bytes) for _ in range(_CLASSES)) for _ in range(2)
        )

    def key(self, number: int) -> bytes:
        """The key of entry ``number``."""
        return _pack_number(number) + self._padding

    def missing_key(self, number: int) -> bytes:
        """A key that is never written: one byte longer, so right behind that of the number."""
        return _pack_number(number) + self._padding + b"0"

    def value(self, number: int, *, overwritten: bool = False) -> bytes:
        """What the entry is filled with, or what it becomes when it is written again."""
        return (self._overwritten if overwritten else self._filled)[number % _CLASSES]

    def pairs(self, numbers: Iterable[int]) -> Iterator[tuple[bytes, bytes]]:
        """(key, value as filled) of each number, made as they are asked for."""
        return ((self.key(number), self.value(number)) for number in numbers)

    def holds(self, key: bytes, value: bytes) -> bool:
        """Whether ``value`` can be what ``key`` holds."""
        number = int.from_bytes(key[:NUMBER_BYTES], "big")
        return value in (self.value(number), self.value(number, overwritten=True))
