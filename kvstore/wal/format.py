"""The log file, format version 1: the specification, and the codec of its header block.

All numbers are little-endian. A file is one header block and then entries, each beginning at a
multiple of 8 bytes; after the last entry come zeros, stale bytes of a recycled file, or its end.

Header block (4096 bytes; every byte not named is zero)::

    offset  size
         0     8  magic "KVSTWAL\\n"
         8     2  format version, 1
        10     1  checksum kind: 1 = CRC-32C
        11     1  flags: bit 0 recycled (behind the last entry may stand stale bytes, not zeros)
        12     4  size of this block, 4096
        16    16  log id: the same in all segments of one log
        32     8  segment number, from 1
        40     8  base LSN: of the first entry
        48    16  salt: random, made anew whenever the file is created or recycled
        64     8  predecessor: segment number, 0 = none
        72     8  predecessor: file offset behind its last entry
        80     8  predecessor: LSN of its last entry
      4092     4  CRC-32C of the 4092 bytes before

The block is durable, and so is its directory entry, before the first entry is written. What the
predecessor record says about the end of the segment before overrules what stands there.

Entry (24 bytes of header, the payload, zeros up to a multiple of 8)::

     0        4        8       12       16              23    24
    +--------+--------+--------+--------+---------------+----+---------------+------+
    | header | payload| length |unsynced|      LSN      |kind|    payload    | zeros|
    |  CRC   |  CRC   |        |        |   (56 bits)   |    |  length bytes | 0..7 |
    +--------+--------+--------+--------+---------------+----+---------------+------+

    header CRC   CRC-32C of the other 20 bytes, begun with the CRC-32C of the salt. So bytes of an
                 earlier life of the file, zeros, or a frame that a user stored as a value never
                 validate, and length may be trusted once it has been checked.
    payload CRC  CRC-32C of the payload; 0 in kinds other than CHECKED
    length       of the payload, 0 to 2**30
    unsynced     how many entries before this one were not known durable when it was framed;
                 2**32 - 1 = no claim. Entry N vouches that all up to LSN N - 1 - unsynced was
                 durable.
    LSN          log sequence number; + 1 from entry to entry, whatever the kind
    kind         1 PLAIN    payload not checksummed
                 2 CHECKED  payload covered by its CRC
                 3 PAD      fills a block under direct I/O; the payload means nothing
                 4 MARK     no payload: a later witness that what precedes it was durable
                 5 SEAL     no payload: the log was closed or rotated here, with everything durable
                 128..255   not known to this version, safe to ignore

Reading stops at the first position P where no valid entry with the next LSN stands. A valid entry
header anywhere behind P with the same salt and an LSN that is possible there decides what it means:
if it vouches for the LSN missing at P, durable data was lost (corruption); if it does not, or there
is none, P is where the log ends (a write that overtook another is legal after a crash).

Worked example, the nastiest edge: entries 7 and 8 were written together and not yet synced when the
power went; the sector of entry 8 arrived, that of entry 7 did not. With the salt 000102...0f:

    LSN 7  00000000 00000000 00000000 00000000 00000000 00000000 ...         (lost: zeros)
    LSN 8  008027b1 c2d99df5 02000000 01000000 08000000 00000002 6869 000000000000

Entry 8 holds "hi" and says unsynced = 1: it vouches for LSNs up to 6 only. So 7 was never durable,
nobody was told that it was, and the log ends behind 6 (8 goes too). Had it said unsynced = 0, entry
7 would have been durable, and its loss would be reported.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from kvstore.errors import ChecksumMismatch, FormatError
from kvstore.native import crc32c, lib

__all__ = [
    "CHECKED",
    "ENTRY_ALIGNMENT",
    "ENTRY_HEADER_BYTES",
    "HEADER_BYTES",
    "IGNORABLE",
    "LSN_MAX",
    "MARK",
    "NO_CLAIM",
    "PAD",
    "PAYLOAD_BYTES_MAX",
    "PLAIN",
    "SALT_BYTES",
    "SEAL",
    "Predecessor",
    "SegmentHeader",
    "entry_bytes",
    "last_vouched_lsn",
]

# Part of the format: none of these may change without a new version.
MAGIC = b"KVSTWAL\n"
VERSION = 1
CHECKSUM_CRC32C = 1
FLAG_RECYCLED = 1
HEADER_BYTES = 4096
SALT_BYTES = 16
ENTRY_HEADER_BYTES = 24
ENTRY_ALIGNMENT = 8
PAYLOAD_BYTES_MAX = 1 << 30
LSN_MAX = (1 << 56) - 1
NO_CLAIM = (1 << 32) - 1

PLAIN, CHECKED, PAD, MARK, SEAL = lib.KV_PLAIN, lib.KV_CHECKED, lib.KV_PAD, lib.KV_MARK, lib.KV_SEAL
IGNORABLE = lib.KV_IGNORABLE

_FIELDS = struct.Struct("<8sHBBI16sQQ16sQQQ")
_CRC = struct.Struct("<I")


def entry_bytes(payload_bytes: int) -> int:
    """What an entry with so long a payload takes in the file."""
    whole = ENTRY_HEADER_BYTES + payload_bytes
    return whole + -whole % ENTRY_ALIGNMENT


def last_vouched_lsn(lsn: int, unsynced: int) -> int:
    """The last LSN that entry ``lsn`` says was durable; 0 when it claims nothing."""
    return 0 if unsynced == NO_CLAIM else lsn - 1 - unsynced


@dataclass(frozen=True)
class Predecessor:
    """Where the segment before ended: the file offset behind its last entry, that entry's LSN."""

    segment_number: int
    end_offset: int
    last_lsn: int


