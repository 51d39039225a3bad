"""One round of the demo: write, kill, reopen, compare.

What had been acknowledged must be there, byte for byte. What had not been may be there or not, but
never in part; and once it has been seen after a recovery it counts as promised, like the rest.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import kvstore
from kvstore.cli import writer
from kvstore.cli.library import Library
from kvstore.errors import KVStoreError

__all__ = ["Load", "Plan", "RoundResult", "Verdict", "check_store", "run_load", "run_round"]

Progress = Callable[[int], None]
Promises = dict[int, set[int]]  # round number -> indexes of files that must be there

_SILENCE_SECONDS_MAX = 120
_DELAY_SECONDS_MAX = 0.005


@dataclass(frozen=True)
class Plan:
    """What all rounds have in common; ``promised`` grows from round to round."""

    directory: str
    library: Library
    threads: int
    chance: random.Random
    promised: Promises = field(default_factory=dict)


@dataclass
class Load:
    """What the writer said before it was killed. ``counted`` and ``syncs`` belong to one moment."""

    acknowledged: set[int] = field(default_factory=set)
    seconds: float = 0.0
    counted: int = 0
    syncs: int = 0


@dataclass
class Verdict:
    """What a check found; keys of the store stand for what is wrong.

    ``survivors`` are indexes of files of the last round that nobody had acknowledged, and which are
    there, whole.
    """

    intact: int = 0
    survivors: set[int] = field(default_factory=set)
    lost: list[bytes] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the store kept its word."""
        return not (self.lost or self.damaged or self.unknown)


@dataclass(frozen=True)
class RoundResult:
    """A round: the load, what recovery said, what the check found, how the reopened store is."""

    number: int
    load: Load
    recovery: kvstore.RecoveryReport
    verdict: Verdict
    stats: kvstore.StoreStats


def run_round(plan: Plan, number: int, progress: Progress) -> RoundResult:
    """Adds a round to the store, and to ``plan.promised`` what the round promises to later ones.

    Raises KVStoreError when the store cannot be opened again, or the writer fails by itself.
    """
    load = run_load(plan, number, progress)
    plan.promised[number] = load.acknowledged
    with kvstore.open(plan.directory, create_if_missing=False) as store:
        verdict = check_store(store, plan.library, plan.promised)
        stats = store.stats()
    plan.promised[number] = load.acknowledged | verdict.survivors
    return RoundResult(number, load, store.recovery, verdict, stats)


def run_load(plan: Plan, number: int, progress: Progress) -> Load:
    """Has another process write, and kills it when a random share of the files is acknowledged.

    A random pause of a few milliseconds follows, so that the kill meets any state of the writer and
    not only that just after a report.
    """
    files = len(plan.library.names)
    kill_at = max(1, round(plan.chance.uniform(0.05, 0.95) * files))
    delay = plan.chance.uniform(0, _DELAY_SECONDS_MAX)
    arguments = [plan.directory, *map(str, (number, plan.threads, files))]
    with subprocess.Popen(
        [sys.executable, "-m", writer.__name__, *arguments],
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, which then kills this one
    ) as process:
        try:
            return _listen(process, kill_at, delay, progress)
        finally:
            process.kill()


def _listen(
    process: subprocess.Popen[bytes], kill_at: int, delay: float, progress: Progress
) -> Load:
    """Reads reports to the end of the pipe: what was in it at the kill was acknowledged as well."""
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    load = Load()
    began = heard = time.perf_counter()
    killed = False
    rest = b""
    while time.perf_counter() - heard < _SILENCE_SECONDS_MAX:
        if not select.select([pipe], [], [], 1)[0]:
            continue
        data = os.read(pipe, 1 << 16)
        if not data:
            break
        data = rest + data
        rest = data[len(data) - len(data) % writer.RECORD.size :]
        for what, count in writer.RECORD.iter_unpack(data[: len(data) - len(rest)]):
            if what == writer.OPENED:
                began = time.perf_counter()
            elif what == writer.COUNTERS:
                load.counted, load.syncs = len(load.acknowledged), count
            else:
                load.acknowledged.add(what)
                heard = time.perf_counter()
        progress(len(load.acknowledged))
        if not killed and len(load.acknowledged) >= kill_at:
            time.sleep(delay)
            process.kill()
            killed = True
            load.seconds = time.perf_counter() - began
    if not killed:
        process.kill()
        status = process.wait()
        how = "said nothing for too long" if status < 0 else f"ended by itself (status {status})"
        raise KVStoreError(f"the writing process {how} before it was to be killed")
    return load


def check_store(
    store: Mapping[bytes, bytes],
    library: Library,
    promised: Mapping[int, set[int]],
) -> Verdict:
    """Compares every file of every round with what the store holds; O(bytes in the store).

    ``promised`` says which files must be there; of its last round others may be there, too, whole.
    """
    verdict = Verdict()
    last = max(promised)
    known = 0
    for index in range(len(library.names)):
        content: bytes | None = None
        for number, indexes in promised.items():
            key = library.key(number, index)
            value = store.get(key)
            if value is None:
                if index in indexes:
                    verdict.lost.append(key)
                continue
            known += 1
            content = library.read(index) if content is None else content
            if value != content:
                verdict.damaged.append(key)
            elif index in indexes:
                verdict.intact += 1
            elif number == last:
                verdict.survivors.add(index)
            else:
                verdict.unknown.append(key)  # it was not there when this round was checked first
    if len(store) != known:
        keys = {library.key(number, i) for number in promised for i in range(len(library.names))}
        verdict.unknown += [key for key in store if key not in keys]
    return verdict
