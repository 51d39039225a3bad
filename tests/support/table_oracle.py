"""The table format by its specification alone: whole files made and read by struct and crcmod."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import crcmod
import lz4.block
import xxhash
import zstandard

__all__ = [
    "Block",
    "Entry",
    "Table",
    "TableError",
    "block_bytes_of",
    "crc32c",
    "decode",
    "encode",
    "encode_block",
    "hash32",
    "part",
]

Entry = tuple[bytes, bytes | None]

PLAIN, LZ4, ZSTD = 0, 1, 2
HEAD, FOOTER, TRAILER, LINE = 32, 64, 9, 64

_crc = crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0xFFFFFFFF)


class TableError(Exception):
    """What was read breaks the specification."""


def crc32c(data: bytes, begun_with: int = 0) -> int:
    return cast(int, _crc(data, begun_with))


def hash32(key: bytes) -> int:
    return xxhash.xxh3_64_intdigest(key) & 0xFFFFFFFF


def _shared(a: bytes, b: bytes) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


# ---- making a table ----


def part(stored: bytes, offset: int, salt: bytes, kind: int = PLAIN, plain: int = -1) -> bytes:
    """The stored bytes and their trailer, for this place in the table with that salt."""
    body = stored + struct.pack("<BI", kind, len(stored) if plain < 0 else plain)
    return body + struct.pack("<I", crc32c(body, crc32c(struct.pack("<Q", offset), crc32c(salt))))


def block_bytes_of(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """(size, width, length of the prefix) of the plain block of these entries."""
    keys = [key for key, _ in entries]
    prefix = min(_shared(keys[0], keys[-1]), 65535)
    data = sum(len(key) - prefix + len(value or b"") for key, value in entries)
    for width in (2, 4):
        size = 8 + len(entries) * (4 + 2 * width) + prefix + data
        if size < 32768:
            break
    return size, width, prefix


def encode_block(entries: Sequence[Entry]) -> bytes:
    size, width, prefix = block_bytes_of(entries)
    hashes, keys, values, data = b"", [], [], b""
    start = 8 + len(entries) * (4 + 2 * width) + prefix
    for key, value in entries:
        hashes += struct.pack("<I", hash32(key))
        keys.append(start + len(data))
        data += key[prefix:]
        values.append(start + len(data) | (1 << (8 * width - 1) if value is None else 0))
        data += value or b""
    form = f"<{len(entries)}{'H' if width == 2 else 'I'}"
    block = struct.pack("<IHBB", len(entries), prefix, width, 0) + hashes
    block += struct.pack(form, *keys) + struct.pack(form, *values) + entries[0][0][:prefix] + data
    assert len(block) == size
    return block


def _unshared_bytes(entries: Sequence[Entry]) -> int:
    return 8 + sum(8 + len(key) + len(value or b"") for key, value in entries)


def _cut(entries: Sequence[Entry], block_bytes: int) -> list[list[Entry]]:
    blocks: list[list[Entry]] = []
    for entry in entries:
        if (
            not blocks
            or block_bytes_of(blocks[-1])[0] >= block_bytes
            or _unshared_bytes(blocks[-1]) >= 8 * block_bytes
        ):
            blocks.append([])
        blocks[-1].append(entry)
    return blocks


def _separator(last: bytes, following: bytes) -> bytes:
    short = following[: _shared(last, following) + 1]
    return short if len(short) < min(len(last), len(following)) else last


def filter_positions(hash_: int, lines: int, probes: int) -> tuple[int, list[int]]:
    """(line, its bits) of a hash."""
    mixed, factor, bits = hash_ * 0x9E3779B97F4A7C15 % 2**64, 1, []
    for _ in range(probes):
        bits.append((mixed * factor % 2**64) >> 55)
        factor = factor * 0xD1342543DE82EF95 % 2**64
    return (hash_ * lines) >> 32, bits


def encode_filter(keys: Iterable[bytes], lines: int, probes: int) -> bytes:
    bits = bytearray(lines * LINE)
    for key in keys:
        line, positions = filter_positions(hash32(key), lines, probes)
        for bit in positions:
            bits[line * LINE + bit // 8] |= 1 << bit % 8
    return struct.pack("<II", lines, probes) + bytes(56) + bytes(bits)


def encode_index(offsets: Sequence[int], separators: Sequence[bytes]) -> bytes:
    """offsets: one more than there are separators."""
    at = 4 + 12 * len(offsets)
    places = [at]
    for separator in separators:
        places.append(places[-1] + len(separator))
    return (
        struct.pack("<I", len(separators))
        + struct.pack(f"<{len(offsets)}Q", *offsets)
        + struct.pack(f"<{len(places)}I", *places)
        + b"".join(separators)
    )


def _store(plain: bytes, kind: int) -> bytes:
    if kind == LZ4:
        return cast(bytes, lz4.block.compress(plain, store_size=False))
    return zstandard.ZstdCompressor().compress(plain) if kind == ZSTD else plain


def encode(
    entries: Sequence[Entry],
    *,
    block_bytes: int = 4096,
    filter_bits: int = 10,
    salt: bytes = b"0123456789abcdef",
    kinds: Sequence[int] = (PLAIN,),
    lsns: tuple[int, int] = (1, 1),
    saving: bool = False,
) -> bytes:
    """A whole table file. ``kinds``: of the blocks' compression, over and over.

    With ``saving``, blocks are stored plain where compressing them saves less than an eighth.
    """
    out = bytearray(b"KVSTSST\n" + struct.pack("<H", 1) + bytes(6) + salt)
    blocks = _cut(entries, block_bytes)
    offsets, separators = [], []
    for i, rows in enumerate(blocks):
        plain, kind = encode_block(rows), kinds[i % len(kinds)]
        offsets.append(len(out))
        stored = _store(plain, kind)
        if saving and 8 * len(stored) > 7 * len(plain):
            stored, kind = plain, PLAIN
        out += part(stored, len(out), salt, kind, len(plain))
        following = blocks[i + 1][0][0] if i + 1 < len(blocks) else None
        last = rows[-1][0]
        separators.append(last if following is None else _separator(last, following))
    data_end = len(out)
    filter_at = filter_length = 0
    if filter_bits:
        out += bytes(-len(out) % LINE)
        filter_at = len(out)
        lines = -(-33 * filter_bits * len(entries) // 16384)
        probes = min(16, (5 * filter_bits + 4) // 8)
        keys = [key for key, _ in entries]
        out += part(encode_filter(keys, lines, probes), filter_at, salt)
        filter_length = len(out) - filter_at
    index_at = len(out)
    out += part(encode_index([*offsets, data_end], separators), index_at, salt)
    properties_at = len(out)
    out += part(
        _properties(entries, len(blocks), block_bytes, filter_bits, lsns), properties_at, salt
    )
    footer = struct.pack("<6Q", data_end, filter_at, filter_length, index_at,
                         properties_at - index_at, properties_at)  # fmt: skip
    footer += struct.pack("<HBB", 1, 1, 0)
    return bytes(out) + footer + struct.pack("<I", crc32c(footer, crc32c(salt))) + b"KVSTEND\n"


def _properties(
    entries: Sequence[Entry], blocks: int, block_bytes: int, filter_bits: int, lsns: tuple[int, int]
) -> bytes:
    smallest, largest = entries[0][0], entries[-1][0]
    return (
        struct.pack(
            "<7Q2I",
            len(entries),
            sum(value is None for _, value in entries),
            blocks,
            sum(len(key) for key, _ in entries),
            sum(len(value or b"") for _, value in entries),
            *lsns,
            block_bytes,
            filter_bits,
        )
        + struct.pack("<I", len(smallest))
        + smallest
        + struct.pack("<I", len(largest))
        + largest
    )


# ---- reading one ----


@dataclass(frozen=True)
class Block:
    offset: int
    length: int  # trailer included
    kind: int
    plain: bytes
    entries: list[Entry]
    hashes: list[int]


@dataclass(frozen=True)
class Table:
    salt: bytes
    data_end: int
    filter_offset: int
    filter_length: int
    index_offset: int
    index_length: int
    properties_offset: int
    blocks: list[Block]
    separators: list[bytes]
    lsns: tuple[int, int]
    smallest: bytes
    largest: bytes

    @property
    def entries(self) -> list[Entry]:
        return [entry for block in self.blocks for entry in block.entries]


def _need(condition: object, what: str) -> None:
    if not condition:
        raise TableError(what)


def _open_part(data: bytes, offset: int, length: int, salt: bytes) -> tuple[bytes, int, int]:
    _need(offset >= HEAD and length >= TRAILER and offset + length <= len(data) - FOOTER, "range")
    whole = data[offset : offset + length]
    kind, plain, crc = struct.unpack("<BII", whole[-9:])
    seed = crc32c(struct.pack("<Q", offset), crc32c(salt))
    _need(crc == crc32c(whole[:-4], seed), f"checksum of the part at {offset}")
    _need(kind != PLAIN or plain == length - TRAILER, "plain bytes")
    return whole[:-9], kind, plain


def _plain_part(data: bytes, offset: int, length: int, salt: bytes) -> bytes:
    stored, kind, _ = _open_part(data, offset, length, salt)
    _need(kind == PLAIN, "only data blocks may be compressed")
    return stored


def decode_block(plain: bytes) -> tuple[list[Entry], list[int]]:
    count, prefix_length, width, zero = struct.unpack_from("<IHBB", plain)
    _need(count >= 1 and zero == 0 and width == (2 if len(plain) < 32768 else 4), "block head")
    hashes = struct.unpack_from(f"<{count}I", plain, 8)
    letter = "H" if width == 2 else "I"
    at = 8 + 4 * count
    keys = struct.unpack_from(f"<{count}{letter}", plain, at)
    values = struct.unpack_from(f"<{count}{letter}", plain, at + width * count)
    at += 2 * width * count
    prefix = plain[at : at + prefix_length]
    _need(keys[0] == at + prefix_length, "first key")
    top = 1 << (8 * width - 1)
    entries: list[Entry] = []
    for key, value, end in zip(keys, values, (*keys[1:], len(plain)), strict=True):
        _need(key <= value % top <= end <= len(plain), "order of offsets")
        whole = prefix + plain[key : value % top]
        _need(1 <= len(whole) <= 65536, "length of a key")
        _need(not entries or entries[-1][0] < whole, "order of keys")
        _need(value < top or value % top == end, "a tombstone has no value")
        entries.append((whole, None if value >= top else plain[value % top : end]))
    _need([hash32(key) for key, _ in entries] == list(hashes), "hashes")
    _need(block_bytes_of(entries) == (len(plain), width, prefix_length), "the longest prefix")
    return entries, list(hashes)


def _decode_data(data: bytes, offset: int, length: int, salt: bytes) -> Block:
    stored, kind, size = _open_part(data, offset, length, salt)
    _need(kind in (PLAIN, LZ4, ZSTD), "kind")
    plain = stored
    if kind == LZ4:
        plain = lz4.block.decompress(stored, uncompressed_size=size)
    elif kind == ZSTD:
        unpacker = zstandard.ZstdDecompressor()
        plain = unpacker.decompress(stored, max_output_size=size, allow_extra_data=False)
    _need(len(plain) == size, "decompressed size")
    entries, hashes = decode_block(plain)
    return Block(offset, length, kind, plain, entries, hashes)


def _check_filter(filter_: bytes, hashes: Sequence[int]) -> None:
    lines, probes = struct.unpack_from("<II", filter_)
    _need(lines >= 1 and 1 <= probes <= 16 and filter_[8:64] == bytes(56), "filter head")
    _need(len(filter_) == 64 + lines * LINE, "filter length")
    for hash_ in hashes:
        line, bits = filter_positions(hash_, lines, probes)
        at = 64 + line * LINE
        _need(all(filter_[at + bit // 8] >> bit % 8 & 1 for bit in bits), "filter lacks a key")


def decode(data: bytes) -> Table:
    """Checks all that the specification says of a table; raises TableError."""
    _need(len(data) >= HEAD + FOOTER, "length")
    _need(data[:16] == b"KVSTSST\n\1\0" + bytes(6), "head")
    salt, footer = data[16:32], data[-64:]
    data_end, filter_at, filter_length, index_at, index_length, properties_at = struct.unpack(
        "<6Q", footer[:48]
    )
    _need(footer[48:52] == b"\1\0\1\0" and footer[56:] == b"KVSTEND\n", "footer")
    _need(struct.unpack("<I", footer[52:56])[0] == crc32c(footer[:52], crc32c(salt)), "footer CRC")
    index = _plain_part(data, index_at, index_length, salt)
    (count,) = struct.unpack_from("<I", index)
    offsets = struct.unpack_from(f"<{count + 1}Q", index, 4)
    places = struct.unpack_from(f"<{count + 1}I", index, 4 + 8 * (count + 1))
    _need(offsets[0] == HEAD and offsets[-1] == data_end, "where data begins and ends")
    _need(places[0] == 4 + 12 * (count + 1) and places[-1] == len(index), "separators' offsets")
    separators = [index[a:b] for a, b in itertools.pairwise(places)]
    blocks = [_decode_data(data, a, b - a, salt) for a, b in itertools.pairwise(offsets)]
    for i, separator in enumerate(separators):
        _need(blocks[i].entries[-1][0] <= separator, "separator below its block")
        _need(i + 1 == count or separator < blocks[i + 1].entries[0][0], "separator above the next")
    _need(separators[-1] == blocks[-1].entries[-1][0], "last separator")
    hashes = [hash_ for block in blocks for hash_ in block.hashes]
    expected = data_end
    if filter_length:
        _need(filter_at == data_end + -data_end % LINE, "where the filter is")
        _need(not any(data[data_end:filter_at]), "zeros before the filter")
        _check_filter(_plain_part(data, filter_at, filter_length, salt), hashes)
        expected = filter_at + filter_length
    _need(index_at == expected and properties_at == index_at + index_length, "gaps")
    properties = _plain_part(data, properties_at, len(data) - FOOTER - properties_at, salt)
    entries = [entry for block in blocks for entry in block.entries]
    *_, first_lsn, last_lsn, block_bytes, filter_bits = struct.unpack_from("<7Q2I", properties)
    lsns = (first_lsn, last_lsn)
    _need(first_lsn <= last_lsn, "LSNs")
    _need(properties == _properties(entries, count, block_bytes, filter_bits, lsns), "properties")
    return Table(
        salt, data_end, filter_at, filter_length, index_at, index_length, properties_at, blocks,
        separators, lsns, entries[0][0], entries[-1][0],
    )  # fmt: skip
