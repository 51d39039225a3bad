"""Keys, values and the order in which they are asked for. All are made before a clock starts."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator

__all__ = [
    "KEY_BYTES",
    "Values",
    "draw_numbers",
    "draw_uniform",
    "draw_zipfian",
    "make_key",
    "random_keys",
    "sorted_keys",
]

KEY_BYTES = 16
ZIPFIAN_THETA = 0.99
_POOL_VALUES = 256
_MASK = (1 << 64) - 1
_pack_key = struct.Struct(">QQ").pack


def make_key(number: int) -> bytes:
    """A key of 16 bytes that looks random; different for each ``number`` below 2^64."""
    mixed = _mix(number)
    return _pack_key(mixed, mixed * 0xD1342543DE82EF95 & _MASK)


def _mix(number: int) -> int:
    """A bijection of 64 bits (the finalizer of SplitMix64), so that keys never collide."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ number >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ number >> 27) * 0x94D049BB133111EB) & _MASK
    return number ^ number >> 31


def sorted_keys(count: int) -> list[bytes]:
    """The keys of the numbers from 0 on, in their own order."""
    return sorted(map(make_key, range(count)))


def random_keys(count: int, seed: int) -> bytes:
    """``count`` random keys, one behind the other: a list would take three times as much."""
    generator = random.Random(seed)
    chunk_keys = 1 << 16
    return b"".join(
        generator.randbytes(min(chunk_keys, count - first) * KEY_BYTES)
        for first in range(0, count, chunk_keys)
    )


class Values:
    """A few random values; which one belongs to a key follows from the key, for checks."""

    def __init__(self, value_bytes: int, seed: int) -> None:
        generator = random.Random(seed)
        self.pool = tuple(generator.randbytes(value_bytes) for _ in range(_POOL_VALUES))

    def of(self, key: bytes) -> bytes:
        """The value of ``key``: by its first byte."""
        return self.pool[key[0]]

    def pairs(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of each."""
        pool = self.pool
        return ((key, pool[key[0]]) for key in keys)


def draw_numbers(distribution: str, count: int, lookups: int, seed: int) -> list[int]:
    """``lookups`` numbers below ``count``, "uniform" or "zipfian"."""
    generator = random.Random(seed)
    if distribution == "uniform":
        return draw_uniform(count, lookups, generator)
    return draw_zipfian(count, lookups, generator)


def draw_uniform(count: int, lookups: int, generator: random.Random) -> list[int]:
    """Each number below ``count`` is as likely as any other."""
    return generator.choices(range(count), k=lookups)


def draw_zipfian(
    count: int, lookups: int, generator: random.Random, theta: float = ZIPFIAN_THETA
) -> list[int]:
    """Number n is drawn about as often as (n+1)^-theta: the few first ones most of the time.

    ``make_key`` scatters them over all the keys, so that hot ones are not neighbours (what YCSB
    calls scrambled). By inversion after Gray et al., "Quickly generating billion-record synthetic
    databases" (1994): exact for the first two, a continuous approximation behind. O(count).
    """
    zeta = sum(rank**-theta for rank in range(1, count + 1))
    zeta_two = 1 + 0.5**theta
    alpha = 1 / (1 - theta)
    eta = (1 - (2 / count) ** (1 - theta)) / (1 - zeta_two / zeta) if count > 2 else 0.0
    numbers = []
    for _ in range(lookups):
        drawn = generator.random()
        if drawn * zeta < 1:
            numbers.append(0)
        elif drawn * zeta < zeta_two:
            numbers.append(min(1, count - 1))
        else:
            numbers.append(min(count - 1, int(count * (eta * drawn - eta + 1) ** alpha)))
    return numbers
