"""Targets: version edits, a manifest, and CURRENT."""

from __future__ import annotations

from contextlib import suppress
from typing import cast

from kvstore import paths
from kvstore.errors import CorruptionError, KVStoreError
from kvstore.fs import FileSystem
from kvstore.manifest import ManifestLog, Version, VersionEdit, VersionError
from kvstore.manifest.current import decode_current, encode_current
from kvstore.native import crc32c
from tests.fuzz import squeezed
from tests.fuzz.memory import MemoryFileSystem

__all__ = ["current", "edit", "manifest"]

_NAME = paths.format_manifest(1)


def edit(data: bytes) -> None:
    """One version edit: encoded again it is the same, less the records that are not known."""
    found = VersionEdit.decode(data, "MANIFEST", 0)
    encoded = found.encode()
    assert data.startswith(encoded)
    assert len(encoded) == len(data) or data[len(encoded)] >= 128
    for level, table in found.added:
        assert level < 7
        assert table.number
        assert 1 <= len(table.smallest) <= 65536
        assert 1 <= len(table.largest) <= 65536
        assert table.smallest <= table.largest
        assert table.tombstones <= table.entries > 0
        assert table.first_lsn <= table.last_lsn < 1 << 56
    with suppress(VersionError):
        version = Version.EMPTY.apply(found)
        version._check()
        assert Version.EMPTY.apply(version.snapshot_edit()) == version


def manifest(data: bytes) -> None:
    """A squeezed manifest, named by CURRENT."""
    _, image = squeezed.expand(data)
    files = {paths.CURRENT: encode_current(_NAME), _NAME: image}
    fs = cast(FileSystem, MemoryFileSystem(files))
    found = None
    try:
        found = ManifestLog.read(fs, "d")
        assert found is not None
        found[0]._check()
    finally:
        with suppress(KVStoreError):
            assert ManifestLog.read(fs, "d", "strict") == found


def current(data: bytes) -> None:
    """CURRENT: as it is, and its first line with a right checksum."""
    line = data.partition(b"\n")[0] + b"\n"
    with suppress(CorruptionError):
        name = decode_current(line + b"crc32c %08x\n" % crc32c(line), "CURRENT")
        assert encode_current(name).startswith(line)
    name = decode_current(data, "CURRENT")
    assert encode_current(name) == data
    assert paths.parse_manifest(name) is not None
