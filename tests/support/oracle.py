"""The log format a second time, from the specification alone: struct and crcmod, no C of ours.

Slow, simple, and sans-I/O. Tests hold the writer and the reader against it; whoever changes the
format has to change it twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import crcmod.predefined

HEADER_BYTES = 4096
ENTRY_HEADER_BYTES = 24
PLAIN, CHECKED, PAD, MARK, SEAL = 1, 2, 3, 4, 5
NO_CLAIM = 0xFFFFFFFF
PAYLOAD_BYTES_MAX = 1 << 30
LSN_MAX = (1 << 56) - 1

_crcmod_crc32c = crcmod.predefined.mkCrcFun("crc-32c")


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C by crcmod, continuing from ``crc``."""
    return int(_crcmod_crc32c(data, crc))


@dataclass(frozen=True)
class Header:
    """The fields of a header block."""

    salt: bytes = bytes(range(16))
    log_id: bytes = b"log id, 16 bytes"
    segment_number: int = 1
    base_lsn: int = 1
    predecessor: tuple[int, int, int] = (0, 0, 0)
    flags: int = 0
    version: int = 1
    checksum_kind: int = 1
    header_bytes: int = HEADER_BYTES

    def encode(self) -> bytes:
        """The block, its CRC right whatever the fields say."""
        block = struct.pack("<8sHBBI", b"KVSTWAL\n", self.version, self.checksum_kind, self.flags,
                            self.header_bytes)  # fmt: skip
        block += self.log_id
        block += struct.pack("<QQ", self.segment_number, self.base_lsn)
        block += self.salt
        block += struct.pack("<QQQ", *self.predecessor)
        block += bytes(HEADER_BYTES - 4 - len(block))
        return block + struct.pack("<I", crc32c(block))


@dataclass(frozen=True)
class Entry:
    """An entry as it stands in a file at ``offset``."""

    offset: int
    lsn: int
    kind: int
    payload: bytes
    unsynced: int = 0


def encode_entry(
    salt: bytes, lsn: int, kind: int, payload: bytes = b"", unsynced: int = 0
) -> bytes:
    """The bytes of one entry, padded to a multiple of 8."""
    payload_crc = crc32c(payload) if kind == CHECKED else 0
    fields = struct.pack("<III", payload_crc, len(payload), unsynced)
    fields += lsn.to_bytes(7, "little") + bytes([kind])
    entry = struct.pack("<I", crc32c(fields, crc32c(salt))) + fields + payload
    return entry + bytes(-len(entry) % 8)


@dataclass
class LogImage:
    """A log file under construction; entries get the next LSN unless told otherwise."""

    header: Header = field(default_factory=Header)
    data: bytearray = field(default_factory=bytearray)
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data[:] = self.header.encode()
        self.next_lsn = self.header.base_lsn

    def add(self, kind: int, payload: bytes = b"", unsynced: int = 0) -> Entry:
        """Appends an entry."""
        entry = Entry(len(self.data), self.next_lsn, kind, payload, unsynced)
        self.data += encode_entry(self.header.salt, entry.lsn, kind, payload, unsynced)
        self.next_lsn += 1
        self.entries.append(entry)
        return entry

    def erase(self, entry: Entry) -> None:
        """Zeros where ``entry`` stood: its write never arrived."""
        size = entry_bytes(len(entry.payload))
        self.data[entry.offset : entry.offset + size] = bytes(size)


def entry_bytes(payload_bytes: int) -> int:
    """What an entry takes in the file."""
    return (ENTRY_HEADER_BYTES + payload_bytes + 7) // 8 * 8


class NotALog(Exception):
    """The header says: no log, or none that version 1 can read."""


