"""YCSB's random choices have the distributions that they are defined by. Seeds are fixed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from bench.ycsb.generators import (
    THETA,
    ZIPFIAN_ITEMS,
    ZIPFIAN_ZETA,
    Latest,
    ScrambledZipfian,
    Uniform,
    Zipfian,
    choose_kinds,
    fnv_64,
    zeta,
)
from tests.support.chi_square import critical_value, fits, statistic

SEED = 20100610  # the day of the paper
DRAWS = 30_000


def _counts(draw: Callable[[], int], bins: int, draws: int = DRAWS) -> list[int]:
    """How often each number below ``bins`` is drawn, and at the end all others together."""
    drawn = Counter(draw() for _ in range(draws))
    counts = [drawn[number] for number in range(bins)]
    return [*counts, draws - sum(counts)]


def _below(ranks: int, items: int, theta: float, zeta_items: float) -> float:
    """The share of the first ranks, by the inversion of Gray et al. turned round."""
    if ranks <= 2:
        return sum(rank**-theta for rank in range(1, ranks + 1)) / zeta_items
    eta = (1 - (2 / items) ** (1 - theta)) / (1 - (1 + 0.5**theta) / zeta_items)
    return 1 - (1 - (ranks / items) ** (1 - theta)) / eta


def _zipfian_shares(items: int, bins: int, theta: float = THETA) -> list[float]:
    """Of the ranks below ``bins``, and of all others together."""
    zeta_items = zeta(items, theta)
    below = [_below(ranks, items, theta, zeta_items) for ranks in range(bins + 1)]
    shares = [after - before for before, after in pairwise(below)]
    return [*shares, 1 - below[-1]]


def _fnv_1a(octets: bytes) -> int:
    """The algorithm as published, over any octets."""
    hashed = 0xCBF29CE484222325
    for octet in octets:
        hashed = (hashed ^ octet) * 0x100000001B3 % 2**64
    return hashed


def test_the_critical_values_are_those_of_the_tables() -> None:
    for degrees, tabulated in ((1, 10.828), (5, 20.515), (10, 29.588), (100, 149.449)):
        assert critical_value(degrees) == pytest.approx(tabulated, rel=0.04)
    assert statistic([10, 20, 30], [1 / 3] * 3) == pytest.approx(10)
    with pytest.raises(ValueError, match="too few"):
        statistic([4, 4], [0.5, 0.5])


@pytest.mark.parametrize(
    ("octets", "published"),
    [(b"", 0xCBF29CE484222325), (b"a", 0xAF63DC4C8601EC8C), (b"foobar", 0x85944171F73967E8)],
)
def test_the_reference_for_the_hash_is_fnv_1a(octets: bytes, published: int) -> None:
    assert _fnv_1a(octets) == published


def test_the_hash_is_fnv_1a_of_eight_octets_without_its_sign() -> None:
    generator = random.Random(SEED)
    numbers = [0, 1, 255, 256, 2**32, 2**63 - 1]
    numbers += [generator.getrandbits(generator.randrange(1, 64)) for _ in range(500)]
    for number in numbers:
        unsigned = _fnv_1a(number.to_bytes(8, "little"))
        signed = int.from_bytes(unsigned.to_bytes(8, "little"), "little", signed=True)
        assert fnv_64(number) == abs(signed), number


def test_the_hashes_are_those_that_ycsb_prints() -> None:
    assert [fnv_64(number) for number in range(3)] == [
        6284781860667377211,
        8517097267634966620,
        1820151046732198393,
    ]


def test_the_given_zeta_is_that_of_ten_billion_items() -> None:
    def rest(items: int) -> float:
        """Euler and Maclaurin: the sum up to ``items``, but for a constant."""
        power: float = items**-THETA
        return items * power / (1 - THETA) + power / 2 - THETA * power / items / 12

    summed = zeta(1000) + rest(ZIPFIAN_ITEMS) - rest(1000)
    assert summed == pytest.approx(ZIPFIAN_ZETA, rel=1e-8)


def test_a_zeta_goes_on_from_one_that_is_known() -> None:
    assert zeta(3, 0.5) == pytest.approx(1 + 2**-0.5 + 3**-0.5)
    assert zeta(500, known_items=200, known=zeta(200)) == pytest.approx(zeta(500))


def test_uniform_draws_every_number_alike() -> None:
    draw = Uniform(100, random.Random(SEED)).draw
    counts = _counts(draw, 100)
    assert counts.pop() == 0
    assert fits(counts, [0.01] * 100)


@pytest.mark.parametrize("items", [3, 50, 1000])
def test_zipfian_draws_ranks_by_the_inversion(items: int) -> None:
    bins = min(items - 1, 60)
    counts = _counts(Zipfian(items, random.Random(SEED)).draw, bins)
    assert fits(counts, _zipfian_shares(items, bins))


@pytest.mark.parametrize("theta", [0.9, 0.97])
def test_another_theta_is_told_from_it(theta: float) -> None:
    counts = _counts(Zipfian(1000, random.Random(SEED), theta=theta).draw, 60)
    assert fits(counts, _zipfian_shares(1000, 60, theta))
    assert not fits(counts, _zipfian_shares(1000, 60))


def test_the_inversion_is_near_to_the_power_law() -> None:
    items, zeta_items = 1000, zeta(1000)
    shares = _zipfian_shares(items, items - 1)
    for rank in (0, 1):
        assert shares[rank] == pytest.approx((rank + 1) ** -THETA / zeta_items)
    for first in (2, 8, 32, 128):
        ranks = range(first, 4 * first)
        law = sum((rank + 1) ** -THETA for rank in ranks) / zeta_items
        assert sum(shares[rank] for rank in ranks) == pytest.approx(law, rel=0.1)


@pytest.mark.parametrize("items", [1, 2])
def test_few_items_are_drawn_without_leaving_them(items: int) -> None:
    counts = _counts(Zipfian(items, random.Random(SEED)).draw, items)
    assert counts.pop() == 0
    assert min(counts) > DRAWS / 4


def test_zipfian_never_leaves_its_items() -> None:
    class Highest(random.Random):
        def random(self) -> float:
            return 1 - 2**-53

    assert Zipfian(1000, Highest()).draw() == 999
    assert Zipfian(ZIPFIAN_ITEMS, Highest(), zeta_items=ZIPFIAN_ZETA).draw() == ZIPFIAN_ITEMS - 1


def test_zipfian_over_more_items_is_as_if_made_for_them() -> None:
    grown = Zipfian(100, random.Random(SEED))
    for items in (100, 101, 150, 400):
        grown.grow(items)
    made = Zipfian(400, random.Random(SEED))
    assert [grown.draw() for _ in range(1000)] == [made.draw() for _ in range(1000)]


def _scrambled_shares(items: int, scramble: Callable[[int], int] = fnv_64) -> list[float]:
    """Of each number: that of the first ranks that fall on it; the others fall alike on all."""
    ranks = 20_000
    below = [_below(rank, ZIPFIAN_ITEMS, THETA, ZIPFIAN_ZETA) for rank in range(ranks + 1)]
    shares = [(1 - below[-1]) / items] * items
    for rank in range(ranks):
        shares[scramble(rank) % items] += below[rank + 1] - below[rank]
    return shares


def test_scrambled_zipfian_is_the_hash_of_a_rank_among_ten_billion() -> None:
    counts = _counts(ScrambledZipfian(100, random.Random(SEED)).draw, 100)
    assert counts.pop() == 0
    assert fits(counts, _scrambled_shares(100))
    assert counts.index(max(counts)) == fnv_64(0) % 100
    assert not fits(counts, _scrambled_shares(100, scramble=int)), "as if it were not scrambled"
    assert not fits(counts, [0.01] * 100), "as if it were uniform"


def test_latest_is_the_newest_less_a_zipfian_rank() -> None:
    latest = Latest(200, random.Random(SEED))
    assert fits(_counts(lambda: 200 - latest.draw(), 60), _zipfian_shares(200, 60))
    latest.grow(300)
    counts = _counts(lambda: 300 - latest.draw(), 60)
    assert fits(counts, _zipfian_shares(300, 60))
    assert not fits(counts, _zipfian_shares(200, 60)), "as if it had not grown"


def test_latest_draws_from_one_to_the_newest() -> None:
    latest = Latest(5, random.Random(SEED))
    assert {latest.draw() for _ in range(1000)} == {1, 2, 3, 4, 5}
    only = Latest(0, random.Random(SEED))
    assert {only.draw() for _ in range(10)} == {0}


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.95, 0.05], [0.2, 0.3, 0.5]])
def test_kinds_are_drawn_by_their_shares(shares: Sequence[float]) -> None:
    numbers = range(7, 7 + len(shares))
    kinds = choose_kinds(numbers, shares, DRAWS, random.Random(SEED))
    assert len(kinds) == DRAWS
    assert fits([kinds.count(number) for number in numbers], shares)


def test_the_same_seed_draws_the_same() -> None:
    def draws(seed: int) -> list[int]:
        draw = ScrambledZipfian(1000, random.Random(seed)).draw
        return [draw() for _ in range(100)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
