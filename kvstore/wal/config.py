"""IoUringConfig: how a log writer uses memory, the ring and the device."""

from __future__ import annotations

from dataclasses import dataclass, fields

_DIRECT_IO_ALIGNMENT = 4096

# field -> (smallest, largest): what the kernel takes (io_uring_setup(2): IORING_MAX_ENTRIES is
# 32768) and what this package tests.
_RANGES = {
    "sq_entries": (1, 32768),
    "sq_poll_idle_ms": (0, 60_000),
    "max_inflight": (1, 32768),
    "registered_buffers": (1, 16384),
    "buffer_size": (512, 16 << 20),
}
_BUFFER_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class IoUringConfig:
    """Settings of a log writer; immutable, checked when made.

    ``sq_entries``          submission queue entries of the ring (1 to 32768)
    ``kernel_poll``         ask for SQPOLL: a kernel thread submits, at the price of a core
    ``sq_poll_idle_ms``     how long that thread spins before it sleeps, in milliseconds
    ``max_inflight``        operations handed to the kernel and not yet completed, at most
    ``direct_io``           ask for O_DIRECT: a synced block is never written again; every batch is
                            padded to 4096 bytes
    ``registered_buffers``  with ``buffer_size``, the memory that queued entries wait in
    ``buffer_size``         bytes, a multiple of 512 (of 4096 with ``direct_io``)

    The portable backend ignores what only a ring can do. What the machine cannot do degrades one
    step at a time, and the writer's ``backend_reason`` says so. Raises ValueError, naming the field
    and its range.
    """

    sq_entries: int = 1024
    kernel_poll: bool = False
    sq_poll_idle_ms: int = 10
    max_inflight: int = 256
    direct_io: bool = False
    registered_buffers: int = 64
    buffer_size: int = 65536

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES:
                _check_integer(field.name, value)
            elif not isinstance(value, bool):
                raise ValueError(f"{field.name} must be True or False, not {value!r}")
        alignment = _DIRECT_IO_ALIGNMENT if self.direct_io else 512
        if self.buffer_size % alignment:
            raise ValueError(
                f"buffer_size must be a multiple of {alignment}"
                f"{' with direct_io' if self.direct_io else ''}, not {self.buffer_size}"
            )
        if not 4096 <= self.max_batch_bytes() <= _BUFFER_BYTES_MAX:
            raise ValueError(
                f"registered_buffers * buffer_size must be 4096 to {_BUFFER_BYTES_MAX} bytes, "
                f"not {self.max_batch_bytes()}"
            )

    def max_batch_bytes(self) -> int:
        """Payload bytes that a batch may hold before it is written: all the buffers together."""
        return self.registered_buffers * self.buffer_size

    @classmethod
    def high_throughput(cls) -> IoUringConfig:
        """Large batches, a polling kernel thread, direct I/O; 64 MiB of buffers."""
        return cls(4096, True, 100, 1024, True, 256, 262144)

    @classmethod
    def low_latency(cls) -> IoUringConfig:
        """A polling kernel thread, direct I/O, small buffers; 512 KiB of them."""
        return cls(256, True, 1, 64, True, 32, 16384)

    @classmethod
    def minimal(cls) -> IoUringConfig:
        """For a small device: 32 KiB of buffers, no polling."""
        return cls(128, False, 0, 32, False, 8, 4096)


def _check_integer(name: str, value: object) -> None:
    smallest, largest = _RANGES[name]
    if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value <= largest:
        raise ValueError(
            f"{name} must be a whole number from {smallest} to {largest}, not {value!r}"
        )
