"""Log files as inputs: without the zeros of the header block, and with checksums made right.

    flags u8 | the header block's first 88 bytes | what stands behind the header block

    flags   bit 0  checksums are made right: of the header block, and of each entry on the way
            bit 1  LSNs are made dense
            bits 2, 3  for the target

Most mutations would end at the first checksum, so they are repaired, but for those that are zero:
so an input can hold an entry whose header (or payload) is damaged. ``log.c`` does the same.
"""

from __future__ import annotations

import struct

from kvstore.native import crc32c
from kvstore.wal.format import CHECKED, ENTRY_HEADER_BYTES, HEADER_BYTES, LSN_MAX, entry_bytes

__all__ = ["DENSE", "FIELDS_BYTES", "REPAIR", "expand", "squeeze"]

REPAIR, DENSE = 1, 2
FIELDS_BYTES = 88
_U32 = struct.Struct("<I")
_ENTRY = struct.Struct("<III")


def squeeze(image: bytes, flags: int = REPAIR | DENSE) -> bytes:
    """The input for a log file."""
    return bytes([flags]) + image[:FIELDS_BYTES] + image[HEADER_BYTES:]


def expand(data: bytes) -> tuple[int, bytes]:
    """(flags, log file) of an input."""
    flags = data[0] if data else 0
    block = data[1 : 1 + FIELDS_BYTES].ljust(HEADER_BYTES - _U32.size, b"\0")
    block += _U32.pack(crc32c(block) if flags & REPAIR else 0)
    entries = bytearray(data[1 + FIELDS_BYTES :])
    if flags & REPAIR:
        _repair(entries, block, dense=bool(flags & DENSE))
    return flags, block + entries


def _repair(entries: bytearray, block: bytes, *, dense: bool) -> None:
    seed, at = crc32c(block[48:64]), 0
    lsn = int.from_bytes(block[40:48], "little") & LSN_MAX
    while at + ENTRY_HEADER_BYTES <= len(entries):
        header_crc, payload_crc, length = _ENTRY.unpack_from(entries, at)
        begin = at + ENTRY_HEADER_BYTES
        if header_crc:
            if dense:
                entries[at + 16 : at + 23] = lsn.to_bytes(7, "little")
            if payload_crc and entries[at + 23] == CHECKED and begin + length <= len(entries):
                _U32.pack_into(entries, at + 4, crc32c(bytes(entries[begin : begin + length])))
            _U32.pack_into(entries, at, crc32c(bytes(entries[at + 4 : begin]), seed))
        lsn = (lsn + 1) & LSN_MAX
        at += entry_bytes(length)
