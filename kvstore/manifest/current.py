"""CURRENT: the file that says which manifest counts. Its codec, and its atomic swap.

Two lines of ASCII: the manifest's name, and the CRC-32C of that line (its newline included) as
eight lower-case hexadecimal digits::

    MANIFEST-000003
    crc32c f7b08bee

Nothing else is valid, so that no flipped bit goes unnoticed.
"""

from __future__ import annotations

import os

from kvstore import paths
from kvstore.errors import ChecksumMismatch, CorruptionError
from kvstore.fs import FileSystem, write_all
from kvstore.native import crc32c

__all__ = ["decode_current", "encode_current", "prepare_current", "publish_current", "read_current"]

_BYTES_MAX = 128


def encode_current(name: str) -> bytes:
    """The contents of CURRENT when the manifest called ``name`` counts."""
    line = f"{name}\n".encode("ascii")
    return line + f"crc32c {crc32c(line):08x}\n".encode("ascii")


def decode_current(data: bytes, path: str) -> str:
    """The manifest's name. Raises CorruptionError, ChecksumMismatch; ``path`` stands in them."""
    line, newline, rest = data.partition(b"\n")
    name = line.decode("latin-1")
    actual = crc32c(line + newline)
    if rest == f"crc32c {actual:08x}\n".encode("ascii"):
        if paths.parse_manifest(name) is None:
            raise CorruptionError(path, 0, f"it names {name!r}, which is no manifest")
        return name
    try:
        expected = int(rest.removeprefix(b"crc32c ")[:8], 16)
    except ValueError:
        expected = actual
    if rest == f"crc32c {expected:08x}\n".encode("ascii"):
        raise ChecksumMismatch(path, 0, "the manifest's name", expected, actual)
    raise CorruptionError(path, 0, f"it is not a name and a checksum, but {data[:64]!r}")


def read_current(fs: FileSystem, directory: str) -> str | None:
    """The name of the manifest that counts; None when there is no CURRENT.

    Raises CorruptionError for a damaged one, and for one that names a manifest that is missing.
    """
    path = os.path.join(directory, paths.CURRENT)
    if not fs.exists(path):
        return None
    file = fs.open_read_only(path)
    try:
        name = decode_current(file.pread(_BYTES_MAX, 0), path)
    finally:
        file.close()
    if not fs.exists(os.path.join(directory, name)):
        raise CorruptionError(path, 0, f"it names {name}, which is missing")
    return name


def prepare_current(fs: FileSystem, directory: str, name: str) -> None:
    """Writes the next CURRENT under its temporary name, durably. Nothing counts yet."""
    file = fs.open(os.path.join(directory, paths.format_tmp(paths.CURRENT)), create=True)
    try:
        file.truncate(0)
        write_all(file, encode_current(name), 0)
        file.sync()
    finally:
        file.close()


def publish_current(fs: FileSystem, directory: str) -> None:
    """Makes what was prepared the CURRENT that counts, durably.

    When it raises, either may be the one that a crash leaves.
    """
    path = os.path.join(directory, paths.CURRENT)
    fs.rename(paths.format_tmp(path), path)
    fs.sync_directory(directory)
