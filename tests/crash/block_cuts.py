"""Power cuts at block level: the disk under a store at work is cloned in an instant, and the clone
is what a machine would find that lost its power then.

    directory/outer.img          an XFS with reflinks, mounted
        inner.img                the disk: ext4 or XFS, mounted; here the store works
        cut.img                  its clone: mounted (the journal is replayed), opened, checked

Why the clone is a state that a power cut can leave. The disk is a loop device with direct I/O: what
the inner file system writes goes to ``inner.img`` past any cache, and a write that is completed is
in the file. FICLONE takes that file's locks exclusively, waits for direct writes under way, holds
new ones up, and then shares all extents: so the clone has every write that completed before, those
under way whole, and none that came later. Of two writes, one begun when the other had completed,
it never has the second alone. What it has not is what never left the page cache of the inner file
system, and what the store had not even written. SIGKILL takes neither.

A disk like that keeps what it said was written, so a flush that was forgotten would not be missed.
Every other chunk therefore has a disk with a volatile cache:

    outer.img > middle.img       an ext4, mounted
        inner.img                the disk, its loop device without direct I/O

There a completed write is in the page cache of the middle file system, and a flush of the disk is
an fsync of ``inner.img``. The cut clones ``middle.img``: what was not flushed is gone, but for what
the kernel happened to write back, which is what a disk's cache does.

What was acknowledged is read from the worker's pipe before the clone begins, so all of it has to be
there. A worker lives several times on the same store: later cuts fall into recoveries, too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvstore
from tests.crash.kills import LOG, OF_TASKS, TABLES, recovered
from tests.support import disks
from tests.support.kill import ROOT, Killer, Round, check_kept
from tests.support.stores import HAS_RING

GOAL = {"cuts": 200}
LIVES = 4
CUTS_PER_LIFE = 3
SECONDS_PER_LIFE = 0.6
TASKS = 100
# Nothing but the log is synced for a while: no other sync makes up for one that is missing.
QUIET: list[dict[str, Any]] = [{}, {}]
_UNSHARE = ["unshare", "--mount", "--propagation", "private"]
_OUTER_BYTES = 2 << 30
_MIDDLE_BYTES = 1 << 30


def chunk(index: int, directory: Path) -> Counter[str]:
    """Cuts of one kind of disk, with an io_uring and a pwrite life of threads and of tasks each."""
    kind = ("ext4", "xfs")[index % 2]
    return run(kind, index // 2 % 2 == 1, index, directory, cuts=CUTS_PER_LIFE)


def run(kind: str, cache: bool, seed: int, directory: Path, *, cuts: int) -> Counter[str]:
    """The same for whoever names the disk; raises AssertionError for a loss."""
    arguments = json.dumps([kind, cache, seed, str(directory), cuts])
    done = in_namespace("-m", "tests.crash.block_cuts", arguments)
    assert done.returncode == 0, (
        f"{kind}{', volatile cache' if cache else ''}, seed {seed}, in {directory}:\n{done.stderr}"
    )
    return Counter(json.loads(done.stdout))


@functools.cache
def unavailable() -> str:
    """Why there can be no cuts here; "" where there can."""
    if reason := disks.missing():
        return reason
    done = in_namespace("-m", disks.__name__)
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def in_namespace(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python where mounts are its own and end with it."""
    return subprocess.run(
        [*_UNSHARE, sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


# ---- in the namespace ----


@dataclass(frozen=True)
class Disk:
    """A disk that can be cut. ``place``: where its file system is mounted."""

    kind: str
    cache: bool
    outer: Path
    place: Path

    def cut(self, number: int) -> Path:
        """An image of what is on it now, volatile cache lost."""
        image = self.outer / f"cut{number}.img"
        disks.clone(self.outer / ("middle.img" if self.cache else "inner.img"), image)
        return image

    @contextlib.contextmanager
    def after(self, image: Path, where: Path) -> Iterator[Path]:
        """The file system as it comes up after that cut."""
        with contextlib.ExitStack() as stack:
            inner = image
            if self.cache:
                middle = disks.mounted(image, "ext4", where / "middle-cut", direct=False)
                inner = stack.enter_context(middle) / "inner.img"
            place = disks.mounted(inner, self.kind, where / "inner-cut", direct=False)
            yield stack.enter_context(place)


@contextlib.contextmanager
def mounted_disk(kind: str, cache: bool, directory: Path) -> Iterator[Disk]:
    """A new disk with images and mount points in ``directory``."""
    with contextlib.ExitStack() as stack:
        image = directory / "outer.img"
        disks.make(image, "xfs", _OUTER_BYTES)
        outer = stack.enter_context(disks.mounted(image, "xfs", directory / "outer", direct=True))
        holder = outer
        if cache:
            middle = outer / "middle.img"
            disks.make(middle, "ext4", _MIDDLE_BYTES)
            holder = stack.enter_context(
                disks.mounted(middle, "ext4", directory / "middle", direct=True)
            )
        inner = holder / "inner.img"
        disks.make(inner, kind)
        place = stack.enter_context(
            disks.mounted(inner, kind, directory / "inner", direct=not cache)
        )
        yield Disk(kind, cache, outer, place)


@dataclass(frozen=True)
class Cut:
    """An image, and what had been acknowledged when it was taken, by all lives so far."""

    image: Path
    acknowledged: list[tuple[Round, list[int]]]
    options: dict[str, Any]


def cut_and_check(
    kind: str, cache: bool, seed: int, directory: Path, cuts_per_life: int
) -> Counter[str]:
    """Lives of a worker, cuts while it lives, and the checks of them."""
    chance = random.Random(f"{seed} {kind} {cache}")
    done: Counter[str] = Counter()
    with mounted_disk(kind, cache, directory) as disk, Killer() as killer:
        past: list[tuple[Round, list[int]]] = []
        for number in range(LIVES):
            work = _round(disk, number, seed, chance)
            moments = sorted(chance.uniform(0, SECONDS_PER_LIFE) for _ in range(cuts_per_life))
            cuts = _live(disk, killer, work, past, moments)
            for cut in cuts:
                _check(disk, cut, directory)
                acknowledged = sum(sum(counts) for _, counts in cut.acknowledged)
                if not acknowledged:  # the worker had hardly started: that proves nothing
                    done["cuts before anything was acknowledged"] += 1
                    continue
                done["cuts"] += 1
                done[f"cuts of {kind}{', volatile cache' if cache else ''}"] += 1
                done["operations acknowledged before cuts"] += acknowledged
    return done


def _round(disk: Disk, number: int, seed: int, chance: random.Random) -> Round:
    tasks = TASKS if number // 2 % 2 else 0
    options = {
        **chance.choice((OF_TASKS if tasks else LOG) + TABLES + QUIET),
        "wal_backend": "io_uring" if number % 2 and HAS_RING else "pwrite",
        "wal_direct_io": chance.random() < 0.4,
    }
    path = str(disk.place / "store")
    return Round(path, f"life{number}", seed, tasks=tasks, options=options)


def _live(
    disk: Disk,
    killer: Killer,
    work: Round,
    past: list[tuple[Round, list[int]]],
    moments: list[float],
) -> list[Cut]:
    cuts = []
    life = killer.begin(work)
    began = time.monotonic()
    for number, moment in enumerate(moments):
        life.until(began + moment)
        acknowledged = [*past, (work, list(life.acknowledged))]
        cuts.append(Cut(disk.cut(number), acknowledged, work.options))
    life.kill()
    past.append((work, life.acknowledged))
    return cuts


def _check(disk: Disk, cut: Cut, directory: Path) -> None:
    with disk.after(cut.image, directory) as place:
        path = place / "store"
        # The copy is made outside: there may be no room for it on the disk.
        found = recovered(path, cut.options, directory / "copy") if path.exists() else {}
        for work, acknowledged in cut.acknowledged:
            check_kept(work, acknowledged, found)
    cut.image.unlink()


def main() -> int:
    """In the namespace: the arguments as JSON, the counts on the output as JSON."""
    kind, cache, seed, directory, cuts = json.loads(sys.argv[1])
    try:
        print(json.dumps(cut_and_check(kind, cache, seed, Path(directory), cuts)))
    except (AssertionError, kvstore.KVStoreError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
