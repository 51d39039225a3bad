"""``python -m bench COMMAND``: each command is a module with SUMMARY, add_arguments() and run()."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

COMMANDS = (
    "wal",
    "tree",
    "concurrency",
    "stall",
    "ycsb",
    "dbbench",
    "growth",
    "recovery",
    "compare",
    "report",
)
# Those whose module has another name.
MODULES = {"report": "publish"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses ``arguments`` (sys.argv by default) and runs the command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=importlib.import_module("bench").__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"bench.{MODULES.get(name, name)}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    parsed = parser.parse_args(arguments)
    status: int = parsed.run(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
