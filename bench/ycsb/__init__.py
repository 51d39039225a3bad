"""``python -m bench ycsb``: the YCSB core workloads A to F, ours against six peers.

Each cell is an engine's workload in a fresh process, on a copy of a loaded store, the engines in
turns. Syncs are counted, latencies are those of every operation, and every store is verified
afterwards: too few syncs, a lost record or a wrong one is an error.
"""

from __future__ import annotations

import argparse

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "YCSB A to F: loads, reads, updates, scans, sync and relaxed, against six peers"


# The generators of this package need nothing that the command needs, so that is imported late.
def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from bench.load import command
    from bench.ycsb.subject import TASKS

    command.add_arguments(parser, tuple(task.name for task in TASKS))


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; the exit status."""
    from bench.load import command

    return command.run(arguments, "ycsb", {})
