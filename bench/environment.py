"""What a figure depends on: machine, kernel, device, versions. Printed before any figure."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from kvstore.native import CRC32C, HAS_URING
from kvstore.wal import IoUringConfig, PortableWalWriter
from kvstore.wal.backends import probe_io_uring

__all__ = ["collect", "is_volatile"]

_VOLATILE = ("tmpfs", "ramfs")


def collect(directory: str, seed: int, distributions: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a run with its files in ``directory``: label -> text, in print order.

    ``distributions``: installed packages whose versions matter too.
    """
    kind, source = _file_system(directory)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seed": str(seed),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": f"{_cpu_model()}, {os.cpu_count()} logical",
        "memory": _memory(),
        "load": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "directory": os.path.abspath(directory),
        "file system": f"{kind} on {source}",
        "device": _device(directory),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "kvstore": _version("kvstore"),
        "backend": _backend(directory),
        "io_uring": "works" if probe_io_uring() is None else f"no: {probe_io_uring()}",
        "liburing": _liburing_version(),
        "crc32c": CRC32C,
        "cffi": _version("cffi"),
        **{name: _version(name) for name in distributions},
    }


def is_volatile(directory: str) -> bool:
    """Whether the files lie in memory, where a sync does nothing and no figure means anything."""
    return _file_system(directory)[0] in _VOLATILE


def _file_system(directory: str) -> tuple[str, str]:
    """(type, source) of the mount that holds ``directory``; "unknown" where /proc does not say."""
    device = os.stat(directory).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted:
                return right.split()[0], right.split()[1]
    return "unknown", "unknown"


def _device(directory: str) -> str:
    """The queue's properties that decide what a sync costs, from /sys."""
    number = os.stat(directory).st_dev
    link = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not link.exists():
        return "not a block device of its own"
    place = link.resolve()
    # A partition has no queue: its disk has.
    queue = next((p / "queue" for p in (place, place.parent) if (p / "queue").is_dir()), None)
    if queue is None:
        return place.name
    texts = [place.name]
    for name in ("write_cache", "fua", "rotational", "scheduler", "logical_block_size"):
        with contextlib.suppress(OSError):
            texts.append(f"{name}={(queue / name).read_text(encoding='ascii').strip()}")
    return ", ".join(texts)


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{total / (1 << 30):.1f} GiB"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _backend(directory: str) -> str:
    """What a log opened here with no wishes gets, and how it makes its writes durable.

    As many commits as it takes the log to decide are made; it remembers the result for this device.
    """
    path = os.path.join(directory, "environment.wal")
    try:
        with PortableWalWriter(path, IoUringConfig()) as log:
            for _ in range(64):
                log.append_and_commit(bytes(100))
            return f"{log.backend} ({log.backend_reason}), sync by {log.sync_strategy}"
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _liburing_version() -> str:
    if not HAS_URING:
        return "built without"
    try:
        answer = subprocess.run(
            ["pkg-config", "--modversion", "liburing"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "version unknown"
    return answer.stdout.strip()
