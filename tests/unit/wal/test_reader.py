"""LogReader: entries, how a log ends, and what is provably lost; whole files made by the oracle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import (
    ChecksumMismatch,
    CorruptionError,
    FormatError,
    StorageIOError,
    storage_error,
)
from kvstore.fs import PosixFileSystem
from kvstore.wal import LogReader, PortableWalWriter
from kvstore.wal.format import Predecessor
from tests.support import oracle
from tests.support.oracle import CHECKED, MARK, NO_CLAIM, PAD, PLAIN, SEAL, Header, LogImage
from tests.support.wal import BytesFile, read_bytes

CHUNK = 4 << 20


def image_of(
    count: int, *, payload: bytes = b"payload %d", header: Header | None = None
) -> LogImage:
    image = LogImage(header or Header())
    for number in range(1, count + 1):
        image.add(CHECKED, payload % number)
    return image


def test_users_entries_come_with_offset_lsn_and_kind() -> None:
    image = LogImage(Header(base_lsn=40))
    image.add(PLAIN, b"plain")
    image.add(PAD, b"padding")
    image.add(CHECKED, b"")
    image.add(MARK)
    image.add(CHECKED, b"checked")
    entries, end, reader = read_bytes(bytes(image.data))
    users = [image.entries[i] for i in (0, 2, 4)]
    assert [(e.offset, e.lsn, e.kind, e.payload) for e in entries] == [
        (e.offset, e.lsn, e.kind, e.payload) for e in users
    ]
    assert (end.offset, end.last_lsn, end.sealed) == (len(image.data), 44, False)
    assert (end.torn_bytes, end.torn_reason) == (0, "")
    assert reader.header.base_lsn == 40
    assert reader.entry_count == 3
    assert reader.bytes_read >= len(image.data)


def test_a_header_alone_is_an_empty_log() -> None:
    entries, end, _ = read_bytes(Header(base_lsn=9).encode())
    assert entries == []
    assert (end.offset, end.last_lsn, end.sealed, end.torn_bytes) == (4096, 8, False, 0)


@pytest.mark.parametrize("zeros", [1, 23, 24, 4096, 1 << 20])
def test_zeros_behind_the_last_entry_are_a_clean_end(zeros: int) -> None:
    image = image_of(3)
    entries, end, _ = read_bytes(bytes(image.data) + bytes(zeros))
    assert len(entries) == 3
    assert (end.offset, end.torn_bytes) == (len(image.data), 0)


def test_a_seal_is_seen_when_it_is_last_also_with_a_pad_behind_it() -> None:
    image = image_of(2)
    image.add(SEAL)
    assert read_bytes(bytes(image.data))[1].sealed
    image.add(PAD, bytes(100))
    assert read_bytes(bytes(image.data))[1].sealed
    image.add(CHECKED, b"reopened")
    assert not read_bytes(bytes(image.data))[1].sealed


def test_garbage_behind_the_last_entry_is_a_torn_tail_with_its_size_and_reason() -> None:
    image = image_of(2)
    entries, end, _ = read_bytes(bytes(image.data) + bytes(40) + b"garbage" + bytes(500))
    assert len(entries) == 2
    assert (end.offset, end.torn_bytes) == (len(image.data), 47)
    assert end.torn_reason == "no valid entry header"


def test_a_write_that_overtook_another_is_a_torn_tail() -> None:
    image = image_of(3)
    lost = image.add(CHECKED, b"lost")
    image.add(CHECKED, b"overtook", unsynced=1)
    image.add(CHECKED, b"this one too", unsynced=2)
    whole = bytes(image.data)
    image.erase(lost)
    entries, end, _ = read_bytes(bytes(image.data))
    assert [e.lsn for e in entries] == [1, 2, 3]
    assert (end.offset, end.last_lsn) == (lost.offset, 3)
    assert end.offset + end.torn_bytes == len(whole.rstrip(b"\0"))


@pytest.mark.parametrize("behind", [0, 1, 50])
def test_a_later_entry_that_vouches_for_a_lost_one_proves_corruption(behind: int) -> None:
    image = image_of(3)
    lost = image.add(CHECKED, b"lost")
    for number in range(behind):
        image.add(CHECKED, b"no witness", unsynced=number + 1)
    witness = image.add(MARK, unsynced=behind)
    image.erase(lost)
    with pytest.raises(CorruptionError, match="entry 4 is lost") as caught:
        read_bytes(bytes(image.data))
    assert (caught.value.path, caught.value.offset) == ("memory.wal", lost.offset)
    assert f"entry {witness.lsn} at offset {witness.offset}" in caught.value.reason


def test_an_entry_without_a_claim_vouches_for_nothing() -> None:
    image = image_of(3)
    lost = image.add(CHECKED, b"lost")
    image.add(CHECKED, b"no claim", unsynced=NO_CLAIM)
    image.erase(lost)
    assert read_bytes(bytes(image.data))[1].offset == lost.offset


def test_a_damaged_payload_that_was_durable_is_a_checksum_mismatch() -> None:
    image = image_of(2)
    hit = image.add(CHECKED, b"hit me")
    image.add(CHECKED, b"witness")
    image.data[hit.offset + 24] ^= 0xFF
    with pytest.raises(ChecksumMismatch) as caught:
        read_bytes(bytes(image.data))
    assert caught.value.offset == hit.offset
    assert caught.value.expected == oracle.crc32c(b"hit me")
    assert caught.value.actual == oracle.crc32c(b"\x97it me")


def test_iterating_yields_the_prefix_before_corruption_is_raised() -> None:
    image = image_of(3)
    lost = image.add(CHECKED, b"lost")
    image.add(MARK)
    image.erase(lost)
    reader = LogReader(BytesFile(bytes(image.data)))
    entries = reader.entries()
    assert [next(entries).lsn for _ in range(3)] == [1, 2, 3]
    with pytest.raises(CorruptionError):
        next(entries)
    assert (reader.position.offset, reader.position.last_lsn) == (lost.offset, 3)


def test_stale_entries_of_an_earlier_life_never_come_back() -> None:
    """A recycled file whose new entries end exactly where stale ones, of the next LSN, begin."""
    stale = image_of(10, header=Header(salt=b"the earlier salt"))
    data = bytearray(stale.data)
    fresh = image_of(6, header=Header(salt=b"a salt made anew", flags=1))
    data[: len(fresh.data)] = fresh.data
    entries, end, _ = read_bytes(bytes(data))
    assert [e.lsn for e in entries] == [1, 2, 3, 4, 5, 6]
    assert (end.offset, end.torn_bytes) == (len(fresh.data), 0)
    assert entries[5].payload == b"payload 6"


def test_an_unknown_kind_that_may_be_ignored_is_passed_over() -> None:
    image = image_of(1)
    image.add(0x80 | 42, b"from the future")
    image.add(CHECKED, b"known")
    assert [e.payload for e in read_bytes(bytes(image.data))[0]] == [b"payload 1", b"known"]


@pytest.mark.parametrize("kind", [0, 6, 42, 127])
def test_an_unknown_kind_that_matters_is_a_format_error(kind: int) -> None:
    image = image_of(1)
    at = image.add(kind, b"from the future").offset
    for salvage in (False, True):
        with pytest.raises(FormatError, match=f"offset {at}: .*newer kvstore"):
            read_bytes(bytes(image.data), salvage=salvage)


@pytest.mark.parametrize("size", [CHUNK - 4096, CHUNK - 24, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_entries_across_and_larger_than_a_chunk_are_read_whole(size: int) -> None:
    image = image_of(3)
    blob = os.urandom(size)
    image.add(CHECKED, blob)
    image.add(CHECKED, b"behind")
    file = BytesFile(bytes(image.data))
    entries = list(LogReader(file).entries())
    assert [e.payload for e in entries[3:]] == [blob, b"behind"]
    assert file.read_bytes_max <= max(CHUNK, size + 100)


@pytest.mark.parametrize("short", range(0, 56, 8))
def test_an_entry_header_may_fall_on_a_chunks_end_at_any_alignment(short: int) -> None:
    image = LogImage()
    image.add(PLAIN, bytes(CHUNK - 24 - short))
    image.add(CHECKED, b"across")
    image.add(CHECKED, b"behind")
    entries, end, _ = read_bytes(bytes(image.data))
    assert [e.payload for e in entries[1:]] == [b"across", b"behind"]
    assert end.offset == len(image.data)


def test_many_small_entries_in_one_chunk_fill_the_rows_more_than_once() -> None:
    image = LogImage()
    entry = oracle.encode_entry
    data = bytes(image.data) + b"".join(
        entry(image.header.salt, lsn, PLAIN) for lsn in range(1, 40_001)
    )
    entries, end, reader = read_bytes(data)
    assert [e.lsn for e in entries] == list(range(1, 40_001))
    assert (end.last_lsn, reader.entry_count) == (40_000, 40_000)


@pytest.mark.parametrize("shift", range(0, 48, 8))
def test_a_witness_on_the_edge_of_a_later_chunk_is_found(shift: int) -> None:
    image = image_of(1)
    lost = image.add(CHECKED, b"lost")
    image.add(PLAIN, bytes(CHUNK - 100 + shift), unsynced=1)
    image.add(MARK, unsynced=1)
    image.erase(lost)
    with pytest.raises(CorruptionError) as caught:
        read_bytes(bytes(image.data))
    assert caught.value.offset == lost.offset


@pytest.mark.parametrize("length", [2**30, 2**30 - 1, 64 << 20])
def test_a_hostile_length_allocates_nothing(length: int) -> None:
    image = image_of(1)
    frame = bytearray(oracle.encode_entry(image.header.salt, 2, PLAIN, b""))
    frame[8:12] = length.to_bytes(4, "little")
    seed = oracle.crc32c(image.header.salt)
    frame[0:4] = oracle.crc32c(bytes(frame[4:24]), seed).to_bytes(4, "little")
    file = BytesFile(bytes(image.data) + bytes(frame) + bytes(1000))
    reader = LogReader(file)
    assert [e.lsn for e in reader.entries()] == [1]
    assert reader.end is not None
    assert reader.end.torn_reason == "the file ends within an entry's payload"
    assert file.read_bytes_max <= CHUNK


def test_what_the_successor_says_overrules_what_stands_behind() -> None:
    image = image_of(3)
    last = len(image.data)
    says = Predecessor(1, last, 3)
    stray = oracle.encode_entry(image.header.salt, 4, CHECKED, b"not part of it")
    reader = LogReader(BytesFile(bytes(image.data) + stray), successor_says=says)
    assert [e.lsn for e in reader.entries()] == [1, 2, 3]
    assert reader.end is not None
    assert (reader.end.offset, reader.end.torn_bytes) == (last, 0)


@pytest.mark.parametrize(
    ("cut", "end_offset", "last_lsn"), [(8, 0, 3), (40, 0, 3), (0, -40, 3), (0, 0, 4), (0, 40, 4)]
)
def test_a_segment_that_ends_elsewhere_than_its_successor_says_is_corrupt(
    cut: int, end_offset: int, last_lsn: int
) -> None:
    image = image_of(3)
    size = len(image.data)
    says = Predecessor(1, size + end_offset, last_lsn)
    reader = LogReader(BytesFile(bytes(image.data[: size - cut])), successor_says=says)
    with pytest.raises(CorruptionError, match="the next segment says"):
        list(reader.entries())


def test_salvaging_skips_damage_and_notes_what_is_gone() -> None:
    image = image_of(3)
    first = image.add(CHECKED, b"bad header")
    image.add(CHECKED, b"good")
    second = image.add(CHECKED, b"bad payload")
    third = image.add(CHECKED, b"bad too")
    image.add(CHECKED, b"last good")
    image.data[first.offset] ^= 1
    image.data[second.offset + 30] ^= 1
    image.data[third.offset + 5] ^= 1
    entries, end, reader = read_bytes(bytes(image.data), salvage=True)
    assert [e.lsn for e in entries] == [1, 2, 3, 5, 8]
    assert entries[-1].payload == b"last good"
    assert end.offset == len(image.data)
    assert [(d.offset, d.lsn_first, d.lsn_last) for d in reader.damage] == [
        (first.offset, 4, 4),
        (second.offset, 6, 7),
    ]
    assert [d.end_offset for d in reader.damage] == [
        image.entries[4].offset,
        image.entries[7].offset,
    ]
    assert all(d.reason and d.path == "memory.wal" for d in reader.damage)


def test_salvaging_a_whole_log_finds_no_damage() -> None:
    image = image_of(5)
    image.add(SEAL)
    entries, end, reader = read_bytes(bytes(image.data), salvage=True)
    assert (len(entries), reader.damage, end.sealed) == (5, [], True)


def test_salvaging_keeps_the_prefix_of_a_torn_log() -> None:
    image = image_of(5)
    entries, end, reader = read_bytes(bytes(image.data[:-1]), salvage=True)
    assert (len(entries), reader.damage) == (4, [])
    assert end.torn_bytes > 0


def test_salvaging_goes_on_in_a_later_chunk() -> None:
    image = image_of(1)
    lost = image.add(PLAIN, bytes(range(1, 251)) * (CHUNK // 100))
    image.add(CHECKED, b"far behind")
    image.data[lost.offset] ^= 1
    entries, _, reader = read_bytes(bytes(image.data), salvage=True)
    assert [e.payload for e in entries] == [b"payload 1", b"far behind"]
    assert [(d.lsn_first, d.lsn_last) for d in reader.damage] == [(2, 2)]


def test_a_file_that_becomes_shorter_while_it_is_read_ends_there() -> None:
    image = image_of(3)
    file = BytesFile(bytes(image.data) + bytes(1 << 20))
    reader = LogReader(file)
    file.data = file.data[: len(image.data)]  # its owner closed it, which cuts the zeros
    assert len(list(reader.entries())) == 3
    assert reader.end is not None
    assert reader.end.offset == len(image.data)


def test_a_read_error_is_raised_and_never_taken_for_the_end(tmp_path: Path) -> None:
    class Unreadable(BytesFile):
        def pread(self, size: int, offset: int) -> bytes:
            if offset:
                raise storage_error(5, "read", self.path)
            return super().pread(size, offset)

    reader = LogReader(Unreadable(bytes(image_of(3).data)))
    with pytest.raises(StorageIOError, match="read failed"):
        list(reader.entries())
    assert reader.end is None


@pytest.mark.parametrize("name", ["missing", "directory"])
def test_no_file_and_no_regular_file_are_storage_errors(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    fs = PosixFileSystem()

    def read() -> None:
        file = fs.open_read_only(str(tmp_path / name))
        try:
            LogReader(file)
        finally:
            file.close()

    with pytest.raises(StorageIOError, match=name):
        read()


payloads = st.binary(max_size=40)


@settings(deadline=None)
@given(
    entries=st.lists(
        st.tuples(
            st.sampled_from([PLAIN, CHECKED, PAD, MARK, SEAL, 200]), payloads, st.integers(0, 3)
        ),
        max_size=8,
    ),
    erased=st.sets(st.integers(0, 7)),
    tail=st.binary(max_size=40),
    base_lsn=st.integers(1, 2**56 - 100),
)
def test_whatever_is_lost_the_reader_decides_as_the_oracle_does(
    entries: list[tuple[int, bytes, int]], erased: set[int], tail: bytes, base_lsn: int
) -> None:
    image = LogImage(Header(base_lsn=base_lsn))
    for kind, payload, unsynced in entries:
        image.add(kind, payload, unsynced)
    for index in erased:
        if index < len(image.entries):
            image.erase(image.entries[index])
    data = bytes(image.data) + tail
    expected = oracle.decode(data)
    if expected.corrupt_at is not None:
        with pytest.raises(CorruptionError) as caught:
            read_bytes(data)
        assert caught.value.offset == expected.corrupt_at
        return
    found, end, _ = read_bytes(data)
    assert [(e.lsn, e.payload) for e in found] == expected.user_entries()
    assert (end.offset, end.sealed) == (expected.end_offset, expected.sealed)
    assert end.offset + end.torn_bytes >= len(data.rstrip(b"\0"))


def test_the_chunk_size_the_tests_assume_is_the_readers() -> None:
    image = LogImage()
    file = BytesFile(bytes(image.data) + bytes(3 * CHUNK))
    list(LogReader(file).entries())
    assert file.read_bytes_max == CHUNK


def test_a_log_in_use_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x.wal"
    with PortableWalWriter(path) as log:
        log.append_and_commit(b"x")
        assert [e.payload for e in read_bytes(path.read_bytes())[0]] == [b"x"]
