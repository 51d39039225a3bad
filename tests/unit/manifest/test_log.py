"""The manifest on the disk: what it says after closing, crashes, faults and damage."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvstore.errors import (
    ClosedError,
    CorruptionError,
    DiskFullError,
    ForkedError,
    FormatError,
    StorageIOError,
)
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.manifest import ManifestLog, Version, VersionEdit, VersionError, orphans
from kvstore.manifest.current import decode_current, encode_current
from tests.support.damage import flip, newer_header
from tests.support.faultfs import Fault, FaultFileSystem
from tests.support.oracle import ENTRY_HEADER_BYTES, HEADER_BYTES, Entry, decode
from tests.support.tables import table

FS = PosixFileSystem()
MINIMUM = VersionEdit(log_id=bytes(range(16)), log_number=1, newest_segment=1)


def flush(number: int) -> VersionEdit:
    """Makes table ``number`` in level 0."""
    made = table(number, b"k%03d" % number, b"m%03d" % number)
    return VersionEdit(
        added=((0, made),), flushed_lsn=made.last_lsn, log_number=number, next_table=number + 1
    )


def versions(count: int) -> list[Version]:
    """The version after create, and after each of ``count`` flushes."""
    made = [Version.EMPTY.apply(MINIMUM)]
    for number in range(1, count + 1):
        made.append(made[-1].apply(flush(number)))
    return made


def write(directory: Path, count: int, *, fs: FileSystem = FS) -> ManifestLog:
    """An open manifest with ``count`` flushes."""
    manifest = ManifestLog.create(fs, str(directory), versions(0)[0])
    for number in range(1, count + 1):
        manifest.append(flush(number))
    return manifest


def read(directory: Path) -> Version:
    found = ManifestLog.read(FS, str(directory))
    assert found is not None
    found[0]._check()
    return found[0]


def crash(source: Path, target: Path) -> Path:
    """The files as they are now, for somebody else to open."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    directory.mkdir()
    return directory


# ---- what it says afterwards ----


def test_a_closed_manifest_reopens_and_goes_on(store: Path) -> None:
    expected = versions(3)
    write(store, 2).close()
    assert ManifestLog.read(FS, str(store)) == (expected[2], "MANIFEST-000001")
    with ManifestLog.open(FS, str(store)) as manifest:
        assert (manifest.version, manifest.name) == (expected[2], "MANIFEST-000001")
        assert manifest.append(flush(3)) == manifest.version == expected[3]
    assert read(store) == expected[3]
    assert sorted(os.listdir(store)) == ["CURRENT", "MANIFEST-000001"]


def test_an_edit_counts_as_soon_as_append_returned(store: Path, tmp_path: Path) -> None:
    with write(store, 0) as manifest:
        for number, expected in enumerate(versions(4)):
            if number:
                manifest.append(flush(number))
            copy = crash(store, tmp_path / "copy")
            assert read(copy) == expected
            with ManifestLog.open(FS, str(copy)) as reopened:
                assert reopened.version == expected


