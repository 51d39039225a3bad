"""BlockCache: decompressed blocks, the least recently used of which make room for new ones.

Plain blocks need no cache: they are mapped, and the page cache keeps what is used.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

__all__ = ["BlockCache"]


class BlockCache:
    """At most ``bytes_max`` bytes of plain blocks (0: none are kept). Thread-safe; O(1) a call.

    A block is known by its table's ``identity``, which is never used again, and its number. Blocks
    of a table that is gone are asked for no more, so they age and make room like any others.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = 0
        """How many are held now."""
        self.hits = 0
        self.misses = 0
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, table: int, block: int) -> bytes | None:
        """The block, which now is the one most recently used; None when it is not held."""
        key = (table, block)
        with self._lock:
            plain = self._blocks.get(key)
            if plain is None:
                self.misses += 1
                return None
            self._blocks.move_to_end(key)
            self.hits += 1
            return plain

    def put(self, table: int, block: int, plain: bytes) -> None:
        """Keeps a block; one that is larger than the whole cache is not kept."""
        if len(plain) > self.bytes_max:
            return
        key = (table, block)
        with self._lock:
            before = self._blocks.pop(key, None)
            self.bytes += len(plain) - (len(before) if before is not None else 0)
            self._blocks[key] = plain
            self._make_room()

    def _make_room(self) -> None:
        # The loop does not stand in the block that holds the lock: decision 15.
        while self.bytes > self.bytes_max:
            _, oldest = self._blocks.popitem(last=False)
            self.bytes -= len(oldest)

    def _check(self) -> None:
        """Audits the invariants; for tests."""
        with self._lock:
            assert self.bytes == sum(map(len, self._blocks.values())) <= self.bytes_max
