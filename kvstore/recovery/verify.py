"""Verifying a store: every file that counts is read, and what is wrong with it is told.

Nothing is changed, and nothing is decided: opening a store decides what to do about damage.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kvstore import paths
from kvstore.errors import CorruptionError, FormatError, KVStoreError, StorageIOError
from kvstore.fs import FileSystem
from kvstore.manifest import ManifestLog, TableMeta, Version
from kvstore.memtable import MemTable
from kvstore.recovery.scan import LogState, Segment, list_segments, read_log
from kvstore.sstable import Finding, Table, TableCheck

__all__ = ["FileDamage", "VerifyReport", "verify_store"]

Progress = Callable[[int, int], None]

_LIVE_TRIES = 3
_TOLD_TWICE = ("entries", "tombstones", "key_bytes", "value_bytes", "first_lsn", "last_lsn")


@dataclass(frozen=True)
class FileDamage:
    """Something wrong in a file; ``offset`` in bytes from its start."""

    path: str
    offset: int
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """What verifying a store found; plain data, ``to_json`` for machines.

    ``files``         manifest, sorted tables and log segments read
    ``bytes``         their sizes together; of the log, up to its end
    ``blocks``        data blocks of tables found sound
    ``entries``       entries in them: keys, deleted ones counted
    ``log_entries``   log entries found sound
    ``torn_bytes``    at the log's end: writes that a crash stopped, never acknowledged; no damage
    ``damage``        what is wrong, file by file
    """

    path: str
    files: int
    bytes: int
    blocks: int
    entries: int
    log_entries: int
    torn_bytes: int
    damage: tuple[FileDamage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage

    def summary(self) -> str:
        """One line for people."""
        read = f"{self.files} files, {self.bytes} bytes, {self.entries} entries in tables"
        read += f", {self.log_entries} in the log"
        if self.torn_bytes:
            read += f", {self.torn_bytes} torn bytes at its end (never acknowledged)"
        verdict = "no damage" if self.ok else f"{len(self.damage)} places damaged"
        return f"{self.path}: {verdict} ({read})"

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers; ``ok`` too."""
        return {**asdict(self), "ok": self.ok}

    def to_json(self) -> str:
        """The same as a JSON object."""
        return json.dumps(self.to_dict())


