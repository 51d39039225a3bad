"""LogReader: the entries of one log file, and where and why they end.

Reading has three outcomes that never blur: entries; the end of the log, perhaps a torn tail
(``reader.end``); corruption (raised). The rules stand in format.py. Nothing is changed on disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError
from kvstore.fs import File
from kvstore.native import ffi, lib
from kvstore.wal.format import (
    CHECKED,
    ENTRY_HEADER_BYTES,
    HEADER_BYTES,
    PAD,
    PLAIN,
    SEAL,
    Predecessor,
    SegmentHeader,
    last_vouched_lsn,
)

__all__ = ["Damage", "Entry", "EntryBlock", "LogEnd", "LogReader"]

_CHUNK_BYTES = 4 << 20
_ROWS_MAX = 16384
_STOP_REASONS = {
    lib.KV_STOP_END: "the file ends within an entry's header",
    lib.KV_STOP_MORE: "the file ends within an entry's payload",
    lib.KV_STOP_HEADER: "no valid entry header",
    lib.KV_STOP_LSN: "an entry with another LSN than the next",
    lib.KV_STOP_PAYLOAD: "an entry's payload does not match its checksum",
}


@dataclass(frozen=True)
class Entry:
    """One entry; ``offset`` counts from the start of the file."""

    offset: int
    lsn: int
    kind: int
    payload: bytes


@dataclass(frozen=True)
class EntryBlock:
    """Validated entries as the C kernels see them: ``count`` rows that point into ``data``."""

    data: bytes
    rows: Any
    count: int
    offset: int

    def entries(self) -> Iterator[Entry]:
        """The users' entries among them (PLAIN and CHECKED)."""
        width = lib.KV_ROW
        numbers = ffi.unpack(self.rows, self.count * width)
        for start, stop, lsn, kind, _ in zip(
            *(numbers[i::width] for i in range(width)), strict=True
        ):
            if kind in (PLAIN, CHECKED):
                offset = self.offset + start - ENTRY_HEADER_BYTES
                yield Entry(offset, lsn, kind, self.data[start:stop])


@dataclass(frozen=True)
class Damage:
    """Bytes of a file that should have held entries, and the entries (LSNs) that are not there.

    ``lsn_last`` is None where nothing tells how many were lost.
    """

    path: str
    offset: int
    end_offset: int
    lsn_first: int
    lsn_last: int | None
    reason: str


@dataclass(frozen=True)
class LogEnd:
    """Where the entries of a file end.

    ``torn_bytes`` counts what stands behind ``offset`` and is not zero: the remains of writes that
    a crash cut off, never acknowledged. 0 with a clean end; then ``torn_reason`` is empty.
    """

    offset: int
    last_lsn: int
    sealed: bool
    torn_bytes: int = 0
    torn_reason: str = ""


