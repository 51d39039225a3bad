"""Changes inputs at random, by a seed: what fuzzes where atheris is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from tests.fuzz.sections import join, split

__all__ = ["INPUT_BYTES_MAX", "Mutate", "mutate", "mutate_section", "mutations"]

INPUT_BYTES_MAX = 4096
Mutate = Callable[[bytes], bytes]

_EDGES = (0, 1, 7, 8, 23, 24, 64, 127, 128, 255, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31,
          2**32 - 1, 2**63, 2**64 - 1)  # fmt: skip
_CHANGES_MAX = 4


def mutate(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """``data`` with a few changes; pieces may come from ``others``."""
    changed = bytearray(data)
    for _ in range(random.randint(1, _CHANGES_MAX)):
        _change(changed, others, random)
    return bytes(changed[:INPUT_BYTES_MAX])


def _change(data: bytearray, others: Sequence[bytes], random: Random) -> None:
    at, what = random.randrange(len(data) + 1), random.randrange(7)
    if what == 0 and at < len(data):
        data[at] ^= 1 << random.randrange(8)
    elif what == 1 and at < len(data):
        data[at] = random.randrange(256)
    elif what == 2:
        width = random.choice((1, 2, 3, 4, 8))
        edge = random.choice(_EDGES) + random.randrange(-2, 3)
        data[at : at + width] = (edge % 256**width).to_bytes(width, "little")
    elif what == 3:
        data[at : at + random.randint(1, 64)] = b""
    elif what == 4:
        data[at:at] = random.randbytes(random.randint(1, 64))
    elif what == 5:
        begin = random.randrange(len(data) + 1)
        piece = bytes(data[begin : begin + random.randint(1, 64)])
        data[at : at + len(piece) * random.randrange(2)] = piece
    else:
        other = random.choice(others) if others else b""
        begin = random.randrange(len(other) + 1)
        piece = other[begin : begin + random.randint(1, 256)]
        data[at : at + len(piece) * random.randrange(2)] = piece


def mutations(inputs: Sequence[bytes], runs: int, seed: int, *, sections: bool) -> Iterator[bytes]:
    """``runs`` inputs: those of a corpus, then changed ones of them."""
    random = Random(seed)

    def change(data: bytes) -> bytes:
        return mutate(data, inputs, random)

    yield from inputs[:runs]
    for _ in range(len(inputs), runs):
        data = random.choice(inputs)
        data = mutate_section(data, random, change) if sections else change(data)
        yield data[:INPUT_BYTES_MAX]


def mutate_section(data: bytes, random: Random, change: Mutate) -> bytes:
    """One section changed, or dropped, or given twice: the lengths before the others stay right."""
    sections = split(data)
    if not sections or random.random() < 0.1:
        return change(data)
    at, what = random.randrange(len(sections)), random.randrange(20)
    tag, body = sections[at]
    if what == 0:
        del sections[at]
    elif what == 1:
        sections.insert(at, random.choice(sections))
    elif what == 2:
        sections[at] = (tag ^ (1 << random.randrange(8)), body)
    else:
        sections[at] = (tag, change(body))
    return join(sections)
