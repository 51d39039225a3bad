"""File systems in files, on loop devices: made, mounted, cloned. Linux, root.

To be used in a mount namespace of its own (``unshare --mount``): the kernel then takes the mounts
down with the last process in it, however that ended, and the loop devices with the mounts (each is
set up to be cleared at its last close). So nothing can be left over, and there is nothing to sweep.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Direct I/O to blocks that a clone shares is by 4 KiB, so nothing on the disks is smaller.
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-K", "-s", "size=4096", "-m", "reflink=1"],
}
# A clone has its original's UUID, which XFS would refuse to mount twice.
_MOUNT = {"ext4": "noatime", "xfs": "noatime,nouuid"}
# mkfs.xfs makes none that is smaller. Holes, as long as nobody writes there.
SMALLEST_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}

_FICLONE = 0x40049409
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_AUTOCLEAR, _DIRECT_IO = 4, 16
_ATTEMPTS_MAX = 100


def missing() -> str:
    """Why there can be no such disks here; "" where they might be."""
    if sys.platform != "linux":
        return "loop devices of Linux are needed"
    if os.geteuid() != 0:
        return "only root can mount"
    if not os.path.exists("/dev/loop-control"):
        return "there is no /dev/loop-control"
    tools = ["unshare", "mount", "umount", *(command[0] for command in MKFS.values())]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


def make(image: Path, kind: str, size: int | None = None) -> None:
    """A file with an empty file system of that kind in it."""
    with image.open("wb") as file:
        file.truncate(size or SMALLEST_BYTES[kind])
    _run(*MKFS[kind], str(image))


@contextlib.contextmanager
def mounted(image: Path, kind: str, where: Path, *, direct: bool) -> Iterator[Path]:
    """The image's file system at ``where``. ``direct``: what it writes goes past the page cache of
    the file system that holds the image."""
    where.mkdir(exist_ok=True)
    device, name = _attach(image, direct)
    try:
        _run("mount", "-t", kind, "-o", _MOUNT[kind], name, str(where))
    finally:
        os.close(device)
    try:
        yield where
    finally:
        _unmount(where)


def clone(image: Path, copy: Path) -> None:
    """Makes ``copy`` what ``image`` is at this instant, sharing its blocks."""
    with image.open("rb") as source, copy.open("wb") as target:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())


def _attach(image: Path, direct: bool) -> tuple[int, str]:
    """A loop device on ``image``: its descriptor, to be closed when it is mounted, and its name."""
    flags = _AUTOCLEAR | (_DIRECT_IO if direct else 0)
    with image.open("r+b") as file, open("/dev/loop-control", "r+b", buffering=0) as control:
        # struct loop_config, all zeros but for the file and the flags.
        config = bytearray(304)
        struct.pack_into("<I", config, 0, file.fileno())
        struct.pack_into("<I", config, 8 + 52, flags)
        for _ in range(_ATTEMPTS_MAX):
            name = f"/dev/loop{fcntl.ioctl(control.fileno(), _LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, bytes(config))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # somebody else took it
                    raise
            else:
                return device, name
    raise OSError(errno.EBUSY, "no loop device is free")


def _unmount(where: Path) -> None:
    for _ in range(_ATTEMPTS_MAX):  # the ring of a killed process keeps its files for a moment
        if subprocess.run(["umount", str(where)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    _run("umount", "--lazy", str(where))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


def main() -> None:
    """Can it be done here? Makes and mounts one of each kind."""
    with tempfile.TemporaryDirectory() as directory:
        for kind in MKFS:
            image = Path(directory, f"{kind}.img")
            make(image, kind)
            with mounted(image, kind, Path(directory, kind), direct=False):
                pass


if __name__ == "__main__":
    main()
