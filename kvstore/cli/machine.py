"""What this machine and a directory on it can do, found out by trying."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import kvstore
from kvstore.errors import KVStoreError, StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.native import CRC32C, HAS_URING
from kvstore.wal import IoUringConfig
from kvstore.wal.backends import probe_io_uring
from kvstore.wal.core import IO_URING, LogCore

try:
    import resource
except ImportError:  # a Python built without it
    _locked_memory_limit: int | None = None
else:
    _limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    _locked_memory_limit = None if _limit == resource.RLIM_INFINITY else _limit

__all__ = ["Machine", "Place", "Ring", "inspect_machine", "inspect_place", "scratch_directory"]

BLOCK = 4096
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
_NETWORK_FILE_SYSTEMS = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|gpfs|ocfs2|gfs2|glusterfs|beegfs|orangefs"
    r"|fuse\.(sshfs|glusterfs|ceph.*|s3fs|gcsfuse|rclone|davfs.*)"
)


@dataclass(frozen=True)
class Ring:
    """io_uring here. ``why_not`` is None when it works; then the rest says what the ring can do."""

    available: bool
    why_not: str | None
    built_in: bool
    sqpoll: bool
    registered_buffers: bool
    buffer_bytes: int
    locked_memory_limit_bytes: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """The interpreter, the system and the processor."""

    python: str
    kvstore: str
    system: str
    architecture: str
    processors: int
    crc32c: str
    io_uring: Ring


@dataclass(frozen=True)
class Place:
    """A directory: what it lies on, and what can be done there. None: could not be found out."""

    directory: str
    file_system: str | None
    source: str | None
    mount_point: str | None
    mount_options: tuple[str, ...]
    device: str | None
    write_cache: str | None
    forced_unit_access: bool | None
    rotational: bool | None
    free_bytes: int
    total_bytes: int
    direct_io: bool
    direct_io_why_not: str | None
    rwf_dsync: bool
    rwf_dsync_why_not: str | None

    @property
    def in_memory(self) -> bool:
        """Whether all of it goes with the power."""
        return self.file_system in _MEMORY_FILE_SYSTEMS

    @property
    def on_network(self) -> bool:
        """Whether a server somewhere decides what a sync means."""
        return bool(self.file_system and _NETWORK_FILE_SYSTEMS.fullmatch(self.file_system))


def inspect_machine(config: IoUringConfig) -> Machine:
    """Asks the interpreter and the kernel, and opens rings as a writer with ``config`` would."""
    return Machine(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        kvstore=kvstore.__version__,
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        processors=os.cpu_count() or 1,
        crc32c=CRC32C,
        io_uring=_inspect_ring(config),
    )


def _inspect_ring(config: IoUringConfig) -> Ring:
    why_not = probe_io_uring()
    notes: tuple[str, ...] = ()
    if why_not is None:
        try:
            ring = LogCore(replace(config, kernel_poll=True), IO_URING, name="doctor")
        except OSError as error:
            why_not = error.strerror
        else:
            notes = tuple(filter(None, ring.note.split("; ")))
            ring.close()
    available = why_not is None
    return Ring(
        available=available,
        why_not=why_not,
        built_in=HAS_URING,
        sqpoll=available and not any("SQPOLL" in note for note in notes),
        registered_buffers=available and not any("buffers" in note for note in notes),
        buffer_bytes=config.max_batch_bytes(),
        locked_memory_limit_bytes=_locked_memory_limit,
        notes=notes,
    )


@contextlib.contextmanager
def scratch_directory(directory: str) -> Iterator[str]:
    """A directory of our own within ``directory``, gone afterwards.

    Raises KVStoreError, saying what is wrong, where none can be made.
    """
    if not os.path.lexists(directory):
        raise KVStoreError(f"{directory}: there is no such directory")
    if not os.path.isdir(directory):
        raise KVStoreError(f"{directory}: not a directory")
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".kvstore-doctor-", dir=directory)
    except OSError as error:
        raise KVStoreError(f"{directory}: cannot write here: {error.strerror}") from error
    with scratch as path:
        yield path


def inspect_place(directory: str, scratch: str) -> Place:
    """What ``directory`` lies on; I/O is tried in ``scratch``, a directory within it."""
    whole = os.path.realpath(directory)
    space = os.statvfs(whole)
    mount = _find_mount(whole)
    device, queue = _find_device(mount[0] if mount else None, mount[3] if mount else None)
    cache, unit_access = _read_word(queue, "write_cache"), _read_word(queue, "fua")
    rotational = _read_word(queue, "rotational")
    direct, dsync = _try_direct(scratch), _try_dsync(scratch)
    return Place(
        directory=whole,
        file_system=mount[2] if mount else None,
        source=mount[3] if mount else None,
        mount_point=mount[1] if mount else None,
        mount_options=mount[4] if mount else (),
        device=device,
        write_cache=cache,
        forced_unit_access=None if unit_access is None else unit_access == "1",
        rotational=None if rotational is None else rotational == "1",
        free_bytes=space.f_bavail * space.f_frsize,
        total_bytes=space.f_blocks * space.f_frsize,
        direct_io=direct is None,
        direct_io_why_not=direct,
        rwf_dsync=dsync is None,
        rwf_dsync_why_not=dsync,
    )


_Mount = tuple[str, str, str, str, tuple[str, ...]]


def _find_mount(path: str) -> _Mount | None:
    """(major:minor, mount point, type, source, options) of what holds ``path``; Linux only."""
    best: _Mount | None = None
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                mount = parse_mount(line)
                point = mount[1].rstrip("/")
                within = path == mount[1] or path.startswith(point + "/")
                # Of two mounts on one point the later hides the earlier.
                if within and (best is None or len(mount[1]) >= len(best[1])):
                    best = mount
    except (OSError, ValueError):
        return None
    return best


def parse_mount(line: str) -> _Mount:
    """One line of /proc/PID/mountinfo, see proc_pid_mountinfo(5)."""
    before, _, after = line.rstrip("\n").partition(" - ")
    _, _, device, _, point, options, *_ = before.split(" ")
    kind, source, *more = after.split(" ")

    def plain(text: str) -> str:
        return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)

    together = ",".join([options, *more]).split(",")
    return device, plain(point), kind, plain(source), tuple(dict.fromkeys(together))


def _find_device(numbers: str | None, source: str | None) -> tuple[str | None, str | None]:
    """The disk's name and its directory of queue settings in /sys."""
    if numbers is None:
        return None, None
    if numbers.startswith("0:"):
        # A file system on several devices (btrfs) has a number of its own; the source names one.
        try:
            status = os.stat(source or "")
        except OSError:
            return None, None
        numbers = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    node = os.path.realpath(f"/sys/dev/block/{numbers}")
    if os.path.exists(os.path.join(node, "partition")):
        node = os.path.dirname(node)
    queue = os.path.join(node, "queue")
    return (os.path.basename(node), queue) if os.path.isdir(queue) else (None, None)


