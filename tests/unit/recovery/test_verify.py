"""Verifying a whole store: manifest, tables, log."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import kvstore
from kvstore.batch import encode_put
from kvstore.errors import FormatError, StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.manifest import ManifestLog, TableMeta, Version, VersionEdit
from kvstore.recovery.verify import FileDamage, VerifyReport, verify_store
from kvstore.sstable import Table, compression
from kvstore.wal import IoUringConfig
from kvstore.wal.format import HEADER_BYTES, Predecessor
from kvstore.wal.segments import SegmentedWalWriter
from tests.support.damage import cut, extend, flip, newer_header, snapshot
from tests.support.table_files import KINDS, SMALL, write_table
from tests.support.wal import read_log

FS = PosixFileSystem()
LOG_ID = b"a log's identity"
PUTS = 5
SEGMENTS = (3, 4, 5)
TABLES = (7, 9)


def make_log(directory: Path) -> None:
    """Segments 3 to 5, with five puts each; the segments before them are gone."""
    before = Predecessor(2, HEADER_BYTES + 1000, 10)
    for number in SEGMENTS:
        log = SegmentedWalWriter(
            str(directory),
            IoUringConfig.minimal(),
            backend="pwrite",
            log_id=LOG_ID,
            next_segment=number,
            base_lsn=before.last_lsn + 1,
            predecessor=before,
        )
        for put in range(PUTS):
            log.append_and_commit(encode_put(b"%d-%d" % (number, put), b"value" * 20), put + 1)
        log.close()
        end = read_log(segment(directory, number))[1]
        before = Predecessor(number, end.offset, end.last_lsn)


def segment(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.wal"


def table(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.sst"


def make_tables(directory: Path, **encoding: Any) -> list[TableMeta]:
    metas = []
    for number in TABLES:
        path = write_table(
            table(directory, number), SMALL, lsns=(number, number), block_bytes=100, **encoding
        )
        properties = Table.open(FS, str(path)).properties()
        names = ("entries", "tombstones", "key_bytes", "value_bytes", "first_lsn", "last_lsn")
        metas.append(
            TableMeta(
                number=number,
                bytes=path.stat().st_size,
                **{name: getattr(properties, name) for name in names},
                smallest=properties.smallest,
                largest=properties.largest,
            )
        )
    return metas


def make_store(directory: Path, **encoding: Any) -> Version:
    """A store with all three kinds of files, and names that do not count."""
    directory.mkdir()
    make_log(directory)
    metas = make_tables(directory, **encoding)
    edit = VersionEdit(
        added=((0, metas[0]), (1, metas[1])),
        flushed_lsn=10,
        log_number=SEGMENTS[0],
        newest_segment=SEGMENTS[-1],
        next_table=20,
        log_id=LOG_ID,
    )
    with ManifestLog.create(FS, str(directory)) as manifest:
        version = manifest.append(edit)
    (directory / "000019.sst").write_bytes(b"an orphan")
    (directory / "000021.sst.tmp").write_bytes(b"half a table")
    (directory / "notes.txt").write_bytes(b"not ours")
    return version


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    return tmp_path / "store"


def verify(directory: Path, **options: Any) -> VerifyReport:
    """Verifies, and holds the store's files against having been changed."""
    before = snapshot(directory)
    report = verify_store(FS, str(directory), **options)
    assert snapshot(directory) == before
    return report


def damaged(report: VerifyReport) -> set[str]:
    return {os.path.basename(damage.path) for damage in report.damage}


def durable_lsn(directory: Path) -> int:
    return read_log(segment(directory, SEGMENTS[-1]))[1].last_lsn


# ---- sound stores ----


