"""Table: one sorted table file, open for reading.

The file is mapped; the C side reads each part once by pread and checks it before it trusts the
mapping, so that a bad sector is an error and not a signal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kvstore.errors import ChecksumMismatch, CorruptionError, KVStoreError, storage_error
from kvstore.fs import File, FileSystem
from kvstore.native import ffi, lib
from kvstore.sstable.cache import BlockCache
from kvstore.sstable.check import Finding, TableCheck
from kvstore.sstable.format import (
    FOOTER_BYTES,
    HEAD_BYTES,
    TRAILER_BYTES,
    Properties,
    decode_ends,
)
from kvstore.sstable.parts import read_block, read_plain_part

__all__ = ["Table"]

_identities = itertools.count(1)
_PARTS = {
    lib.KV_PART_DATA: "a data block",
    lib.KV_PART_FILTER: "the filter",
    lib.KV_PART_INDEX: "the index",
}


class Table:
    """An open table; made by ``Table.open``. Thread-safe.

    Nothing needs to be closed: file and mapping go with the last reference to ``c``, the table as C
    knows it, so no thread can read what another has closed. The file may lose its name meanwhile.
    """

    __slots__ = (
        "_properties",
        "c",
        "file",
        "footer",
        "head",
        "identity",
        "largest",
        "map",
        "path",
        "seed",
        "size",
        "smallest",
    )

    def __init__(
        self,
        file: File,
        *,
        smallest: bytes | None,
        largest: bytes | None,
        file_bytes: int | None,
    ) -> None:
        self.path = path = file.path
        self.file = file
        self.size = size = file.size()
        if file_bytes is not None and size != file_bytes:
            reason = f"the file has {size} bytes, and {file_bytes} when it was finished"
            raise CorruptionError(path, min(size, file_bytes), reason)
        self.head, self.footer = decode_ends(
            file.pread(HEAD_BYTES, 0),
            file.pread(FOOTER_BYTES, max(size - FOOTER_BYTES, 0)),
            path,
            size,
        )
        self.seed = self.head.seed
        self._properties: Properties | None = None
        self.smallest = self.properties().smallest if smallest is None else smallest
        self.largest = self.properties().largest if largest is None else largest
        self.map = file.map()
        if len(self.map) != size:
            raise CorruptionError(path, len(self.map), "the file was cut while it was opened")
        self.identity = next(_identities)
        """Of this object, among all there ever are: what its blocks are cached under."""
        self.c = self._make()

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        path: str,
        *,
        smallest: bytes | None = None,
        largest: bytes | None = None,
        file_bytes: int | None = None,
    ) -> Table:
        """Opens the table at ``path``; O(1), no data is read.

        ``smallest``, ``largest`` (keys) and ``file_bytes`` are what the manifest says; None: what
        the file says itself. Raises CorruptionError, FormatError (no table, or of a newer version),
        StorageIOError.
        """
        file = fs.open_read_only(path)
        try:
            return cls(file, smallest=smallest, largest=largest, file_bytes=file_bytes)
        except BaseException:
            file.close()
            raise

    def _make(self) -> Any:
        footer, file = self.footer, self.file
        fd = file.fileno()
        layout = ffi.new(
            "kv_table_layout *",
            {
                "fd": -1 if fd is None else fd,
                "seed": self.seed,
                "size": self.size,
                "data_end": footer.data_end,
                "filter_offset": footer.filter_offset,
                "filter_length": footer.filter_length,
                "index_offset": footer.index_offset,
                "index_length": footer.index_length,
            },
        )
        smallest, largest = self.smallest, self.largest
        memory = ffi.from_buffer(self.map)
        c = lib.kv_table_new(memory, layout, smallest, len(smallest), largest, len(largest))
        if not c:
            raise MemoryError
        return ffi.gc(c, partial(_release, file, memory))

    def properties(self) -> Properties:
        """What the table says of itself; read and checked the first time."""
        if self._properties is None:
            self._properties = self.read_properties()
        return self._properties

    def read_properties(self) -> Properties:
        """The same, read and checked each time."""
        begin = self.footer.properties_offset
        length = self.size - FOOTER_BYTES - begin
        plain = read_plain_part(self.file, begin, length, self.seed, "the properties")
        return Properties.decode(plain, self.path, begin)

    def fault(self) -> KVStoreError:
        """The error for KV_DAMAGED: ChecksumMismatch, CorruptionError or StorageIOError."""
        fault = ffi.new("kv_table_fault *")
        lib.kv_table_fault_get(self.c, fault)
        what = _PARTS.get(fault.part, "the table")
        if fault.error:
            return storage_error(fault.error, f"read of {what} at offset {fault.offset}", self.path)
        if fault.malformed:
            reason = f"{what} has a right checksum, but is malformed"
            return CorruptionError(self.path, fault.offset, reason)
        return ChecksumMismatch(self.path, fault.offset, what, fault.expected, fault.actual)

    def read_block(self, block: int, cache: BlockCache | None = None) -> bytes:
        """The plain bytes of data block ``block``, checked; from the cache, or read and kept there.

        Of a table that the C side has prepared: it is what asks for blocks. Raises CorruptionError,
        StorageIOError, and FormatError when a package that it needs is not installed.
        """
        if cache is not None:
            kept = cache.get(self.identity, block)
            if kept is not None:
                return kept
        place = ffi.new("uint64_t[2]")
        lib.kv_table_block_at(self.c, block, place, place + 1)
        plain = read_block(self.file, place[0], place[1] + TRAILER_BYTES, self.seed)
        if lib.kv_table_check_plain(self.c, block, plain, len(plain)):
            raise self.fault()
        if cache is not None:
            cache.put(self.identity, block, plain)
        return plain

    def verify(self) -> Iterator[Finding]:
        """Reads all of the file again and yields what is wrong: (offset, reason). O(bytes).

        About a microsecond an entry, and the memory of a block. TableCheck says more.
        """
        return TableCheck(self).findings()


def _release(file: File, _memory: object, c: Any) -> None:
    release: Callable[[Any], None] = lib.kv_table_free
    release(c)
    file.close()
