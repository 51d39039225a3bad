"""What charts of one setting share: the order of engines, names of files, why a bar is missing."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from bench.colours import STYLES
from bench.outcomes import Outcome, Setting

__all__ = ["engines_in_order", "slug", "why_left_out"]

_REASON_CHARACTERS = 44


def engines_in_order(outcomes: Iterable[Outcome]) -> list[str]:
    """Each once, ours first, always in the same order."""
    known = list(STYLES)
    found = dict.fromkeys(outcome.case.engine for outcome in outcomes)
    return sorted(found, key=lambda name: known.index(name) if name in known else len(known))


def slug(setting: Setting) -> str:
    """For file names: "sync-1000000-4clients"."""
    kind = "processes" if setting.several_processes else "clients"
    rate = "" if setting.target is None else f"-{setting.target:.0f}per-second"
    memory = "" if setting.memory_bytes is None else f"-{setting.memory_bytes >> 20}MiB"
    return f"{setting.mode}-{setting.records}-{setting.clients}{kind}{memory}{rate}"


def why_left_out(report: Mapping[str, Any], engine: str, workload: str, mode: str) -> str:
    """In a few words, as the report says it; "not run" where it says nothing."""
    for left_out in report.get("left_out", ()):
        if (
            left_out["engine"] == engine
            and left_out.get("workload") in (workload, None, "", "all")
            and left_out.get("mode") in (mode, None, "", "all")
        ):
            return textwrap.shorten(str(left_out["why"]), _REASON_CHARACTERS, placeholder=" ...")
    return "not run"