def test_a_sound_store_is_read_whole(store: Path) -> None:
    report = verify(store)
    assert (report.ok, report.damage, report.torn_bytes) == (True, (), 0)
    assert report.files == 1 + len(TABLES) + len(SEGMENTS)
    assert report.entries == 2 * len(SMALL)
    assert report.log_entries == PUTS * len(SEGMENTS)
    assert report.blocks == sum(
        Table.open(FS, str(table(store, number))).properties().data_blocks for number in TABLES
    )
    ends = sum(read_log(segment(store, number))[1].offset for number in SEGMENTS)
    sizes = sum(table(store, number).stat().st_size for number in TABLES)
    assert report.bytes == sizes + ends + (store / "MANIFEST-000001").stat().st_size


def test_an_empty_directory_is_sound(tmp_path: Path) -> None:
    report = verify(tmp_path)
    assert (report.ok, report.files, report.bytes) == (True, 0, 0)


def test_a_store_without_tables_is_sound(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "store") as db:
        db.put(b"key", b"value")
    report = verify(tmp_path / "store")
    assert report.ok
    assert report.log_entries == 1


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageIOError):
        verify_store(FS, str(tmp_path / "missing"))


def test_a_torn_tail_is_told_and_is_no_damage(store: Path) -> None:
    last = segment(store, SEGMENTS[-1])
    entries = read_log(last)[0]
    cut(last, entries[-1].offset + 20)
    extend(last, b"half of a write")
    report = verify(store)
    assert report.ok
    assert report.torn_bytes > 0
    assert report.log_entries == PUTS * len(SEGMENTS) - 1
    assert "torn" in report.summary()


def test_segments_that_nobody_needs_are_passed_over(store: Path) -> None:
    segment(store, 2).write_bytes(b"given up, and not yet removed")
    assert verify(store).ok


def test_progress_is_told(store: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = verify(store, progress=lambda done, total: steps.append((done, total)))
    done, totals = zip(*steps, strict=True)
    assert list(done) == sorted(set(done))
    assert done[-1] == totals[-1] == report.files


def test_a_report_is_plain_data(store: Path) -> None:
    flip(table(store, 7), 40)
    report = verify(store)
    data = json.loads(report.to_json())
    assert data["ok"] is False
    assert data["files"] == report.files
    (found,) = report.damage
    assert data["damage"] == [
        {"path": str(table(store, 7)), "offset": found.offset, "reason": found.reason}
    ]
    assert "1 place" in report.summary()
    assert "no damage" in replace(report, damage=()).summary()


# ---- damage ----


def test_damage_in_each_file_is_found_and_only_there(store: Path) -> None:
    files = {
        "CURRENT": 3,
        "MANIFEST-000001": HEADER_BYTES + 40,
        **{table(store, number).name: 200 for number in TABLES},
        **{segment(store, number).name: HEADER_BYTES + 30 for number in SEGMENTS},
    }
    for name, offset in files.items():
        flip(store / name, offset)
        report = verify(store)
        assert damaged(report) - {"000019.sst"} == {name}
        flip(store / name, offset)
    assert verify(store).ok


def test_all_damage_is_found_at_once(store: Path) -> None:
    flip(table(store, 7), 100)
    flip(table(store, 9), 100)
    flip(segment(store, 4), HEADER_BYTES + 30)
    report = verify(store)
    assert damaged(report) == {"000007.sst", "000009.sst", "000004.wal"}
    assert all(damage.offset > 0 and damage.reason for damage in report.damage)
    assert report.log_entries == PUTS * len(SEGMENTS) - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, "missing"),
        (lambda path: extend(path, b"x"), "bytes"),
        (lambda path: cut(path, 100), "bytes"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "not a kvstore table"),
    ],
    ids=["missing", "longer", "shorter", "zeros"],
)
def test_a_table_that_is_not_what_the_manifest_says(
    store: Path, change: Callable[[Path], object], said: str
) -> None:
    change(table(store, 9))
    report = verify(store)
    assert damaged(report) == {"000009.sst"}
    assert said in report.damage[0].reason


