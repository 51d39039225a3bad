"""Latencies as HdrHistograms: three significant digits, nanoseconds up to an hour."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.samples import percentiles_of_counts

__all__ = ["available", "describe", "encode", "merge", "write_log"]

_FRACTIONS = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99, "p999_ns": 0.999, "max_ns": 1.0}
_HIGHEST_NS = 3_600_000_000_000
_DIGITS = 3


def available() -> bool:
    """Whether hdrhistogram is installed (extra: bench)."""
    return importlib.util.find_spec("hdrh") is not None


def describe(counts: Mapping[int, int]) -> dict[str, Any]:
    """How many, their mean and percentiles, of latencies given by how often they occur."""
    total = sum(counts.values())
    mean = sum(ns * times for ns, times in counts.items()) / total
    found = percentiles_of_counts(counts, list(_FRACTIONS.values()))
    return {"count": total, "mean_ns": round(mean, 1), **dict(zip(_FRACTIONS, found, strict=True))}


def encode(counts: Mapping[int, int]) -> str | None:
    """The histogram as text: base64 of its compressed V2 form; None without hdrhistogram."""
    if not available():
        return None
    histogram = _new()
    for ns, times in counts.items():
        histogram.record_value(max(1, ns), times)
    return _text(histogram)


def merge(encoded: Iterable[str]) -> str:
    """One histogram of several."""
    from hdrh.histogram import HdrHistogram

    total = _new()
    for text in encoded:
        total.add(HdrHistogram.decode(text))
    return _text(total)


def write_log(path: Path, tagged: Mapping[str, str], seconds: float) -> None:
    """A log in HdrHistogram's format 1.2, as its tools read it: one tagged line for each."""
    from hdrh.histogram import HdrHistogram

    lines = [
        "#[Histogram log format version 1.2]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
    ]
    for tag, text in tagged.items():
        longest_ms = HdrHistogram.decode(text).get_max_value() / 1e6
        lines.append(f"Tag={tag},0.000,{seconds:.3f},{longest_ms:.3f},{text}")
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def _new() -> Any:
    from hdrh.histogram import HdrHistogram

    return HdrHistogram(1, _HIGHEST_NS, _DIGITS)


def _text(histogram: Any) -> str:
    encoded: bytes = histogram.encode()
    return encoded.decode("ascii")
