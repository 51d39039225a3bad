"""Options: all that can be set when a store is opened; every limit has its unit in its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from kvstore.errors import LimitError

__all__ = [
    "COMPRESSIONS",
    "KEY_BYTES_MAX",
    "RECOVERY_MODES",
    "VALUE_BYTES_MAX",
    "Options",
    "make_options",
]

KEY_BYTES_MAX = 64 << 10
VALUE_BYTES_MAX = 512 << 20

RECOVERY_MODES = ("tolerate_torn_tail", "strict", "point_in_time", "salvage")
COMPRESSIONS = ("none", "lz4", "zstd")
_BACKENDS = ("auto", "io_uring", "pwrite")


@dataclass(frozen=True)
class Options:
    """How a store is opened; immutable, checked when made.

    ``sync``               whether writes wait until they are durable, if the call does not say
    ``create_if_missing``  make a store where there is none (else an error)
    ``error_if_exists``    refuse to open an existing one
    ``wal_backend``        "auto", "io_uring" or "pwrite"; KVSTORE_WAL_BACKEND overrides it
    ``wal_buffer_bytes``   memory for writes on their way to the log, 32 KiB to 1 GiB
    ``wal_batches_in_flight``  of an AsyncKVStore, on their way to the disk at the same time, 1 to
                           16; acknowledged in order. (Threads share one, which is faster.)
    ``wal_segment_bytes``  size of a full log file, 64 KiB to 64 GiB
    ``wal_direct_io``      bypass the page cache: synced blocks are never written again, and every
                           batch takes at least 4 KiB of log
    ``write_queue_bytes_max``  what an AsyncKVStore takes in before it is durable, 64 KiB to 16 GiB;
                           beyond it writes wait
    ``flush_interval_ms``  with ``sync=False``, how long a write may stay undurable (0 to 60000)
    ``memtable_bytes_max`` memory for writes not yet in a sorted table, 64 KiB to 16 GiB; there are
                           two memtables of that size at most, while one is flushed
    ``block_bytes``        size at which a block of a sorted table is closed, 256 B to 1 MiB
    ``filter_bits_per_key``  of the tables' Bloom filters, 0 (none) to 32; 10 give 0.9% false
                           positives
    ``compression``        of new tables' blocks: "none", "lz4" or "zstd", for which the packages
                           lz4 and zstandard are needed; a table says itself how it is compressed
    ``block_cache_bytes``  memory for decompressed blocks, 0 to 1 TiB; plain ones are mapped
    ``table_bytes_max``    size at which compaction begins another table, 64 KiB to 1 GiB
    ``level_bytes_base``   size of level 1, 64 KiB to 1 TiB; each further one is 10 times as large
    ``recovery``           what to do about damage found on opening:
                           "tolerate_torn_tail": cut what a crash left half written, refuse damage
                           to what had been durable; "strict": refuse both; "point_in_time": consent
                           to lose everything behind the first damage; "salvage": read-only, skip
                           damage

    Raises LimitError (a ValueError) that names the field and its range.
    """

    sync: bool = True
    create_if_missing: bool = True
    error_if_exists: bool = False
    wal_backend: str = "auto"
    wal_buffer_bytes: int = 4 << 20
    wal_batches_in_flight: int = 2
    wal_segment_bytes: int = 16 << 20
    wal_direct_io: bool = False
    write_queue_bytes_max: int = 16 << 20
    flush_interval_ms: float = 10
    memtable_bytes_max: int = 64 << 20
    block_bytes: int = 4 << 10
    filter_bits_per_key: int = 10
    compression: str = "none"
    block_cache_bytes: int = 32 << 20
    table_bytes_max: int = 64 << 20
    level_bytes_base: int = 256 << 20
    recovery: str = "tolerate_torn_tail"

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise LimitError(
                    f"{field.name} must be True or False, not {getattr(self, field.name)!r}"
                )
        _check_choice("wal_backend", self.wal_backend, _BACKENDS)
        _check_choice("recovery", self.recovery, RECOVERY_MODES)
        _check_range("wal_buffer_bytes", self.wal_buffer_bytes, 32 << 10, 1 << 30)
        _check_range("wal_batches_in_flight", self.wal_batches_in_flight, 1, 16)
        _check_range("write_queue_bytes_max", self.write_queue_bytes_max, 64 << 10, 16 << 30)
        _check_range("wal_segment_bytes", self.wal_segment_bytes, 64 << 10, 64 << 30)
        _check_choice("compression", self.compression, COMPRESSIONS)
        _check_range("memtable_bytes_max", self.memtable_bytes_max, 64 << 10, 16 << 30)
        _check_range("block_bytes", self.block_bytes, 256, 1 << 20)
        _check_range("filter_bits_per_key", self.filter_bits_per_key, 0, 32)
        _check_range("block_cache_bytes", self.block_cache_bytes, 0, 1 << 40)
        _check_range("table_bytes_max", self.table_bytes_max, 64 << 10, 1 << 30)
        _check_range("level_bytes_base", self.level_bytes_base, 64 << 10, 1 << 40)
        _check_range("flush_interval_ms", self.flush_interval_ms, 0, 60_000, whole=False)


def make_options(given: Mapping[str, Any]) -> Options:
    """Options of keyword arguments; TypeError for a name that is none."""
    known = {field.name for field in fields(Options)}
    if unknown := given.keys() - known:
        raise TypeError(
            f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return Options(**given)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise LimitError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _check_range(
    name: str, value: object, smallest: int, largest: int, *, whole: bool = True
) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not smallest <= value <= largest:
        raise LimitError(f"{name} must be {smallest} to {largest}, not {value!r}")
