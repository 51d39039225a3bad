"""Runs a plan: loads each engine's store once, then one cell after the other, each on a copy.

What is measured finds its files in the page cache, unless it is to have less memory than they take:
they are read just before. (To have been written is not enough: where the kernel reclaims what was
not touched for half a minute, as DAMON can do, engines whose turn was long ago lost theirs.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.disk import device_bytes_written
from bench.load.answers import check, make_cell
from bench.load.child import Asked
from bench.load.copies import copy_store
from bench.load.limit import evict_all, limited, read_all
from bench.load.plan import PROCESSES, LeftOut, Plan, Run, Setting
from bench.load.results import Results
from bench.load.subject import SYNC, Begin, Form, Subject, Task
from bench.process import Child, ChildFailedError
from bench.stores import NOOP, loader
from bench.sync_counter import preloading
from bench.ycsb.script import Script

__all__ = ["Session"]

_CACHE_BYTES_BESIDE_DATA = 32 << 20
_LOADED_PER_SECOND_MAX = 500_000
_LIMITED_OPERATIONS_MAX = 100_000  # a script takes memory too
_LIMITED_SAMPLE = 1000
_START_SECONDS = 0.2


class Session:
    """One run of a plan with its files in ``directory``. ``library`` counts syncs; None: nobody.

    ``tell`` is called with what is done next, and how many of how many cells are done.
    """

    def __init__(
        self,
        plan: Plan,
        subject: Subject,
        directory: str,
        results: Results,
        *,
        library: str | None,
        tell: Callable[[str, int, int], None],
    ) -> None:
        self._plan, self._subject = plan, subject
        self._directory, self._results, self._tell = directory, results, tell
        self._environment = preloading(library)
        self._memory_group = ""

    def run(self) -> None:
        """All of it. RuntimeError: something was lost, or not durable when it was to be."""
        plan = self._plan
        runs = [(setting, list(plan.runs(setting))) for setting in plan.settings]
        done, total = 0, sum(len(some) for _, some in runs)
        self._load_all({run.engine for _, some in runs for run in some}, total)
        for setting, some in runs:
            with contextlib.ExitStack() as stack:
                if not self._enter(setting, stack):
                    done += len(some)
                    continue
                for run in some:
                    self._tell(f"{setting.text}: {run.task.name}, {run.engine}", done, total)
                    self._run_once(run)
                    done += 1
            self._remove_copies()

    # ---- stores ----

    def _load_all(self, engines: set[str], total: int) -> None:
        loaders = {loader(engine) for engine in engines} - {NOOP}
        for name in self._plan.engines:
            if name not in loaders or os.path.exists(self._pristine(name)):
                continue
            self._tell(f"loading {self._plan.records:,} records into {name}", 0, total)
            os.mkdir(self._pristine(name))
            task = self._plan.tasks[0]
            asked = self._asked(name, task, self._pristine(name), durable=False)
            answers = self._ask("bench.load.loading_child", [asked], name)
            self._results.loading_seconds[name] = round(answers[0]["seconds"], 2)
            os.sync()

    def _pristine(self, engine: str) -> str:
        return os.path.join(self._directory, f"pristine-{loader(engine)}")

    def _place(self, engine: str) -> str:
        word = "".join(letter if letter.isalnum() else "-" for letter in engine)
        return os.path.join(self._directory, f"work-{word}")

    def _prepare(self, run: Run) -> str:
        """The directory for a run, as its task wants to find it."""
        place = self._place(run.engine)
        if run.task.begin == Begin.EMPTY or run.engine == NOOP:
            place += "-empty"
            os.mkdir(place)
            return place
        if run.task.begin == Begin.PRISTINE:
            shutil.rmtree(place, ignore_errors=True)
        if not os.path.exists(place):
            copy_store(self._pristine(run.engine), place)
        if run.setting.memory_bytes is not None:
            evict_all(place)
        return place

    def _remove_copies(self) -> None:
        for entry in list(os.scandir(self._directory)):
            if entry.name.startswith("work-"):
                shutil.rmtree(entry.path)

    # ---- one cell ----

    def _enter(self, setting: Setting, stack: contextlib.ExitStack) -> bool:
        """Whether the setting can be had; if not, that is noted."""
        self._memory_group = ""
        if setting.memory_bytes is None:
            return True
        try:
            self._memory_group = stack.enter_context(limited(setting.memory_bytes))
        except OSError as error:
            why = f"{setting.memory_bytes >> 20:,} MiB of memory cannot be had: {error}"
            self._results.leave_out(LeftOut("all", "all", setting.mode, why))
            return False
        return True

    def _run_once(self, run: Run) -> None:
        plan, setting, task = self._plan, run.setting, run.task
        if self._results.has(_identity(run)):
            return
        place = self._prepare(run)
        script, writer_script = self._make_scripts(run)
        asked = dataclasses.replace(
            self._asked(run.engine, task, place, durable=setting.mode == SYNC),
            clients_by=run.clients_by,
            clients=setting.clients,
            script=script,
            writer_script=writer_script,
            loaded=0 if task.begins_empty else plan.records,
            target=setting.target,
            memory_group=self._memory_group,
        )
        if setting.memory_bytes is not None and plan.cache_bytes is None:
            asked = dataclasses.replace(asked, cache_bytes=setting.memory_bytes // 4)
        if setting.memory_bytes is not None:
            asked = dataclasses.replace(asked, sample=_LIMITED_SAMPLE)  # each reads the disk
        asks = [asked]
        if setting.clients_by == PROCESSES and setting.clients > 1:
            asks = _shares(asked, setting.clients, os.path.join(self._directory, "start"))
        os.sync()  # a script that was just made
        if setting.memory_bytes is None:
            read_all(place)
        before = device_bytes_written(place)
        try:
            answers = self._ask("bench.load.child", asks, f"{run.engine}, {task.name}")
            os.sync()  # what this one left to be written is its own, and not the next one's
            after = device_bytes_written(place)
            written = None if before is None or after is None else after - before
            cell = make_cell(plan, run, answers, written)
            check(cell, may_miss=task.inserts and setting.clients > 1)
            self._results.add(cell)
        finally:
            if place.endswith("-empty"):
                shutil.rmtree(place)

    def _asked(self, engine: str, task: Task, place: str, *, durable: bool) -> Asked:
        plan = self._plan
        data_bytes = plan.records * (self._subject.key_bytes + self._subject.layout.record_bytes)
        cache_bytes = plan.cache_bytes
        if cache_bytes is None:
            cache_bytes = 2 * data_bytes + _CACHE_BYTES_BESIDE_DATA
        return Asked(
            benchmark=self._subject.name,
            options=self._subject.options,
            engine=engine,
            task=task.name,
            form=task.form.value,
            durable=durable,
            clients_by="threads",
            clients=1,
            directory=place,
            script=None,
            writer_script=None,
            loaded=0,
            records=plan.records,
            seconds=plan.seconds_of(task),
            target=None,
            cache_bytes=cache_bytes,
            seed=plan.seed,
        )

    def _ask(self, module: str, asks: list[Asked], name: str) -> list[dict[str, Any]]:
        """The answers of one child, or of several that begin together."""
        try:
            with contextlib.ExitStack() as stack:
                children = [
                    stack.enter_context(Child(module, dataclasses.asdict(one), self._environment))
                    for one in asks
                ]
                if len(children) > 1:
                    stack.callback(Path(asks[0].start_file).unlink, missing_ok=True)
                    for child in children:
                        child.answer()
                    _tell_start(asks[0].start_file)
                answers = [child.answer() for child in children]
                for child in children:
                    child.wait()
                return answers
        except ChildFailedError as error:
            raise RuntimeError(f"{name}: {error}") from error

    # ---- scripts ----

    def _make_scripts(self, run: Run) -> tuple[str | None, str | None]:
        """The files with the script, and with that of the writer beside; made for all engines."""
        plan, task, clients = self._plan, run.task, run.setting.clients
        if task.form not in (Form.SCRIPT, Form.BESIDE_A_WRITER):
            return None, None
        operations = plan.operations
        if task.begins_empty:
            operations = int(_LOADED_PER_SECOND_MAX * plan.load_seconds)
        elif run.setting.memory_bytes is not None:
            operations = min(operations, _LIMITED_OPERATIONS_MAX)
        if not task.inserts:
            clients = 1  # nothing depends on them
        name = f"script-{task.name}-{run.repetition}-{clients}-{operations}"
        seed = plan.seed + run.repetition
        path = self._saved(
            name,
            lambda: self._subject.make_script(
                task, records=plan.records, operations=operations, clients=clients, seed=seed
            ),
        )
        if task.form == Form.SCRIPT:
            return path, None
        return path, self._saved(
            f"writer-{name}",
            lambda: self._subject.make_writer_script(
                records=plan.records, operations=operations, seed=seed + 1
            ),
        )

    def _saved(self, name: str, make: Callable[[], Script]) -> str:
        """Its file, made when it is not there."""
        path = os.path.join(self._directory, name)
        if not os.path.exists(path):
            script = make()
            with open(path, "wb") as file:
                pickle.dump(script, file, pickle.HIGHEST_PROTOCOL)
        return path


def _identity(run: Run) -> dict[str, Any]:
    """What a cell of the run would be found by."""
    return {
        "workload": run.task.name,
        "engine": run.engine,
        "mode": run.setting.mode,
        "clients_by": run.clients_by,
        "clients": run.setting.clients,
        "target": run.setting.target,
        "memory_bytes": run.setting.memory_bytes,
        "repetition": run.repetition + 1,
    }


def _shares(asked: Asked, processes: int, start_file: str) -> list[Asked]:
    target = None if asked.target is None else asked.target / processes
    return [
        dataclasses.replace(
            asked, clients=1, share=number, shares=processes, start_file=start_file, target=target
        )
        for number in range(processes)
    ]


def _tell_start(path: str) -> None:
    """A moment soon, written whole or not at all."""
    moment = time.perf_counter_ns() + int(1e9 * _START_SECONDS)
    beside = path + ".tmp"
    Path(beside).write_text(str(moment), encoding="ascii")
    os.replace(beside, path)
