"""A file system on which nothing gets or loses a name for a while, so that a directory that
background threads change can be copied as one moment leaves it."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from kvstore.fs import PosixFileSystem
from kvstore.paths import CURRENT, parse_manifest


class PausingFileSystem(PosixFileSystem):
    """PosixFileSystem whose renames and removals wait while it is paused. Thread-safe."""

    def __init__(self) -> None:
        self._gate = threading.Lock()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        with self._gate:
            yield

    def rename(self, old: str, new: str) -> None:
        with self._gate:
            super().rename(old, new)

    def unlink(self, path: str) -> None:
        with self._gate:
            super().unlink(path)

    def copy_store(self, source: Path, target: Path) -> Path:
        """What a kill at this moment would leave of the store in ``source``.

        The manifest goes first: what it names is still there, and the log can only be longer.
        """
        target.mkdir()
        with self.paused():
            paths = sorted(
                source.iterdir(),
                key=lambda path: (path.name != CURRENT and not parse_manifest(path.name), path),
            )
            for path in paths:
                # What is being built, may still be without its name.
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path, target / path.name)
        return target
