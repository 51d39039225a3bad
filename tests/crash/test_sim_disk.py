"""The simulated disk itself: what it may lose in a power cut, and what not."""

from __future__ import annotations

import random

import pytest

from kvstore.fs import File
from tests.support.power_cut import SECTOR_BYTES, Disk
from tests.support.simfs import Image, SimFile, SimFS, Write

SECTOR = b"s" * SECTOR_BYTES


def states(fs: SimFS, limit: int = 1000) -> list[Image]:
    disk = Disk(Image())
    for event in fs.events:
        disk.apply(event)
    return list(disk.states(random.Random(1), limit))


def contents(fs: SimFS, name: str) -> set[bytes | None]:
    """What the file may hold; None when it is not there."""
    return {image.file(name) if name in image.names else None for image in states(fs)}


def synced_file(fs: SimFS, name: str, data: bytes = b"") -> File:
    file = fs.open(name, create=True)
    file.pwrite(data, 0)
    file.sync()
    fs.sync_directory("")
    return file


def test_what_is_synced_stays_but_its_name_needs_a_sync_of_the_directory() -> None:
    fs = SimFS()
    file = fs.open("f", create=True)
    file.pwrite(b"data", 0)
    file.sync()
    assert contents(fs, "f") == {None, b"data"}
    fs.sync_directory("")
    assert contents(fs, "f") == {b"data"}


def test_an_unsynced_sector_is_old_new_zero_or_garbage_and_the_size_any_it_had() -> None:
    fs = SimFS()
    file = synced_file(fs, "f")
    file.pwrite(SECTOR, 0)
    found = contents(fs, "f")
    assert {b"", SECTOR, bytes(SECTOR_BYTES)} < found
    (garbage,) = found - {b"", SECTOR, bytes(SECTOR_BYTES)}
    assert garbage is not None
    assert len(garbage) == SECTOR_BYTES


def test_each_sector_is_on_its_own() -> None:
    fs = SimFS()
    file = fs.open("f", create=True)
    file.preallocate(0, 2 * SECTOR_BYTES)
    file.sync()
    fs.sync_directory("")
    file.pwrite(SECTOR + SECTOR, 0)
    assert len(contents(fs, "f")) == 9
    assert bytes(SECTOR_BYTES) + SECTOR in contents(fs, "f")


def test_a_sector_with_synced_bytes_is_old_or_new_unless_the_write_is_direct() -> None:
    fs = SimFS()
    file = synced_file(fs, "f", b"synced".ljust(4096, b"."))
    file.pwrite(b"new", 6)
    assert {data and data[:10] for data in contents(fs, "f")} == {b"synced....", b"syncednew."}
    file.sync()
    fs.open("f", direct=True).pwrite(SECTOR * 8, 0)
    assert any(not (data or b"").startswith((b"synced", b"s" * 6)) for data in contents(fs, "f"))


def test_a_sync_covers_the_writes_that_were_complete_when_it_began() -> None:
    fs = SimFS()
    file = synced_file(fs, "f", bytes(3 * SECTOR_BYTES))
    assert isinstance(file, SimFile)
    early, under_way = file.begin_write(b"early", 0), file.begin_write(b"way", SECTOR_BYTES)
    file.end(early)
    sync = file.begin_sync()
    file.end(under_way)
    file.end(file.begin_write(b"late", 2 * SECTOR_BYTES))
    file.end(sync)
    found = contents(fs, "f")
    assert all(data is not None and data.startswith(b"early") for data in found)
    for at, text in ((SECTOR_BYTES, b"way"), (2 * SECTOR_BYTES, b"late")):
        pieces = {data[at : at + len(text)] for data in found if data is not None}
        assert len(pieces) == 3, "zero, garbage or there"
        assert text in pieces


def test_a_renamed_file_has_the_old_name_the_new_one_or_both() -> None:
    fs = SimFS()
    synced_file(fs, "old", b"renamed")
    synced_file(fs, "new", b"replaced")
    fs.rename("old", "new")
    found = {
        tuple((name, image.file(name)) for name in sorted(image.names)) for image in states(fs)
    }
    assert found == {
        (("new", b"replaced"), ("old", b"renamed")),
        (("new", b"renamed"), ("old", b"renamed")),
        (("new", b"renamed"),),
    }
    fs.sync_directory("")
    assert len(states(fs)) == 1


def test_what_was_unlinked_comes_back_until_the_directory_is_synced() -> None:
    fs = SimFS()
    synced_file(fs, "f", b"data")
    fs.unlink("f")
    assert contents(fs, "f") == {None, b"data"}
    fs.sync_directory("")
    assert contents(fs, "f") == {None}


def test_a_truncation_is_durable_when_it_is_synced() -> None:
    fs = SimFS()
    file = synced_file(fs, "f", b"longer than that")
    file.truncate(6)
    found = contents(fs, "f")
    assert {b"longer", b"longer than that"} <= found
    assert all(data is not None and data.startswith(b"longer") for data in found)
    file.sync()
    assert contents(fs, "f") == {b"longer"}


def test_what_was_cut_off_and_filled_again_may_still_be_there() -> None:
    fs = SimFS()
    file = synced_file(fs, "f", b"old" * 400)
    file.truncate(0)
    file.preallocate(0, 1200)
    found = contents(fs, "f")
    assert {b"", b"old" * 400, bytes(1200)} < found
    file.sync()
    assert contents(fs, "f") == {bytes(1200)}


def test_of_two_writes_under_way_in_a_sector_the_second_may_have_come_first() -> None:
    fs = SimFS()
    file = synced_file(fs, "f", b"....")
    assert isinstance(file, SimFile)
    file.begin_write(b"a", 0)
    file.begin_write(b"b", 1)
    assert contents(fs, "f") == {b"....", b"a...", b".b..", b"ab.."}


def test_too_many_states_are_sampled_with_both_ends() -> None:
    fs = SimFS()
    file = synced_file(fs, "f")
    file.pwrite(SECTOR * 100, 0)
    found = [image.file("f") for image in states(fs, 20)]
    assert len(found) == 20
    assert {b"", SECTOR * 100} < set(found)
    assert len(set(found)) > 10


def test_what_a_kill_leaves_may_still_be_lost_by_a_power_cut() -> None:
    fs = SimFS()
    file = synced_file(fs, "f")
    file.pwrite(b"data", 0)
    disk = Disk(Image())
    for event in fs.events:
        disk.apply(event)
    image = disk.killed()
    assert image.file("f") == b"data"
    again = SimFS(image)
    assert again.open("f").pread(10, 0) == b"data"
    again.open("f").sync()
    for event in again.events:
        disk.apply(event)
    assert [left.file("f") for left in disk.states(random.Random(1), 9)] == [b"data"]


def test_direct_writes_come_in_whole_blocks() -> None:
    fs = SimFS()
    file = fs.open("f", create=True, direct=True)
    with pytest.raises(OSError, match="Invalid argument"):
        file.pwrite(b"x", 0)
    file.pwrite(bytes(4096), 4096)
    assert [event.direct for event in fs.events if isinstance(event, Write)] == [True]