class LogReader:
    """Reads one log file from its header on. Not thread-safe; holds one chunk (4 MiB) in memory, or
    the largest entry.

    ``successor_says`` is the predecessor record of the next segment: it fixes where this one ends.
    With ``salvage`` damage is skipped and noted in ``damage`` instead of raised.

    Raises FormatError (no log, or a newer one), CorruptionError and StorageIOError.
    """

    def __init__(
        self, file: File, *, successor_says: Predecessor | None = None, salvage: bool = False
    ) -> None:
        self._file = file
        self._salvage = salvage
        self._successor_says = successor_says
        self.header = SegmentHeader.decode(file.pread(HEADER_BYTES, 0), file.path)
        self._size = file.size()
        if successor_says is not None:
            self._size = min(self._size, successor_says.end_offset)
        self._state = ffi.new("kv_scan_state *")
        self._state.seed = self.header.seed
        self._state.lsn = self.header.base_lsn
        self._position = HEADER_BYTES
        self._sealed = False
        self.damage: list[Damage] = []
        self.bytes_read = HEADER_BYTES
        self.end: LogEnd | None = None

    @property
    def position(self) -> LogEnd:
        """How far the entries read so far reach; after a CorruptionError, where it begins."""
        return LogEnd(self._position, self._state.lsn - 1, self._sealed)

    @property
    def entry_count(self) -> int:
        """How many users' entries (PLAIN and CHECKED) have been read."""
        count: int = self._state.user_entries
        return count

    def entries(self) -> Iterator[Entry]:
        """The users' entries in order; afterwards ``end`` is set."""
        for block in self.blocks():
            yield from block.entries()

    def blocks(self) -> Iterator[EntryBlock]:
        """The entries in blocks, as the C kernels take them; afterwards ``end`` is set."""
        state = self._state
        rows = ffi.new("int64_t[]", _ROWS_MAX * lib.KV_ROW)
        want = _CHUNK_BYTES
        while True:
            data = self._read(self._position, want)
            if len(data) < min(want, self._size - self._position):
                self._size = self._position + len(data)  # somebody made the file shorter
            at_end = self._position + len(data) >= self._size
            state.position = state.need = 0
            state.stop = lib.KV_STOP_ROWS
            begin = self._position
            while state.stop == lib.KV_STOP_ROWS:
                count = lib.kv_scan(state, data, len(data), rows, _ROWS_MAX)
                if count:
                    self._note_seal(rows, count)
                    self._position = begin + state.position
                    yield EntryBlock(data, rows, count, begin)
            short = state.stop in (lib.KV_STOP_END, lib.KV_STOP_MORE)
            if short and not at_end and self._position + state.need <= self._size:
                # Go on where the chunk cut an entry; it may be larger than a chunk.
                want = max(_CHUNK_BYTES, state.need)
                continue
            if not self._skip_damage():
                return
            want = _CHUNK_BYTES

    def _note_seal(self, rows: Any, count: int) -> None:
        for row in range(count - 1, -1, -1):
            kind = rows[row * lib.KV_ROW + 3]
            if kind != PAD:  # under direct I/O one follows the SEAL
                self._sealed = kind == SEAL
                return

    def _read(self, offset: int, size: int) -> bytes:
        data = self._file.pread(max(0, min(size, self._size - offset)), offset)
        self.bytes_read += len(data)
        return data

    def _skip_damage(self) -> bool:
        """At the first bad position. True when salvaging goes on behind it; else ``end`` is set."""
        path, at = self._file.path, self._position
        expected, stop = self._state.lsn, self._state.stop
        if stop == lib.KV_STOP_KIND:
            raise FormatError(
                path, f"offset {at}: an entry of a kind that only a newer kvstore knows; upgrade"
            )
        says = self._successor_says
        if says is not None and (at, expected - 1) == (says.end_offset, says.last_lsn):
            self.end = LogEnd(at, expected - 1, self._sealed)
            return False
        reason = _STOP_REASONS[stop]
        witness, torn_end = self._look_behind()
        if witness is None and says is None:
            torn = torn_end - at
            self.end = LogEnd(at, expected - 1, self._sealed, torn, reason if torn else "")
            return False
        if witness is not None:
            offset, lsn = witness
            reason += f"; entry {lsn} at offset {offset} is later and says that it had been durable"
        elif says is not None:
            reason += (
                f"; the next segment says that this one ends at offset {says.end_offset} "
                f"with entry {says.last_lsn}"
            )
        if self._salvage:
            return self._salvage_from(witness, reason)
        if stop == lib.KV_STOP_PAYLOAD:
            mismatch = ChecksumMismatch(
                path, at, f"entry {expected}", self._state.expected, self._state.actual
            )
            mismatch.advice = reason
            raise mismatch
        raise CorruptionError(path, at, f"entry {expected} is lost: {reason}")

    def _look_behind(self) -> tuple[tuple[int, int] | None, int]:
        """What stands behind the bad position: the first (offset, LSN) of an entry that vouches for
        the one missing there, and where the remains of unacknowledged writes end."""
        state, at = self._state, self._position
        expected = state.lsn
        torn_end = at
        row = ffi.new("int64_t[]", lib.KV_ROW)
        lsn_max = expected + (self._size - at) // ENTRY_HEADER_BYTES
        chunk_start = at
        while chunk_start < self._size:
            data = self._read(chunk_start, _CHUNK_BYTES)
            if not data:
                break
            if not self.header.recycled:
                used = lib.kv_used_bytes(data, len(data))
                torn_end = max(torn_end, chunk_start + used if used else 0)
            start = 0
            while True:
                found = lib.kv_find_entry(
                    data, len(data), start, state.seed, expected, lsn_max, row
                )
                if found < 0:
                    break
                _, stop, lsn, _, unsynced = ffi.unpack(row, lib.KV_ROW)
                was_durable = self._successor_says is not None or (
                    last_vouched_lsn(lsn, unsynced) >= expected
                )
                if was_durable and lsn > expected:
                    return (chunk_start + found, lsn), torn_end
                torn_end = max(torn_end, min(chunk_start + stop, self._size))
                start = found + 8
            # Consecutive chunks overlap, so that no header falls between two.
            step = len(data) - ENTRY_HEADER_BYTES
            if chunk_start + len(data) >= self._size or step <= 0:
                break
            chunk_start += step - step % 8
        return None, torn_end

    def _salvage_from(self, witness: tuple[int, int] | None, reason: str) -> bool:
        path, at, expected = self._file.path, self._position, self._state.lsn
        if witness is None:
            self.damage.append(Damage(path, at, self._size, expected, None, reason))
            self.end = LogEnd(at, expected - 1, self._sealed)
            return False
        offset, lsn = self._first_entry_behind()
        self.damage.append(Damage(path, at, offset, expected, lsn - 1, reason))
        self._position = offset
        self._state.lsn = lsn
        return True

    def _first_entry_behind(self) -> tuple[int, int]:
        """(offset, LSN) of the first entry after the bad position; _look_behind has found one."""
        state = self._state
        row = ffi.new("int64_t[]", lib.KV_ROW)
        here = state.stop in (lib.KV_STOP_PAYLOAD, lib.KV_STOP_MORE)  # a header that stays behind
        start = self._position + (8 if here else 0)
        lsn_max = state.lsn + (self._size - start) // ENTRY_HEADER_BYTES + 1
        while True:
            data = self._read(start, _CHUNK_BYTES)
            found = lib.kv_find_entry(data, len(data), 0, state.seed, state.lsn, lsn_max, row)
            if found >= 0:
                return start + found, row[2]
            start += len(data) - ENTRY_HEADER_BYTES - (len(data) - ENTRY_HEADER_BYTES) % 8
