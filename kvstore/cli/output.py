"""What the commands share in showing things: the console, facts, sizes, times, odd file names.

Everything shown is ASCII but for what users named themselves; without a terminal there are neither
control characters nor blanks at the end of a line.
"""

from __future__ import annotations

import os
import textwrap

from rich.console import Console
from rich.text import Text

__all__ = [
    "bytes_text",
    "duration_text",
    "make_console",
    "print_facts",
    "print_heading",
    "print_line",
    "print_paragraph",
    "printable",
]

LABEL_WIDTH = 14
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def make_console() -> Console:
    """Standard output: styled on a terminal, plain text elsewhere."""
    return Console(highlight=False, emoji=False, markup=False)


def print_heading(console: Console, text: str, *, style: str = "bold") -> None:
    """A line that begins a section, after an empty one."""
    console.print()
    print_line(console, text, style=style)


def print_line(console: Console, text: str, *, style: str = "") -> None:
    """One line, whatever its length: a terminal breaks it, a file keeps it whole."""
    console.print(Text(text, style=style), soft_wrap=True)


def print_paragraph(console: Console, text: str, *, first: str = "", rest: str = "") -> None:
    """Text filled to the width of the console, behind ``first`` and then ``rest``."""
    for line in textwrap.wrap(
        text,
        max(console.width - 1, 40),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ):
        print_line(console, line)


def print_facts(console: Console, facts: list[tuple[str, str]]) -> None:
    """A name and a value in each line, the values one below the other."""
    indent = " " * (LABEL_WIDTH + 2)
    for label, text in facts:
        print_paragraph(console, text, first=f"  {label:{LABEL_WIDTH}}", rest=indent)


def bytes_text(count: int) -> str:
    """A size for people: three digits are enough to compare two disks."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit and value < 100 else f"{value:.0f} {_UNITS[unit]}"


def duration_text(seconds: float) -> str:
    """A time for people, in us, ms or s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.{2 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.1f} s"


def printable(name: str | bytes) -> str:
    """A file name or key as text that any terminal takes."""
    text = os.fsdecode(name)
    return "".join(
        letter if letter.isprintable() else repr(letter.encode("utf-8", "surrogateescape"))[2:-1]
        for letter in text
    )
