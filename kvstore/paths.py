"""The names of the files in a store's directory, in both directions. Nobody else spells them.

    LOCK                 who has the store open (its process id)
    000001.wal           log segments, numbered from 1
    000001.wal.torn      what recovery cut from the end of a segment, kept for inspection
    000002.wal.dropped   a segment that point_in_time recovery left behind (a second of that number:
                         000002.wal.dropped.2, and so on)
    spare.wal.tmp        the next segment, being prepared; never holds data
    recycled.wal.tmp     a segment given up, kept to become a later one; nobody needs what is in it
    000001.sst           sorted tables; numbers are never used again
    000001.sst.tmp       a table being built
    MANIFEST-000001      the log of edits that says which tables there are
    MANIFEST-000001.tmp  a manifest that has no header yet
    MANIFEST-000001.torn what a crash left behind its end, kept for inspection
    CURRENT              the name of the manifest that counts
    CURRENT.tmp          its successor, before it is renamed

Any other name in the directory is not ours: it is left alone and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LOCK = "LOCK"
SPARE = "spare.wal.tmp"
RECYCLED = "recycled.wal.tmp"
CURRENT = "CURRENT"

_TABLE = re.compile(r"([0-9]{6,20})\.sst(\.tmp)?")
_MANIFEST = re.compile(r"MANIFEST-([0-9]{6,20})")
_SEGMENT = re.compile(r"([0-9]{6,20})\.wal")
NUMBER_MAX = 10**19 - 1


def format_segment(number: int) -> str:
    """The file name of log segment ``number`` (1 or more)."""
    assert 1 <= number <= NUMBER_MAX
    return f"{number:06d}.wal"


def parse_segment(name: str) -> int | None:
    """The number of the segment called ``name``; None when it is not a segment's name."""
    return _canonical(_SEGMENT.fullmatch(name), name, format_segment)


def format_table(number: int) -> str:
    """The file name of sorted table ``number`` (1 or more)."""
    assert 1 <= number <= NUMBER_MAX
    return f"{number:06d}.sst"


def parse_table(name: str) -> int | None:
    """The number of the sorted table called ``name``; None when it is no table's name."""
    match = _TABLE.fullmatch(name)
    return _canonical(match, name, format_table) if match and not match[2] else None


def parse_unfinished_table(name: str) -> int | None:
    """The number of the table that was being built under ``name``."""
    match = _TABLE.fullmatch(name)
    return _canonical(match, name, lambda n: format_tmp(format_table(n))) if match else None


def format_manifest(number: int) -> str:
    """The file name of manifest ``number`` (1 or more)."""
    assert 1 <= number <= NUMBER_MAX
    return f"MANIFEST-{number:06d}"


def parse_manifest(name: str) -> int | None:
    """The number of the manifest called ``name``; None when it is no manifest's name."""
    match = _MANIFEST.fullmatch(name)
    return _canonical(match, name, format_manifest) if match else None


def format_tmp(name: str) -> str:
    """What a file is called until it is whole."""
    return f"{name}.tmp"


def parse_tmp(name: str) -> str | None:
    """What the file called ``name`` is to be called when it is whole; None: it is whole."""
    whole, dot, tmp = name.rpartition(".")
    return whole if dot and tmp == "tmp" else None


def _canonical(
    match: re.Match[str] | None, name: str, format_name: Callable[[int], str]
) -> int | None:
    number = int(match[1]) if match else 0
    return number if 1 <= number <= NUMBER_MAX and format_name(number) == name else None


def format_torn(segment_name: str) -> str:
    """Where the tail cut from ``segment_name`` is kept."""
    return f"{segment_name}.torn"


def format_dropped(segment_name: str, count: int = 1) -> str:
    """Where a segment that recovery was allowed to drop is kept: the ``count``-th of that name."""
    return f"{segment_name}.dropped" + (f".{count}" if count > 1 else "")
