"""Sorted tables as inputs: parts as sections, put together with right places and checksums.

    tag & 15   section
     0         a data block, plain
     1, 2      a data block of kind LZ4, Zstandard: u32 plain bytes, then the stored bytes
     3, 4, 5   filter, index, properties: the plain bytes
     6         is XORed over the footer's first 52 bytes
     7, 8      what the manifest says is the smallest, largest key (else: what the table says)
     9, 10     begins another table, in the same run, in an older one
     11        a key to look up, and to begin a scan with
    tag & 64   of an index: its offsets of data blocks are left as they are, not made right
    tag & 128  of a part: its checksum is wrong

``table.c`` does the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from kvstore.native import crc32c
from kvstore.sstable.format import KIND_PLAIN, KIND_ZSTD, LINE_BYTES, Footer, Head, part_seed
from tests.fuzz.sections import Section, split
from tests.support import table_oracle

__all__ = ["SALT", "TableInput", "parse", "sections_of"]

BLOCK, LZ4, ZSTD, FILTER, INDEX, PROPERTIES, FOOTER = range(7)
SMALLEST, LARGEST, NEXT_TABLE, NEXT_RUN, KEY = range(7, 12)
RAW_OFFSETS, WRONG_CRC = 64, 128
SALT = bytes(range(16))

_SEED = Head(SALT).seed
_U32 = struct.Struct("<I")
_FOOTER_FIELDS_BYTES = 52
_TABLES_MAX = 6


@dataclass
class TableInput:
    """One table: its sections, and with ``image`` its file."""

    run: int
    blocks: list[Section] = field(default_factory=list)
    parts: dict[int, Section] = field(default_factory=dict)

    def bound(self, tag: int) -> bytes | None:
        """What the manifest says of its keys."""
        return self.parts[tag][1] if tag in self.parts else None

    def image(self) -> bytes:
        """The file."""
        out = bytearray(Head(SALT).encode())
        offsets = [len(out)]
        for tag, body in self.blocks:
            kind = tag & 15
            if kind == KIND_PLAIN:
                _put(out, tag, body)
            else:
                _put(out, tag, body[4:], kind, int.from_bytes(body[:4], "little"))
            offsets.append(len(out))
        data_end, filter_offset = len(out), 0
        if FILTER in self.parts:
            out += bytes(-len(out) % LINE_BYTES)
            filter_offset = len(out)
            _put(out, *self.parts[FILTER])
        filter_length = len(out) - filter_offset if filter_offset else 0
        index_offset = len(out)
        if INDEX in self.parts:
            tag, index = self.parts[INDEX]
            _put(out, tag, index if tag & RAW_OFFSETS else _placed(index, offsets))
        properties_offset = len(out)
        if PROPERTIES in self.parts:
            _put(out, *self.parts[PROPERTIES])
        index_length = properties_offset - index_offset
        footer = bytearray(
            Footer(
                data_end, filter_offset, filter_length, index_offset, index_length,
                properties_offset,
            ).encode(_SEED)
        )  # fmt: skip
        tag, changes = self.parts.get(FOOTER, (FOOTER, b""))
        for at, change in enumerate(changes[:_FOOTER_FIELDS_BYTES]):
            footer[at] ^= change
        fields = bytes(footer[:_FOOTER_FIELDS_BYTES])
        _U32.pack_into(footer, len(fields), crc32c(fields, _SEED) ^ (tag & WRONG_CRC))
        return bytes(out + footer)


def _put(
    out: bytearray, tag: int, body: bytes, kind: int = KIND_PLAIN, plain_bytes: int = -1
) -> None:
    part = body + struct.pack("<BI", kind, len(body) if plain_bytes < 0 else plain_bytes)
    crc = crc32c(part, part_seed(len(out), _SEED))
    out += part + _U32.pack(crc ^ (tag & WRONG_CRC))


def _placed(index: bytes, offsets: list[int]) -> bytes:
    """With the offsets of the data blocks, as many as there is room for."""
    count = min(len(offsets), int.from_bytes(index[:4], "little") + 1, (len(index) - 4) // 8)
    if count <= 0:
        return index
    return index[:4] + struct.pack(f"<{count}Q", *offsets[:count]) + index[4 + 8 * count :]


def parse(data: bytes) -> tuple[list[TableInput], list[bytes]]:
    """The tables of an input, newest run first, and the keys to look up."""
    tables, keys = [TableInput(run=0)], []
    for tag, body in split(data):
        kind = tag & 15
        table = tables[-1]
        if kind <= KIND_ZSTD:
            table.blocks.append((tag, body))
        elif kind <= LARGEST:
            table.parts[kind] = (tag, body)
        elif kind <= NEXT_RUN and len(tables) < _TABLES_MAX:
            tables.append(TableInput(run=table.run + (kind == NEXT_RUN)))
        elif kind == KEY:
            keys.append(body)
    return tables, keys


def sections_of(image: bytes, *, plain: bool = False, bounds: bool = True) -> list[Section]:
    """The sections of a sound table; with ``plain`` compressed blocks hold their plain bytes."""
    table = table_oracle.decode(image)
    sections: list[Section] = []
    for block in table.blocks:
        stored = block.plain if plain else image[block.offset : block.offset + block.length - 9]
        sized = stored if block.kind == KIND_PLAIN else _U32.pack(len(block.plain)) + stored
        sections.append((block.kind, sized))
    properties_end = len(image) - table_oracle.FOOTER
    for tag, offset, length in (
        (FILTER, table.filter_offset, table.filter_length),
        (INDEX, table.index_offset, table.index_length),
        (PROPERTIES, table.properties_offset, properties_end - table.properties_offset),
    ):
        if length:
            sections.append((tag, image[offset : offset + length - table_oracle.TRAILER]))
    if bounds:
        sections += [(SMALLEST, table.smallest), (LARGEST, table.largest)]
    return sections
