"""Reading parts of a table in Python: compressed blocks, properties, and all when verifying.

The C side reads and checks for itself what it uses.
"""

from __future__ import annotations

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError
from kvstore.fs import File
from kvstore.native import crc32c, lib
from kvstore.sstable.compression import CodecMissing, decompress
from kvstore.sstable.format import KIND_PLAIN, TRAILER_BYTES, decode_part, part_seed

__all__ = ["check_plain_part", "read_block", "read_plain_part"]

_PIECE_BYTES = 1 << 20


def read_plain_part(file: File, offset: int, length: int, seed: int, what: str) -> bytes:
    """The bytes of an uncompressed part; ``length``: trailer included, ``seed``: the head's.

    Raises ChecksumMismatch, CorruptionError, StorageIOError.
    """
    data = _read(file, offset, length, offset, what)
    stored, kind, _ = decode_part(data, file.path, offset, seed, what)
    if kind != KIND_PLAIN:
        raise CorruptionError(file.path, offset, f"{what} cannot be compressed, and says it is")
    return stored


def check_plain_part(file: File, offset: int, length: int, seed: int, what: str) -> None:
    """Reads and checks such a part without having all of it in memory; raises the same."""
    crc, position, end = part_seed(offset, seed), offset, offset + length - 4
    while position < end:
        size = min(_PIECE_BYTES, end - position)
        crc = crc32c(_read(file, position, size, offset, what), crc)
        position += size
    begin = offset + length - TRAILER_BYTES
    trailer = _read(file, begin, TRAILER_BYTES, offset, what)
    expected = int.from_bytes(trailer[5:], "little")
    if crc != expected:
        raise ChecksumMismatch(file.path, offset, what, expected, crc)
    if trailer[0] != KIND_PLAIN or int.from_bytes(trailer[1:5], "little") != begin - offset:
        raise CorruptionError(file.path, offset, f"{what} has a trailer that does not fit it")


def read_block(file: File, offset: int, length: int, seed: int) -> bytes:
    """A data block as it was before compression, its structure checked.

    Raises ChecksumMismatch, CorruptionError, StorageIOError, and FormatError when the package that
    decompresses it is not installed.
    """
    what = "a data block"
    data = _read(file, offset, length, offset, what)
    stored, kind, plain_bytes = decode_part(data, file.path, offset, seed, what)
    try:
        plain = decompress(kind, stored, plain_bytes)
    except CodecMissing as error:
        raise FormatError(file.path, str(error)) from None
    except ValueError as error:
        raise CorruptionError(
            file.path, offset, f"{what} cannot be decompressed: {error}"
        ) from None
    if not lib.kv_block_check(plain, len(plain)):
        raise CorruptionError(file.path, offset, f"{what} has a right checksum, but is malformed")
    return plain


def _read(file: File, offset: int, size: int, part_offset: int, what: str) -> bytes:
    data = file.pread(size, offset)
    if len(data) != size:
        raise CorruptionError(file.path, part_offset, f"the file ends within {what}")
    return data
