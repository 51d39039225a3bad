"""What a benchmark says of itself, so that everything else need not know which one it is."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from bench.stores.base import Layout
from bench.ycsb.script import Script

__all__ = ["RELAXED", "SYNC", "Begin", "Contents", "Form", "Subject", "Task", "subject_of"]

SYNC, RELAXED = "sync", "relaxed"


class Begin(Enum):
    """What a task finds."""

    EMPTY = "an empty store"
    PRISTINE = "a fresh copy of the loaded store"
    AS_LEFT = "what the task before it has left"


class Form(Enum):
    """How a task is carried out."""

    SCRIPT = "script"
    FORWARDS = "forwards"
    BACKWARDS = "backwards"
    BESIDE_A_WRITER = "beside a writer"


@dataclass(frozen=True)
class Task:
    """A workload or a case.

    ``scans``: it needs the entries from a key on. ``inserts``: what it reads may depend on how many
    clients insert. ``modes`` in which it is run: a task that writes nothing is the same in both.
    """

    name: str
    begin: Begin
    form: Form = Form.SCRIPT
    scans: bool = False
    inserts: bool = False
    modes: tuple[str, ...] = (SYNC, RELAXED)

    @property
    def begins_empty(self) -> bool:
        return self.begin == Begin.EMPTY


class Contents(Protocol):
    """Keys, and what may be stored under them."""

    def pairs(self, numbers: Iterable[int]) -> Iterator[tuple[bytes, bytes]]: ...

    def holds(self, key: bytes, value: bytes) -> bool: ...


class Subject(Protocol):
    """A benchmark; made by (seed, its own options), the same in every process."""

    name: str
    tasks: Sequence[Task]
    layout: Layout
    key_bytes: int
    contents: Contents
    options: dict[str, Any]
    """That it was made with, beside the seed."""

    def key(self, number: int) -> bytes:
        """That of a record which a loaded store has."""

    def make_script(
        self, task: Task, *, records: int, operations: int, clients: int, seed: int
    ) -> Script:
        """What the clients do; made before a clock starts."""

    def make_writer_script(self, *, records: int, operations: int, seed: int) -> Script:
        """What one more client does, over and over, while the others are at it."""


def subject_of(name: str, seed: int, options: dict[str, Any]) -> Subject:
    """The benchmark ``name``, which is a package with a module of this name."""
    subject: Subject = importlib.import_module(f"bench.{name}.subject").make(seed, **options)
    return subject
