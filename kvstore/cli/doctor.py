"""``kvstore doctor``: what this machine and a directory can do, and what a durable write costs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.console import Console

from kvstore.cli.latency import Latency, Measurements, measure, possible_strategies
from kvstore.cli.machine import (
    Machine,
    Place,
    Ring,
    inspect_machine,
    inspect_place,
    scratch_directory,
)
from kvstore.cli.output import (
    bytes_text,
    duration_text,
    make_console,
    print_facts,
    print_heading,
    print_line,
    print_paragraph,
    printable,
)
from kvstore.errors import KVStoreError
from kvstore.wal import IoUringConfig

__all__ = ["Diagnosis", "diagnose", "doctor"]

_FREE_BYTES_MIN = 256 << 20
_FREE_BYTES_ENOUGH = 4 << 30
_FREE_SHARE_MIN = 0.05


@dataclass(frozen=True)
class Diagnosis:
    """Everything that the command found; JSON-able."""

    machine: Machine
    place: Place
    measurements: Measurements
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """All of it, in the names of the dataclasses; a strategy and its latency are one object."""
        content = asdict(self)
        content["measurements"]["strategies"] = [
            {"name": str(strategy), **asdict(strategy), **asdict(latency)}
            for strategy, latency in self.measurements.strategies
        ]
        return json.dumps(content, indent=2)


def doctor(
    directory: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Where a store would live.", show_default=False)
    ] = ".",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what this machine and DIR can do and what a sync costs.

    Writes some 10 MiB of scratch files in DIR and removes them. Warnings do not change the exit
    status; a DIR in which no store could live does.
    """
    diagnosis = diagnose(directory)
    if as_json:
        print(diagnosis.to_json())
    else:
        render(diagnosis, make_console())
    if problem := diagnosis.measurements.own.latency.problem:
        raise KVStoreError(f"{directory}: a store would not work here: {problem}")


def diagnose(directory: str) -> Diagnosis:
    """Tries everything in ``directory``. KVStoreError where it cannot be used; takes seconds."""
    config = IoUringConfig()
    with scratch_directory(directory) as scratch:
        machine = inspect_machine(config)
        place = inspect_place(directory, scratch)
        strategies = possible_strategies(
            io_uring=machine.io_uring.available,
            rwf_dsync=place.rwf_dsync,
            direct=place.direct_io,
        )
        measurements = measure(scratch, strategies, config)
    warnings = tuple(find_warnings(machine.io_uring, place))
    return Diagnosis(machine, place, measurements, warnings)


def find_warnings(ring: Ring, place: Place) -> list[str]:
    """What somebody should know before they trust their data to this place; the worst first."""
    found = []
    if place.in_memory:
        found.append(
            f"{place.file_system} is memory: nothing stored here survives a reboot or power loss, "
            "and the times above are not those of a disk."
        )
    if "volatile" in place.mount_options:
        found.append("This overlay is mounted 'volatile': syncs do nothing, a crash loses data.")
    if {"nobarrier", "barrier=0"} & set(place.mount_options):
        found.append(
            "Write barriers are switched off (mount option): what a drive's cache holds is lost "
            "with the power, acknowledged or not."
        )
    if place.on_network:
        found.append(
            f"{place.file_system} is a network file system: what a sync or a lock means is up to "
            "the server. Keep a store on a local disk."
        )
    enough = min(_FREE_BYTES_ENOUGH, place.total_bytes * _FREE_SHARE_MIN)
    if place.free_bytes < max(_FREE_BYTES_MIN, enough):
        found.append(
            f"The disk is nearly full: {bytes_text(place.free_bytes)} free. A full disk is an "
            "error before a write is accepted, and loses nothing."
        )
    if not ring.available:
        found.append(
            f"No io_uring: {ring.why_not}. The portable backend takes over: the same file format "
            "and guarantees, less throughput under concurrent writes."
        )
    elif not ring.registered_buffers:
        found.append(
            f"Buffers of {bytes_text(ring.buffer_bytes)} cannot be registered with the kernel; "
            "writes cost a little more. Raise the locked-memory limit (ulimit -l)."
        )
    return found


