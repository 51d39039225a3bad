"""The targets: one for each decoder, and what may come out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvstore.errors import KVStoreError, StorageIOError
from tests.fuzz import logs, manifests, tables
from tests.fuzz.memory import bounded

__all__ = ["CORPUS", "NATIVE", "TARGETS", "Target", "corpora", "corpus_files"]

CORPUS = Path(__file__).with_name("corpus")

_ZSTD_RATIO_MAX = 1 << 15  # a block of 4 bytes stands for at most 128 KiB


@dataclass(frozen=True)
class Target:
    """A decoder. ``run`` returns for what it may do; anything else is a finding.

    ``bytes_each``: how many bytes it may allocate for each byte of input, beside a fixed share.
    ``sections``: whether its inputs are made of sections, within which they are best changed.
    """

    decode: Callable[[bytes], None]
    corpus: str
    bytes_each: int = 64
    sections: bool = False

    def run(self, data: bytes) -> None:
        """Decodes: it succeeds, or raises an error of kvstore's own.

        But a StorageIOError: nothing fails here, so that is memory that could not be had.
        """
        with bounded(self.bytes_each * len(data)):
            try:
                self.decode(data)
            except StorageIOError:
                raise
            except KVStoreError:
                pass


TARGETS = {
    "log": Target(logs.log, "log"),
    "recovery": Target(logs.recovery, "recovery", sections=True),
    "batch": Target(logs.batch, "batch"),
    "block": Target(tables.block, "block"),
    "compressed": Target(tables.compressed, "compressed", bytes_each=2 * _ZSTD_RATIO_MAX),
    "index": Target(tables.index, "table", bytes_each=2 * _ZSTD_RATIO_MAX, sections=True),
    "filter": Target(tables.filter_, "table", sections=True),
    "footer": Target(tables.footer, "footer"),
    "table": Target(tables.table, "table", bytes_each=2 * _ZSTD_RATIO_MAX, sections=True),
    "edit": Target(manifests.edit, "edit"),
    "manifest": Target(manifests.manifest, "manifest"),
    "current": Target(manifests.current, "current"),
}

NATIVE = {
    "c-log": ("log", "manifest"),
    "c-batch": ("batch",),
    "c-block": ("block",),
    "c-table": ("table",),
    "c-crc": ("batch", "current"),
}
"""The C kernels without Python, and the corpora that they run on."""


def corpora(name: str) -> list[Path]:
    """The directories of a target's inputs."""
    names = NATIVE[name] if name in NATIVE else (TARGETS[name].corpus,)
    return [CORPUS / each for each in names]


def corpus_files(name: str) -> list[Path]:
    """The inputs kept for a target."""
    return sorted(path for folder in corpora(name) for path in folder.iterdir())
