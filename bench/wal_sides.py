"""The sides of the wal benchmark. Each writes the same bytes to a file of its own, as prepared."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import time
from collections import deque
from typing import Protocol

from bench.bare import STRATEGY_NAMES, BareLoops, Slice
from bench.wal_plan import Case
from kvstore.fs import PosixFileSystem
from kvstore.native import crc32c, ffi, lib
from kvstore.wal import IoUringConfig, PortableWalWriter
from kvstore.wal.format import HEADER_BYTES, entry_bytes

__all__ = ["BareSide", "KVStoreSide", "Side"]

_BUFFER_BYTES = 65536


class Side(Protocol):
    """Something that makes batches durable."""

    name: str

    def run(self, count: int) -> Slice:
        """Makes ``count`` batches durable, as many at a time as the case says."""

    def counters(self) -> dict[str, int]:
        """``bytes`` written and ``syncs`` asked for, since the side was opened."""

    def strategy(self) -> str:
        """How a batch is made durable."""

    def close(self) -> None:
        """Removes the file too."""


class BareSide:
    """pwrite and fdatasync, or pwritev2(RWF_DSYNC), in a C loop; k threads for k in flight.

    The bytes are those of a batch of kvstore's, made beforehand: no checksum, no copy, no Python.
    """

    def __init__(
        self,
        loops: BareLoops,
        path: str,
        case: Case,
        *,
        payload: bytes,
        batches: int,
        strategy: int,
    ) -> None:
        self.name = f"bare {STRATEGY_NAMES[strategy]}"
        self._loops, self._case, self._strategy = loops, case, strategy
        self._path, self._position, self._batches = path, HEADER_BYTES, 0
        # The same preparation as PortableWalWriter's, through the same code.
        files = PosixFileSystem()
        file = files.open(path, create=True)
        file.preallocate(0, HEADER_BYTES + batches * case.batch_bytes)
        file.sync()
        self._file = file
        if case.direct:
            self._file = files.open(path, direct=True)
            file.close()
        fd = self._file.fileno()
        assert fd is not None
        self._fd = fd
        # Anonymous memory begins on a page, as direct I/O wants it.
        self._memory = mmap.mmap(-1, case.batch_bytes)
        self._memory.write(_frame(case, payload))
        self._batch = memoryview(self._memory)

    def run(self, count: int) -> Slice:
        done = self._loops.write(
            self._fd,
            self._batch,
            first=self._position,
            count=count,
            threads=self._case.in_flight,
            strategy=self._strategy,
        )
        self._position += count * len(self._batch)
        self._batches += count
        return done

    def counters(self) -> dict[str, int]:
        return {"bytes": self._position - HEADER_BYTES, "syncs": self._batches}

    def strategy(self) -> str:
        return STRATEGY_NAMES[self._strategy]

    def close(self) -> None:
        self._batch.release()
        self._memory.close()
        self._file.close()
        _remove(self._path)


class KVStoreSide:
    """A PortableWalWriter, called as a program would call it; the calls' cost is in the figures.

    One in flight: ``append_and_commit`` for a batch of one, else ``append_with_checksum_batched``
    for each entry and ``flush_batch``. Several: the same appends and ``submit``, then sleep on the
    eventfd and ``reap``, as an event loop would; a batch's latency is from its first append to the
    reap that finds it durable.
    """

    def __init__(
        self, backend: str, path: str, case: Case, *, payload: bytes, batches: int
    ) -> None:
        self.name = backend
        self._path, self._case, self._payload = path, case, payload
        # Room for all that is in flight and one batch more, so that none waits for memory.
        room = (case.in_flight + 1) * case.batch_bytes + 4 * _BUFFER_BYTES
        buffers = max(IoUringConfig().registered_buffers, -(-room // _BUFFER_BYTES))
        self.log = PortableWalWriter(
            path,
            IoUringConfig(direct_io=case.direct, registered_buffers=buffers),
            backend=backend,
            preallocate_bytes=batches * case.batch_bytes,
        )
        if self.log.backend != backend:
            self.close()
            raise RuntimeError(
                f"{backend} was asked for, {self.log.backend} came: {self.log.backend_reason}"
            )
        if case.direct and "direct" in self.log.backend_reason:
            reason = self.log.backend_reason
            self.close()
            raise RuntimeError(reason)

    def run(self, count: int) -> Slice:
        if self._case.in_flight > 1:
            return self._run_pipelined(count)
        return self._run_single(count) if self._case.entries == 1 else self._run_batched(count)

    def _run_single(self, count: int) -> Slice:
        clock, commit, data = time.perf_counter_ns, self.log.append_and_commit, self._payload
        latencies = [0] * count
        began = last = clock()
        for index in range(count):
            commit(data)
            now = clock()
            latencies[index] = now - last
            last = now
        return Slice(last - began, latencies)

    def _run_batched(self, count: int) -> Slice:
        clock, data, entries = time.perf_counter_ns, self._payload, range(self._case.entries)
        append, flush = self.log.append_with_checksum_batched, self.log.flush_batch
        latencies = [0] * count
        began = last = clock()
        for index in range(count):
            for _ in entries:
                append(data)
            flush()
            now = clock()
            latencies[index] = now - last
            last = now
        return Slice(last - began, latencies)

    def _run_pipelined(self, count: int) -> Slice:
        clock, data, entries = time.perf_counter_ns, self._payload, range(self._case.entries)
        append, submit = self.log.append_with_checksum_batched, self.log.submit
        reap, depth, fd = self.log.reap, self._case.in_flight, self.log.eventfd
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        wait, read = poll.poll, os.read
        waiting: deque[tuple[int, int]] = deque()
        latencies: list[int] = []
        begun = 0
        start = now = clock()
        while len(latencies) < count:
            while begun < count and len(waiting) < depth:
                since = clock()
                for _ in entries:
                    append(data)
                waiting.append((submit(), since))
                begun += 1
            wait()
            read(fd, 8)
            durable = reap()
            now = clock()
            while waiting and waiting[0][0] <= durable:
                latencies.append(now - waiting.popleft()[1])
        return Slice(now - start, latencies)

    def counters(self) -> dict[str, int]:
        stats = self.log.stats()
        return {"bytes": stats.bytes_written, "syncs": stats.syncs}

    def strategy(self) -> str:
        return self.log.sync_strategy

    def close(self) -> None:
        self.log.close()
        _remove(self._path)


def _frame(case: Case, payload: bytes) -> bytes:
    """The bytes of one batch as a log would hold them; which LSNs they carry costs nothing."""
    checksum = crc32c(payload)
    size = entry_bytes(len(payload))
    buffer = ffi.new("char[]", size)
    batch = bytearray()
    for lsn in range(1, case.entries + 1):
        lib.kv_frame_header(buffer, 0, checksum, len(payload), 0, lsn, lib.KV_CHECKED)
        header = bytes(ffi.buffer(buffer, entry_bytes(0)))
        batch += (header + payload).ljust(size, b"\0")
    return bytes(batch.ljust(case.batch_bytes, b"\0"))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
