"""Tree: what a store holds at one moment, and the only place where that changes.

    active memtable        what is being written
    sealed memtables       full, being flushed; at most SEALED_MAX
    version, view          the sorted tables: which there are, and how to read them

A TreeState is immutable: a reader takes it once, by one attribute, and needs no lock; whoever holds
it keeps memtables and tables alive, also when their files have lost their names. It changes in two
ways: ``seal`` (a writer) and ``install`` (the background worker, after its edit is durable in the
manifest). What was replaced is removed only then.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from kvstore import paths
from kvstore.errors import CorruptionError, StorageIOError
from kvstore.fs import FileSystem
from kvstore.manifest import ManifestLog, TableMeta, Version, VersionEdit
from kvstore.memtable import ABSENT, MemTable
from kvstore.native import ffi
from kvstore.options import Options
from kvstore.sstable import BlockCache, Get, Table, View

__all__ = ["SEALED_MAX", "Tree", "TreeState", "open_table"]

SEALED_MAX = 1


@dataclass(frozen=True)
class TreeState:
    """All that can be read at one moment."""

    memtable: MemTable
    sealed: tuple[MemTable, ...]
    """Newest first."""
    version: Version
    view: View
    recent: Mapping[bytes, bytes | None] = field(init=False)
    """What the active memtable holds now."""
    get: Get = field(init=False)
    """``get(key)``: the value; None when there is none."""
    get_resident: Get = field(init=False)
    """The same, or NOT_RESIDENT when that might have to be read from the disk."""

    def __post_init__(self) -> None:
        newer = tuple(memtable.entries for memtable in (self.memtable, *self.sealed))
        object.__setattr__(self, "recent", newer[0])
        object.__setattr__(self, "get", self.view.make_get(newer, ABSENT))
        object.__setattr__(self, "get_resident", self.view.make_get_resident(newer, ABSENT))

    def fetch(self, key: bytes) -> Any:
        """``get`` of a key that was NOT_RESIDENT: the next ``get_resident`` finds it in memory."""
        self.view.fetch(key)
        return self.get(key)


def open_table(fs: FileSystem, directory: str, meta: TableMeta) -> Table:
    """Opens the table that ``meta`` describes.

    Raises CorruptionError (missing, or not of that size, or damaged), StorageIOError.
    """
    path = os.path.join(directory, paths.format_table(meta.number))
    if not fs.exists(path):
        raise CorruptionError(path, 0, "the manifest names this table, and it is missing")
    return Table.open(fs, path, smallest=meta.smallest, largest=meta.largest, file_bytes=meta.bytes)


class Tree:
    """The memtables and tables of an open store.

    Thread-safe as follows: anyone may read ``state``; ``seal`` is the writers', who exclude each
    other; ``install`` is for one thread at a time.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        options: Options,
        *,
        version: Version,
        tables: Mapping[int, Table],
        manifest: ManifestLog | None,
        memtable: MemTable,
        log_id: bytes,
    ) -> None:
        self.fs, self.directory, self.options = fs, directory, options
        self.cache = BlockCache(options.block_cache_bytes)
        self.read_stats = ffi.new("kv_view_stats *")
        """Counters of look-ups in tables, shared by all views of the tree."""
        self._manifest = manifest
        self._log_id = log_id
        self._tables = dict(tables)
        self._next_table = version.next_table
        self._lock = threading.Lock()
        self._unsettled: list[int] = []
        self.state = TreeState(memtable, (), version, self.view_of(version))
        memtable.older_may_hold = self._older_may_hold

    def _older_may_hold(self, key: bytes) -> bool:
        """Whether anything but the active memtable may have an entry of ``key``. Reads no disk."""
        state = self.state
        for memtable in state.sealed:
            if key in memtable.entries:
                return True
        return bool(state.view.tables) and state.view.may_contain(key)

    # ---- the writers' side ----

    def seal(self) -> bool:
        """Begins a new memtable; False when as many are sealed as may be. O(1)."""
        with self._lock:
            state = self.state
            if len(state.sealed) >= SEALED_MAX:
                return False
            sealed = (state.memtable, *state.sealed)
            memtable = MemTable(state.memtable.last_lsn + 1)
            memtable.older_may_hold = self._older_may_hold
            self.state = TreeState(memtable, sealed, state.version, state.view)
            return True

    def version_and_tables(self, check: Callable[[], None]) -> tuple[Version, Mapping[int, Table]]:
        """The version of now, and its open tables by number; ``check`` raises once it is closed."""
        while True:
            check()
            version, tables = self.state.version, self._tables
            if all(meta.number in tables for meta in version.tables()):
                return version, tables

    # ---- the background's side ----

    def table_path(self, number: int) -> str:
        """Where table ``number`` is, or will be."""
        return os.path.join(self.directory, paths.format_table(number))

    def ensure_manifest(self) -> None:
        """Has a manifest that takes edits: to be called before a table is built.

        Makes it, if there is none yet, so that tables without a manifest are known for damage;
        opens that for which there was no room before; settles one whose last edit failed. So while
        a disk stays full nothing is built again and again beside what may not be removed yet.
        """
        if self._manifest is None and self.state.version.log_id:
            self._manifest = ManifestLog.open(self.fs, self.directory)
        elif self._manifest is None:
            version = self.state.version.apply(VersionEdit(log_id=self._log_id))
            self._manifest = ManifestLog.create(self.fs, self.directory, version)
        elif not self._manifest.settled:
            self._manifest.roll()
            self._remove_unsettled()

    def new_number(self) -> int:
        """A number for a new table, never used before."""
        number = self._next_table
        self._next_table += 1
        return number

    def view_of(self, version: Version, levels: Iterable[int] | None = None) -> View:
        """A view of some levels of a version, all by default."""
        runs: list[list[TableMeta]] = []
        for level in range(len(version.levels)) if levels is None else levels:
            tables = version.levels[level]
            runs += [[meta] for meta in tables] if level == 0 else [list(tables)]
        return self.view_of_runs(runs)

    def view_of_runs(self, runs: Iterable[Iterable[TableMeta]]) -> View:
        """A view of runs of tables, newest first."""
        tables = [[self._tables[meta.number] for meta in run] for run in runs]
        return View([run for run in tables if run], self.cache, self.read_stats)

    def install(
        self,
        edit: VersionEdit,
        *,
        built: Mapping[int, Table] | None = None,
        flushed: MemTable | None = None,
    ) -> None:
        """Makes an edit durable, then visible, then removes the files that it replaces.

        ``built``: the tables that it adds, already durable under their names. When the edit cannot
        be written nothing changes, and their files stay until a later edit has settled that this
        one never was: it may be on the disk, and would name them after a crash.
        """
        built = built or {}
        try:
            self.ensure_manifest()
        except BaseException:
            self.remove(built)  # no edit names them yet
            raise
        assert self._manifest is not None
        try:
            version = self._manifest.append(edit)
        except BaseException:
            if self._manifest.settled:
                self.remove(built)  # a full disk needs the room, and is tried again and again
            else:
                self._unsettled += built
            raise
        tables = {**self._tables, **built}
        self._tables = {meta.number: tables[meta.number] for meta in version.tables()}
        view = self.view_of(version)
        with self._lock:
            state = self.state
            sealed = tuple(memtable for memtable in state.sealed if memtable is not flushed)
            self.state = TreeState(state.memtable, sealed, version, view)
        self._remove_unsettled()
        self.remove(number for number in tables if number not in self._tables)

    def _remove_unsettled(self) -> None:
        unsettled, self._unsettled = self._unsettled, []
        self.remove(unsettled)

    def remove(self, numbers: Iterable[int]) -> None:
        """Removes files that no version names. What cannot be removed is tried again on opening.

        Readers that still have them mapped go on reading: the space is freed when the last is done.
        """
        for number in numbers:
            with contextlib.suppress(StorageIOError):
                self.fs.unlink(self.table_path(number))

    @property
    def next_table(self) -> int:
        """The number that the next new table gets."""
        return self._next_table

    def refuse(self, refusal: Callable[[], NoReturn]) -> None:
        """From now on there is nothing to read, and ``state.get`` calls ``refusal``. What a reader
        has already taken it keeps."""
        self._tables = {}
        state = TreeState(MemTable(), (), self.state.version, self.view_of_runs([]))
        for name in ("get", "get_resident"):
            object.__setattr__(state, name, lambda _: refusal())
        self.state = state

    def close(self, newest_segment: int) -> None:
        """Closes the manifest, after noting the log's last segment there."""
        manifest, self._manifest = self._manifest, None
        if manifest is None:
            return
        try:
            if newest_segment > self.state.version.newest_segment:
                manifest.append(VersionEdit(newest_segment=newest_segment))
        finally:
            manifest.close()

    def abandon(self) -> None:
        """Closes the manifest as it is."""
        manifest, self._manifest = self._manifest, None
        if manifest is not None:
            manifest.close()
