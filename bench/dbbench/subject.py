"""db_bench for the machinery of bench/load."""

from __future__ import annotations

from bench.dbbench import cases
from bench.dbbench.entries import KEY_BYTES, VALUE_BYTES, Entries
from bench.load.subject import RELAXED, SYNC, Begin, Form, Task
from bench.stores.base import Layout
from bench.ycsb.script import Kind, Script

__all__ = ["TASKS", "Dbbench", "make"]

_FORMS = {
    cases.Form.SCRIPT: Form.SCRIPT,
    cases.Form.FORWARDS: Form.FORWARDS,
    cases.Form.BACKWARDS: Form.BACKWARDS,
    cases.Form.BESIDE_A_WRITER: Form.BESIDE_A_WRITER,
}
_IN_BOTH_MODES = ("overwrite", "deleterandom")
_CHANGING = ("overwrite", "readwhilewriting", "deleterandom")


def _modes(case: cases.Case) -> tuple[str, ...]:
    """fillsync is the durable one; of those on a full store, what writes is run in both modes."""
    if case.durable:
        return (SYNC,)
    return (SYNC, RELAXED) if case.name in _IN_BOTH_MODES else (RELAXED,)


def _tasks() -> tuple[Task, ...]:
    """Who only reads finds what was loaded, not what a case before it has written in its time."""
    tasks = []
    before = ""
    for case in cases.CASES.values():
        begin = Begin.PRISTINE if {case.name, before} & {*_CHANGING} else Begin.AS_LEFT
        tasks.append(
            Task(
                case.name,
                Begin.EMPTY if case.fresh else begin,
                form=_FORMS[case.form],
                scans=case.kind == Kind.SEEK,
                modes=_modes(case),
            )
        )
        before = case.name
    return tuple(tasks)


TASKS = _tasks()


class Dbbench:
    """The cases, with keys and values of these sizes. A seek goes on for ``seek_nexts`` entries."""

    name = "dbbench"
    tasks = TASKS

    def __init__(self, seed: int, key_bytes: int, value_bytes: int, seek_nexts: int) -> None:
        self.contents = Entries(seed, key_bytes=key_bytes, value_bytes=value_bytes)
        self.options = {
            "key_bytes": key_bytes,
            "value_bytes": value_bytes,
            "seek_nexts": seek_nexts,
        }
        self.key = self.contents.key
        self.key_bytes = key_bytes
        self.layout = Layout(1, value_bytes)
        self._seek_nexts = seek_nexts

    def make_script(
        self, task: Task, *, records: int, operations: int, clients: int, seed: int
    ) -> Script:
        del clients
        case = cases.CASES[task.name]
        return cases.make_script(
            case,
            self.contents,
            entries=records,
            operations=min(operations, case.operations(records)),
            seed=seed,
            seek_nexts=self._seek_nexts,
        )

    def make_writer_script(self, *, records: int, operations: int, seed: int) -> Script:
        return cases.make_writer_script(
            self.contents, entries=records, operations=operations, seed=seed
        )


def make(
    seed: int, key_bytes: int = KEY_BYTES, value_bytes: int = VALUE_BYTES, seek_nexts: int = 0
) -> Dbbench:
    """As bench.load.subject asks for it."""
    return Dbbench(seed, key_bytes, value_bytes, seek_nexts)
