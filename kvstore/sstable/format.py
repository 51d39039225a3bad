"""The sorted table, format version 1: the specification, and the codecs of its small parts.

A table is an immutable file of keys in ascending bytewise order, each once, with a value or the
mark that it is deleted (a tombstone). All numbers are little-endian. Parts stand one behind the
other without gaps, but for the zeros named here::

    +------+--------------+-----+--------------+-------+--------+-------+------------+--------+
    | head | data block 0 | ... | data block n | zeros | filter | index | properties | footer |
    +------+--------------+-----+--------------+-------+--------+-------+------------+--------+
      32 B                                      0..63 B                                 64 B

Head (32 bytes)::

    offset  size
         0     8  magic "KVSTSST\\n"
         8     2  format version, 1
        10     6  zero
        16    16  salt: random, made anew for each table

Data blocks, filter, index and properties are *parts*: stored bytes and a trailer of 9 bytes::

    +--------------+--------+-----------------+---------+
    | stored bytes | kind u8| plain bytes u32 | CRC u32 |
    +--------------+--------+-----------------+---------+

    kind         how the stored bytes are compressed: 0 not at all, 1 LZ4 (block format, no size
                 before it), 2 Zstandard (one frame, which states its content size). Only data
                 blocks may be compressed.
    plain bytes  their length when decompressed; under kind 0, the length stored
    CRC          CRC-32C of the part up to here (stored bytes, kind, plain bytes), begun with the
                 CRC-32C of the part's file offset (u64), which is begun with that of the salt. So a
                 part of another table, or one that was written to the wrong place, never
                 validates.

Data block, plain: n >= 1 entries. A width is 2 where the block, so made, is shorter than 32768
bytes, else 4::

    u32 n | u16 prefix length p | u8 width w | u8 0
    u32 hash[n]          low 32 bits of the XXH3 (64 bit, no seed) of each whole key
    uint(w) key[n]       offset, from the start of the block, of what follows the prefix in each key
    uint(w) value[n]     offset of each value; its top bit is set when the entry is a tombstone
    prefix (p bytes)     the longest that all keys of the block share, but at most 65535 bytes
    entries              the rest of the key, then the value (none in a tombstone), one entry behind
                         the other

The rest of key i ends where value i begins; value i ends where key i + 1 begins, the last one at
the block's end; key[0] is the end of the prefix. Keys have 1 to 65536 bytes, values at most 2**29.
The hashes serve three ends: a lookup compares them, not keys; the filter of a merged table is made
from them; both without hashing a key again.

Filter: a Bloom filter in lines of 64 bytes, so that a lookup touches one of them. It begins at a
multiple of 64 in the file (the zeros before it)::

    u32 lines L (>= 1) | u32 probes k (1 to 16) | 56 zeros | L * 64 bytes

    For the low 32 bits h of a key's hash: line (h * L) >> 32. In it bit number b_i for i < k, where
    g = h * 0x9e3779b97f4a7c15 modulo 2**64, and b_i = the top 9 bits of (g * a_i modulo 2**64)
    with a_0 = 1, a_(i+1) = a_i * 0xd1342543de82ef95 modulo 2**64. Bit b is bit b % 8 of byte
    b // 8. A table without a filter has filter length 0 (no part, no zeros) in its footer.

Index: one separator for each of the m data blocks, not below its last key and below the first key
of the next block; that of the last block is its last key::

    u32 m | u64 offset[m + 1]   file offset of each data block; the last: where data ends
          | u32 key[m + 1]      offset of each separator, from the start of the index; the last: its
          | separators          end

Properties (kind 0)::

    u64 entries (tombstones counted) | u64 tombstones | u64 data blocks
    u64 key bytes | u64 value bytes                  as given, before prefixes and compression
    u64 first LSN | u64 last LSN                     of the writes that are in the table
    u32 block bytes | u32 filter bits per key        as asked for
    u32 length, smallest key | u32 length, largest key    each length before its key

Footer (64 bytes, the last of the file)::

         0     8  file offset where data ends
         8     8  filter: file offset     16     8  its length, trailer included (0: none)
        24     8  index: file offset      32     8  its length, trailer included
        40     8  properties: file offset; they end where the footer begins
        48     2  format version, 1
        50     1  checksum kind: 1 = CRC-32C
        51     1  zero
        52     4  CRC-32C of the 52 bytes before, begun with that of the salt
        56     8  magic "KVSTEND\\n"

What a reader accepts leaves a builder some choice. Ours, so that the same entries give the same
bytes: a block is closed by the entry with which its plain size reaches ``block bytes``; or with
which 8 + 8 * n and the bytes of its keys and values reach 8 times that, because the next key may
take from all others what they share. It is stored compressed when that saves at least an eighth.
The separator of a block with last key a, before first key b, which share d bytes, is the first
d + 1 bytes of b when both a and b are longer, else a. A filter has k = min(16, (5 * bits + 4) // 8)
probes and L = ceil(33 * bits * entries / 16384) lines: a 32nd more than asked for, because keys do
not fall evenly on lines (at 10 bits a key, 0.9% instead of 1.0% false positives).

Example: "apple" -> "red", "apricot" deleted; salt 00 01 .. 0f, block bytes 4096, 10 filter bits
per key, LSNs 7 to 8::

      0  4b 56 53 54 53 53 54 0a 01 00 00 00 00 00 00 00  magic, version, zeros
     16  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  salt
     32  02 00 00 00 02 00 02 00                          block: n, p, w, 0
     40  00 8a 1f cf 43 92 77 36                          the two hashes
     48  1a 00 20 00                                      key offsets 26, 32
     52  1d 00 25 80                                      value offsets 29, 37 and top bit
     56  61 70                                            prefix "ap"
     58  70 6c 65 72 65 64                                "ple" "red"
     64  72 69 63 6f 74                                   "ricot"
     69  00 25 00 00 00 a1 de 46 1f                       kind 0, length 37, CRC
     78  50 zeros
    128  01 00 00 00 06 00 00 00                          filter: 1 line, 6 probes
    136  56 zeros
    192  00 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00  the line: 12 bits
    208  00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 04
    224  a0 00 20 00 00 80 00 00 40 00 00 00 00 88 00 00
    240  10 00 00 20 00 00 00 00 00 10 00 00 00 00 00 00
    256  00 80 00 00 00 b9 a2 40 8d                       kind 0, length 128, CRC
    265  01 00 00 00                                      index: 1 block
    269  20 00 00 00 00 00 00 00 4e 00 00 00 00 00 00 00  it begins at 32, ends at 78
    285  1c 00 00 00 23 00 00 00                          separator at 28, to 35
    293  61 70 72 69 63 6f 74                             "apricot"
    300  00 23 00 00 00 27 62 67 db                       kind 0, length 35, CRC
    309  02 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00  properties: entries, tombstones
    325  01 00 00 00 00 00 00 00                          data blocks
    333  0c 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00  key bytes, value bytes
    349  07 00 00 00 00 00 00 00 08 00 00 00 00 00 00 00  LSNs
    365  00 10 00 00 0a 00 00 00                          block bytes, filter bits
    373  05 00 00 00 61 70 70 6c 65                       smallest key
    382  07 00 00 00 61 70 72 69 63 6f 74                 largest key
    393  00 54 00 00 00 62 f3 91 b1                       kind 0, length 84, CRC
    402  4e 00 00 00 00 00 00 00                          footer: data's end
    410  80 00 00 00 00 00 00 00 89 00 00 00 00 00 00 00  filter: offset, length
    426  09 01 00 00 00 00 00 00 2c 00 00 00 00 00 00 00  index: offset, length
    442  35 01 00 00 00 00 00 00                          properties: offset
    450  01 00 01 00                                      version, checksum kind, 0
    454  5d f3 2d d7                                      CRC
    458  4b 56 53 54 45 4e 44 0a                          magic
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kvstore.errors import ChecksumMismatch, CorruptionError, FormatError
from kvstore.native import crc32c
from kvstore.options import KEY_BYTES_MAX

__all__ = [
    "FOOTER_BYTES",
    "HEAD_BYTES",
    "KIND_LZ4",
    "KIND_PLAIN",
    "KIND_ZSTD",
    "LINE_BYTES",
    "SALT_BYTES",
    "TRAILER_BYTES",
    "Footer",
    "Head",
    "Properties",
    "check_gap",
    "decode_ends",
    "decode_part",
    "encode_part",
    "part_seed",
]

# Part of the format: none of these may change without a new version.
MAGIC = b"KVSTSST\n"
END_MAGIC = b"KVSTEND\n"
VERSION = 1
CHECKSUM_CRC32C = 1
HEAD_BYTES = 32
FOOTER_BYTES = 64
SALT_BYTES = 16
TRAILER_BYTES = 9
LINE_BYTES = 64
KIND_PLAIN, KIND_LZ4, KIND_ZSTD = 0, 1, 2

_HEAD = struct.Struct("<8sH6s16s")
_FOOTER = struct.Struct("<QQQQQQHBB")
_TRAILER = struct.Struct("<BI")
_PROPERTIES = struct.Struct("<7Q2I")
_U32 = struct.Struct("<I")
_PROPERTIES_BYTES_MAX = _PROPERTIES.size + 2 * (_U32.size + KEY_BYTES_MAX) + TRAILER_BYTES
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class Head:
    """The first 32 bytes, decoded."""

    salt: bytes

    @property
    def seed(self) -> int:
        """What the checksums of the table's parts begin with: the CRC-32C of the salt."""
        return crc32c(self.salt)

    def encode(self) -> bytes:
        """The 32 bytes."""
        assert len(self.salt) == SALT_BYTES
        return _HEAD.pack(MAGIC, VERSION, bytes(6), self.salt)

    @classmethod
    def decode(cls, data: bytes, path: str) -> Head:
        """The head in ``data``, the first bytes of the file at ``path``.

        Raises FormatError when it is no table's, cut short, or of another version, and
        CorruptionError when what must be zero is not. Its salt shows false by the footer's
        checksum.
        """
        if not data.startswith(MAGIC[: len(data)]) or not data:
            raise FormatError(path, f"not a kvstore table: it begins with {data[:8].hex(' ')!r}")
        if len(data) < HEAD_BYTES:
            raise FormatError(
                path, f"a table cut short: {len(data)} of the head's {HEAD_BYTES} bytes"
            )
        _, version, zeros, salt = _HEAD.unpack_from(data)
        _check_version(version, path)
        if any(zeros):
            raise CorruptionError(path, 10, "bytes of the table's head that are zero in every one")
        return cls(salt)