@dataclass(frozen=True)
class Decoded:
    """What the rules make of a file: its entries, and how they end.

    ``corrupt_at`` is the offset of provably lost durable data (then ``entries`` stops there), None
    for an end that is legal.
    """

    entries: list[Entry]
    end_offset: int
    sealed: bool
    corrupt_at: int | None

    def user_entries(self) -> list[tuple[int, bytes]]:
        """(LSN, payload) of the PLAIN and CHECKED ones."""
        return [(e.lsn, e.payload) for e in self.entries if e.kind in (PLAIN, CHECKED)]


def _entry_header_at(data: bytes, at: int, seed: int) -> tuple[int, int, int, int, int] | None:
    """(payload CRC, length, unsynced, LSN, kind) when a valid entry header stands at ``at``."""
    if at + ENTRY_HEADER_BYTES > len(data):
        return None
    (header_crc,) = struct.unpack_from("<I", data, at)
    if header_crc != crc32c(data[at + 4 : at + ENTRY_HEADER_BYTES], seed):
        return None
    payload_crc, length, unsynced = struct.unpack_from("<III", data, at + 4)
    if length > PAYLOAD_BYTES_MAX:
        return None
    return (
        payload_crc,
        length,
        unsynced,
        int.from_bytes(data[at + 16 : at + 23], "little"),
        data[at + 23],
    )


def decode(data: bytes) -> Decoded:
    """A whole file, by the rules of the specification; raises NotALog."""
    block = data[:HEADER_BYTES]
    if len(block) < HEADER_BYTES or block[:8] != b"KVSTWAL\n":
        raise NotALog
    if struct.unpack_from("<I", block, HEADER_BYTES - 4) != (crc32c(block[:-4]),):
        raise NotALog
    if struct.unpack_from("<HBxI", block, 8) != (1, 1, HEADER_BYTES):
        raise NotALog
    (lsn,) = struct.unpack_from("<Q", block, 40)
    if not 1 <= lsn <= LSN_MAX:
        raise NotALog
    seed = crc32c(block[48:64])
    at = HEADER_BYTES
    entries: list[Entry] = []
    while True:
        found = _entry_header_at(data, at, seed)
        if found is None or found[3] != lsn:
            break
        payload_crc, length, unsynced, _, kind = found
        if not (PLAIN <= kind <= SEAL or kind >= 128):
            raise NotALog
        payload = data[at + ENTRY_HEADER_BYTES : at + ENTRY_HEADER_BYTES + length]
        if at + entry_bytes(length) > len(data) or (
            kind == CHECKED and crc32c(payload) != payload_crc
        ):
            break
        entries.append(Entry(at, lsn, kind, payload, unsynced))
        at += entry_bytes(length)
        lsn += 1
    # No more entries than fit can stand there.
    possible = lsn + (len(data) - at) // ENTRY_HEADER_BYTES
    vouched = any(_vouches(data, there, seed, lsn, possible) for there in range(at, len(data), 8))
    kinds = [entry.kind for entry in entries if entry.kind != PAD]
    return Decoded(entries, at, kinds[-1:] == [SEAL], at if vouched else None)


def _vouches(data: bytes, at: int, seed: int, missing_lsn: int, possible_lsn: int) -> bool:
    """Whether a later entry at ``at``, of an LSN that is possible there, says that ``missing_lsn``
    had been durable."""
    # Most places hold no header; spare them the checksum.
    if data[at : at + ENTRY_HEADER_BYTES].count(0) == ENTRY_HEADER_BYTES:
        return False
    found = _entry_header_at(data, at, seed)
    if found is None:
        return False
    _, _, unsynced, lsn, _ = found
    later = missing_lsn < lsn <= possible_lsn
    return later and unsynced != NO_CLAIM and lsn - 1 - unsynced >= missing_lsn


def encode_log(header: Header, entries: Iterable[tuple[int, bytes, int]]) -> bytes:
    """A whole file from (kind, payload, unsynced)."""
    image = LogImage(header)
    for kind, payload, unsynced in entries:
        image.add(kind, payload, unsynced)
    return bytes(image.data)
