"""Amounts as charts and reports show them: few digits, and the unit that fits."""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_rate", "format_us"]


def format_rate(rate: float) -> str:
    """Of operations per second: 940, 3.5k, 110k, 2.1M."""
    return _scaled(rate, ("", "k", "M", "G"))


def format_count(count: float) -> str:
    """Of records: 100k, 1M, 10M."""
    return _scaled(count, ("", "k", "M", "G"))


def format_bytes(count: float) -> str:
    """Decimal: 110 MB, 1.2 GB."""
    return _scaled(count, (" B", " kB", " MB", " GB", " TB"))


def format_us(microseconds: float) -> str:
    """With the unit that leaves at most three digits."""
    return _scaled(microseconds, (" us", " ms", " s"))


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{_two_digits(value)}{unit}"
        value /= 1000
    return f"{_two_digits(value)}{units[-1]}"


def _two_digits(value: float) -> str:
    """At least two, where they say something: 0.25, 2, 3.5, 110."""
    if value >= 9.95:
        return f"{value:,.0f}"
    if value >= 0.95:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.2f}" if value else "0"