def test_reading_changes_nothing(store: Path, tmp_path: Path) -> None:
    with write(store, 2):
        copy = crash(store, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    read(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_where_there_is_no_manifest_there_is_none(store: Path) -> None:
    (store / "CURRENT.tmp").write_bytes(b"")
    (store / "MANIFEST-000001").write_bytes(b"made, and then came the crash")
    assert ManifestLog.read(FS, str(store)) is None
    with pytest.raises(CorruptionError, match="missing"):
        ManifestLog.open(FS, str(store))
    with ManifestLog.create(FS, str(store)) as manifest:
        assert manifest.name == "MANIFEST-000002"
    assert read(store) == Version.EMPTY
    assert sorted(os.listdir(store)) == ["CURRENT", "MANIFEST-000002"]


def test_tables_without_a_current_are_damage(store: Path) -> None:
    write(store, 1).close()
    (store / "000001.sst").touch()
    (store / "CURRENT").unlink()
    with pytest.raises(CorruptionError, match="which of them count"):
        ManifestLog.read(FS, str(store))


def test_an_edit_that_does_not_fit_leaves_the_manifest_as_it_was(store: Path) -> None:
    with write(store, 2) as manifest:
        for edit in (flush(2), VersionEdit(snapshot=True)):
            with pytest.raises(VersionError):
                manifest.append(edit)
        assert manifest.settled
        assert manifest.append(flush(3)) == versions(3)[-1]
    assert read(store) == versions(3)[-1]


def test_a_closed_manifest_takes_no_edit(store: Path) -> None:
    manifest = write(store, 1)
    manifest.close()
    manifest.close()
    with pytest.raises(ClosedError):
        manifest.append(flush(2))
    with pytest.raises(ClosedError):
        manifest.roll()


def test_a_forked_child_cannot_touch_it(store: Path) -> None:
    with write(store, 1) as manifest:
        child = os.fork()
        if not child:
            status = 1
            with contextlib.suppress(BaseException):
                with pytest.raises(ForkedError):
                    manifest.append(flush(2))
                manifest.close()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert manifest.append(flush(2)) == versions(2)[-1]
    assert read(store) == versions(2)[-1]


# ---- rolling over ----


def test_it_rolls_over_when_it_has_grown(store: Path) -> None:
    with ManifestLog.create(FS, str(store), manifest_bytes_max=2000) as manifest:
        names = {manifest.name}
        for number in range(1, 41):
            manifest.append(flush(number))
            if number > 2:  # few tables at a time, so that the snapshot stays small
                manifest.append(VersionEdit(removed=((0, number - 2),)))
            names.add(manifest.name)
            assert len(list(store.glob("MANIFEST-*"))) == 1
            assert read(store) == manifest.version
    assert len(names) > 3
    assert (store / manifest.name).stat().st_size < HEADER_BYTES + 4000


def test_a_large_snapshot_is_not_written_again_at_every_edit(store: Path) -> None:
    with ManifestLog.create(FS, str(store), manifest_bytes_max=1) as manifest:
        for number in range(1, 101):
            manifest.append(flush(number))
        # Each is at least four times as large as the snapshot it began with.
        assert int(manifest.name[-6:]) < 20
    assert read(store) == manifest.version


def test_rolling_over_on_request_removes_the_one_before(store: Path) -> None:
    with write(store, 2) as manifest:
        manifest.roll()
        assert manifest.name == "MANIFEST-000002"
        assert sorted(os.listdir(store)) == ["CURRENT", "MANIFEST-000002"]
        manifest.append(flush(3))
    assert read(store) == versions(3)[-1]


def test_where_there_is_no_room_for_another_manifest_the_old_one_will_do(store: Path) -> None:
    fs = FaultFileSystem(fault=Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True))
    with ManifestLog.create(fs, str(store), manifest_bytes_max=1) as manifest:
        fs.fail_at = 0
        for number in range(1, 31):
            manifest.append(flush(number))
        assert fs.failures < 10
        assert manifest.name == "MANIFEST-000001"
        assert os.listdir(store).count("MANIFEST-000002") == 0
        assert read(store) == manifest.version
        fs.heal()
        for number in range(31, 101):
            manifest.append(flush(number))
        assert manifest.name != "MANIFEST-000001"
    assert read(store) == manifest.version


# ---- damage ----


def layout(path: Path) -> tuple[list[Entry], set[int]]:
    """A manifest's entries, and the offsets of bytes that mean nothing: behind the payloads."""
    entries = decode(path.read_bytes()).entries
    padding: set[int] = set()
    for entry in entries:
        end = entry.offset + ENTRY_HEADER_BYTES + len(entry.payload)
        padding.update(range(end, end + -end % 8))
    return entries, padding


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "killed"])
def test_a_flipped_byte_of_a_manifest_is_reported(
    store: Path, tmp_path: Path, closed: bool
) -> None:
    manifest = write(store, 2)
    copy = crash(store, tmp_path / "copy")
    manifest.close()
    directory = store if closed else copy
    path = directory / "MANIFEST-000001"
    entries, padding = layout(path)
    end = entries[-1].offset + ENTRY_HEADER_BYTES
    # The last entry, a SEAL or a MARK, has no later witness, and says nothing itself.
    silent = padding | set(range(entries[-1].offset, end))
    # One CRC covers the header: every field of it, and samples of the zeros between.
    offsets = [*range(96), *range(96, HEADER_BYTES - 4, 97), *range(HEADER_BYTES - 4, end)]
    offsets += range(end, path.stat().st_size, 9973)
    for offset in offsets:
        flip(path, offset, bit=offset % 8)
        if offset in silent or offset >= end:
            assert read(directory) == versions(2)[-1]
        else:
            with pytest.raises(CorruptionError) as caught:
                read(directory)
            assert caught.value.path == str(path)
        flip(path, offset, bit=offset % 8)


