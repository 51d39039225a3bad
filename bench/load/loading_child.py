"""Loads a store by the engine's fast path, in a process of its own. Answers once: how long it took.

Asked: as bench/load/child.py; all ``records`` are loaded, in their order.
"""

from __future__ import annotations

import os
import time
import traceback

from bench.load.child import Asked, settings_of
from bench.process import emit, request
from bench.stores import STORES


def main() -> None:
    asked = Asked(**request())
    subject = asked.subject
    began = time.perf_counter()
    store = STORES[asked.engine](asked.directory, settings_of(asked, subject))
    try:
        store.load(subject.contents.pairs(range(asked.records)))
    finally:
        store.close()
    emit({"seconds": time.perf_counter() - began})


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an engine's own threads may not let the interpreter end
