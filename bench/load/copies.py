"""Loaded stores, kept as they were, and copies that are worked on."""

from __future__ import annotations

import os
import shutil

__all__ = ["copy_store"]

# Files that no engine changes once they are written: a second name for them is a copy.
_IMMUTABLE = (".sst", ".ldb")


def copy_store(source: str, destination: str) -> None:
    """A copy of a store that nobody has open; what is never changed is linked, not copied.

    ``destination`` must not exist. The kernel has written it all when this returns, so that the
    copying is not in the way of what is measured next.
    """
    shutil.copytree(source, destination, copy_function=_link_or_copy)
    os.sync()


def _link_or_copy(source: str, destination: str) -> None:
    if source.endswith(_IMMUTABLE):
        os.link(source, destination)
    else:
        shutil.copyfile(source, destination)