@dataclass(frozen=True)
class Footer:
    """The last 64 bytes, decoded: where everything stands. Lengths include the trailers."""

    data_end: int
    filter_offset: int
    filter_length: int
    index_offset: int
    index_length: int
    properties_offset: int

    def encode(self, seed: int) -> bytes:
        """The 64 bytes; ``seed``: the head's."""
        block = _FOOTER.pack(
            self.data_end,
            self.filter_offset,
            self.filter_length,
            self.index_offset,
            self.index_length,
            self.properties_offset,
            VERSION,
            CHECKSUM_CRC32C,
            0,
        )
        return block + _U32.pack(crc32c(block, seed)) + END_MAGIC

    @classmethod
    def decode(cls, data: bytes, path: str, size: int, seed: int) -> Footer:
        """The footer in ``data``, the last 64 bytes of the ``size`` of the file at ``path``.

        Raises FormatError for another version, CorruptionError (ChecksumMismatch) when it is
        damaged, or says what cannot be in a file of that size.
        """
        offset = size - FOOTER_BYTES
        if len(data) != FOOTER_BYTES or not data.endswith(END_MAGIC):
            raise CorruptionError(path, max(offset, 0), "the table's footer is damaged or cut off")
        *places, version, checksum, zero = _FOOTER.unpack_from(data)
        (expected,) = _U32.unpack_from(data, _FOOTER.size)
        actual = crc32c(data[: _FOOTER.size], seed)
        if actual != expected:
            raise ChecksumMismatch(path, offset, "the table's footer", expected, actual)
        _check_version(version, path)
        if checksum != CHECKSUM_CRC32C or zero:
            raise FormatError(path, f"checksum kind {checksum}, flags {zero}: not known")
        footer = cls(*places)
        if not footer._is_plausible(offset):
            raise CorruptionError(path, offset, f"the table's parts cannot stand so: {footer}")
        return footer

    def gap(self) -> tuple[int, int]:
        """Where the zeros between data and filter begin and end."""
        return self.data_end, self.filter_offset if self.filter_length else self.data_end

    def _is_plausible(self, footer_offset: int) -> bool:
        data_end, before_index = self.data_end, self.data_end
        if self.filter_length:
            filter_bytes = self.filter_length - TRAILER_BYTES
            if filter_bytes < 2 * LINE_BYTES or filter_bytes % LINE_BYTES:
                return False
            if self.filter_offset != data_end + -data_end % LINE_BYTES:
                return False
            before_index = self.filter_offset + self.filter_length
        elif self.filter_offset:
            return False
        return (
            data_end > HEAD_BYTES + TRAILER_BYTES
            and self.index_offset == before_index
            and self.index_length > TRAILER_BYTES
            and self.properties_offset == before_index + self.index_length
            and self.properties_offset + _PROPERTIES.size + TRAILER_BYTES < footer_offset
            # They are read at once: no more than can be.
            and footer_offset - self.properties_offset <= _PROPERTIES_BYTES_MAX
        )


