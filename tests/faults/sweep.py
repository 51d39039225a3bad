"""Fault sweeps: operation n = 0, 1, 2 ... of a script fails, once or from then on.

On the Python-driven engine and on the real ones (spoiler.py), by each API (script.py). After each
fault: what was raised is typed and names the operation, reads went on and were right, nothing
acknowledged is lost after reopening, what was not acknowledged is there whole or not at all, and
neither files nor descriptors nor threads are left. What can simply be done again never fails.

A sweep runs in a process of its own: the real engines need a library preloaded, and a hang becomes
a failure that shows where every thread stands.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.sync_counter import preloading
from kvstore import KVStore, Options
from kvstore.fs import posix
from tests.faults.script import Script, ScriptInTasks, ScriptInThreads
from tests.support.faultfs import ALL_BUT_ONE, HALF, Fault
from tests.support.spoiler import Preloaded, Simulated, Spoiler, build_spoiler
from tests.support.stores import HAS_RING, NEVER, SMALLEST_SEGMENT, strays

__all__ = ["GOAL", "SETTINGS", "Setting", "chunk", "sweep"]

GOAL = {"faults": 15_000}  # about once each operation of each setting

HANG_SECONDS = 60
CHUNK_SECONDS_MAX = 540  # less than the torture runner allows, which would not say where it hangs
STRIDE = 2
CHECKOUT = Path(__file__).resolve().parents[2]

WRITES = frozenset({"write", "synchronous write"})
SYNCS = frozenset({"sync", "synchronous write"})
NAMES = frozenset({"rename", "unlink", "open", "sync directory"})
CHANGES = WRITES | SYNCS | NAMES | {"truncate", "preallocate"}


@dataclass(frozen=True)
class Kind:
    """A fault by name, on ``levels`` ("simulated", "preloaded"). ``harmless``: nothing may fail."""

    fault: Fault
    harmless: bool = False
    levels: tuple[str, ...] = ("simulated", "preloaded")


def _kinds() -> dict[str, Kind]:
    kinds = {
        "EIO": Kind(Fault(errno.EIO, CHANGES)),
        "ENOSPC": Kind(Fault(errno.ENOSPC, CHANGES)),
        "EIO of a read": Kind(Fault(errno.EIO, frozenset({"read", "open to read"}))),
        "EINTR of a write": Kind(Fault(errno.EINTR, frozenset({"write"})), harmless=True),
        "EAGAIN of a write": Kind(Fault(errno.EAGAIN, frozenset({"write"})), harmless=True),
        "EINTR of a sync": Kind(Fault(errno.EINTR, SYNCS)),
        "EAGAIN of a sync": Kind(Fault(errno.EAGAIN, SYNCS)),
    }
    for keep in (0, 1, HALF, ALL_BUT_ONE):
        kinds[f"short write: {keep}"] = Kind(Fault(0, WRITES, keep=keep), harmless=True)
    for keep in (1, HALF, ALL_BUT_ONE):
        read = Fault(0, frozenset({"read"}), keep=keep)
        kinds[f"short read: {keep}"] = Kind(read, harmless=True, levels=("preloaded",))
    for name in ("EIO", "ENOSPC", "EIO of a read"):
        fault = kinds[name].fault
        kinds[f"{name} for ever"] = Kind(Fault(fault.error, fault.operations, forever=True))
    for operation in sorted({*NAMES, "truncate", "preallocate"}):
        fault = Fault(errno.EIO, frozenset({operation}), forever=True)
        kinds[f"EIO of every {operation}"] = Kind(fault)
    for name, operations in (("write", WRITES), ("sync", SYNCS)):
        kinds[f"EIO of every {name}"] = Kind(Fault(errno.EIO, operations, forever=True))
    full = Fault(errno.ENOSPC, frozenset({"preallocate", "write"}), forever=True)
    kinds["no more room"] = Kind(full)
    no_files = Fault(errno.ENOSPC, frozenset({"preallocate"}), forever=True)
    kinds["no room for another file"] = Kind(no_files)
    kinds["EINTR for ever"] = Kind(Fault(errno.EINTR, frozenset({"write"}), forever=True),
                                   levels=("simulated",))  # fmt: skip
    kinds["nothing is written"] = Kind(Fault(0, WRITES, forever=True, keep=0))
    for keep in (HALF, ALL_BUT_ONE):
        fault = Fault(0, WRITES, forever=True, keep=keep)
        kinds[f"every write short: {keep}"] = Kind(fault, harmless=True)
    for forever in (False, True):
        limit = Fault(errno.EFBIG, CHANGES, forever=forever)
        kinds["a limit" + " for ever" * forever] = Kind(limit, levels=("preloaded",))
    return kinds


KINDS = _kinds()
SCRIPTS: dict[str, type[Script]] = {
    "one thread": Script,
    "threads": ScriptInThreads,
    "tasks": ScriptInTasks,
}


@dataclass(frozen=True)
class Setting:
    """An engine ("simulated", "pwrite" or "io_uring"), a script and a kind of fault, by name."""

    engine: str
    script: str
    kind: str


SETTINGS = [
    Setting(engine, script, name)
    for name, kind in KINDS.items()
    for script in SCRIPTS
    for engine in ("simulated", "pwrite", *(["io_uring"] if HAS_RING else []))
    if ("simulated" if engine == "simulated" else "preloaded") in kind.levels
]


def options(setting: Setting) -> Options:
    """Everything small: the script rotates, flushes and compacts."""
    return Options(
        wal_backend="pwrite" if setting.engine == "simulated" else setting.engine,
        wal_segment_bytes=SMALLEST_SEGMENT,
        flush_interval_ms=min(SCRIPTS[setting.script].flush_interval_ms, NEVER),
        memtable_bytes_max=64 << 10,
        table_bytes_max=64 << 10,
        level_bytes_base=64 << 10,
        block_bytes=1024,
    )


# ---- in the process of its own ----


@dataclass(frozen=True)
class Place:
    """What a process holds: descriptors and threads, those of the kernel for a ring left out."""

    descriptors: int
    threads: int

    @classmethod
    def now(cls) -> Place:
        threads = 0
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it ended
                threads += not (task / "comm").read_text().startswith("iou-")
        return cls(len(os.listdir("/proc/self/fd")), threads)


def check_nothing_left(before: Place) -> None:
    """Waits until threads that are about to end have ended."""
    deadline = time.monotonic() + 10
    while (now := Place.now()).descriptors > before.descriptors or now.threads > before.threads:
        gc.collect()
        assert time.monotonic() < deadline, f"left behind: {now}, before: {before}"
        time.sleep(0.001)


def run(setting: Setting, at: int | None, path: Path, spoiler: Spoiler) -> int:
    """The script with its operation ``at`` spoiled; how many operations were, as far as is known:
    of a limit on the size of files, how often somebody was told that it had been met."""
    kind = KINDS[setting.kind]
    script = SCRIPTS[setting.script](path, options(setting), kind.fault)
    before = Place.now()
    try:
        fs = spoiler.arm(path, kind.fault, at)
        script.run(spoiler, fs)
        spoiler.cut_power()
        failures = spoiler.failures()
        told = len(script.errors)
        spoiler.heal()
        assert not (script.errors and (kind.harmless or not failures)), script.errors[0]
        assert failures == 0 or at is not None
        if path.exists():
            with KVStore(path, options(setting)) as db:
                script.reopened(list(db.scan()))
                assert len(db) == len(script.expected())
                report = db.verify()
                assert report.ok, report
                db._tree.state.version._check()
            assert strays(path) == set()
    except BaseException:
        spoiler.heal()
        raise
    script.errors.clear()
    check_nothing_left(before)
    shutil.rmtree(path, ignore_errors=True)
    return told if kind.fault.error == errno.EFBIG else failures


def sweep_here(setting: Setting, first: int, step: int, directory: Path) -> Counter[str]:
    """Operation ``first``, and each ``step`` further, until the script has none that far."""
    spoiler: Spoiler = Simulated() if setting.engine == "simulated" else Preloaded()
    path = directory / "db"
    run(setting, None, path, spoiler)
    operations = spoiler.count()
    tried: Counter[str] = Counter(operations=operations)
    for at in range(first, operations, step):
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            tried["faults"] += run(setting, at, path, spoiler) > 0
        except BaseException as error:
            error.args = (f"{setting}, operation {at}: {error}",)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
    return tried


def main() -> None:
    """Sweeps as the argument says, a JSON object; prints the counts as another."""
    work = json.loads(sys.argv[1])
    if work["simulated"]:
        posix._sync = lambda fd: None  # no test here cuts the power
    total: Counter[str] = Counter()
    for setting, first, step in work["sweeps"]:
        total += sweep_here(Setting(**setting), first, step, Path(work["directory"]))
    print(json.dumps(total))


# ---- in the process of the test ----


def sweep(sweeps: Sequence[tuple[Setting, int, int]], directory: Path) -> Counter[str]:
    """(setting, first operation, step) after each other, all of them simulated or none."""
    simulated = sweeps[0][0].engine == "simulated"
    work = {
        "simulated": simulated,
        "sweeps": [(asdict(setting), first, step) for setting, first, step in sweeps],
        "directory": str(directory),
    }
    library = None if simulated else build_spoiler(str(directory))
    environment = {**preloading(library), "PYTHONFAULTHANDLER": "1"}
    environment.pop("KVSTORE_WAL_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-m", "tests.faults.sweep", json.dumps(work)],
        capture_output=True,
        text=True,
        timeout=CHUNK_SECONDS_MAX,
        check=False,
        env=environment,
        cwd=CHECKOUT,
    )
    repeat = f"to repeat it: python -m tests.faults.sweep '{json.dumps(work)}'"
    if library is not None:
        repeat += ", with tests/support/spoiler.c preloaded"
    assert (done.returncode, done.stderr) == (0, ""), f"{repeat}\n{done.stderr}"
    return Counter(json.loads(done.stdout))


def chunk(index: int, directory: Path) -> Counter[str]:
    """Each STRIDE-th operation of one setting after the other, then those beside them."""
    first, number = divmod(index, len(SETTINGS))
    # Settings of all kinds early: 101 shares no factor with how many there are.
    setting = SETTINGS[number * 101 % len(SETTINGS)]
    tried = sweep([(setting, first % STRIDE, STRIDE)], directory)
    return Counter(faults=tried["faults"])


if __name__ == "__main__":
    main()
