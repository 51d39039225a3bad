"""The names of the files in a store's directory, in both directions. Nobody else spells them.

    LOCK                 who has the store open (its process id)
    000001.wal           log segments, numbered from 1
    000001.wal.torn      what recovery cut from the end of a segment, kept for inspection
    000002.wal.dropped   a segment that point_in_time recovery left behind (a second of that number:
                         000002.wal.dropped.2, and so on)
    spare.wal.tmp        the next segment, being prepared; never holds data
    recycled.wal.tmp     a segment given up, kept to become a later one; nobody needs what is in it

Any other name in the directory is not ours: it is left alone and never an error.
"""

from __future__ import annotations

import re

LOCK = "LOCK"
SPARE = "spare.wal.tmp"
RECYCLED = "recycled.wal.tmp"

_SEGMENT = re.compile(r"([0-9]{6,20})\.wal")
SEGMENT_NUMBER_MAX = 10**20 - 1


def format_segment(number: int) -> str:
    """The file name of log segment ``number`` (1 or more)."""
    assert 1 <= number <= SEGMENT_NUMBER_MAX
    return f"{number:06d}.wal"


def parse_segment(name: str) -> int | None:
    """The number of the segment called ``name``; None when it is not a segment's name."""
    match = _SEGMENT.fullmatch(name)
    if match is None or format_segment(int(match[1]) or 1) != name:
        return None
    return int(match[1])


def format_torn(segment_name: str) -> str:
    """Where the tail cut from ``segment_name`` is kept."""
    return f"{segment_name}.torn"


def format_dropped(segment_name: str, count: int = 1) -> str:
    """Where a segment that recovery was allowed to drop is kept: the ``count``-th of that name."""
    return f"{segment_name}.dropped" + (f".{count}" if count > 1 else "")