@dataclass(frozen=True)
class Properties:
    """What a table says of itself."""

    entries: int
    tombstones: int
    data_blocks: int
    key_bytes: int
    value_bytes: int
    first_lsn: int
    last_lsn: int
    block_bytes: int
    filter_bits_per_key: int
    smallest: bytes
    largest: bytes

    def encode(self) -> bytes:
        """The plain bytes of the part."""
        fixed = _PROPERTIES.pack(
            self.entries,
            self.tombstones,
            self.data_blocks,
            self.key_bytes,
            self.value_bytes,
            self.first_lsn,
            self.last_lsn,
            self.block_bytes,
            self.filter_bits_per_key,
        )
        keys = (self.smallest, self.largest)
        return fixed + b"".join(_U32.pack(len(key)) + key for key in keys)

    @classmethod
    def decode(cls, data: bytes, path: str, offset: int) -> Properties:
        """The properties in the plain bytes ``data``, which passed ``decode_part``.

        Raises CorruptionError when they cannot be a table's.
        """
        wrong = CorruptionError(path, offset, "the table's properties are malformed")
        if len(data) < _PROPERTIES.size:
            raise wrong
        keys, at = [], _PROPERTIES.size
        for _ in range(2):
            if len(data) - at < _U32.size:
                raise wrong
            (length,) = _U32.unpack_from(data, at)
            at += _U32.size
            if not 1 <= length <= min(KEY_BYTES_MAX, len(data) - at):
                raise wrong
            keys.append(data[at : at + length])
            at += length
        found = cls(*_PROPERTIES.unpack_from(data), *keys)
        if at != len(data) or not (
            found.smallest <= found.largest
            and 1 <= found.data_blocks <= found.entries
            and found.tombstones <= found.entries
            and found.first_lsn <= found.last_lsn
        ):
            raise wrong
        return found


