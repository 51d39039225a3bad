"""Types of command line arguments that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["list_of", "number", "numbers", "one_of"]


def number(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def numbers(text: str) -> tuple[int, ...]:
    """Several, with commas between."""
    return tuple(number(part) for part in text.split(","))


def one_of(known: tuple[str, ...]) -> Callable[[str], str]:
    """A word of ``known``. (``choices`` refuses the default of an optional positional list.)"""

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    return parse


def list_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Words of ``known`` with commas between."""
    parse_one = one_of(known)
    return lambda text: tuple(parse_one(part) for part in text.split(","))
