"""The random choices of YCSB, by their definitions in the original (site.ycsb.generator).

fnv_64             site.ycsb.Utils.fnvhash64: FNV-1a over eight octets, the lowest first, then the
                   absolute value of the result as a signed number.
Zipfian            ZipfianGenerator: rank k (from 0) about as often as (k+1)^-theta, by inversion
                   after Gray et al., "Quickly generating billion-record synthetic databases"
                   (SIGMOD 1994): exact for the first two ranks, continuous behind.
ScrambledZipfian   ScrambledZipfianGenerator: the FNV hash of a zipfian rank among 10^10, modulo n.
Latest             SkewedLatestGenerator: the newest number less a zipfian rank.
choose_kinds       DiscreteGenerator.

Each draws from the ``random.Random`` that it is given, so a seed fixes everything.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

__all__ = [
    "THETA",
    "ZIPFIAN_ITEMS",
    "ZIPFIAN_ZETA",
    "Latest",
    "ScrambledZipfian",
    "Uniform",
    "Zipfian",
    "choose_kinds",
    "fnv_64",
    "zeta",
]

THETA = 0.99
ZIPFIAN_ITEMS = 10**10
ZIPFIAN_ZETA = 26.46902820178302  # that of 10^10 items, which nobody wants to sum up again

_OFFSET_BASIS = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_OCTETS = 8
_MASK = (1 << 64) - 1
_SIGN = 1 << 63
# An octet of zero leaves the hash as it is before the multiplication, so all of them are one.
_PRIME_POWERS = tuple(pow(_PRIME, exponent, 1 << 64) for exponent in range(_OCTETS + 1))


def fnv_64(number: int) -> int:
    """The hash that scatters YCSB's numbers; ``number`` from 0 to 2^63 - 1, the result likewise.

    (2^63 is possible: the one value whose absolute value Java has not.)
    """
    hashed = _OFFSET_BASIS
    left = _OCTETS
    while number:
        hashed = (hashed ^ number & 0xFF) * _PRIME & _MASK
        number >>= 8
        left -= 1
    hashed = hashed * _PRIME_POWERS[left] & _MASK
    return hashed if hashed < _SIGN else (1 << 64) - hashed


def zeta(items: int, theta: float = THETA, *, known_items: int = 0, known: float = 0.0) -> float:
    """The sum of k^-theta for k from 1 to ``items``; goes on from one that is known. O(items)."""
    added: float = sum(rank**-theta for rank in range(known_items + 1, items + 1))
    return known + added


class Uniform:
    """Each number below ``items`` is as likely as any other."""

    def __init__(self, items: int, generator: random.Random) -> None:
        self._items = items
        self._random = generator.random

    def draw(self) -> int:
        return int(self._items * self._random())


class Zipfian:
    """Ranks below ``items``, the first ones most often. The number of items may grow, see ``draw``.

    ``zeta_items`` is the sum for ``items``, where it is known: making it takes O(items).
    """

    def __init__(
        self,
        items: int,
        generator: random.Random,
        *,
        theta: float = THETA,
        zeta_items: float | None = None,
    ) -> None:
        self._random = generator.random
        self._theta = theta
        self._alpha = 1 / (1 - theta)
        self._zeta_two: float = 1 + 0.5**theta
        self._items = items
        self._zeta = zeta(items, theta) if zeta_items is None else zeta_items
        self._eta = self._find_eta()

    def grow(self, items: int) -> None:
        """From here on there are ``items``, not fewer than before. O(how many more).

        The original adjusts zeta only and goes on with an eta that has the first number of items
        in it; here it has the present one, as Gray et al. have it. When a million items grow by a
        twentieth, that changes how often a rank is drawn by 0.35%.
        """
        if items == self._items:
            return
        self._zeta = zeta(items, self._theta, known_items=self._items, known=self._zeta)
        self._items = items
        self._eta = self._find_eta()

    def draw(self) -> int:
        drawn = self._random()
        scaled = drawn * self._zeta
        if scaled < 1:
            return 0
        if scaled < self._zeta_two:
            return 1
        return min(
            self._items - 1,  # for a draw so near to 1 that rounding makes it 1
            int(self._items * (self._eta * (drawn - 1) + 1) ** self._alpha),
        )

    def _find_eta(self) -> float:
        if self._items <= 2:
            return 0.0  # the first two ranks are all
        two_of_items: float = (2 / self._items) ** (1 - self._theta)
        return (1 - two_of_items) / (1 - self._zeta_two / self._zeta)


class ScrambledZipfian:
    """Numbers below ``items``; the often drawn ones are scattered among them.

    The zipfian is always the one over 10^10 ranks: which numbers are often drawn, and how often,
    depends on ``items`` by the modulo only, and several ranks fall on one number.
    """

    def __init__(self, items: int, generator: random.Random) -> None:
        self._items = items
        self._ranks = Zipfian(ZIPFIAN_ITEMS, generator, zeta_items=ZIPFIAN_ZETA)

    def draw(self) -> int:
        return fnv_64(self._ranks.draw()) % self._items


class Latest:
    """The newest number most often, the one before it about half as often, and so on.

    As in the original there are as many ranks as the newest number says, so number 0 is never drawn
    (but when it is the only one).
    """

    def __init__(self, newest: int, generator: random.Random) -> None:
        self._newest = newest
        self._ranks = Zipfian(newest, generator)

    def grow(self, newest: int) -> None:
        """From here on ``newest`` is the newest: not less than before."""
        self._newest = newest
        self._ranks.grow(newest)

    def draw(self) -> int:
        return self._newest - self._ranks.draw()


def choose_kinds(
    kinds: Sequence[int], shares: Sequence[float], count: int, generator: random.Random
) -> bytes:
    """``count`` of the kinds (below 256), each drawn as often as its share says."""
    return bytes(generator.choices(kinds, weights=shares, k=count))
