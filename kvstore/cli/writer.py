"""The process that the demo kills: ``python -m kvstore.cli.writer STORE ROUND THREADS FILES``.

Writes the files of the standard library durably, from several threads, and says of each on
standard output that its put has returned. A record is smaller than PIPE_BUF, so it arrives whole or
not at all (pipe(7)), and only after the put: a file that was reported was acknowledged.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import threading
import time

import kvstore
from kvstore.cli.library import Library, find_library

__all__ = ["COUNTERS", "OPENED", "RECORD", "main"]

RECORD = struct.Struct("<qq")  # (index of a file, 0), or one of these two and its number
OPENED = -1  # the store is open; the load begins
COUNTERS = -2  # how many syncs there were so far

_STANDARD_OUTPUT = 1
_COUNTERS_SECONDS = 0.01


def _report(what: int, number: int = 0) -> None:
    os.write(_STANDARD_OUTPUT, RECORD.pack(what, number))


def _write_files(
    store: kvstore.KVStore, library: Library, round_number: int, indexes: itertools.count[int]
) -> None:
    while (index := next(indexes)) < len(library.names):
        store.put(library.key(round_number, index), library.read(index), sync=True)
        _report(index)


def _run(directory: str, round_number: int, thread_count: int, file_limit: int) -> None:
    library = find_library(file_limit)
    failures: list[BaseException] = []

    def work(store: kvstore.KVStore, indexes: itertools.count[int]) -> None:
        try:
            _write_files(store, library, round_number, indexes)
        except (OSError, kvstore.KVStoreError) as error:
            failures.append(error)

    with kvstore.open(directory) as store:
        _report(OPENED)
        indexes = itertools.count()
        threads = [
            threading.Thread(target=work, args=(store, indexes), daemon=True)
            for _ in range(thread_count)
        ]
        for thread in threads:
            thread.start()
        # Nobody ends this loop but a failure, or the parent's SIGKILL.
        while not failures:
            _report(COUNTERS, store.stats().wal.syncs)
            time.sleep(_COUNTERS_SECONDS)
        raise failures[0]


def main(arguments: list[str]) -> int:
    """Runs until it is killed; returns only after a failure, which it names on stderr."""
    directory, *numbers = arguments
    try:
        _run(directory, *map(int, numbers))
    except BrokenPipeError:
        return 1  # the parent is gone, and with it whoever would read a message
    except (OSError, kvstore.KVStoreError) as error:
        print(f"kvstore: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
