"""What stands behind the end of a log: saved beside it, then cut off for good."""

from __future__ import annotations

import os

from kvstore import paths
from kvstore.fs import File, FileSystem, write_all
from kvstore.native import lib

__all__ = ["cut_tail", "used_bytes"]

_CHUNK_BYTES = 1 << 20


def used_bytes(file: File, offset: int) -> int:
    """How many bytes from ``offset`` on there are up to the last one that is not zero."""
    used = 0
    at = offset
    while data := file.pread(_CHUNK_BYTES, at):
        count = lib.kv_used_bytes(data, len(data))
        if count:
            used = at + count - offset
        at += len(data)
    return used


def cut_tail(fs: FileSystem, file: File, offset: int, tail_bytes: int) -> str | None:
    """Cuts ``file`` at ``offset``, durably, so that nothing behind it ever comes back.

    The first ``tail_bytes`` of what is cut are saved, durably and first, in the file whose path is
    returned (None when there are none). A crash between leaves both, and doing it again is
    harmless.
    """
    saved = None
    if tail_bytes:
        saved = os.path.join(
            os.path.dirname(file.path), paths.format_torn(os.path.basename(file.path))
        )
        copy = fs.open(saved, create=True)
        try:
            copy.truncate(0)
            done = 0
            while done < tail_bytes:
                piece = file.pread(min(_CHUNK_BYTES, tail_bytes - done), offset + done)
                write_all(copy, piece, done)
                done += len(piece)
            copy.sync()
        finally:
            copy.close()
        fs.sync_directory(os.path.dirname(os.path.abspath(file.path)))
    if file.size() > offset:
        file.truncate(offset)
        file.sync()
    return saved
