"""The demo's input: the files of the Python standard library, which every machine has."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass

from kvstore.errors import KVStoreError

__all__ = ["Library", "find_library"]

_NOT_OURS = {"__pycache__", "dist-packages", "site-packages"}


@dataclass(frozen=True)
class Library:
    """Files below ``root``: their names relative to it, sorted, and their sizes together."""

    root: bytes
    names: tuple[bytes, ...]
    total_bytes: int

    def read(self, index: int) -> bytes:
        """The content of file ``index``."""
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            return file.read()

    def key(self, round_number: int, index: int) -> bytes:
        """What file ``index`` is called in the store: each round writes keys of its own."""
        return b"%d/%s" % (round_number, self.names[index])


def find_library(limit: int | None = None) -> Library:
    """Every readable regular file of the standard library, or the first ``limit`` of them.

    Installed packages and bytecode caches are left out: they change.
    """
    root = os.fsencode(sysconfig.get_path("stdlib"))
    found = []
    for directory, directories, files in os.walk(root):
        directories[:] = [name for name in directories if os.fsdecode(name) not in _NOT_OURS]
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.access(path, os.R_OK):
                found.append((os.path.relpath(path, root), os.path.getsize(path)))
    found = sorted(found)[:limit]
    if not found:
        raise KVStoreError(f"{os.fsdecode(root)}: no files; where is Python's standard library?")
    return Library(root, tuple(name for name, _ in found), sum(size for _, size in found))
