"""Opens a store once, in a fresh process, as a program that starts does. Importing is not timed.

Asked: directory, key, value (hexadecimal). Answers: how long opening and a first get took.
"""

from __future__ import annotations

import time

import kvstore
from bench.process import emit, request


def main() -> None:
    asked = request()
    key, value = bytes.fromhex(asked["key"]), bytes.fromhex(asked["value"])
    began = time.perf_counter()
    store = kvstore.open(asked["directory"])
    opened = time.perf_counter()
    found = store.get(key)
    read = time.perf_counter()
    with store:
        if found != value:
            raise RuntimeError(f"{key!r} has lost or changed its value")
        emit(
            {
                "seconds": opened - began,
                "recovery_seconds": store.recovery.seconds,
                "log_bytes": store.recovery.bytes,
                "replayed_bytes": store.stats().memtable_bytes,
                "first_get_us": (read - opened) * 1e6,
            }
        )


if __name__ == "__main__":
    main()
