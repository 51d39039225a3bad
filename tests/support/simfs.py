"""SimFS: a file system in memory that tells, event by event, what reached it and when.

What is read back is what was written last, as with a page cache. What a power cut would leave is
worked out afterwards, from the events alone (power_cut.py).

A write's bytes are on their way from ``Write`` on, and a sync covers those whose ``WriteDone`` came
before its ``SyncBegun``. A write that syncs itself ends with ``WriteSynced`` instead, which covers
nothing else. ``SimEngine`` keeps several of the log's writes and syncs in between.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore.errors import LockedError, storage_error
from kvstore.fs import File
from kvstore.native import lib
from kvstore.wal.core import PythonEngine

__all__ = [
    "DirectorySynced",
    "Event",
    "Fill",
    "Image",
    "Named",
    "Note",
    "SimEngine",
    "SimFS",
    "SimFile",
    "SyncBegun",
    "SyncDone",
    "Truncate",
    "Write",
    "WriteDone",
    "WriteSynced",
]

_DIRECT_BYTES = 4096

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Image:
    """What a disk holds: names in the one directory there is, and the bytes of each inode."""

    names: dict[str, int] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)

    def file(self, name: str) -> bytes:
        """The bytes of the file of that name."""
        return self.data[self.names[name]]

    def key(self) -> int:
        """The same for images with the same files."""
        return hash(tuple((name, self.file(name)) for name in sorted(self.names)))


class Write(NamedTuple):
    """Bytes on their way to a file."""

    inode: int
    identity: int
    offset: int
    data: bytes
    direct: bool


class WriteDone(NamedTuple):
    """That write completed."""

    inode: int
    identity: int


class WriteSynced(NamedTuple):
    """That write completed, and is durable: RWF_DSYNC."""

    inode: int
    identity: int


class Fill(NamedTuple):
    """A range got room on the disk, and zeros."""

    inode: int
    offset: int
    size: int


class Truncate(NamedTuple):
    """A file got another length."""

    inode: int
    size: int


class SyncBegun(NamedTuple):
    """A sync of a file began."""

    inode: int
    identity: int


class SyncDone(NamedTuple):
    """That sync completed."""

    inode: int
    identity: int


class Named(NamedTuple):
    """Names were given (an inode) or taken away (None) by one operation, the new one first."""

    changes: tuple[tuple[str, int | None], ...]


class DirectorySynced(NamedTuple):
    """The directory was synced."""


class Note(NamedTuple):
    """Something that whoever uses the file system wants to find among the events."""

    what: str
    number: int


Done = WriteDone | WriteSynced | SyncDone
Event = Write | Done | Fill | Truncate | SyncBegun | Named | DirectorySynced | Note


class _Inode:
    __slots__ = ("data", "locked", "number")

    def __init__(self, number: int, data: bytes) -> None:
        self.number = number
        self.data: bytes | bytearray = data
        self.locked = False

    def room(self, size: int) -> bytearray:
        """The bytes, to be changed; there are so many at least."""
        if not isinstance(self.data, bytearray):
            self.data = bytearray(self.data)
        if len(self.data) < size:
            self.data.extend(bytes(size - len(self.data)))
        return self.data


class SimFS:
    """The file system; it has one directory, made by ``make_directory``. Thread-safe.

    It begins as ``image``. ``events`` is what happened since. ``meanwhile`` is called before each
    operation that changes something, with its name and that of the file: there others can get their
    turn, as threads would.
    """

    def __init__(self, image: Image | None = None) -> None:
        image = image or Image()
        self.events: list[Event] = []
        self.meanwhile: Callable[[str, str], None] = lambda operation, name: None
        inodes = {number: _Inode(number, data) for number, data in image.data.items()}
        self._names = {name: inodes[number] for name, number in image.names.items()}
        self._directory = ""
        self._lock = threading.Lock()
        self._locked = False

    def note(self, what: str, number: int) -> None:
        """Puts a note among the events."""
        self.events.append(Note(what, number))

    def image(self) -> Image:
        """What can be read now."""
        names = {name: inode.number for name, inode in self._names.items()}
        return Image(names, {inode.number: bytes(inode.data) for inode in self._names.values()})

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> File:
        name = os.path.basename(path)
        with self._lock:
            if name not in self._names:
                if not create:
                    raise storage_error(errno.ENOENT, "open", path)
                inode = self._names[name] = _Inode(next(_numbers), b"")
                self.events.append(Named(((name, inode.number),)))
            return SimFile(self, path, self._names[name], direct=direct)

    def open_read_only(self, path: str) -> File:
        return self.open(path)

    def exists(self, path: str) -> bool:
        return self.is_directory(path) or os.path.basename(path) in self._names

    def device(self, path: str) -> int | None:
        return None

    def is_directory(self, path: str) -> bool:
        return bool(self._names) if not self._directory else path == self._directory

    def list(self, path: str) -> list[str]:
        return sorted(self._names)

    def make_directory(self, path: str) -> None:
        assert self._directory in ("", path)
        self._directory = path

    def rename(self, old: str, new: str) -> None:
        self.meanwhile("rename", os.path.basename(new))
        before, after = os.path.basename(old), os.path.basename(new)
        with self._lock:
            if before not in self._names:
                raise storage_error(errno.ENOENT, "rename", new)
            inode = self._names.pop(before)
            self._names[after] = inode
            self.events.append(Named(((after, inode.number), (before, None))))

    def unlink(self, path: str) -> None:
        name = os.path.basename(path)
        self.meanwhile("unlink", name)
        with self._lock:
            if self._names.pop(name, None) is None:
                raise storage_error(errno.ENOENT, "unlink", path)
            self.events.append(Named(((name, None),)))

    def sync_directory(self, path: str) -> None:
        with self._lock:
            self.events.append(DirectorySynced())

    def lock(self, path: str) -> SimLock:
        if self._locked:
            raise LockedError(path, os.getpid())
        self.open(path, create=True)
        self._locked = True
        return SimLock(self)


class SimLock:
    """A held lock."""

    def __init__(self, fs: SimFS) -> None:
        self._fs = fs

    def release(self) -> None:
        self._fs._locked = False

    def abandon_in_child(self) -> None:
        raise AssertionError("nobody forks here")


class SimFile:
    """An open file of a SimFS."""

    def __init__(self, fs: SimFS, path: str, inode: _Inode, *, direct: bool) -> None:
        self.path = path
        self._fs = fs
        self._inode = inode
        self._direct = direct
        self._locked = False

    def fileno(self) -> int | None:
        return None

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._inode.data[offset : offset + size])

    def map(self) -> bytes:
        return bytes(self._inode.data)

    def size(self) -> int:
        return len(self._inode.data)

    def pwrite(self, data: bytes, offset: int) -> int:
        self.end(self.begin_write(data, offset))
        return len(data)

    def sync(self) -> None:
        self.end(self.begin_sync())

    def truncate(self, size: int) -> None:
        self._meanwhile("truncate")
        with self._fs._lock:
            if size != len(self._inode.data):
                data = self._inode.room(size)
                del data[size:]
                self._fs.events.append(Truncate(self._inode.number, size))

    def preallocate(self, offset: int, size: int) -> None:
        self._meanwhile("preallocate")
        with self._fs._lock:
            if size > 0:
                # Which is all that power_cut.py knows of, and all that kvstore does.
                assert offset >= len(self._inode.data), "only what lies behind the end is filled"
                self._inode.room(offset + size)[offset : offset + size] = bytes(size)
                self._fs.events.append(Fill(self._inode.number, offset, size))

    def lock(self) -> None:
        if self._inode.locked:
            raise LockedError(self.path, None)
        self._inode.locked = self._locked = True

    def close(self) -> None:
        if self._locked:
            self._inode.locked = self._locked = False

    # ---- operations that take a while ----

    def begin_write(
        self, data: bytes, offset: int, *, synced: bool = False
    ) -> WriteDone | WriteSynced:
        """From now on any part of it may be on the disk; to be given to ``end``. ``synced``: it is
        durable then."""
        self._meanwhile("write")
        if self._direct and (offset % _DIRECT_BYTES or len(data) % _DIRECT_BYTES):
            raise storage_error(errno.EINVAL, "write", self.path)
        number, identity = self._inode.number, next(_numbers)
        with self._fs._lock:
            end = offset + len(data)
            self._inode.room(end)[offset:end] = data
            self._fs.events.append(Write(number, identity, offset, data, self._direct))
        return WriteSynced(number, identity) if synced else WriteDone(number, identity)

    def begin_sync(self) -> SyncDone:
        """A sync of all that is complete now; to be given to ``end``."""
        self._meanwhile("sync")
        number, identity = self._inode.number, next(_numbers)
        with self._fs._lock:
            self._fs.events.append(SyncBegun(number, identity))
        return SyncDone(number, identity)

    def end(self, operation: Done) -> None:
        """It is complete."""
        with self._fs._lock:
            self._fs.events.append(operation)

    def _meanwhile(self, operation: str) -> None:
        self._fs.meanwhile(operation, os.path.basename(self.path))


class SimEngine(PythonEngine):
    """Carries out a log's operations on a SimFile, and completes them late and in any order.

    Every other one, by chance, takes writes that sync themselves.
    """

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.dsync = chance.random() < 0.5
        self._chance = chance
        self._waiting: list[tuple[int, int, SimFile, Done]] = []

    def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
        file = self.file
        assert isinstance(file, SimFile)
        operation: Done
        if kind == lib.KV_OP_SYNC:
            operation = file.begin_sync()
        else:
            operation = file.begin_write(data, offset, synced=kind == lib.KV_OP_WRITE_DSYNC)
        self._waiting.append((identity, len(data), file, operation))

    def wait(self, block: bool) -> list[tuple[int, int]]:
        self._chance.shuffle(self._waiting)
        least = 1 if block and self._waiting else 0
        count = self._chance.randint(least, max(least, min(2, len(self._waiting))))
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, _, file, operation in taken:
            file.end(operation)
        return [(identity, result) for identity, result, _, _ in taken]
