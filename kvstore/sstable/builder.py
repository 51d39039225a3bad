"""Making tables: SortedRun, the entries of a memtable in order; TableBuilder, a file of them.

A table exists under its name only when all of it is on stable storage: it is written under a
temporary name, synced, renamed, and the directory synced. A crash before that leaves a file that
nobody takes for a table.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest

from kvstore.errors import CorruptionError, LimitError, StorageIOError
from kvstore.fs import File, FileSystem
from kvstore.fs.base import write_all
from kvstore.native import ffi, lib
from kvstore.paths import format_tmp
from kvstore.sstable.compression import KINDS, check_available, compress
from kvstore.sstable.format import (
    FOOTER_BYTES,
    HEAD_BYTES,
    KIND_PLAIN,
    SALT_BYTES,
    Footer,
    Head,
    Properties,
    encode_part,
)

if TYPE_CHECKING:
    from kvstore.sstable.view import Merge, View

__all__ = ["Added", "BuildStats", "SortedRun", "TableBuilder", "TableInfo"]

_FULL, _MORE, _END = lib.KV_FULL, lib.KV_MORE, lib.KV_END

# So many entries take half a millisecond to a whole one. Then others get the GIL for certain: the
# C calls that let go of it are so short that a waiting thread mostly wakes too late. Measured with
# a thread that sleeps 0.2 ms over and over: it waited up to 9 to 22 ms, with this pause up to 6.
_CHUNK_ENTRIES = 2048
_YIELD_SECONDS = 0.00005

_OUTPUT_BYTES = 1 << 20

# What the kernel takes in one write that is so large and so aligned it may keep in one huge page
# (ext4 since Linux 6.16, XFS for longer), and a mapped table is then found with fewer misses of the
# TLB: a get of 1 KB values from 200 MB takes 0.92 of the time (measured).
_WRITE_BYTES = 2 << 20


class SortedRun:
    """The entries of a dict (None: deleted) in the order of their keys. Not thread-safe.

    The dict must not change while this is made; afterwards it is not needed. Takes the memory of
    all keys and values, and 28 to 52 bytes an entry (32 more while it sorts). Linear in the number
    of entries and, where they share much, in the bytes of keys; 0.2 to 0.5 us an entry with the GIL
    held, in portions between which other threads run, and 0.05 to 0.2 without (measured).
    """

    def __init__(self, items: Mapping[bytes, bytes | None]) -> None:
        run = lib.kv_run_new()
        if not run:
            raise MemoryError
        self._data: list[Any] = []
        # What the run points into is referred to by its destructor, so it is there until then.
        self.c = ffi.gc(run, partial(_free_run, self._data))
        self.entries = 0
        """How many there are."""
        keys, values = iter(items), iter(items.values())
        while some := list(islice(keys, _CHUNK_ENTRIES)):
            self._add(some, list(islice(values, _CHUNK_ENTRIES)))
            time.sleep(_YIELD_SECONDS)
        if lib.kv_run_sort(self.c):
            raise MemoryError

    def _add(self, keys: list[bytes], values: list[bytes | None]) -> None:
        # All per-entry work stays in C: comprehensions would double it.
        try:
            value_lengths = array("i", map(len, values))  # type: ignore[arg-type]
        except TypeError:
            value_lengths = array("i", [-1 if value is None else len(value) for value in values])
            values = [value or b"" for value in values]
        pieces: list[Any] = [b""] * (2 * len(keys))
        pieces[::2] = keys
        pieces[1::2] = values
        data = ffi.from_buffer(b"".join(pieces))
        status = lib.kv_run_add(
            self.c,
            len(keys),
            data,
            len(data),
            ffi.from_buffer("uint32_t[]", array("I", map(len, keys))),
            ffi.from_buffer("int32_t[]", value_lengths),
            ffi.from_buffer("uint64_t[]", array("Q", map(xxh3_64_intdigest, keys))),
        )
        if status == -errno.EINVAL:
            raise LimitError("a key or value of a length that no table can hold")
        if status:
            raise MemoryError
        self._data.append(data)
        self.entries += len(keys)


def _free_run(_data: object, run: Any) -> None:
    lib.kv_run_free(run)


@dataclass(frozen=True)
class TableInfo:
    """A table that was finished: what it says of itself, the bytes of its file."""

    properties: Properties
    file_bytes: int


@dataclass(frozen=True)
class Added:
    """How far ``add_merge`` came.

    ``exhausted``: nothing is left in the source. ``full``: the table has reached its size; what is
    left belongs into another. Neither: call again.
    """

    exhausted: bool
    full: bool


@dataclass(frozen=True)
class BuildStats:
    """What a build has taken in and put out so far.

    ``entries_in`` and ``bytes_in`` (keys and values): taken from the source. Of these ``shadowed``
    entries were older versions, and ``dropped`` ones tombstones that hide nothing any more.
    """

    entries_in: int
    bytes_in: int
    shadowed: int
    dropped: int
    entries: int
    file_bytes: int


class TableBuilder:
    """Builds one table. Not thread-safe; each call does a bounded piece of work.

    ``path`` is the table's; until it is whole the file has its temporary name. ``block_bytes`` and
    ``filter_bits_per_key`` as in Options, ``compression`` "none", "lz4" or "zstd" (LimitError when
    its package is missing). ``salt``: 16 bytes; random if not given.

    Calls raise StorageIOError (DiskFullError) when the file cannot be written. The build is over
    then, as after any error here: the temporary file is gone, if it can be removed at all.
    """

    def __init__(
        self,
        fs: FileSystem,
        path: str,
        *,
        block_bytes: int,
        filter_bits_per_key: int,
        compression: str = "none",
        salt: bytes | None = None,
    ) -> None:
        check_available(compression)
        if not (0 <= block_bytes <= 1 << 20 and 0 <= filter_bits_per_key <= 32):
            raise LimitError(f"block_bytes {block_bytes}, filter bits {filter_bits_per_key}")
        self.path = path
        self._fs = fs
        self._kind = KINDS[compression]
        self._block_bytes = block_bytes
        self._filter_bits_per_key = filter_bits_per_key
        self._head = Head(os.urandom(SALT_BYTES) if salt is None else salt)
        config = ffi.new("kv_builder_config *")
        config.seed = self._head.seed
        config.block_bytes = block_bytes
        config.filter_bits = filter_bits_per_key
        config.position = HEAD_BYTES
        config.compress = self._kind != KIND_PLAIN
        builder = lib.kv_builder_new(config)
        if not builder:
            raise MemoryError
        self._c = ffi.gc(builder, lib.kv_builder_free)
        self._info = ffi.new("kv_builder_info *")
        self._size = ffi.new("size_t *")
        self._chunk = ffi.new("kv_chunk *")
        self._tmp = format_tmp(path)
        self._file: File | None = None
        """Made when there is something to write, given up when the build is over."""
        self._unwritten = bytearray(self._head.encode())
        self._written = 0
        self._over = False

    def add_run(self, run: SortedRun, below: View | None, entries_max: int) -> bool:
        """Takes at most ``entries_max`` more entries of a run; True when none is left.

        Tombstones are dropped unless a table of ``below`` may hold an entry of their key.
        """
        below_c = ffi.NULL if below is None else below.c
        with self._ending_on_error():
            while True:
                taken = self._entries_in()
                status = lib.kv_builder_add_run(self._c, run.c, below_c, entries_max, 0)
                entries_max -= self._entries_in() - taken
                if status == _END:
                    return True
                if status == _MORE:
                    return False
                self._resolve(status)

    def add_merge(
        self, merge: Merge, below: View | None, entries_max: int, stop_bytes: int = 0
    ) -> Added:
        """Takes at most about ``entries_max`` more entries of a merge, older versions counted.

        It ends early when the file has reached ``stop_bytes`` (0: no such bound). Tombstones are
        dropped unless a table of ``below`` may hold an entry of their key. Damage in the source
        is raised as reading it would: CorruptionError, or StorageIOError of its file.
        """
        below_c = ffi.NULL if below is None else below.c
        chunk = self._chunk
        with self._ending_on_error():
            while True:
                taken = self._entries_in()
                status = lib.kv_builder_add_merge(
                    self._c, merge.c, below_c, max(entries_max, 0), stop_bytes, chunk
                )
                entries_max -= self._entries_in() - taken
                if status in (_END, _MORE):
                    full = 0 < stop_bytes <= self._info.position
                    return Added(status == _END, full and status == _MORE)
                if status in (lib.KV_NEED_BLOCK, lib.KV_DAMAGED):
                    merge.resolve(status, chunk)
                else:
                    self._resolve(status)

    def finish(self, first_lsn: int, last_lsn: int) -> TableInfo | None:
        """Makes the table durable under its name; None, and no file, when nothing was added.

        ``first_lsn`` and ``last_lsn``: of the writes in the table. When it returns, file and name
        survive a crash. After an error the name may be there or not; the table is not needed.
        """
        with self._ending_on_error():
            self._check(lib.kv_builder_end_data(self._c))
            self._store_block()
            if not self.stats().entries:
                self.abandon()
                return None
            self._check(lib.kv_builder_end_parts(self._c))
            self._take_output(0)
            info = self._add_end(first_lsn, last_lsn)
            file = self._open()
            self._write(file, len(self._unwritten))
            file.sync()
            file.close()
            self._fs.rename(self._tmp, self.path)
            self._over = True
            self._fs.sync_directory(os.path.dirname(self.path) or ".")
            return info

    def abandon(self) -> None:
        """Gives the build up and removes its temporary file, if it can. Idempotent."""
        if self._over:
            return
        self._over = True
        if self._file is not None:
            with contextlib.suppress(StorageIOError):
                self._file.close()
            with contextlib.suppress(StorageIOError):
                self._fs.unlink(self._tmp)

    def stats(self) -> BuildStats:
        """What has come in and out so far; ``file_bytes`` lack the block that is open."""
        info = self._info
        lib.kv_builder_info_get(self._c, info)
        return BuildStats(
            info.entries_in,
            info.bytes_in,
            info.shadowed,
            info.dropped,
            info.entries,
            info.position,
        )

    @contextlib.contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        if self._over:
            raise RuntimeError(f"the build of {self.path} is over")
        try:
            yield
        except BaseException:
            self.abandon()
            raise

    def _entries_in(self) -> int:
        lib.kv_builder_info_get(self._c, self._info)
        entries: int = self._info.entries_in
        return entries

    def _check(self, status: int) -> None:
        """Raises what the C calls bad news."""
        if status == -errno.ENOMEM:
            raise MemoryError
        if status == -errno.EOVERFLOW:
            raise LimitError(f"{self.path}: more entries than one table can hold")
        if status == -errno.EINVAL:
            # Neither a run nor a sound table gives keys in another order, and a table is checked.
            raise CorruptionError(self.path, self._info.position, "its keys came out of order")
        if status:
            raise RuntimeError(f"the build of {self.path} stopped with status {status}")

    def _resolve(self, status: int) -> None:
        if status != _FULL:
            self._check(status)
        self._store_block()
        self._take_output(_OUTPUT_BYTES)
        while len(self._unwritten) >= _WRITE_BYTES:
            self._write(self._open(), _WRITE_BYTES)

    def _store_block(self) -> None:
        """Gives the builder what is to be stored for the block that waits, if one does."""
        block = lib.kv_builder_block(self._c, self._size)
        size = self._size[0]
        if size:
            stored = compress(self._kind, bytes(ffi.buffer(block, size)))
            if stored is None:
                self._check(lib.kv_builder_put(self._c, block, size, KIND_PLAIN))
            else:
                self._check(lib.kv_builder_put(self._c, stored, len(stored), self._kind))

    def _take_output(self, least: int) -> None:
        """Takes the output that waits, if it is so much."""
        output = lib.kv_builder_output(self._c, self._size)
        size = self._size[0]
        if size >= least and size:
            self._unwritten += ffi.buffer(output, size)
            lib.kv_builder_taken(self._c)

    def _write(self, file: File, size: int) -> None:
        write_all(file, bytes(self._unwritten[:size]), self._written)
        self._written += size
        del self._unwritten[:size]

    def _open(self) -> File:
        """The file, made by the first write."""
        if self._file is None:
            self._file = self._fs.open(self._tmp, create=True)
            self._file.truncate(0)  # what an earlier build of that name may have left
        return self._file

    def _add_end(self, first_lsn: int, last_lsn: int) -> TableInfo:
        """Adds properties and footer behind all other parts."""
        info = self._info
        lib.kv_builder_info_get(self._c, info)
        properties = Properties(
            entries=info.entries,
            tombstones=info.tombstones,
            data_blocks=info.blocks,
            key_bytes=info.key_bytes,
            value_bytes=info.value_bytes,
            first_lsn=first_lsn,
            last_lsn=last_lsn,
            block_bytes=self._block_bytes,
            filter_bits_per_key=self._filter_bits_per_key,
            smallest=self._key(last=False),
            largest=self._key(last=True),
        )
        offset: int = info.position
        footer = Footer(
            info.data_end,
            info.filter_offset,
            info.filter_length,
            info.index_offset,
            info.index_length,
            offset,
        )
        seed = self._head.seed
        end = encode_part(properties.encode(), offset, seed) + footer.encode(seed)
        assert len(end) > FOOTER_BYTES
        self._unwritten += end
        return TableInfo(properties, offset + len(end))

    def _key(self, *, last: bool) -> bytes:
        key = lib.kv_builder_key(self._c, last, self._size)
        return bytes(ffi.buffer(key, self._size[0]))