def _read_word(directory: str | None, name: str) -> str | None:
    if directory is None:
        return None
    try:
        with open(os.path.join(directory, name), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


def _try_direct(scratch: str) -> str | None:
    """None when a block can be written past the page cache, else why not."""
    fs, path = PosixFileSystem(), os.path.join(scratch, "direct")
    try:
        file = fs.open(path, create=True, direct=True)
        try:
            descriptor = file.fileno()
            assert descriptor is not None
            with mmap.mmap(-1, BLOCK) as block:  # anonymous memory begins at a page
                os.pwrite(descriptor, block, 0)
        finally:
            file.close()
            fs.unlink(path)
    except StorageIOError as error:
        return f"{error.operation}: {error.strerror}"
    except OSError as error:
        return f"write: {error.strerror}"
    return None


def _try_dsync(scratch: str) -> str | None:
    """None when one call can write and sync, else why not."""
    flag = getattr(os, "RWF_DSYNC", None)
    if flag is None:
        return "this system has no pwritev2"
    fs, path = PosixFileSystem(), os.path.join(scratch, "dsync")
    file = fs.open(path, create=True)
    try:
        descriptor = file.fileno()
        assert descriptor is not None
        os.pwritev(descriptor, [bytes(BLOCK)], 0, flag)
    except OSError as error:
        return error.strerror
    finally:
        file.close()
        fs.unlink(path)
    return None
