"""SIGKILL at random moments, on real files: in load, flush, compaction, rotation of the log, and
recovery; both backends; threads and tasks.

After each kill: what was acknowledged is there; of each thread's or task's operations a prefix,
batches whole; what earlier lives left is as it was; recovery is idempotent, reports no damage, and
leaves a store that verifies. How it goes depends on the moment, so a chunk run again tries the same
things at other instants.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvstore
from kvstore import paths
from kvstore.fs import PosixFileSystem
from kvstore.manifest import ManifestLog
from tests.support.kill import Killer, Round, check_kept
from tests.support.stores import (
    HAS_RING,
    NEVER,
    SMALLEST_BUFFER,
    SMALLEST_SEGMENT,
    contents,
)

GOAL = {
    "kills": 1000,
    "kills in load": 100,
    "kills in recovery": 50,
    "kills in flush": 100,
    "kills in compaction": 100,
    "kills in rotation": 50,
}
ROUNDS = 24
LIVES_PER_STORE = 5
TASKS = 1000

Options = dict[str, Any]

LOG: list[Options] = [
    {"wal_segment_bytes": SMALLEST_SEGMENT},
    {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER},
    {"wal_segment_bytes": 256 << 10, "flush_interval_ms": 1},
    {"wal_segment_bytes": 256 << 10, "wal_direct_io": True},
]
# Flushes, compactions and log files follow each other without a pause.
SMALL_TABLES: Options = {
    "wal_segment_bytes": SMALLEST_SEGMENT,
    "memtable_bytes_max": 64 << 10,
    "table_bytes_max": 64 << 10,
    "level_bytes_base": 64 << 10,
    "block_bytes": 256,
}
TABLES: list[Options] = [
    SMALL_TABLES,
    {**SMALL_TABLES, "compression": "zstd"},
    {**SMALL_TABLES, "wal_segment_bytes": 1 << 20},
]
OF_TASKS: list[Options] = [
    {},
    {"wal_batches_in_flight": 4, "wal_segment_bytes": 1 << 20},
    {"wal_segment_bytes": SMALLEST_SEGMENT, "wal_buffer_bytes": SMALLEST_BUFFER},
    {"write_queue_bytes_max": 64 << 10, "memtable_bytes_max": 256 << 10},
    SMALL_TABLES,
]


def chunk(index: int, directory: Path) -> Counter[str]:
    """Some kills of one kind of work on one backend, and how many fell into which phase."""
    backend = "io_uring" if index // len(SCENES) % 2 == 0 and HAS_RING else "pwrite"
    scene = list(SCENES)[index % len(SCENES)]
    return run(scene, backend, index, directory, rounds=ROUNDS)


def run(scene: str, backend: str, seed: int, directory: Path, *, rounds: int) -> Counter[str]:
    """The same for whoever names them; raises AssertionError for a loss."""
    done: Counter[str] = Counter()
    try:
        with Killer() as killer:
            SCENES[scene](Run(killer, directory, {"wal_backend": backend}, seed, rounds, done))
    except (AssertionError, kvstore.KVStoreError) as error:
        raise AssertionError(
            f"{scene}, {backend}, seed {seed}, round {done['rounds']}: "
            f"{type(error).__name__}: {error}; the store is in {directory}"
        ) from error
    del done["rounds"]
    return done


@dataclass
class Run:
    """Rounds of one scene, and what they have done so far."""

    killer: Killer
    directory: Path
    backend: Options
    seed: int
    rounds: int
    done: Counter[str]

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed} {self.backend}")

    def kill(self, work: Round, seconds: float) -> list[int]:
        """A worker is killed after so long; what it had acknowledged."""
        life = self.killer.run(work, seconds)
        self.done["rounds"] += 1
        if life.killed:
            self.done["kills"] += 1
            self.done["operations acknowledged before kills"] += sum(life.acknowledged)
            # In no phase, and nothing done: it was still starting, or had nothing to do any more.
            idle = life.phases == ["load"] and not any(life.acknowledged)
            for phase in ["no phase"] if idle else life.phases:
                self.done[f"kills in {phase}"] += 1
        return life.acknowledged


def write_and_die(
    run: Run, choices: list[Options], seconds: tuple[float, float], *, tasks: int = 0
) -> None:
    """Stores that live several times, each life on top of what the one before left."""
    before: dict[bytes, bytes] = {}
    for number in range(run.rounds):
        store, life = divmod(number, LIVES_PER_STORE)
        path = run.directory / str(store)
        if life == 0:
            before = {}
        options = {**run.chance.choice(choices), **run.backend}
        work = Round(str(path), f"round{number}", run.seed, tasks=tasks, options=options)
        acknowledged = run.kill(work, run.chance.uniform(*seconds))
        if not path.exists():
            continue  # killed before it made anything
        found = recovered(path, options, run.directory / "copy")
        check_kept(work, acknowledged, found)
        mine = f"{work.name}/".encode()
        assert {k: v for k, v in found.items() if not k.startswith(mine)} == before
        before = found
        if life == LIVES_PER_STORE - 1:
            shutil.rmtree(path)


def recovered(path: Path, options: Options, copy: Path) -> dict[bytes, bytes]:
    """What a store holds after a crash; its recovery repeated, in ``copy``, which is removed again,
    its report and its files checked."""
    shutil.copytree(path, copy)
    with kvstore.open(path, **options) as db:
        found = dict(db.items())
        report = db.recovery
        assert report.damage == (), report
        assert all(Path(saved).exists() for saved in report.saved), report
    if not options.get("wal_direct_io"):  # a dead process's direct write may still be under way
        mode = "tolerate_torn_tail" if report.torn_bytes else "strict"
        again = contents(copy, recovery=mode)
        assert again == found, "the same files recovered a second time give something else"
    shutil.rmtree(copy)
    with kvstore.open(path, **options, recovery="strict") as db:
        assert dict(db.items()) == found, "opened again it holds something else"
        verified = db.verify()
        assert verified.ok, verified
    check_names(path)
    return found


def check_names(path: Path) -> None:
    """A closed store has no file that it does not need."""
    found = ManifestLog.read(PosixFileSystem(), str(path))
    wanted = {paths.LOCK}
    if found is not None:
        version, manifest = found
        wanted |= {paths.CURRENT, manifest}
        wanted |= {paths.format_table(table.number) for table in version.tables()}
    names = {one.name for one in path.iterdir() if one.suffix not in (".wal", ".torn")}
    assert names <= wanted, f"left behind: {names - wanted}"


def recover_and_die(run: Run) -> None:
    """Recoveries killed, several in a row, of a long log with a torn end."""
    image = run.directory / "image"
    with kvstore.open(run.directory / "db", sync=False, flush_interval_ms=NEVER) as db:
        for number in range(400):
            with db.batch(sync=number % 40 == 0) as batch:
                for i in range(50):
                    batch.put(b"%d %d" % (number, i), bytes(20))
            if number == 100 and run.seed % 2:
                db.flush()
        db.sync()
        shutil.copytree(run.directory / "db", image)  # never closed: no SEAL, zeros behind the end
    last = sorted(image.glob("*.wal"))[-1]
    used = len(last.read_bytes().rstrip(b"\0"))
    with last.open("r+b") as file:
        file.seek(used - 30)
        file.write(b"torn" * 20)
    shutil.copytree(image, run.directory / "smooth")
    want = contents(run.directory / "smooth")
    assert len(want) == 399 * 50
    # Where recovery is quick many workers end before they are killed.
    while run.done["kills"] < run.rounds and run.done["rounds"] < 10 * run.rounds:
        path = run.directory / "killed"
        shutil.copytree(image, path)
        for _ in range(run.chance.choice([1, 1, 2, 3])):
            work = Round(str(path), "", run.seed, write=False, options=run.backend)
            run.kill(work, run.chance.uniform(0, 0.03))
        assert recovered(path, run.backend, run.directory / "copy") == want
        shutil.rmtree(path)


SCENES: dict[str, Callable[[Run], None]] = {
    "log": lambda run: write_and_die(run, LOG, (0, 0.12)),
    "tables": lambda run: write_and_die(run, TABLES, (0, 0.3)),
    "tasks": lambda run: write_and_die(run, OF_TASKS, (0, 0.5), tasks=TASKS),
    "recovery": recover_and_die,
}
