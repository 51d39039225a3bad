"""Summary: what a run did, as JSON for machines and as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.environment import collect
from tests.torture.parts import Part
from tests.torture.state import Progress, State

# The bars of the whole run, in the order in which they are printed.
HEADLINES = {
    "states": "simulated crash states tried",
    "faults": "faults injected",
    "kills": "processes killed",
    "cuts": "power cuts at block level",
    "flips": "bytes flipped",
    "executions": "fuzz executions",
}
_MACHINE = ("date", "kernel", "cpu", "memory", "file system", "device", "python", "backend")


def summarize(parts: Sequence[Part], state: State, directory: str, scale: float) -> dict[str, Any]:
    """All of it; ``directory`` is on the file system where the chunks worked."""
    progress = {part.name: state.parts.get(part.name, Progress()) for part in parts}
    total: Counter[str] = Counter()
    for one in progress.values():
        total.update(one.done)
    environment = collect(directory, seed=0)
    return {
        **{what: total[what] for what in HEADLINES},
        "losses": sum(len(one.losses) for one in progress.values()),
        "seconds": round(state.seconds),
        "complete": all(_complete(part, progress[part.name]) for part in parts),
        "scale": scale,
        "revisions": state.revisions,
        "machine": {label: environment[label] for label in _MACHINE},
        "parts": {part.name: _describe(part, progress[part.name]) for part in parts},
    }


def _complete(part: Part, progress: Progress) -> bool:
    return bool(part.goal) and (bool(part.skipped) or part.share_done(progress.done) >= 1)


def _describe(part: Part, progress: Progress) -> dict[str, Any]:
    described: dict[str, Any] = {
        "goal": part.goal,
        "done": dict(progress.done),
        "chunks": progress.chunks,
        "process_seconds": round(progress.seconds),
        "losses": progress.losses,
    }
    if part.skipped:
        described["skipped"] = part.skipped
    if part.missing:
        described["missing"] = part.missing
    return described


def failed(summary: dict[str, Any]) -> bool:
    """Whether something was lost, or could not be tried for a reason that is no excuse."""
    return bool(summary["losses"] or not summary["complete"])


def table(summary: dict[str, Any]) -> str:
    """The same for people."""
    lines = ["", *(f"{summary[what]:>14,}  {text}" for what, text in HEADLINES.items())]
    lines += [f"{summary['losses']:>14,}  LOSSES" if summary["losses"] else f"{0:>14}  losses"]
    lines += [f"{summary['seconds']:>14,}  seconds", ""]
    for name, part in summary["parts"].items():
        lines += _part_lines(name, part)
    lines += ["", "of " + ", then ".join(summary["revisions"])]
    lines += [f"{label}: {text}" for label, text in summary["machine"].items()]
    return "\n".join(lines)


def _part_lines(name: str, part: dict[str, Any]) -> list[str]:
    if "missing" in part:
        return [f"{name}: MISSING, {part['missing']}"]
    if "skipped" in part:
        return [f"{name}: skipped, {part['skipped']}"]
    lines = [f"{name}: {part['chunks']:,} chunks, {part['process_seconds']:,} s of a process"]
    for what in {**part["goal"], **part["done"]}:
        goal = f" of {part['goal'][what]:,}" if what in part["goal"] else ""
        lines.append(f"{part['done'].get(what, 0):>14,}{goal}  {what}")
    for loss in part["losses"]:
        first = loss["message"].strip().splitlines()[-1:]
        lines += [
            f"    LOSS: {''.join(first)}",
            f"      {loss['repeat']}",
            f"      {loss['directory']}",
        ]
    return lines
