"""``python -m bench dbbench``: eleven cases of RocksDB's db_bench, ours against six peers.

Measured as ``python -m bench ycsb``: a fresh process for each, syncs counted, stores verified.
"""

from __future__ import annotations

import argparse

__all__ = ["SUMMARY", "add_arguments", "run"]

SUMMARY = "db_bench: fills, reads, seeks, deletes in eleven cases, against six peers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    from bench.arguments import number
    from bench.dbbench.entries import KEY_BYTES, VALUE_BYTES
    from bench.dbbench.subject import TASKS
    from bench.load import command

    command.add_arguments(parser, tuple(task.name for task in TASKS))
    parser.add_argument("--key-bytes", type=number, default=KEY_BYTES, help=f"({KEY_BYTES})")
    parser.add_argument("--value-bytes", type=number, default=VALUE_BYTES, help=f"({VALUE_BYTES})")
    parser.add_argument(
        "--seek-nexts", type=int, default=0, help="entries behind the one that is sought (0)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Measures and prints; the exit status."""
    from bench.load import command

    options = {
        "key_bytes": arguments.key_bytes,
        "value_bytes": arguments.value_bytes,
        "seek_nexts": arguments.seek_nexts,
    }
    return command.run(arguments, "dbbench", options)