@dataclass(frozen=True)
class SegmentHeader:
    """The header block, decoded."""

    log_id: bytes
    segment_number: int
    base_lsn: int
    salt: bytes
    predecessor: Predecessor | None = None
    recycled: bool = False

    @classmethod
    def make(
        cls,
        log_id: bytes,
        segment_number: int,
        base_lsn: int,
        predecessor: Predecessor | None = None,
        *,
        recycled: bool = False,
    ) -> SegmentHeader:
        """A header for a new life of a file: with a salt that no earlier one had."""
        salt = os.urandom(SALT_BYTES)
        return cls(log_id, segment_number, base_lsn, salt, predecessor, recycled)

    @property
    def seed(self) -> int:
        """What the entries' header CRCs begin with."""
        return crc32c(self.salt)

    def encode(self) -> bytes:
        """The 4096 bytes."""
        assert len(self.log_id) == 16
        assert len(self.salt) == SALT_BYTES
        before = self.predecessor or Predecessor(0, 0, 0)
        block = _FIELDS.pack(
            MAGIC,
            VERSION,
            CHECKSUM_CRC32C,
            FLAG_RECYCLED if self.recycled else 0,
            HEADER_BYTES,
            self.log_id,
            self.segment_number,
            self.base_lsn,
            self.salt,
            before.segment_number,
            before.end_offset,
            before.last_lsn,
        ).ljust(HEADER_BYTES - _CRC.size, b"\0")
        return block + _CRC.pack(crc32c(block))

    @classmethod
    def decode(cls, block: bytes, path: str) -> SegmentHeader:
        """The header in ``block``, read from ``path``.

        Raises FormatError when it is no log, cut short, or from a newer version, and
        ChecksumMismatch when it is a log's header and damaged.
        """
        if not block:
            raise FormatError(path, "the file is empty, so it is no log")
        if not block.startswith(MAGIC[: len(block)]):
            raise FormatError(path, f"not a kvstore log: it begins with {block[:8].hex(' ')}")
        if len(block) < HEADER_BYTES:
            raise FormatError(
                path, f"a log cut short: {len(block)} of the header's {HEADER_BYTES} bytes"
            )
        (_, version, checksum, flags, size, log_id, number, base_lsn, salt, *before) = (
            _FIELDS.unpack_from(block)
        )
        (expected,) = _CRC.unpack_from(block, HEADER_BYTES - _CRC.size)
        actual = crc32c(block[: HEADER_BYTES - _CRC.size])
        if version > VERSION and not cls._is_version_damaged(block, expected):
            raise FormatError(
                path,
                f"log format version {version}, but this kvstore reads up to {VERSION}: upgrade it",
            )
        if actual != expected:
            raise ChecksumMismatch(path, 0, "the log's header", expected, actual)
        if (version, checksum, size) != (VERSION, CHECKSUM_CRC32C, HEADER_BYTES):
            raise FormatError(
                path, f"version {version}, checksum kind {checksum}, header size {size}: not known"
            )
        if not 1 <= base_lsn <= LSN_MAX:
            raise FormatError(path, f"base LSN {base_lsn} is not one that a log can have")
        predecessor = Predecessor(*before) if before[0] else None
        return cls(log_id, number, base_lsn, salt, predecessor, bool(flags & FLAG_RECYCLED))

    @staticmethod
    def _is_version_damaged(block: bytes, expected: int) -> bool:
        """Whether nothing but the version field keeps the header from being one of this version."""
        repaired = block[:8] + VERSION.to_bytes(2, "little") + block[10 : HEADER_BYTES - _CRC.size]
        return crc32c(repaired) == expected
