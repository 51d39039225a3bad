"""Results as ``ycsb`` and ``dbbench`` write them, made up: nothing was measured."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

ENGINES = {
    "kvstore": 1.0,
    "kvstore (asyncio)": 0.8,
    "rocksdict": 0.5,
    "plyvel": 0.6,
    "lmdb": 0.9,
    "sqlite3": 0.2,
    "diskcache": 0.02,
    "dbm": 0.1,
    "no-op": 20.0,
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "load": ("INSERT",),
    "A": ("READ", "UPDATE"),
    "B": ("READ", "UPDATE"),
    "C": ("READ",),
    "F": ("READ", "READ_MODIFY_WRITE"),
    "D": ("READ", "INSERT"),
    "E": ("SCAN", "INSERT"),
}
DBBENCH_KINDS: Mapping[str, tuple[str, ...]] = {
    "fillseq": ("PUT",),
    "fillsync": ("PUT",),
    "fillrandom": ("PUT",),
    "overwrite": ("PUT",),
    "readrandom": ("READ",),
    "readmissing": ("READ_MISSING",),
    "readseq": ("READ",),
    "readreverse": ("READ",),
    "seekrandom": ("SEEK",),
    "readwhilewriting": ("READ", "PUT"),
    "deleterandom": ("DELETE",),
}
_BASE_RATE = {"sync": 9_000.0, "relaxed": 310_000.0}


def make_cell(
    workload: str = "A",
    engine: str = "kvstore",
    rate: float = 1000.0,
    *,
    mode: str = "relaxed",
    repetition: int = 1,
    clients: int = 1,
    clients_by: str = "threads",
    target: float | None = None,
    kinds: Sequence[str] = ("READ", "UPDATE"),
    p99_ns: float | None = None,
) -> dict[str, Any]:
    """One repetition of a case, of two seconds."""
    mean_ns = 1e9 * clients / rate
    latency = {
        kind: {
            "count": rate,
            "mean_ns": mean_ns,
            "p50_ns": 0.8 * mean_ns,
            "p90_ns": 1.5 * mean_ns,
            "p99_ns": p99_ns or 6 * mean_ns,
            "p999_ns": 30 * mean_ns,
            "max_ns": 900 * mean_ns,
        }
        for kind in (*kinds, "ALL")
    }
    wave = [1.0, 1.1, 0.9, 0.4, 1.0, 1.1, 0.9, 1.2, 0.5, 1.0, 1.1, 1.0, 0.8, 1.0, 0.6, 1.1, 1.0]
    return {
        "workload": workload,
        "engine": engine,
        "mode": mode,
        "clients_by": clients_by,
        "clients": clients,
        "records": 1_000_000,
        "repetition": repetition,
        "target": target,
        "operations": round(2 * rate),
        "seconds": 2.0,
        "latency": latency,
        "syncs": {"fsync": 3, "fdatasync": round(2 * rate) if mode == "sync" else 0},
        "writes": round(rate),
        "memory": {"anonymous": 90 << 20, "peak": 300 << 20},
        "cpu_seconds": {"user": 1.2, "system": 0.4},
        "bytes_written": 1 << 30,
        "disk_bytes": 1_200_000_000,
        "series": {
            "interval_seconds": 0.125,
            "operations": [round(rate / 8 * factor) for factor in wave],
        },
        "compactions": (
            [[0.35, 0.5, "flush"], [0.9, 1.3, "compaction"]] if engine == "kvstore" else []
        ),
        "verified": 1000,
        "generator_ns_per_operation": 110.0,
    }


def make_report(
    benchmark: str = "ycsb",
    *,
    repetitions: int = 5,
    clients: Sequence[int] = (1, 8),
    seed: int = 1,
) -> dict[str, Any]:
    """Every engine in every workload and mode, but for what it cannot do."""
    generator = random.Random(seed)
    cells = []
    left_out = [
        {
            "engine": engine,
            "workload": "E",
            "mode": mode,
            "why": "it has no scans in key order",
        }
        for engine in ("diskcache", "dbm")
        for mode in _BASE_RATE
    ]
    by_workload = KINDS if benchmark == "ycsb" else DBBENCH_KINDS
    for mode, base in _BASE_RATE.items():
        for workload, kinds in by_workload.items():
            for engine, factor in ENGINES.items():
                if workload == "E" and engine in ("diskcache", "dbm"):
                    continue
                for count in clients:
                    typical = base * factor * generator.uniform(0.5, 1.5) * count**0.3
                    cells += [
                        make_cell(
                            workload,
                            engine,
                            typical * generator.uniform(0.95, 1.05),
                            mode=mode,
                            repetition=repetition,
                            clients=count,
                            clients_by="tasks" if "asyncio" in engine else "threads",
                            kinds=kinds,
                        )
                        for repetition in range(1, repetitions + 1)
                    ]
    return {
        "format": 1,
        "benchmark": benchmark,
        "environment": {
            "date": "2026-11-22T20:00:00+00:00",
            "kernel": "Linux 6.1 x86_64",
            "cpu": "Some <CPU> & more, 2 logical",
            "file system": "ext4 on /dev/vda",
            "device": "vda, write_cache=write back, fua=0, rotational=1, scheduler=none",
            "python": "CPython 3.11.7",
            "kvstore": "0.1.0",
            "rocksdict": "0.3.29",
        },
        "plan": {"records": 1_000_000, "repetitions": repetitions, "clients": list(clients)},
        "left_out": left_out,
        "cells": cells,
    }
