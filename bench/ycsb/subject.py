"""YCSB for the machinery of bench/load."""

from __future__ import annotations

from typing import Any

from bench.load.subject import Begin, Task
from bench.stores.base import Layout
from bench.ycsb.generation import generate, generate_load
from bench.ycsb.records import FIELD_BYTES, FIELDS, Records, make_key
from bench.ycsb.script import Kind, Script
from bench.ycsb.workloads import ORDER, WORKLOADS

__all__ = ["TASKS", "Ycsb", "make"]

_LOAD, _RELOAD = "load", "reload"


def _tasks() -> tuple[Task, ...]:
    tasks = []
    begin = Begin.PRISTINE
    for name in ORDER:
        if name == _RELOAD:
            begin = Begin.PRISTINE
        elif name == _LOAD:
            tasks.append(Task(_LOAD, Begin.EMPTY, inserts=True))
        else:
            mix = WORKLOADS[name].mix
            scans, inserts = Kind.SCAN in mix, Kind.INSERT in mix
            tasks.append(Task(name, begin, scans=scans, inserts=inserts))
            begin = Begin.AS_LEFT
    return tuple(tasks)


TASKS = _tasks()


class Ycsb:
    """The core workloads. Loading inserts one record after the other."""

    name = "ycsb"
    tasks = TASKS
    layout = Layout(FIELDS, FIELD_BYTES)
    key_bytes = len(make_key(0))
    options: dict[str, Any]

    def __init__(self, seed: int) -> None:
        self.contents = Records(seed)
        self.options = {}
        self.key = make_key

    def make_script(
        self, task: Task, *, records: int, operations: int, clients: int, seed: int
    ) -> Script:
        if task.name == _LOAD:
            return generate_load(self.contents, min(records, operations))
        return generate(
            WORKLOADS[task.name],
            self.contents,
            records=records,
            operations=operations,
            seed=seed,
            clients=clients,
        )

    def make_writer_script(self, *, records: int, operations: int, seed: int) -> Script:
        raise NotImplementedError("no workload has a writer beside it")


def make(seed: int) -> Ycsb:
    """As bench.load.subject asks for it."""
    return Ycsb(seed)
