"""ManifestLog: the log of edits that makes versions durable, and which file of it counts.

A manifest is a log file (wal/format.py) of edits (edit.py). The first one, a snapshot, makes a
version out of nothing; each further one changes it. CURRENT (current.py) names the manifest that
counts. A new manifest is made in this order, so that a crash leaves one or the other::

    1. MANIFEST-n with its snapshot, durable, and its name too
    2. CURRENT.tmp, durable
    3. CURRENT.tmp is renamed to CURRENT, and the directory synced: from here on n counts
    4. the manifests before it are removed; one that stays is an orphan

Behind each edit stands a MARK, a witness that the edit had been durable. So damage to any edit is
reported, the last one included; only a crash between the two leaves an edit without a witness, and
nobody had been told of it. When it cannot be written: see ``append``.

An edit that failed at its write or sync may be on the disk or not. The log goes on in a new
manifest, whose snapshot is the version without it: when CURRENT names that, it is settled that the
edit is not there. Until then both answers are possible, and a file that the edit adds must stay.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvstore import paths
from kvstore.errors import (
    ClosedError,
    CorruptionError,
    DiskFullError,
    ForkedError,
    FormatError,
    KVStoreError,
    LimitError,
    PoisonedError,
    StorageIOError,
)
from kvstore.fs import File, FileSystem
from kvstore.manifest.current import prepare_current, publish_current, read_current
from kvstore.manifest.edit import VersionEdit
from kvstore.manifest.version import Version, VersionError
from kvstore.wal import IoUringConfig, LogReader, PortableWalWriter
from kvstore.wal.format import CHECKED, ENTRY_HEADER_BYTES, HEADER_BYTES, MAGIC, entry_bytes
from kvstore.wal.reader import LogEnd

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["MANIFEST_BYTES_MAX", "ManifestLog", "orphans"]

MANIFEST_BYTES_MAX = 1 << 20
_PREALLOCATE_BYTES = 64 << 10
_SNAPSHOTS_MIN = 4


@dataclass(frozen=True)
class _Found:
    """What reading a manifest found."""

    name: str
    version: Version
    snapshot_bytes: int
    end: LogEnd


class ManifestLog:
    """The manifest of a store, open for appending; made by ``create`` and ``open``.

    The caller holds the store's LOCK, and calls from one thread at a time (under the tree's lock).
    In a forked child every call but ``close`` raises ForkedError.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        log: PortableWalWriter,
        found: _Found,
        manifest_bytes_max: int,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._version = found.version
        self._bytes_max = manifest_bytes_max
        self._pid = os.getpid()
        self._closed = False
        self._adopt(log, found.name, found.snapshot_bytes)

    def _adopt(self, log: PortableWalWriter, name: str, snapshot_bytes: int) -> None:
        self._log = log
        self._name = name
        self._roll_bytes = max(self._bytes_max, _SNAPSHOTS_MIN * snapshot_bytes)
        self._settled = True

    # ---- opening ----

    @staticmethod
    def read(
        fs: FileSystem, directory: str, mode: str = "tolerate_torn_tail"
    ) -> tuple[Version, str] | None:
        """The version that counts, and its manifest's name. Nothing is changed; O(manifest bytes).

        None when there is no CURRENT, and no table either: the manifest of a store is made before
        its first table. An edit that a crash cut off does not count, and in ``mode`` "strict" is a
        CorruptionError. Damage is one in every mode: a version with an edit left out names tables
        that may be gone.

        Raises CorruptionError, ChecksumMismatch, FormatError, StorageIOError.
        """
        found = _read(fs, directory)
        if found is None:
            return None
        if mode == "strict" and found.end.torn_bytes:
            raise CorruptionError(
                os.path.join(directory, found.name),
                found.end.offset,
                f"strict mode refuses a torn tail: {found.end.torn_bytes} bytes "
                f"({found.end.torn_reason})",
                "recovery='tolerate_torn_tail' cuts it: none of it was ever acknowledged",
            )
        return found.version, found.name

    @classmethod
    def create(
        cls,
        fs: FileSystem,
        directory: str,
        version: Version = Version.EMPTY,
        *,
        manifest_bytes_max: int = MANIFEST_BYTES_MAX,
    ) -> ManifestLog:
        """A new manifest that says ``version``, durable and named by CURRENT when this returns.

        Its number is one above any that is there. The manifests before it are removed if they can
        be. After a failure, what counted before may still count, or the new one. Raises
        StorageIOError, LimitError.
        """
        log, name, size = _make(fs, directory, version)
        try:
            publish_current(fs, directory)
        except BaseException:
            _give_up(fs, directory, log, name)
            raise
        _remove_others(fs, directory, name)
        found = _Found(name, version, size, LogEnd(size, 1, sealed=False))
        return cls(fs, directory, log, found, manifest_bytes_max)

    @classmethod
    def open(
        cls, fs: FileSystem, directory: str, *, manifest_bytes_max: int = MANIFEST_BYTES_MAX
    ) -> ManifestLog:
        """The manifest that CURRENT names, to be continued; ``version`` is what it says.

        A torn tail is saved beside it as ``.torn`` and cut durably. Raises what ``read`` does, with
        nothing changed on disk, and CorruptionError when there is no CURRENT.
        """
        found = _read(fs, directory)
        if found is None:
            raise CorruptionError(os.path.join(directory, paths.CURRENT), 0, "it is missing")
        # A kill may have left the rename in the page cache only. What is appended to a manifest
        # must not be lost because a power cut brings back the CURRENT before it.
        current = fs.open(os.path.join(directory, paths.CURRENT))
        try:
            current.sync()
        finally:
            current.close()
        fs.sync_directory(directory)
        log = _open_log(fs, os.path.join(directory, found.name))
        manifest = cls(fs, directory, log, found, manifest_bytes_max)
        if not found.end.sealed:
            manifest._settled = manifest._mark()
        return manifest

    # ---- what it says ----

    @property
    def version(self) -> Version:
        """The version that all edits appended so far make."""
        return self._version

    @property
    def name(self) -> str:
        """The name of the manifest's file."""
        return self._name

    @property
    def settled(self) -> bool:
        """False after a failure that leaves open whether the edit is on the disk, or which manifest
        counts: the version on the disk is ``version``, or that with the failed edit.

        Until ``roll`` or ``append`` returned, no file may be deleted that either of them names.
        """
        return self._settled

    # ---- changing it ----

    def append(self, edit: VersionEdit) -> Version:
        """Makes ``edit`` durable, and then what counts; returns the version after it.

        After any error the version is what it was. VersionError (the edit does not fit),
        LimitError, and a DiskFullError met before the edit was written leave the disk as it was,
        too; another StorageIOError, or an interrupt, does not ``settle`` it. The next call then
        first rolls over to a new manifest without the failed edit, and raises if it cannot. So a
        full disk is got over as soon as there is room.

        When the edit is durable and only its MARK cannot be written, it counts: the call returns,
        and the next one rolls over. O(bytes of the edit) and what ``Version.apply`` takes; one
        device write.
        """
        self._check_usable()
        if edit.snapshot:
            raise VersionError("a snapshot is not appended, it begins a manifest")
        version = self._version.apply(edit)
        payload = edit.encode()
        if not self._settled:
            self.roll()
        elif self._log.size() + entry_bytes(len(payload)) > self._roll_bytes:
            self._roll_if_possible()
        self._write(payload)
        marked = self._mark()
        # No call from here on: an interrupt comes either before this, and the edit does not count,
        # or when the caller has the version.
        self._version = version
        self._settled = marked
        return version

    def roll(self) -> None:
        """Goes on in a new manifest, made from ``version``; then everything is settled.

        When it raises (StorageIOError), the old manifest still counts, or it is not settled which
        one does. O(tables).
        """
        self._check_usable()
        log, name, size = _make(self._fs, self._directory, self._version)
        self._settled = False
        try:
            publish_current(self._fs, self._directory)
        except BaseException:
            _give_up(self._fs, self._directory, log, name)
            raise
        old = self._log
        self._adopt(log, name, size)
        _let_go(old)
        _remove_others(self._fs, self._directory, name)

    def _roll_if_possible(self) -> None:
        """Rolls over because of the size. Where there is no room, the old manifest will do."""
        try:
            self.roll()
        except (StorageIOError, LimitError):
            if not self._settled:
                raise
            self._roll_bytes = 2 * self._log.size()  # not at every edit from now on

    def _write(self, payload: bytes) -> None:
        last_lsn = self._log.last_lsn
        # Until it is known how this ends; also for an interrupt.
        self._settled = False
        try:
            self._log.append_and_commit(payload)
        except (DiskFullError, LimitError) as error:
            # Refused before it was accepted; but a sync that failed has poisoned the log.
            synced = getattr(error, "operation", "") != "sync"
            self._settled = synced and self._log.last_lsn == last_lsn
            raise

    def _mark(self) -> bool:
        """Whether the log takes more: what was appended is durable, with its MARK or without."""
        try:
            self._log.mark()
        except (StorageIOError, PoisonedError):
            return False
        return True

    def close(self) -> None:
        """Seals the manifest and lets go of it; idempotent. Loses nothing: what was appended is
        durable, so a seal that cannot be written is no error."""
        if not self._closed:
            self._closed = True
            _let_go(self._log)

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(self._name)
        if self._closed:
            raise ClosedError(self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{sum(map(len, self._version.levels))} tables"
        return f"<{type(self).__name__} {os.path.join(self._directory, self._name)!r} {state}>"


def orphans(
    fs: FileSystem, directory: str, version: Version, manifest_name: str | None
) -> list[str]:
    """The names in ``directory`` that are ours and that nobody needs; nothing is changed.

    Tables that are not in ``version``, unfinished ones, manifests other than ``manifest_name``, and
    the temporary names. Only while nothing is being built, and the manifest is settled. Log
    segments and ``.torn`` files are not among them. O(names).
    """
    return [name for name in fs.list(directory) if _is_orphan(name, version, manifest_name)]


def _is_orphan(name: str, version: Version, manifest_name: str | None) -> bool:
    table = paths.parse_table(name)
    if table is not None:
        return table not in version
    if paths.parse_manifest(name) is not None:
        return name != manifest_name
    return paths.parse_unfinished_table(name) is not None or _is_manifest_tmp(name)


def _is_manifest_tmp(name: str) -> bool:
    whole = paths.parse_tmp(name)
    return whole is not None and (whole == paths.CURRENT or paths.parse_manifest(whole) is not None)


# ---- files ----


def _read(fs: FileSystem, directory: str) -> _Found | None:
    name = read_current(fs, directory)
    if name is None:
        if any(paths.parse_table(there) for there in fs.list(directory)):
            raise CorruptionError(
                os.path.join(directory, paths.CURRENT),
                0,
                "it is missing, but there are sorted tables, and nothing says which of them count",
            )
        return None
    path = os.path.join(directory, name)
    file = fs.open_read_only(path)
    try:
        reader = _open_reader(file)
        version, snapshot_bytes = _replay(reader, path)
    finally:
        file.close()
    assert reader.end is not None
    return _Found(name, version, snapshot_bytes, reader.end)


def _open_reader(file: File) -> LogReader:
    try:
        return LogReader(file)
    except FormatError as error:
        block = file.pread(HEADER_BYTES, 0)
        if block.startswith(MAGIC) and len(block) == HEADER_BYTES:
            raise  # whole, and of a newer version
        # A manifest gets its name only when its header is durable, so this one was whole once.
        raise CorruptionError(file.path, 0, error.reason) from None


def _replay(reader: LogReader, path: str) -> tuple[Version, int]:
    """The version after all edits, and what the snapshot takes in the file."""
    version: Version | None = None
    snapshot_bytes = 0
    for entry in reader.entries():
        at = entry.offset + ENTRY_HEADER_BYTES
        if entry.kind != CHECKED:
            raise CorruptionError(path, entry.offset, "an edit without a checksum")
        edit = VersionEdit.decode(entry.payload, path, at)
        if edit.snapshot != (version is None):
            which = "the first edit is no snapshot" if version is None else "a second snapshot"
            raise CorruptionError(path, at, which)
        try:
            version = (version or Version.EMPTY).apply(edit)
        except VersionError as error:
            reason = f"an edit that does not fit those before it: {error.reason}"
            raise CorruptionError(path, at, reason) from None
        snapshot_bytes = snapshot_bytes or entry_bytes(len(entry.payload))
    if version is None:
        # CURRENT names a manifest only when its snapshot is durable, so this is no torn tail.
        raise CorruptionError(path, HEADER_BYTES, "the snapshot at its beginning is lost")
    return version, snapshot_bytes


def _make(fs: FileSystem, directory: str, version: Version) -> tuple[PortableWalWriter, str, int]:
    """A new manifest, whole and durable, and a CURRENT.tmp that names it: all but the swap.

    Also returns its name, and the size of its snapshot. When it raises, it leaves nothing that
    could not be removed.
    """
    payload = version.snapshot_edit().encode()
    numbers = [paths.parse_manifest(name) for name in fs.list(directory)]
    name = paths.format_manifest(1 + max((n for n in numbers if n is not None), default=0))
    path = os.path.join(directory, name)
    log: PortableWalWriter | None = None
    try:
        log = _open_log(fs, path)
        log.append_and_commit(payload)
        log.mark()
        prepare_current(fs, directory, name)
    except BaseException:
        if log is not None:
            _let_go(log)
        for leftover in (path, paths.format_tmp(path)):
            _remove(fs, leftover)
        raise
    return log, name, entry_bytes(len(payload))


def _open_log(fs: FileSystem, path: str) -> PortableWalWriter:
    return PortableWalWriter(
        path,
        IoUringConfig.minimal(),
        backend="pwrite",
        preallocate_bytes=_PREALLOCATE_BYTES,
        fs=fs,
    )


def _let_go(log: PortableWalWriter) -> None:
    with contextlib.suppress(KVStoreError):
        log.close()


def _give_up(fs: FileSystem, directory: str, log: PortableWalWriter, name: str) -> None:
    """Lets go of a new manifest that was to count. Where CURRENT names it, perhaps it does; else it
    is removed, as a full disk is tried again and again."""
    _let_go(log)
    with contextlib.suppress(KVStoreError):
        if read_current(fs, directory) != name:
            _remove(fs, os.path.join(directory, name))


def _remove_others(fs: FileSystem, directory: str, name: str) -> None:
    """Removes manifests that no longer count. Not synced: one that comes back is an orphan."""
    with contextlib.suppress(StorageIOError):
        for other in fs.list(directory):
            if other != name and paths.parse_manifest(other) is not None:
                _remove(fs, os.path.join(directory, other))


def _remove(fs: FileSystem, path: str) -> None:
    with contextlib.suppress(StorageIOError):
        if fs.exists(path):
            fs.unlink(path)
