"""What a reader who knows neither YCSB nor db_bench has to know of a workload, in a line."""

from __future__ import annotations

__all__ = ["KINDS", "WORKLOADS", "caption", "kind_name"]

WORKLOADS = {
    "load": "insert all records",
    "reload": "insert all records again",
    "A": "half reads, half updates",
    "B": "95% reads, 5% updates",
    "C": "reads only",
    "D": "95% reads of the latest, 5% inserts",
    "E": "95% scans of 1-100, 5% inserts",
    "F": "half reads, half read-modify-write",
    "fillseq": "puts in key order",
    "fillsync": "puts in random order, each synced",
    "fillrandom": "puts in random order",
    "overwrite": "puts over existing keys",
    "readrandom": "gets in random order",
    "readmissing": "gets of absent keys",
    "readseq": "all entries in order",
    "readreverse": "all entries backwards",
    "seekrandom": "seeks to random keys",
    "readwhilewriting": "gets while one client writes",
    "deleterandom": "deletes in random order",
}
KINDS = {"READ_MODIFY_WRITE": "read-modify-write", "READ_MISSING": "read of an absent key"}


def caption(workload: str) -> str:
    """ "A: half reads, half updates"."""
    return f"{workload}: {WORKLOADS[workload]}" if workload in WORKLOADS else workload


def kind_name(kind: str) -> str:
    """Of an operation, as text: "read-modify-write"."""
    return KINDS.get(kind, kind.lower().replace("_", " "))
