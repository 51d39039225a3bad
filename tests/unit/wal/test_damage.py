"""Every byte of a log damaged, every length cut: an error or a prefix, never a wrong value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kvstore.errors import CorruptionError, FormatError
from kvstore.wal import PortableWalWriter
from tests.support import oracle
from tests.support.oracle import CHECKED, HEADER_BYTES, PLAIN, Entry
from tests.support.wal import read_bytes


@dataclass(frozen=True)
class Sample:
    """A log written by the C writer, and what the oracle makes of it undamaged."""

    data: bytes
    entries: list[Entry]

    def users(self) -> list[tuple[int, bytes]]:
        return [(e.lsn, e.payload) for e in self.entries if e.kind in (PLAIN, CHECKED)]

    def hit(self, at: int) -> int:
        """The index of the entry that byte ``at`` belongs to; their number: it is behind all."""
        ends = [e.offset + oracle.entry_bytes(len(e.payload)) for e in self.entries]
        return sum(end <= at for end in ends)


def make_sample(path: Path, backend: str, *, closed: bool) -> Sample:
    log = PortableWalWriter(path, backend=backend, preallocate_bytes=0)
    log.append(b"plain and direct")
    log.append_with_checksum(b"checked")
    log.sync()
    for number in range(3):
        log.append_with_checksum_batched(b"batch %d" % number * 3)
        log.append_batched(b"")
        log.flush_batch()
    log.mark()
    log.append_with_checksum_batched(b"x" * 50)
    log.append_and_commit(b"the last")
    data = path.read_bytes()
    log.close()
    if closed:
        data = path.read_bytes()
    return Sample(data, oracle.decode(data).entries)


@pytest.fixture(params=["closed", "not closed"])
def sample(request: pytest.FixtureRequest, path: Path, backend: str) -> Sample:
    return make_sample(path, backend, closed=request.param == "closed")


def outcome(data: bytes) -> tuple[list[tuple[int, int, bytes]], int] | int | None:
    """(LSN, kind, payload)s and the end; or the offset of corruption; or None: no log of ours."""
    try:
        entries, end, _ = read_bytes(data)
    except CorruptionError as error:
        return error.offset if error.path == "memory.wal" else -1
    except FormatError:
        return None
    return [(e.lsn, e.kind, e.payload) for e in entries], end.offset


def assert_as_the_oracle(data: bytes) -> None:
    found = outcome(data)
    try:
        expected = oracle.decode(data)
    except oracle.NotALog:
        assert found is None or found == 0
        return
    if expected.corrupt_at is not None:
        assert found == expected.corrupt_at
    else:
        users = [(e.lsn, e.kind, e.payload) for e in expected.entries if e.kind in (PLAIN, CHECKED)]
        assert found == (users, expected.end_offset)


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_any_damaged_byte_gives_an_error_or_a_legal_prefix(sample: Sample, change: int) -> None:
    whole = [(e.lsn, e.kind, e.payload) for e in sample.entries if e.kind in (PLAIN, CHECKED)]
    last = sample.entries[-1]
    end = last.offset + oracle.entry_bytes(len(last.payload))
    vouched = max(e.lsn - 1 - e.unsynced for e in sample.entries)
    data = bytearray(sample.data)
    # In the zeros behind the end one byte is like the other.
    places = [*range(HEADER_BYTES, min(end + 64, len(data))), *range(end + 64, len(data), 1021)]
    for at in range(HEADER_BYTES):
        data[at] ^= change
        assert outcome(bytes(data)) in (0, None)
        data[at] ^= change
    for at in places:
        data[at] ^= change
        damaged = bytes(data)
        data[at] ^= change
        assert_as_the_oracle(damaged)
        found = outcome(damaged)
        assert found is not None
        index = sample.hit(at)
        if isinstance(found, int):
            assert found == sample.entries[index].offset
            continue
        entries, _ = found
        for seen, true in zip(entries, whole, strict=False):
            assert seen[:2] == true[:2]
            assert seen[2] == true[2] or seen[1] == PLAIN
        if index == len(sample.entries):
            assert entries == whole
            continue
        entry = sample.entries[index]
        unprotected = at >= entry.offset + 24 + (len(entry.payload) if entry.kind == CHECKED else 0)
        if unprotected:  # the payload of PLAIN and PAD, and what only aligns
            assert len(entries) == len(whole)
        else:
            assert entry.lsn > vouched  # or it would have been an error
            assert entries == [e for e in whole if e[0] < entry.lsn]


def test_any_prefix_gives_an_error_or_a_legal_prefix(sample: Sample) -> None:
    for size in [*range(0, HEADER_BYTES, 97), HEADER_BYTES - 1]:
        assert outcome(sample.data[:size]) is None
    users = sample.users()
    whole = sample.entries[-1].offset + 64
    for size in [*range(HEADER_BYTES, min(whole, len(sample.data))), len(sample.data)]:
        data = sample.data[:size]
        assert_as_the_oracle(data)
        found = outcome(data)
        assert isinstance(found, tuple)
        expected = [
            e for e in sample.entries if e.offset + oracle.entry_bytes(len(e.payload)) <= size
        ]
        count = sum(e.kind in (PLAIN, CHECKED) for e in expected)
        assert [(lsn, payload) for lsn, _, payload in found[0]] == users[:count]


def test_any_lost_sector_gives_an_error_or_a_legal_prefix(sample: Sample) -> None:
    users = sample.users()
    for start in range(HEADER_BYTES, len(sample.data), 64):
        for stop in (start + 64, start + 512):
            data = sample.data[:start] + bytes(len(sample.data[start:stop])) + sample.data[stop:]
            assert_as_the_oracle(data)
            found = outcome(data)
            if isinstance(found, tuple):
                pairs = [(lsn, payload) for lsn, kind, payload in found[0] if kind == CHECKED]
                assert pairs == [u for u in users if u in pairs]


def test_everything_before_a_seal_is_witnessed(path: Path, backend: str) -> None:
    sample = make_sample(path, backend, closed=True)
    data = bytearray(sample.data)
    for entry in sample.entries[:-1]:
        for at in (entry.offset, entry.offset + 5, entry.offset + 20):
            data[at] ^= 0x10
            assert outcome(bytes(data)) == entry.offset
            data[at] ^= 0x10


def test_opening_over_damage_refuses_and_changes_nothing(path: Path, backend: str) -> None:
    sample = make_sample(path, backend, closed=True)
    data = bytearray(sample.data)
    data[sample.entries[1].offset + 2] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(CorruptionError) as caught:
            PortableWalWriter(path, backend=backend)
        assert (caught.value.path, caught.value.offset) == (str(path), sample.entries[1].offset)
        assert path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == [path.name]
