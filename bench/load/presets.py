"""How large a run is when nobody says: quick, as it comes, or in full for the report."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

from bench.colours import NOOP
from bench.load.plan import PROCESSES, THREADS, Plan, Setting
from bench.load.subject import RELAXED, SYNC, Subject, Task
from bench.stores import NAMES, missing

__all__ = ["MODES", "Preset", "make_plan", "presets_of"]

MODES = (SYNC, RELAXED)
_MANY = 16
_FEW_PROCESSES = 4
_TARGET = 2_000.0  # operations per second: about half of what the slowest reach by themselves


@dataclass(frozen=True)
class Preset:
    """Sizes, and the settings that are compared."""

    records: int
    operations: int
    seconds: float
    load_seconds: float
    settings: tuple[Setting, ...]


_QUICK = Preset(
    records=20_000,
    operations=50_000,
    seconds=0.25,
    load_seconds=0.25,
    settings=(
        Setting(SYNC, 1, THREADS, 1, tasks=("load", "A", "fillsync")),
        Setting(RELAXED, 1, THREADS, 1, tasks=("A", "C", "E", "fillseq", "readrandom", "readseq")),
    ),
)
_USUAL = Preset(
    records=1_000_000,
    operations=700_000,
    seconds=2.0,
    load_seconds=3.0,
    settings=(Setting(SYNC, 1, THREADS, 3), Setting(RELAXED, 1, THREADS, 3)),
)
_FULL_YCSB = dataclasses.replace(
    _USUAL,
    settings=(
        Setting(SYNC, 1, THREADS, 5),
        Setting(RELAXED, 1, THREADS, 5),
        Setting(SYNC, _MANY, THREADS, 3, tasks=("load", "A", "B", "F")),
        Setting(SYNC, _MANY, THREADS, 3, target=_TARGET, tasks=("A",)),
        Setting(SYNC, _FEW_PROCESSES, PROCESSES, 3, tasks=("A",)),
        Setting(RELAXED, 1, THREADS, 3, memory_bytes=512 << 20, tasks=("A", "C", "E")),
    ),
)
_FULL_DBBENCH = dataclasses.replace(
    _USUAL,
    settings=(Setting(SYNC, 1, THREADS, 5), Setting(RELAXED, 1, THREADS, 5)),
)


def presets_of(benchmark: str) -> dict[str, Preset]:
    """By name: quick, usual, full."""
    full = _FULL_YCSB if benchmark == "ycsb" else _FULL_DBBENCH
    return {"quick": _QUICK, "usual": _USUAL, "full": full}


def make_plan(arguments: argparse.Namespace, subject: Subject) -> Plan:
    """The preset, with what the command line says instead. The engines are all that it names."""
    name = "quick" if arguments.quick else "full" if arguments.full else "usual"
    preset = presets_of(subject.name)[name]
    wanted = (*(arguments.engines or NAMES), NOOP)  # whose cost everybody's is seen against
    absent = missing(wanted)
    return Plan(
        engines=tuple(name for name in NAMES if name in wanted and name not in absent),
        tasks=_tasks(arguments, subject),
        settings=tuple(_settings(arguments, preset)),
        records=arguments.records or preset.records,
        operations=arguments.operations or preset.operations,
        seconds=arguments.seconds or preset.seconds,
        load_seconds=arguments.load_seconds or arguments.seconds or preset.load_seconds,
        cache_bytes=arguments.cache << 20 if arguments.cache else None,
        seed=arguments.seed,
        absent=absent,
    )


def _tasks(arguments: argparse.Namespace, subject: Subject) -> tuple[Task, ...]:
    wanted = arguments.workloads or [task.name for task in subject.tasks]
    return tuple(task for task in subject.tasks if task.name in wanted)


def _settings(arguments: argparse.Namespace, preset: Preset) -> list[Setting]:
    """Whoever says how many clients there are, or what they are, gets that setting alone."""
    settings = [s for s in preset.settings if s.mode in (arguments.modes or MODES)]
    own = (arguments.clients, arguments.by, arguments.target, arguments.memory_limit)
    if any(own):
        limit = arguments.memory_limit
        settings = [
            Setting(
                mode,
                arguments.clients or 1,
                arguments.by or THREADS,
                preset.settings[0].repetitions,
                target=arguments.target,
                memory_bytes=limit << 20 if limit else None,
            )
            for mode in (arguments.modes or MODES)
        ]
    if arguments.workloads:
        settings = [dataclasses.replace(setting, tasks=None) for setting in settings]
    if arguments.repetitions:
        settings = [
            dataclasses.replace(setting, repetitions=arguments.repetitions) for setting in settings
        ]
    return settings
