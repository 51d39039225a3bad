"""A share of the bit rot of ``make torture``: bit_rot.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvstore import paths
from tests.faults.bit_rot import (
    SMALL,
    excuse,
    flip_all,
    flip_large,
    make_image,
    newest_segment,
)

pytestmark = pytest.mark.slow

EVERY = 11


@pytest.mark.parametrize("name", SMALL)
def test_a_flipped_byte_of_a_small_store_is_found_and_never_read(tmp_path: Path, name: str) -> None:
    image = make_image(tmp_path, name)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    # Header blocks are mostly zeros under one checksum: of those a sample, of the rest all.
    places = [
        (name, at)
        for name, at in image.places()
        if at % EVERY == seed % EVERY or name == paths.CURRENT or (".wal" in name and at >= 4096)
    ]
    assert flip_all(image, iter(places), random.Random(seed)) > 2000


def test_samples_of_a_large_store_are_found_and_never_read(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    assert flip_large(tmp_path, 12, seed) == 12


def test_the_bytes_that_mean_nothing_are_few(tmp_path: Path) -> None:
    image = make_image(tmp_path, "none, killed")
    reasons: dict[str, int] = {}
    for name, at in image.places():
        reason = excuse(name, image.files[name], at, newest_segment(image.files))
        reasons[reason] = reasons.get(reason, 0) + 1
    assert reasons.pop("") > 0.95 * len(image.places())
    assert len(reasons) == 4
