"""The core workloads A to F, as YCSB's files of that name have them, and their order in a run.

The record and operation counts of those files (1,000) are left to the caller. What the files do not
say is CoreWorkload's default: ten fields of 100 B, reads of all fields, updates of one, hashed
insert order, keys without padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.ycsb.script import Kind

__all__ = ["DISTRIBUTIONS", "ORDER", "SCAN_LENGTH_MAX", "WORKLOADS", "Workload"]

DISTRIBUTIONS = ("zipfian", "latest", "uniform")
SCAN_LENGTH_MAX = 100


@dataclass(frozen=True)
class Workload:
    """Which operations, how often each, of which records.

    The shares of ``mix`` add up to 1. Scans are 1 to ``SCAN_LENGTH_MAX`` records long, each length
    as likely as any other.
    """

    name: str
    what: str
    mix: Mapping[Kind, float]
    distribution: str = "zipfian"

    def __post_init__(self) -> None:
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"{self.distribution!r} is none of {', '.join(DISTRIBUTIONS)}")
        if abs(sum(self.mix.values()) - 1) > 1e-9:
            raise ValueError(f"the shares of {self.name} do not add up to 1")


_A = Workload("A", "update heavy", {Kind.READ: 0.5, Kind.UPDATE: 0.5})
_B = Workload("B", "read mostly", {Kind.READ: 0.95, Kind.UPDATE: 0.05})
_C = Workload("C", "read only", {Kind.READ: 1.0})
_D = Workload("D", "read latest", {Kind.READ: 0.95, Kind.INSERT: 0.05}, distribution="latest")
_E = Workload("E", "short ranges", {Kind.SCAN: 0.95, Kind.INSERT: 0.05})
_F = Workload("F", "read-modify-write", {Kind.READ: 0.5, Kind.READ_MODIFY_WRITE: 0.5})

WORKLOADS = {workload.name: workload for workload in (_A, _B, _C, _D, _E, _F)}

ORDER = ("load", "A", "B", "C", "F", "D", "reload", "E")
"""D inserts, so it is the last on its store, and E, which inserts too, has a store of its own."""
