"""SegmentedWalWriter: from file to file, recycling, full disks, threads in between."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvstore import paths
from kvstore.errors import (
    ClosedError,
    CorruptionError,
    DiskFullError,
    KVStoreError,
    LimitError,
    PoisonedError,
    StorageIOError,
)
from kvstore.fs import PosixFileSystem
from kvstore.wal import Entry, IoUringConfig, LogReader, SegmentedWalWriter
from kvstore.wal.format import Predecessor, SegmentHeader
from tests.support.faultfs import Fault, FaultFileSystem
from tests.support.wal import direct_io_refusal

LOG_ID = b"sixteen bytes id"
SEGMENT = 64 << 10
CONFIG = IoUringConfig(64, False, 0, 32, False, 8, 4096)

OpenSegments = Callable[..., SegmentedWalWriter]


@pytest.fixture
def open_segments(backend: str, tmp_path: Path) -> Iterator[OpenSegments]:
    with ExitStack() as stack:

        def opener(config: IoUringConfig = CONFIG, **options: Any) -> SegmentedWalWriter:
            options = {
                "backend": backend,
                "log_id": LOG_ID,
                "next_segment": 1,
                "base_lsn": 1,
                "predecessor": None,
                "segment_bytes": SEGMENT,
                **options,
            }
            log = SegmentedWalWriter(str(tmp_path), config, **options)
            stack.callback(log.close)
            return log

        yield opener


def segment_numbers(directory: Path) -> list[int]:
    numbers = [paths.parse_segment(name) for name in os.listdir(directory)]
    return sorted(number for number in numbers if number is not None)


def header_of(directory: Path, number: int) -> SegmentHeader:
    path = directory / paths.format_segment(number)
    return SegmentHeader.decode(path.read_bytes()[:4096], str(path))


def read_segments(directory: Path, first: int = 1) -> list[Entry]:
    """All entries, each segment ending where its successor says."""
    numbers = [number for number in segment_numbers(directory) if number >= first]
    assert numbers == list(range(first, first + len(numbers)))
    headers = [header_of(directory, number) for number in numbers]
    entries: list[Entry] = []
    last_lsn = headers[0].base_lsn - 1
    for number, header, after in zip(numbers, headers, [*headers[1:], None], strict=True):
        assert header.segment_number == number
        assert header.log_id == LOG_ID
        assert header.base_lsn == last_lsn + 1
        file = PosixFileSystem().open_read_only(str(directory / paths.format_segment(number)))
        try:
            reader = LogReader(file, successor_says=after.predecessor if after else None)
            entries += reader.entries()
        finally:
            file.close()
        assert reader.end is not None
        last_lsn = reader.end.last_lsn
        if after is not None:
            assert after.predecessor == Predecessor(number, reader.end.offset, last_lsn)
            assert reader.end.sealed
    return entries


def test_nothing_is_made_before_the_first_append(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    log = open_segments(base_lsn=77, next_segment=5)
    assert (log.segment_number, log.last_lsn, log.durable_lsn) == (4, 76, 76)
    assert not log.mark()
    log.sync()
    assert log.submit() == 76
    log.close()
    assert os.listdir(tmp_path) == []


def test_the_first_segment_carries_what_it_was_told(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    before = Predecessor(4, 9000, 76)
    log = open_segments(base_lsn=77, next_segment=5, predecessor=before)
    assert log.append_and_commit(b"first") == 77
    header = header_of(tmp_path, 5)
    assert (header.segment_number, header.base_lsn, header.log_id) == (5, 77, LOG_ID)
    assert header.predecessor == before
    assert log.path == str(tmp_path / "000005.wal")
    assert log.segment_number == 5


def test_the_log_goes_on_from_segment_to_segment_with_dense_lsns(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    log = open_segments()
    expected = []
    for number in range(400):
        expected.append(b"%d " % number * (number * 7 % 300))
        if number % 5 == 0:
            log.append(expected[-1])
        elif number % 5 == 1:
            log.append_and_commit(expected[-1])
        else:
            log.append_with_checksum_batched(expected[-1])
    assert log.segment_number > 3
    log.close()
    entries = read_segments(tmp_path)
    assert [e.payload for e in entries] == expected
    assert sorted(os.listdir(tmp_path)) == [f"{n:06d}.wal" for n in segment_numbers(tmp_path)]


def test_every_segment_has_a_salt_of_its_own(open_segments: OpenSegments, tmp_path: Path) -> None:
    log = open_segments()
    while log.segment_number < 4:
        log.append_batched(bytes(10_000))
    log.close()
    salts = {header_of(tmp_path, number).salt for number in segment_numbers(tmp_path)}
    assert len(salts) == 4


def test_segments_grow_to_the_size_asked_for(open_segments: OpenSegments, tmp_path: Path) -> None:
    log = open_segments(segment_bytes=8 << 20)
    sizes = {}
    while log.segment_number < 4:
        log.append_batched(bytes(100_000))
        sizes[log.segment_number] = os.path.getsize(log.path)
    assert sizes == {1: 1 << 20, 2: 4 << 20, 3: 8 << 20, 4: 8 << 20}


def test_a_segment_size_below_the_least_is_refused(open_segments: OpenSegments) -> None:
    with pytest.raises(LimitError, match="65536 or more, not 65535"):
        open_segments(segment_bytes=SEGMENT - 1)


@pytest.mark.parametrize("size", [SEGMENT - 4096 - 24, SEGMENT, 3 * SEGMENT, 2 << 20])
def test_an_entry_larger_than_a_segment_gets_a_larger_one(
    open_segments: OpenSegments, tmp_path: Path, size: int
) -> None:
    log = open_segments()
    blob = os.urandom(size)
    expected = [b"before", blob, b"between", blob, b"after"]
    for data in expected:
        log.append_with_checksum_batched(data)
    log.close()
    assert [e.payload for e in read_segments(tmp_path)] == expected


def test_direct_io_segments_are_sealed_and_linked_too(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    if refusal := direct_io_refusal(tmp_path):
        pytest.skip(f"no direct I/O in {tmp_path}: {refusal}")
    log = open_segments(IoUringConfig(64, False, 0, 32, True, 8, 4096))
    expected = [b"%d" % number * 500 for number in range(300)]
    for number, data in enumerate(expected):
        log.append_with_checksum_batched(data)
        if number % 3 == 0:
            log.sync()
    assert log.segment_number > 3
    log.close()
    assert [e.payload for e in read_segments(tmp_path)] == expected


def test_a_recycled_segment_starts_a_new_life_under_a_new_salt(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    first = open_segments()
    while first.segment_number < 3:
        first.append_with_checksum_batched(b"stale entry" * 10)
    first.close()
    old_salts = {header_of(tmp_path, number).salt for number in (1, 2, 3)}
    last = header_of(tmp_path, 3)
    lsn = read_segments(tmp_path)[-1].lsn + 1
    log = open_segments(next_segment=4, base_lsn=lsn + 1, predecessor=None)
    log.recycle(1)
    assert segment_numbers(tmp_path) == [2, 3]
    assert log.append_and_commit(b"fresh") == lsn + 1
    header = header_of(tmp_path, 4)
    assert header.recycled
    assert header.salt not in old_salts
    assert last.base_lsn < header.base_lsn
    data = (tmp_path / "000004.wal").read_bytes()
    assert b"stale entry" in data[4096:]
    assert [e.payload for e in read_segments(tmp_path, 4)] == [b"fresh"]
    log.close()
    assert [e.payload for e in read_segments(tmp_path, 4)] == [b"fresh"]


def test_stale_entries_of_a_recycled_segment_never_follow_on_fresh_ones(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    """The fresh entries end exactly where a stale one stands that has the very next LSN."""
    stale = open_segments()
    for number in range(20):
        stale.append_with_checksum_batched(b"stale %02d" % number)
    stale.sync()
    stale.close()
    os.rename(tmp_path / "000001.wal", tmp_path / "000002.wal")
    log = open_segments(next_segment=4)
    log.recycle(2)
    for number in range(7):
        log.append_with_checksum_batched(b"fresh %02d" % number)
        log.sync()
        entries = read_segments(tmp_path, 4)
        assert [e.payload for e in entries] == [b"fresh %02d" % n for n in range(number + 1)]


def test_a_segment_in_use_is_not_recycled_and_a_spare_one_removed(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    log = open_segments()
    while log.segment_number < 3:
        log.append_batched(bytes(5000))
    for number in (3, 4):
        with pytest.raises(LimitError, match=f"segment {number} is in use"):
            log.recycle(number)
    log.recycle(1)
    assert segment_numbers(tmp_path) == [2, 3]
    with pytest.raises(StorageIOError):
        log.recycle(1)
    log.append_and_commit(b"goes on")


def test_leftovers_of_a_crash_while_preparing_are_no_obstacle(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    (tmp_path / paths.SPARE).write_bytes(os.urandom(200_000))
    log = open_segments()
    log.append_and_commit(b"x")
    log.close()
    assert [e.payload for e in read_segments(tmp_path)] == [b"x"]


def test_every_call_on_a_closed_log_is_a_closed_error(open_segments: OpenSegments) -> None:
    for appended in (False, True):
        log = open_segments(next_segment=7 + appended)
        if appended:
            log.append(b"x")
        log.close()
        log.close()
        for call in (log.append, log.append_batched, log.append_and_commit, log.append_relaxed):
            with pytest.raises(ClosedError):
                call(b"x")


def test_a_lost_entry_of_a_segment_that_has_a_successor_is_corruption(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    log = open_segments()
    while log.segment_number < 2:
        log.append_with_checksum_batched(b"x" * 1000)
    log.close()
    path = tmp_path / "000001.wal"
    entries = read_segments(tmp_path)
    data = bytearray(path.read_bytes())
    for entry in entries[-5:-1]:
        if entry.offset + 24 < len(data):
            data[entry.offset + 24] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptionError) as caught:
        read_segments(tmp_path)
    assert caught.value.path == str(path)


def test_entries_nobody_has_to_apply_do_not_fill_the_log(open_segments: OpenSegments) -> None:
    log = open_segments(segment_bytes=4 << 20)
    for _ in range(70_000):
        log.append_batched(b"")
    log.sync()
    assert log.durable_lsn == log.last_lsn >= 70_000


def faulty_log(directory: Path, fs: FaultFileSystem) -> SegmentedWalWriter:
    return SegmentedWalWriter(
        str(directory), CONFIG, log_id=LOG_ID, next_segment=1, base_lsn=1, predecessor=None,
        segment_bytes=SEGMENT, fs=fs,
    )  # fmt: skip


def test_a_full_disk_is_met_at_the_next_segment_and_left_when_there_is_room(
    tmp_path: Path,
) -> None:
    fs = FaultFileSystem(None, Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True))
    log = faulty_log(tmp_path, fs)
    expected = [b"first"]
    log.append_and_commit(b"first")
    fs.fail_at = 0
    for _ in range(200):
        try:
            log.append_with_checksum_batched(b"x" * 2000)
        except DiskFullError:
            break
        expected.append(b"x" * 2000)
    else:
        raise AssertionError("the disk never gets full")
    assert len(expected) > 20
    assert log.last_lsn >= len(expected)
    log.sync()
    for size in (1, 70_000):  # small entries may still find room in the segment, or be refused
        try:
            log.append_with_checksum_batched(bytes(size))
        except DiskFullError:
            continue
        expected.append(bytes(size))
    fs.heal()
    for _ in range(50):
        log.append_and_commit(b"y" * 2000)
        expected.append(b"y" * 2000)
    log.close()
    assert fs.open_files == 0
    assert [e.payload for e in read_segments(tmp_path)] == expected


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_no_failing_operation_of_a_rotation_loses_or_doubles_an_entry(
    tmp_path: Path, number: int, forever: bool
) -> None:
    for index in range(200):
        directory = tmp_path / str(index)
        directory.mkdir()
        fs = FaultFileSystem(index, Fault(number, forever=forever))
        log = faulty_log(directory, fs)
        accepted: list[bytes] = []
        durable = 0
        errors: list[Exception] = []
        # Entries of different sizes, so that after a failed rotation a smaller one comes.
        for step in range(40):
            data = b"%d " % step * (2500 if step % 3 == 2 else 20)
            try:
                log.append_with_checksum_batched(data)
                accepted.append(data)
                if step % 2:
                    log.sync()
                    durable = len(accepted)
            except (StorageIOError, PoisonedError) as error:
                errors.append(error)
                if len(errors) == 3:
                    fs.heal()
            if any(isinstance(error, PoisonedError) for error in errors):
                break
        try:
            log.close()
        except KVStoreError as error:
            errors.append(error)
        if log.durable_lsn == log.last_lsn:
            durable = len(accepted)
        assert fs.open_files == 0
        if fs.failures == 0:
            assert not errors
            assert index > 30
            return
        found = [e.payload for e in read_segments(directory)] if segment_numbers(directory) else []
        assert durable <= len(found)
        # An append that failed while it was being written may be there or not, as the last one.
        assert found[: len(accepted)] == accepted[: len(found)]
        assert len(found) <= len(accepted) + 1
    raise AssertionError("the sweep does not end")


def test_threads_append_through_rotations_and_find_every_entry_once_in_lsn_order(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    log = open_segments()
    written: dict[int, bytes] = {}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(60):
                data = b"thread %d step %d " % (number, step) * (1 + step * number % 40)
                if step % 6 == 5:
                    log.append(data)
                else:
                    lsn = log.append_and_commit(data)
                    assert log.durable_lsn >= lsn
                    written[lsn] = data
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert log.segment_number > 2
    log.close()
    entries = read_segments(tmp_path)
    assert [e.lsn for e in entries] == sorted({e.lsn for e in entries})
    by_lsn = {e.lsn: e.payload for e in entries}
    assert len(entries) == 8 * 60
    assert all(by_lsn[lsn] == data for lsn, data in written.items())
    for number in range(8):
        mine = [e.payload for e in entries if e.payload.startswith(b"thread %d " % number)]
        assert [int(p.split()[3]) for p in mine] == list(range(60))


def test_close_while_threads_append_ends_them_with_closed_error(
    open_segments: OpenSegments, tmp_path: Path
) -> None:
    for attempt in range(5):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        log = SegmentedWalWriter(
            str(directory), CONFIG, backend="auto", log_id=LOG_ID, next_segment=1, base_lsn=1,
            predecessor=None, segment_bytes=SEGMENT,
        )  # fmt: skip
        acknowledged: set[bytes] = set()
        endings: list[type] = []
        begun = threading.Barrier(5)

        def work(
            number: int,
            log: SegmentedWalWriter = log,
            acknowledged: set[bytes] = acknowledged,
            endings: list[type] = endings,
            begun: threading.Barrier = begun,
        ) -> None:
            try:
                for step in range(1_000_000):
                    if step == 5:
                        begun.wait()
                    data = b"%d/%d " % (number, step) * 50
                    log.append_and_commit(data)
                    acknowledged.add(data)
            except KVStoreError as error:
                endings.append(type(error))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        log.close()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert endings == [ClosedError] * 4
        found = [e.payload for e in read_segments(directory)]
        assert acknowledged <= set(found)
        assert len(found) == len(set(found))
