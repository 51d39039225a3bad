"""Manifest format version 1 on the disk: what was written once reads back for ever."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import astuple
from pathlib import Path

from kvstore.fs import PosixFileSystem
from kvstore.manifest import ManifestLog, Version, VersionEdit
from tests.formats import generate_manifest_v1 as generate
from tests.support.oracle import ENTRY_HEADER_BYTES
from tests.support.wal import fixed_random

FS = PosixFileSystem()
SHA256 = {
    "CURRENT": "716257d30c5d9ac2df77c1f3a1a48aa756fa42aab2cdec17f6c82730932652ad",
    "MANIFEST-000001": "740cef8947145938e051e3e3db3986349edb6746a9a9324a93db36086b86690f",
}


def check(version: Version) -> None:
    """What the checked-in manifest says."""
    version._check()
    (table,) = version.tables()
    assert version.levels[1] == (table,)
    assert astuple(table) == (*generate.TABLE_3, generate.SMALLEST, b"c")
    assert (version.flushed_lsn, version.log_number, version.newest_segment) == (5, 2, 3)
    assert (version.next_table, version.log_id) == (4, generate.STORE_LOG_ID)


def test_the_checked_in_manifest_is_the_one_that_was_checked_in() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in generate.DIRECTORY.iterdir()
    }
    assert found == SHA256


def test_the_checked_in_manifest_reads_back_as_listed() -> None:
    found = ManifestLog.read(FS, str(generate.DIRECTORY), "strict")
    assert found is not None
    check(found[0])
    assert found[1] == generate.NAME


def test_the_oracle_still_writes_it() -> None:
    assert generate.manifest() == (generate.DIRECTORY / generate.NAME).read_bytes()
    assert generate.current() == (generate.DIRECTORY / "CURRENT").read_bytes()


def test_the_manifest_log_still_writes_it_byte_for_byte(tmp_path: Path) -> None:
    edits = [VersionEdit.decode(data, "", 0) for data in generate.EDITS]
    first = Version.EMPTY.apply(edits[0])
    with fixed_random(salt=generate.SALT), ManifestLog.create(FS, str(tmp_path), first) as log:
        for edit in edits[1:]:
            log.append(edit)
    assert (tmp_path / "CURRENT").read_bytes() == generate.current()
    # But for the record from the future, in the last edit.
    written, generated = (tmp_path / generate.NAME).read_bytes(), generate.manifest()
    same = generated.index(edits[3].encode()) - ENTRY_HEADER_BYTES
    assert written[:same] == generated[:same]


def test_a_copy_can_be_reopened_and_goes_on(tmp_path: Path) -> None:
    copy = shutil.copytree(generate.DIRECTORY, tmp_path / "copy")
    with ManifestLog.open(FS, str(copy)) as log:
        check(log.version)
        after = log.append(VersionEdit(next_table=9))
    assert ManifestLog.read(FS, str(copy)) == (after, generate.NAME)
    written = (copy / generate.NAME).read_bytes()
    assert written.startswith(generate.manifest())
