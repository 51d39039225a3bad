"""Inputs that are made of several pieces: tag u8 | length u16 | bytes, one behind the other.

Any bytes are such an input: a piece that is longer than what is left ends there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["Section", "join", "split"]

Section = tuple[int, bytes]

_HEAD = struct.Struct("<BH")
_BYTES_MAX = 0xFFFF


def split(data: bytes) -> list[Section]:
    """The pieces of an input."""
    sections, at = [], 0
    while at + _HEAD.size <= len(data):
        tag, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        sections.append((tag, data[at : at + length]))
        at += length
    return sections


def join(sections: Iterable[Section]) -> bytes:
    """The input of these pieces."""
    return b"".join(
        _HEAD.pack(tag, min(len(body), _BYTES_MAX)) + body[:_BYTES_MAX] for tag, body in sections
    )
