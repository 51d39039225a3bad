"""Access: whether a store may still be used, and what its running scans read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from kvstore.errors import ClosedError, ReadOnlyError

__all__ = ["Access", "Entry", "RunningScan"]

Entry = tuple[bytes, bytes]


class RunningScan:
    """A scan that has begun: what it reads (a tree, or the pin of a snapshot), and the entries
    it has given out last."""

    __slots__ = ("entries", "source")

    def __init__(self, source: object) -> None:
        self.source = source
        self.entries: list[Entry] = []


class Access:
    """What everything that belongs to one open store asks before it goes on. Thread-safe."""

    def __init__(self, path: str, *, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self.refusal: Callable[[str], Exception] | None = ClosedError  # until it is open
        """The error that any use raises; None while the store is open."""
        self.scans: set[RunningScan] = set()

    def check_open(self) -> None:
        """Raises what ``refusal`` says."""
        if self.refusal is not None:
            self.refuse()

    def check_writable(self) -> None:
        """``check_open``, and ReadOnlyError for a store that was opened to be salvaged."""
        self.check_open()
        if self.read_only:
            raise ReadOnlyError(self.path)

    def refuse(self) -> NoReturn:
        """Raises the refusal there is."""
        assert self.refusal is not None
        raise self.refusal(f"store {self.path}")