def render(diagnosis: Diagnosis, console: Console) -> None:
    """One page, at any width from 80 columns."""
    measurements = diagnosis.measurements
    own = measurements.own
    print_line(console, "Machine", style="bold")
    print_facts(console, _machine_facts(diagnosis.machine))
    print_heading(console, "Directory")
    print_facts(console, _place_facts(diagnosis.place))
    print_heading(console, f"{'One durable 4 KiB write':44}{'median':>10}{'p99':>10}")
    for strategy, latency in measurements.strategies:
        print_line(console, _latency_line(str(strategy), latency))
    name = f"kvstore itself: {own.backend}, {own.sync_strategy}"
    print_line(console, _latency_line(name, own.latency), style="bold green")
    console.print()
    print_facts(console, [("Backend", f"{own.backend} ({own.backend_reason})")])
    if diagnosis.warnings:
        print_heading(console, "Warnings", style="bold yellow")
    for warning in diagnosis.warnings:
        print_paragraph(console, warning, first="  ! ", rest="    ")


def _latency_line(name: str, latency: Latency) -> str:
    if latency.problem is not None:
        return f"  {name:42}  {latency.problem}"
    times = (duration_text(us / 1e6) for us in (latency.median_us, latency.p99_us))
    return f"  {name:42}" + "".join(f"{text:>10}" for text in times)


def _machine_facts(machine: Machine) -> list[tuple[str, str]]:
    ring = machine.io_uring
    facts = [
        ("Python", f"{machine.python}, kvstore {machine.kvstore}"),
        ("System", f"{machine.system}, {machine.architecture}, {machine.processors} CPUs"),
        ("CRC-32C", "table (no hardware help)" if machine.crc32c == "table" else machine.crc32c),
        ("io_uring", "yes" if ring.available else f"no: {ring.why_not}"),
    ]
    if not ring.available:
        return facts
    limit = ring.locked_memory_limit_bytes
    told = "unlimited" if limit is None else f"limited to {bytes_text(limit)}"
    buffers = _yes(ring.registered_buffers, _note(ring, "buffers"))
    return [
        *facts,
        ("  SQPOLL", _yes(ring.sqpoll, _note(ring, "SQPOLL"))),
        ("  buffers", f"{buffers} ({bytes_text(ring.buffer_bytes)}; locked memory is {told})"),
    ]


def _place_facts(place: Place) -> list[tuple[str, str]]:
    facts = [("Path", printable(place.directory))]
    if place.file_system is not None:
        where = f"{place.file_system} on {printable(place.source or '')}"
        facts.append(("File system", f"{where}, mounted at {printable(place.mount_point or '')}"))
    if place.device is not None:
        facts.append(("Device", _device_text(place)))
    return [
        *facts,
        ("Free", f"{bytes_text(place.free_bytes)} of {bytes_text(place.total_bytes)}"),
        ("O_DIRECT", _yes(place.direct_io, place.direct_io_why_not)),
        ("RWF_DSYNC", _yes(place.rwf_dsync, place.rwf_dsync_why_not)),
    ]


def _device_text(place: Place) -> str:
    known = []
    if place.rotational is not None:
        known.append("says it is rotating" if place.rotational else "not rotating")
    if place.write_cache is not None:
        known.append(f"{place.write_cache.replace(' ', '-')} cache")
    if place.forced_unit_access is not None:
        known.append("FUA" if place.forced_unit_access else "no FUA")
    return f"{place.device}: {', '.join(known) or 'it says nothing of itself'}"


def _note(ring: Ring, word: str) -> str | None:
    return next((note for note in ring.notes if word in note), None)


def _yes(able: bool, why_not: str | None) -> str:
    return "yes" if able else f"no: {why_not}"
