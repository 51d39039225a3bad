"""Fills a store or opens it, in a process of its own, which is killed when it has answered.

Asked: engine, directory, task ("fill" or "open"), entries, seed. Answers: an empty one once all is
durable; or how long opening and a first get took. What was put is checked then.
"""

from __future__ import annotations

import random
import signal
import time

from bench.keys import KEY_BYTES, Values
from bench.process import emit, memory, request
from bench.recovery_stores import LOGGED_STORES, VALUE_BYTES, keys_of

_SAMPLE = 1000


def main() -> None:
    asked = request()
    engine, entries, seed = asked["engine"], asked["entries"], asked["seed"]
    keys, values = keys_of(engine, entries, seed), Values(VALUE_BYTES, seed)
    data_bytes = entries * (KEY_BYTES + VALUE_BYTES)
    make_store = LOGGED_STORES[engine]
    if asked["task"] == "fill":
        store = make_store(asked["directory"], data_bytes)
        store.fill(iter(keys), values)
        emit({})
    else:
        sample = [keys[-1], *random.Random(seed).choices(keys, k=_SAMPLE)]
        del keys
        before = memory()
        began = time.perf_counter()
        store = make_store(asked["directory"], data_bytes)
        # SQLite looks at its log when it is first asked for something.
        found = store.get(sample[0])
        taken = time.perf_counter() - began
        after = memory()
        if found != values.of(sample[0]) or any(store.get(key) != values.of(key) for key in sample):
            raise RuntimeError(f"{engine} has lost or changed what its log held")
        emit(
            {
                "seconds": taken,
                "log_bytes": store.log_bytes(),
                "memory_bytes": max(0, after.anonymous - before.anonymous)
                if after and before
                else None,
            }
        )
    signal.pause()  # the store stays open, as it is when a process is killed


if __name__ == "__main__":
    main()
