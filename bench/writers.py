"""The engines that are loaded, with compaction running: the same memtable size, no sync per put.

Beyond that each has its defaults; nothing is compressed. The ``put`` of each is the engine's own
method, so that no wrapper is measured with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import kvstore
from bench.engines import OURS

__all__ = ["WRITERS", "Writer"]


class Writer(Protocol):
    """A store in a directory of its own."""

    put: Callable[[bytes, bytes], object]
    get: Callable[[bytes], bytes | None]

    def __init__(self, directory: str, memtable_bytes: int) -> None: ...

    def is_quiet(self) -> bool:
        """Whether no flush and no compaction is under way or due."""

    def write_amplification(self) -> float | None:
        """Bytes of tables written for each byte flushed, as the engine counts them."""

    def close(self) -> None: ...


class KVStoreWriter:
    """Ours."""

    def __init__(self, directory: str, memtable_bytes: int) -> None:
        self._db = kvstore.open(
            directory,
            sync=False,
            memtable_bytes_max=memtable_bytes,
            compression="none",
        )
        self.put: Callable[[bytes, bytes], object] = self._db.put
        self.get: Callable[[bytes], bytes | None] = self._db.get

    def is_quiet(self) -> bool:
        stats = self._db.stats()
        return not stats.sealed_memtables and not stats.pending_compaction_bytes

    def write_amplification(self) -> float | None:
        stats = self._db.stats()
        if not stats.flush_bytes:
            return None
        return (stats.flush_bytes + stats.compaction_bytes_written) / stats.flush_bytes

    def close(self) -> None:
        self._db.close()


class RocksdictWriter:
    """RocksDB through rocksdict, in raw mode, its log on; sync is off by default."""

    _BUSY = (
        "num-running-flushes",
        "num-running-compactions",
        "mem-table-flush-pending",
        "compaction-pending",
    )

    def __init__(self, directory: str, memtable_bytes: int) -> None:
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        options.set_write_buffer_size(memtable_bytes)
        self._db = rocksdict.Rdict(directory, options)
        self.put: Callable[[bytes, bytes], object] = self._db.put
        self.get: Callable[[bytes], bytes | None] = self._db.get

    def is_quiet(self) -> bool:
        return not any(self._db.property_int_value(f"rocksdb.{name}") for name in self._BUSY)

    def write_amplification(self) -> float | None:
        """From the table of statistics that is always kept: its "Sum" line, one decimal."""
        headings: list[str] = []
        for line in self._db.property_value("rocksdb.cfstats").splitlines():
            words = line.split()
            if words[:1] == ["Level"]:
                headings = words
            elif words[:1] == ["Sum"] and "W-Amp" in headings:
                # The size is two words, "12.3 MB", under one heading.
                return float(words[headings.index("W-Amp") + 1])
        return None

    def close(self) -> None:
        self._db.close()


WRITERS: dict[str, type[Writer]] = {OURS: KVStoreWriter, "rocksdict": RocksdictWriter}
