"""What is run: which engines do which tasks in which settings, how often; decided beforehand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.load.subject import RELAXED, SYNC, Form, Task
from bench.stores import ASYNC_STORES, NOOP, capable

__all__ = ["PROCESSES", "TASKS", "THREADS", "LeftOut", "Plan", "Run", "Setting", "why_not"]

THREADS, TASKS, PROCESSES = "threads", "tasks", "processes"
_OVERHEAD_SECONDS = 1.4  # to begin a process, read the script, copy, verify
_LOAD_BYTES_PER_SECOND = 40 << 20
_COPY_BYTES_PER_SECOND = 400 << 20


@dataclass(frozen=True)
class Setting:
    """Circumstances in which the engines are compared.

    ``clients_by``: THREADS (of an engine for asyncio: TASKS) or PROCESSES. ``target``: operations
    per second of an open loop; None: a closed one. ``memory_bytes``: what a process and the page
    cache of its files may have together; None: all that the machine has. ``tasks``: None: all.
    """

    mode: str
    clients: int
    clients_by: str
    repetitions: int
    target: float | None = None
    memory_bytes: int | None = None
    tasks: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        """As a heading."""
        one = {THREADS: "thread", TASKS: "task", PROCESSES: "process"}[self.clients_by]
        parts = [
            self.mode,
            f"1 {one}" if self.clients == 1 else f"{self.clients} {self.clients_by}",
        ]
        if self.target is not None:
            parts.append(f"{self.target:,.0f} operations/s")
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes >> 20:,} MiB of memory")
        return ", ".join(parts)


@dataclass(frozen=True)
class LeftOut:
    """What is not run, and why: named, never skipped in silence."""

    engine: str
    workload: str
    mode: str
    why: str


@dataclass(frozen=True)
class Run:
    """One cell: an engine's task in a setting, once."""

    setting: Setting
    repetition: int
    task: Task
    engine: str

    @property
    def clients_by(self) -> str:
        return TASKS if self.engine in ASYNC_STORES else self.setting.clients_by


@dataclass(frozen=True)
class Plan:
    """All of it. ``seconds`` limit a cell, ``load_seconds`` one that begins with an empty store;
    ``operations`` limit both. ``absent`` are engines that are not installed.
    """

    engines: tuple[str, ...]
    tasks: tuple[Task, ...]
    settings: tuple[Setting, ...]
    records: int
    operations: int
    seconds: float
    load_seconds: float
    cache_bytes: int | None
    seed: int
    absent: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        """How many are run."""
        return sum(1 for setting in self.settings for _ in self.runs(setting))

    def tasks_of(self, setting: Setting) -> list[Task]:
        return [
            task
            for task in self.tasks
            if setting.mode in task.modes and (setting.tasks is None or task.name in setting.tasks)
        ]

    def runs(self, setting: Setting) -> Iterator[Run]:
        """A repetition is all tasks in their order, each by all engines in turns: a drift hits them
        all. In another order each time, so that nobody always follows the same one.
        """
        for repetition in range(setting.repetitions):
            for task in self.tasks_of(setting):
                engines = list(self.engines)
                random.Random(f"{self.seed} {repetition} {task.name}").shuffle(engines)
                for engine in engines:
                    most = capable(engine).repetitions_max
                    if most is not None and repetition >= most:
                        continue
                    if not why_not(engine, task, setting):
                        yield Run(setting, repetition, task, engine)

    def left_out(self) -> list[LeftOut]:
        """What no engine can help: each once."""
        found: dict[LeftOut, None] = {}
        for engine in self.absent:
            found[LeftOut(engine, "all", "all", "not installed (extra: bench)")] = None
        for setting in self.settings:
            for task in self.tasks_of(setting):
                for engine in self.engines:
                    if why := why_not(engine, task, setting):
                        why += f" ({setting.text})"
                        found[LeftOut(engine, task.name, setting.mode, why)] = None
        for engine in self.engines:
            most = capable(engine).repetitions_max
            if most is not None and engine != NOOP:
                why = f"not repeated beyond {most}: opening it takes too long"
                if any(setting.repetitions > most for setting in self.settings):
                    found[LeftOut(engine, "all", RELAXED, why)] = None
        return list(found)

    def seconds_estimated(self, data_bytes: int) -> float:
        """How long it takes, roughly."""
        runs = [run for setting in self.settings for run in self.runs(setting)]
        measured = sum(self.seconds_of(run.task) + _OVERHEAD_SECONDS for run in runs)
        copies = sum(
            2 * setting.repetitions * len(self.engines) * data_bytes / 2 / _COPY_BYTES_PER_SECOND
            for setting in self.settings
        )
        return measured + copies + len(self.engines) * data_bytes / _LOAD_BYTES_PER_SECOND

    def seconds_of(self, task: Task) -> float:
        """The limit of a cell."""
        return self.load_seconds if task.begins_empty else self.seconds

    def as_json(self) -> dict[str, Any]:
        return {
            "engines": list(self.engines),
            "workloads": [task.name for task in self.tasks],
            "settings": [asdict(setting) for setting in self.settings],
            "records": self.records,
            "operations": self.operations,
            "seconds": self.seconds,
            "load_seconds": self.load_seconds,
            "cache_bytes": self.cache_bytes,
            "relaxed": {engine: capable(engine).relaxed for engine in self.engines},
            "seed": self.seed,
        }


def why_not(engine: str, task: Task, setting: Setting) -> str:
    """Why an engine cannot do a task in a setting; "" when it can."""
    able = capable(engine)
    if setting.mode == SYNC and able.cannot_sync:
        return able.cannot_sync
    if task.scans and able.cannot_scan:
        return able.cannot_scan
    if setting.clients_by == PROCESSES and able.cannot_share_processes:
        return able.cannot_share_processes
    several = setting.clients > 1 or task.form == Form.BESIDE_A_WRITER
    if setting.clients_by == THREADS and several and able.cannot_share_threads:
        return able.cannot_share_threads
    return _why_not_by_form(engine, task, setting)


def _why_not_by_form(engine: str, task: Task, setting: Setting) -> str:
    if task.form in (Form.FORWARDS, Form.BACKWARDS):
        if engine == NOOP:
            return "it holds nothing to walk over"
        if engine in ASYNC_STORES:
            return "a walk is one client's: see kvstore"
        if setting.clients > 1:
            return "a walk is one client's"
        if setting.target is not None:
            return "a walk has no operations that could be due"
    if task.form == Form.BESIDE_A_WRITER and setting.clients_by == PROCESSES:
        return "the writer is a thread of the same process"
    return ""