def encode_part(plain: bytes, offset: int, seed: int) -> bytes:
    """An uncompressed part for file offset ``offset``, with its trailer."""
    body = plain + _TRAILER.pack(KIND_PLAIN, len(plain))
    return body + _U32.pack(crc32c(body, part_seed(offset, seed)))


def decode_part(
    data: bytes, path: str, offset: int, seed: int, what: str
) -> tuple[bytes, int, int]:
    """Stored bytes, kind and plain length of the part that is all of ``data``, trailer included.

    ``what`` it is, for the error: ChecksumMismatch, or CorruptionError when it cannot be a part.
    """
    if len(data) < TRAILER_BYTES:
        raise CorruptionError(path, offset, f"{what} is cut short")
    body = data[: -_U32.size]
    (expected,) = _U32.unpack_from(data, len(body))
    actual = crc32c(body, part_seed(offset, seed))
    if actual != expected:
        raise ChecksumMismatch(path, offset, what, expected, actual)
    stored = data[:-TRAILER_BYTES]
    kind, plain_bytes = _TRAILER.unpack_from(data, len(stored))
    if kind not in (KIND_PLAIN, KIND_LZ4, KIND_ZSTD) or (
        kind == KIND_PLAIN and plain_bytes != len(stored)
    ):
        raise CorruptionError(
            path, offset, f"{what}: kind {kind}, plain length {plain_bytes} are not possible"
        )
    return stored, kind, plain_bytes


def part_seed(offset: int, seed: int) -> int:
    """What the checksum of a part at that file offset begins with; ``seed``: the head's."""
    return crc32c(_U64.pack(offset), seed)


def decode_ends(head: bytes, footer: bytes, path: str, size: int) -> tuple[Head, Footer]:
    """Head and footer of a file of ``size`` bytes, together.

    The one shows whether what is strange in the other is damage or another kind of file: raises
    FormatError for no table and for a newer version, CorruptionError for a damaged table.
    """
    begins, ends = head.startswith(MAGIC), footer.endswith(END_MAGIC)
    if not begins and ends and size >= HEAD_BYTES + FOOTER_BYTES:
        raise CorruptionError(path, 0, "the table's head is damaged")
    if begins and ends and head[8:10] != footer[48:50]:
        raise CorruptionError(path, 8, "head and footer disagree about the format's version")
    first = Head.decode(head, path)
    return first, Footer.decode(footer, path, size, first.seed)


def check_gap(zeros: bytes, path: str, offset: int) -> None:
    """Raises CorruptionError unless what stands between data and filter is all zero."""
    if any(zeros):
        raise CorruptionError(path, offset, "the bytes between data and filter are not zero")


def _check_version(version: int, path: str) -> None:
    if version > VERSION:
        raise FormatError(
            path,
            f"table format version {version}, but this kvstore reads up to {VERSION}: upgrade it",
        )
    if version != VERSION:
        raise FormatError(path, f"table format version {version} is not one that ever was")
