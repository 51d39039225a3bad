"""What a script leaves behind when one client has worked it off, for the check after a run.

``Records.holds`` accepts any update of a record, also the one before the last: where clients write
at the same time nobody can say which was the last, and where they change fields of the same record
by reading and writing it, one may undo the other's. A client that is alone leaves no choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.ycsb.records import splice
from bench.ycsb.script import Kind, Script

__all__ = ["Outcome"]


class Outcome:
    """The last writes of the operations ``slots`` of a script, done in this order."""

    def __init__(self, script: Script, slots: Iterable[int]) -> None:
        self._whole: dict[bytes, bytes | None] = {}
        self._fields: dict[bytes, dict[int, bytes]] = {}
        for slot in slots:
            key, value = script.keys[slot], script.values[slot]
            if isinstance(value, tuple):
                field, changed = value
                self._fields.setdefault(key, {})[field] = changed
            elif value is not None or script.kinds[slot] == Kind.DELETE:
                self._whole[key] = value
                self._fields.pop(key, None)

    def written_keys(self) -> Sequence[bytes]:
        """All that was written or deleted, ascending. O(n log n)."""
        return sorted(self._whole.keys() | self._fields.keys())

    def agrees(self, key: bytes, value: bytes | None) -> bool:
        """Whether this is what ``key`` must hold; None: it is not there. Fields that no operation
        has changed may be anything.
        """
        base = self._whole.get(key, value)
        if base is None:
            return value is None and key not in self._fields
        for field, changed in self._fields.get(key, {}).items():
            base = splice(base, field, changed)
        return value == base