def verify_store(
    fs: FileSystem,
    directory: str,
    *,
    version: Version | None = None,
    tables: Mapping[int, Table] | None = None,
    durable_lsn: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Reads every file of the store in ``directory`` that counts. O(bytes), in bounded memory.

    Nobody writes there meanwhile: the caller holds the lock. Or it is the store that is open here:
    then ``version`` is that of one moment, ``tables`` are the open ones by number, which are read
    even when their names are gone, and what stands in the log behind ``durable_lsn`` is not judged,
    for it is being written. No log segment may be given up until this returns.

    ``progress(files done, files in all)`` is called after each table and after the log.

    Raises StorageIOError when the directory cannot be read, and FormatError when a table needs a
    package that is not installed; everything else is damage in the report.
    """
    live = version is not None
    run = _Verification(fs, directory, tables or {}, progress)
    said = run.check_manifest(tries=_LIVE_TRIES if live else 1)
    run.check(version or said, durable_lsn)
    return run.report()


class _Verification:
    """One run: where it stands, and what it found."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        tables: Mapping[int, Table],
        progress: Progress | None,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._tables = tables
        self._progress = progress
        self._damage: list[FileDamage] = []
        self._files = self._files_total = self._bytes = 0
        self._blocks = self._entries = self._log_entries = self._torn_bytes = 0

    def report(self) -> VerifyReport:
        return VerifyReport(
            path=self._directory,
            files=self._files,
            bytes=self._bytes,
            blocks=self._blocks,
            entries=self._entries,
            log_entries=self._log_entries,
            torn_bytes=self._torn_bytes,
            damage=tuple(self._damage),
        )

    def check_manifest(self, tries: int) -> Version | None:
        """What it says; Version.EMPTY when there is none, None when it is damaged.

        While it is being written it may be found half-way, but not again and again.
        """
        for left in reversed(range(tries)):
            try:
                found = ManifestLog.read(self._fs, self._directory)
                size = self._size_of(found[1]) if found else 0
            except KVStoreError as error:  # noqa: PERF203 (it is tried again)
                if not left:
                    self._note(error, self._path(paths.CURRENT))
            else:
                if found is None:
                    return Version.EMPTY
                self._count(1, size)
                return found[0]
        return None

    def check(self, version: Version | None, durable_lsn: int | None) -> None:
        """The tables and the log; of an unknown version, all that is there."""
        segments = list_segments(self._fs, self._directory)
        metas: dict[int, TableMeta | None]
        if version is None:
            names = self._fs.list(self._directory)
            metas = {number: None for number in map(paths.parse_table, names) if number}
            first = segments[0].number if segments else 0
            version = replace(Version.EMPTY, log_number=first)
        else:
            metas = {meta.number: meta for meta in version.tables()}
        segments = [segment for segment in segments if segment.number >= version.log_number]
        self._files_total = self._files + len(metas) + len(segments)
        for number, meta in metas.items():
            self._check_table(self._path(paths.format_table(number)), meta)
        self._check_log(segments, version, durable_lsn)

    # ---- tables ----

    def _check_table(self, path: str, meta: TableMeta | None) -> None:
        table = self._open_table(path, meta)
        if table is not None:
            if meta is not None:
                self._note_all(path, _contradictions(table, meta))
            check = TableCheck(table)
            self._note_all(path, check.findings())
            self._blocks += check.blocks
            self._entries += check.entries
        self._count(1, table.size if table is not None else 0)

    def _open_table(self, path: str, meta: TableMeta | None) -> Table | None:
        try:
            if meta is None:
                return Table.open(self._fs, path)
            if meta.number in self._tables:
                return self._tables[meta.number]
            if not self._fs.exists(path):
                raise CorruptionError(path, 0, "the manifest names this table, and it is missing")
            return Table.open(
                self._fs, path, smallest=meta.smallest, largest=meta.largest, file_bytes=meta.bytes
            )
        except KVStoreError as error:
            self._note(error, path)
            return None

    def _size_of(self, name: str) -> int:
        file = self._fs.open_read_only(self._path(name))
        try:
            return file.size()
        finally:
            file.close()

    # ---- the log ----

    def _check_log(
        self, segments: list[Segment], version: Version, durable_lsn: int | None
    ) -> None:
        """Reads it as salvage does: over damage, and on."""
        left = list(segments)
        unreadable: set[str] = set()
        state = LogState()
        while left:
            try:
                state = read_log(self._fs, left, "salvage", _Discarded(), version)
                break
            except (StorageIOError, FormatError) as error:
                path = error.path if isinstance(error, FormatError) else error.filename
                self._note(error, path)
                unreadable.add(path)
                left = [segment for segment in segments if segment.path not in unreadable]
        for found in state.damage:
            judged = durable_lsn is None or found.lsn_first <= durable_lsn
            if judged and found.path not in unreadable:
                self._damage.append(FileDamage(found.path, found.offset, found.reason))
        self._log_entries = state.entries
        if state.end is not None and durable_lsn is None:
            self._torn_bytes = state.end.torn_bytes
        self._count(len(segments), state.log_bytes)

    # ---- counting ----

    def _note(self, error: KVStoreError, path: str) -> None:
        """An error as damage of ``path``, unless it says itself of which file."""
        if isinstance(error, CorruptionError):
            self._damage.append(FileDamage(error.path, error.offset, error.reason))
        elif isinstance(error, FormatError):
            self._damage.append(FileDamage(error.path, 0, error.reason))
        else:
            self._damage.append(FileDamage(path, 0, str(error)))

    def _note_all(self, path: str, findings: Iterable[Finding]) -> None:
        self._damage += (FileDamage(path, offset, reason) for offset, reason in findings)

    def _count(self, files: int, size: int) -> None:
        self._files += files
        self._bytes += size
        if self._progress is not None:
            self._progress(self._files, max(self._files, self._files_total))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


class _Discarded(MemTable):
    """Takes what the log holds and keeps none of it."""

    def load(self, data: bytes, operations: list[int]) -> None:
        """Nothing."""

    def loaded(self, first_lsn: int, last_lsn: int) -> None:
        """Nothing."""


def _contradictions(table: Table, meta: TableMeta) -> Iterator[Finding]:
    """What the manifest says of a table, and the table itself does not."""
    try:
        properties = table.read_properties()
    except KVStoreError:
        return  # TableCheck tells
    for name in _TOLD_TWICE:
        said, is_so = getattr(meta, name), getattr(properties, name)
        if said != is_so:
            reason = f"{name} of the table is {is_so}, the manifest says {said}"
            yield Finding(table.footer.properties_offset, reason)
