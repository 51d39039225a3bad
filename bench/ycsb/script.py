"""What the clients will do, operation by operation: made wholly before a clock starts."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Kind", "Script", "Written"]

Written = bytes | tuple[int, bytes] | None


class Kind(IntEnum):
    """What one operation does: the first five are YCSB's, READ and the others db_bench's."""

    READ = 0
    UPDATE = 1
    INSERT = 2
    SCAN = 3
    READ_MODIFY_WRITE = 4
    PUT = 5
    DELETE = 6
    READ_MISSING = 7
    SEEK = 8

    @property
    def writes(self) -> bool:
        """Whether a store that is durable has to sync for it."""
        return self in _WRITING


_WRITING = frozenset(
    (Kind.UPDATE, Kind.INSERT, Kind.READ_MODIFY_WRITE, Kind.PUT, Kind.DELETE),
)


@dataclass(frozen=True)
class Script:
    """Operation i is ``kinds[i]`` of ``keys[i]``; all four are of the same length.

    ``values``: for INSERT and PUT the whole record or value, for UPDATE and READ_MODIFY_WRITE
    (field number, what the field becomes), else None. They are references into a bounded pool.
    ``lengths``: how many entries a SCAN or SEEK hands out at most, from its key on; else 0.
    """

    kinds: bytes
    keys: Sequence[bytes]
    values: Sequence[Written]
    lengths: array[int]

    def __post_init__(self) -> None:
        counts = {len(part) for part in (self.kinds, self.keys, self.values, self.lengths)}
        if len(counts) != 1:
            raise ValueError(f"a script of {sorted(counts)} operations")

    def __len__(self) -> int:
        return len(self.kinds)

    def share(self, number: int, shares: int) -> Script:
        """Every ``shares``-th operation, from ``number`` on: the part of one process of many."""
        part = slice(number, None, shares)
        return Script(self.kinds[part], self.keys[part], self.values[part], self.lengths[part])