def test_another_table_of_the_same_size_is_found(store: Path) -> None:
    other = write_table(table(store, 9), SMALL, block_bytes=100, lsns=(11, 12), salt=bytes(16))
    report = verify(store)
    assert damaged(report) == {other.name}
    assert "first_lsn" in report.damage[0].reason


@pytest.mark.parametrize("number", SEGMENTS)
def test_a_missing_segment_is_found(store: Path, number: int) -> None:
    segment(store, number).unlink()
    report = verify(store)
    assert report.damage
    assert all(name.endswith(".wal") for name in damaged(report))


def test_a_segment_that_cannot_be_read_does_not_hide_the_others(store: Path) -> None:
    segment(store, 4).unlink()
    segment(store, 4).mkdir()  # opens, but gives no bytes
    flip(segment(store, 5), HEADER_BYTES + 30)
    report = verify_store(FS, str(store))
    assert {"000004.wal", "000005.wal"} <= damaged(report)
    assert report.log_entries == PUTS + PUTS - 1


def test_a_segment_of_a_newer_version_is_told(store: Path) -> None:
    segment(store, 5).write_bytes(newer_header(5))
    report = verify(store)
    assert "000005.wal" in damaged(report)
    assert any("version" in damage.reason for damage in report.damage)


def test_without_a_manifest_that_can_be_read_every_file_is_looked_at(store: Path) -> None:
    flip(store / "CURRENT", 0)
    (store / "000019.sst").unlink()
    flip(table(store, 9), 100)
    report = verify(store)
    assert damaged(report) == {"CURRENT", "000009.sst"}
    assert report.entries > len(SMALL)
    assert report.log_entries == PUTS * len(SEGMENTS)


def test_a_table_that_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    make_store(tmp_path / "store", kinds=KINDS["lz4"])
    assert verify(tmp_path / "store").ok
    missing = compression.CodecMissing("lz4")
    unavailable = mock.patch.object(compression, "_codec", side_effect=missing)
    with unavailable, pytest.raises(FormatError, match="package lz4"):
        verify(tmp_path / "store")


# ---- a store that is open ----


def test_open_tables_are_verified_when_their_names_are_gone(tmp_path: Path) -> None:
    version = make_store(tmp_path / "store")
    tables = {
        meta.number: Table.open(FS, str(table(tmp_path / "store", meta.number)))
        for meta in version.tables()
    }
    for number in TABLES:
        table(tmp_path / "store", number).unlink()
    report = verify(tmp_path / "store", version=version, tables=tables)
    assert report.ok
    assert report.entries == 2 * len(SMALL)
    assert damaged(verify(tmp_path / "store", version=version)) == {"000007.sst", "000009.sst"}


def test_what_is_not_yet_durable_is_not_judged(tmp_path: Path) -> None:
    version = make_store(tmp_path / "store")
    store = tmp_path / "store"
    last = durable_lsn(store)
    entries = read_log(segment(store, SEGMENTS[-1]))[0]
    flip(segment(store, SEGMENTS[-1]), entries[3].offset + 30)
    live: dict[str, Any] = {"version": version}
    assert verify(store, **live, durable_lsn=entries[2].lsn).ok
    report = verify(store, **live, durable_lsn=last)
    assert damaged(report) == {"000005.wal"}
    assert report.damage[0].offset == entries[3].offset
    assert not verify(store).ok


def test_a_manifest_found_half_written_is_looked_at_again(tmp_path: Path) -> None:
    version = make_store(tmp_path / "store")
    store = str(tmp_path / "store")
    real, tries = ManifestLog.read, []

    def read(*arguments: Any) -> Any:
        tries.append(arguments)
        if len(tries) == 1:
            raise StorageIOError(2, "open", "MANIFEST-000001")
        return real(*arguments)

    with mock.patch.object(ManifestLog, "read", read):
        assert verify_store(FS, store, version=version).ok
        tries.clear()
        offline = verify_store(FS, store)
    assert damaged(offline) >= {"CURRENT"}
    assert isinstance(offline.damage[0], FileDamage)