def test_a_flipped_byte_of_current_is_reported(store: Path) -> None:
    write(store, 1).close()
    path = store / "CURRENT"
    for offset in range(path.stat().st_size):
        flip(path, offset, bit=offset % 8)
        with pytest.raises(CorruptionError) as caught:
            ManifestLog.read(FS, str(store))
        assert caught.value.path == str(path)
        flip(path, offset, bit=offset % 8)


def test_no_flipped_bit_of_current_is_overlooked() -> None:
    data = encode_current("MANIFEST-000001")
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            decode_current(bytes(damaged), "CURRENT")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"MANIFEST-000001\n",
        encode_current("MANIFEST-000001")[:-1],
        encode_current("MANIFEST-000001") + b"\n",
        encode_current("MANIFEST-1"),
        encode_current("../MANIFEST-000001"),
        encode_current(""),
        b"\xff" * 200,
    ],
)
def test_any_other_current_is_damage(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        decode_current(data, "CURRENT")


def test_a_missing_manifest_is_damage(store: Path) -> None:
    write(store, 1).close()
    (store / "MANIFEST-000001").unlink()
    with pytest.raises(CorruptionError, match="MANIFEST-000001, which is missing"):
        ManifestLog.read(FS, str(store))


@pytest.mark.parametrize("size", [0, 5, 100, 4095, 4096, 4100])
def test_a_manifest_cut_before_its_first_edit_is_damage(store: Path, size: int) -> None:
    write(store, 0).close()
    path = store / "MANIFEST-000001"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptionError):
        ManifestLog.read(FS, str(store))


def test_a_manifest_of_a_newer_version_is_refused(store: Path) -> None:
    write(store, 0).close()
    path = store / "MANIFEST-000001"
    path.write_bytes(newer_header() + path.read_bytes()[HEADER_BYTES:])
    with pytest.raises(FormatError, match="version 2"):
        ManifestLog.read(FS, str(store))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (flush(2).encode(), "already"),
        (Version.EMPTY.snapshot_edit().encode(), "second snapshot"),
        (b"nonsense", "no valid version edit"),
    ],
)
def test_an_edit_that_was_never_legal_is_damage(store: Path, edit: bytes, reason: str) -> None:
    with write(store, 2) as manifest:
        manifest._log.append_and_commit(edit)
    before = (store / "MANIFEST-000001").read_bytes()
    with pytest.raises(CorruptionError, match=reason):
        ManifestLog.read(FS, str(store))
    with pytest.raises(CorruptionError, match=reason):
        ManifestLog.open(FS, str(store))
    assert (store / "MANIFEST-000001").read_bytes() == before


# ---- crashes ----


@pytest.mark.parametrize("fill", [False, True], ids=["cut", "zeros"])
def test_a_torn_last_edit_does_not_count(store: Path, tmp_path: Path, fill: bool) -> None:
    write(store, 2).close()
    path = store / "MANIFEST-000001"
    entries, _ = layout(path)
    last = [entry for entry in entries if entry.payload][-1]
    end = last.offset + ENTRY_HEADER_BYTES + len(last.payload)
    whole = path.read_bytes()
    for size in range(last.offset, end):
        path.write_bytes(whole[:size] + bytes(512 if fill else 0))
        # Where the bytes that are missing were zeros, nothing is.
        there = fill and not any(whole[size:end])
        assert read(store) == versions(2)[2 if there else 1]
        if size > last.offset and not there:
            with pytest.raises(CorruptionError, match="strict"):
                ManifestLog.read(FS, str(store), "strict")
        if size % 23 == 0:
            copy = crash(store, tmp_path / "copy")
            with ManifestLog.open(FS, str(copy)) as manifest:
                assert manifest.version == versions(2)[2 if there else 1]
                manifest.append(VersionEdit(newest_segment=77))
            assert read(copy) == manifest.version


@dataclass
class Progress:
    """What the script below has been told."""

    acknowledged: Version | None = None
    attempted: Version | None = None
    manifest: ManifestLog | None = None


def run(fs: FileSystem, directory: Path, progress: Progress) -> None:
    """Creates, appends, rolls over by itself and on request, reopens."""
    expected = versions(6)
    progress.attempted = expected[0]
    progress.manifest = ManifestLog.create(fs, str(directory), expected[0], manifest_bytes_max=600)
    progress.acknowledged = expected[0]
    for number in range(1, 7):
        if number == 5:
            progress.manifest.close()
            progress.manifest = ManifestLog.open(fs, str(directory))
            assert progress.manifest.version == expected[4]
        progress.attempted = expected[number]
        assert progress.manifest.append(flush(number)) == expected[number]
        progress.acknowledged = expected[number]
        if number == 5:
            progress.manifest.roll()


FAULTS = {
    "EIO from then on": Fault(errno.EIO, forever=True),
    "EIO once": Fault(errno.EIO),
    "ENOSPC from then on": Fault(errno.ENOSPC, forever=True),
    "short writes": Fault(0, frozenset({"write"}), forever=True, keep=16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_crash_at_any_step_leaves_the_version_before_or_after(tmp_path: Path, name: str) -> None:
    counted = FaultFileSystem(fault=FAULTS[name])
    (tmp_path / "counted").mkdir()
    progress = Progress()
    run(counted, tmp_path / "counted", progress)
    assert progress.manifest is not None
    steps = counted.count
    progress.manifest.close()
    assert steps > (10 if name == "short writes" else 60)
    # Failing for good is what a crash at that step leaves, so all of them; samples of the others.
    for fail_at in range(0, steps, {"EIO from then on": 1, "short writes": 2}.get(name, 3)):
        store = tmp_path / f"store-{fail_at}"
        store.mkdir()
        fs = FaultFileSystem(fail_at, FAULTS[name])
        progress = Progress()
        with contextlib.suppress(StorageIOError):
            run(fs, store, progress)
        assert fs.failures
        allowed = (progress.acknowledged, progress.attempted)
        found = ManifestLog.read(FS, str(store))
        assert (found[0] if found else None) in allowed, fail_at
        if found and fail_at % 4 == 0:
            copy = crash(store, tmp_path / "copy")
            with ManifestLog.open(FS, str(copy)) as reopened:
                assert reopened.version == found[0]
        resume(fs, store, progress)
        shutil.rmtree(store)
        assert fs.open_files == 0


def resume(fs: FaultFileSystem, store: Path, progress: Progress) -> None:
    """When nothing fails any more, the manifest goes on, and the failed edit is not there."""
    fs.heal()
    manifest = progress.manifest
    if manifest is None:
        manifest = ManifestLog.create(fs, str(store), versions(0)[0])
    elif manifest._closed:  # it failed while it was opened again
        manifest = ManifestLog.open(fs, str(store))
    assert manifest.version in (progress.acknowledged, versions(0)[0])
    last = manifest.version.next_table
    assert manifest.append(flush(last)) == versions(last)[-1]
    assert manifest.settled
    assert read(store) == versions(last)[-1]
    manifest.close()
    assert read(store) == versions(last)[-1]
    # What could not be removed when it was no longer needed is at least known as such.
    others = set(os.listdir(store)) - {"CURRENT", manifest.name}
    assert others <= set(orphans(FS, str(store), manifest.version, manifest.name))


def test_a_full_disk_is_a_typed_error_and_got_over(store: Path) -> None:
    fs = FaultFileSystem(fault=Fault(errno.ENOSPC, forever=True))
    with write(store, 2, fs=fs) as manifest:
        fs.fail_at = 0
        for _ in range(3):
            with pytest.raises(DiskFullError):
                manifest.append(flush(3))
            assert manifest.version == versions(2)[-1]
        assert len(list(store.glob("MANIFEST-*"))) == 1
        fs.heal()
        assert manifest.append(flush(3)) == versions(3)[-1]
    assert read(store) == versions(3)[-1]


def test_a_full_disk_met_before_the_edit_was_written_settles_it(store: Path) -> None:
    fs = FaultFileSystem(fault=Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True))
    large = table(3, b"a" * 60_000, b"b" * 60_000)
    edit = VersionEdit(added=((1, large),), next_table=4)  # more than was preallocated
    with write(store, 2, fs=fs) as manifest:
        fs.fail_at = 0
        with pytest.raises(DiskFullError):
            manifest.append(edit)
        assert manifest.settled
        assert manifest.append(flush(3)) == versions(3)[-1]
        assert manifest.name == "MANIFEST-000001"
    assert read(store) == versions(3)[-1]


def test_an_edit_whose_sync_failed_is_settled_as_not_there(store: Path, tmp_path: Path) -> None:
    fs = FaultFileSystem(fault=Fault(errno.EIO, frozenset({"sync"})))
    with write(store, 2, fs=fs) as manifest:
        fs.fail_at = fs.count
        with pytest.raises(StorageIOError):
            manifest.append(flush(3))
        assert not manifest.settled
        assert read(crash(store, tmp_path / "copy")) == versions(3)[-1]  # it was written
        manifest.roll()
        assert manifest.version == versions(2)[-1] == read(store)
        assert manifest.append(flush(3)) == versions(3)[-1]
        assert manifest.name == "MANIFEST-000002"  # it was settled


@pytest.mark.parametrize("step", ["append_and_commit", "mark"])
def test_an_interrupt_is_settled_as_not_there(
    store: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with write(store, 2) as manifest:
        carry_out = getattr(manifest._log, step)

        def interrupted(*data: bytes) -> int:
            carry_out(*data)
            raise KeyboardInterrupt

        monkeypatch.setattr(manifest._log, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            manifest.append(flush(3))
        assert (manifest.settled, manifest.version) == (False, versions(2)[-1])
        assert manifest.append(VersionEdit(newest_segment=9)).next_table == 3
    assert read(store) == versions(2)[-1].apply(VersionEdit(newest_segment=9))


def test_an_edit_counts_though_its_mark_cannot_be_written(store: Path) -> None:
    fs = FaultFileSystem(fault=Fault(errno.EIO, frozenset({"write"})))
    with write(store, 2, fs=fs) as manifest:
        fs.fail_at = fs.count + 1  # the edit's write, then the MARK's
        assert manifest.append(flush(3)) == versions(3)[-1] == manifest.version
        assert (fs.failures, manifest.settled) == (1, False)
        assert manifest.append(flush(4)) == versions(4)[-1]
        assert manifest.name == "MANIFEST-000002"
    assert read(store) == versions(4)[-1]


# ---- orphans ----


def test_orphans_are_ours_and_needed_by_nobody(store: Path) -> None:
    write(store, 2).close()
    needed = ["000001.sst", "000002.sst", "000001.wal", "LOCK", "MANIFEST-000001.torn"]
    strays = ["notes.txt", "3.sst", "000003.sst.bak", "MANIFEST-1", "CURRENT.tmp~", "x.tmp"]
    unneeded = [
        "000003.sst",
        "000002.sst.tmp",
        "000009.sst.tmp",
        "MANIFEST-000002",
        "MANIFEST-000007.tmp",
        "CURRENT.tmp",
    ]
    for name in (*needed, *strays, *unneeded):
        (store / name).touch()
    found = ManifestLog.read(FS, str(store))
    assert found is not None
    assert orphans(FS, str(store), *found) == sorted(unneeded)
    assert (store / "000003.sst").exists()


class FullForCurrent(FaultFileSystem):
    """There is no room for the rename that makes a manifest count."""

    def __init__(self) -> None:
        super().__init__(None, Fault(errno.ENOSPC, frozenset({"rename"}), forever=True))

    def step(self, operation: str, path: str) -> int | None:
        return super().step(operation, path) if path.endswith("CURRENT") else None


def test_a_disk_that_stays_full_is_not_filled_with_manifests(store: Path) -> None:
    fs = FullForCurrent()
    fs.fail_at = 0
    for _ in range(3):
        with pytest.raises(DiskFullError):
            write(store, 0, fs=fs)
        assert list(store.glob("MANIFEST*")) == []
    fs.heal()
    with write(store, 2, fs=fs) as manifest:
        before = list(store.glob("MANIFEST*"))
        fs.fail_at = fs.count
        for _ in range(3):
            with pytest.raises(DiskFullError):
                manifest.roll()
            assert list(store.glob("MANIFEST*")) == before
            assert read(store) == versions(2)[2]
        fs.heal()
        manifest.append(flush(3))
        assert len(list(store.glob("MANIFEST*"))) == 1
    assert read(store) == versions(3)[3]
