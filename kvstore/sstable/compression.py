"""How data blocks are compressed: the numbers of the format, the names of the options.

The packages (lz4, zstandard) are imported when a codec is first asked for, so a store that
compresses nothing needs neither. Thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

from kvstore.errors import LimitError
from kvstore.sstable.format import KIND_LZ4, KIND_PLAIN, KIND_ZSTD

__all__ = ["KINDS", "NAMES", "CodecMissing", "check_available", "compress", "decompress"]

KINDS = {"none": KIND_PLAIN, "lz4": KIND_LZ4, "zstd": KIND_ZSTD}
NAMES = {kind: name for name, kind in KINDS.items()}

# What to install, by the option's name; not always what is imported.
_PACKAGES = {"lz4": "lz4", "zstd": "zstandard"}
# Fast rather than small: blocks are compressed on the way of every flush and compaction.
_ZSTD_LEVEL = 3
_LZ4_RATIO_MAX = 255  # a byte of a length stands for so many
_ZSTD_RATIO_MAX = 1 << 15  # 128 KiB at most out of a block, which has 4 bytes at least
_SAVING = 8
"""One part in so many has to be saved, or the block is stored plain: reading it is then cheaper."""

_Codec = tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]
_thread = local()


class CodecMissing(ImportError):
    """The package that a codec needs is not installed; ``package`` is its name.

    Whoever knows the option or the file concerned makes it an error of kvstore's own.
    """

    def __init__(self, name: str) -> None:
        self.codec, self.package = name, _PACKAGES[name]
        super().__init__(f"{name} compression needs the package {self.package}: install it")


def check_available(name: str) -> None:
    """Raises LimitError, naming the package to install, when the option's value cannot be had."""
    try:
        _codec(KINDS[name])
    except CodecMissing as error:
        raise LimitError(f"compression {name!r}: {error}") from None


def compress(kind: int, plain: bytes) -> bytes | None:
    """``plain`` compressed; None when that would not save an eighth of it: store it plain."""
    if kind == KIND_PLAIN:
        return None
    stored = _codec(kind)[0](plain)
    return stored if len(stored) * _SAVING <= len(plain) * (_SAVING - 1) else None


def decompress(kind: int, stored: bytes, plain_bytes: int) -> bytes:
    """The plain bytes of a block; never takes more memory than ``plain_bytes`` of it.

    Raises ValueError when ``stored`` is no such block, or of another length, and CodecMissing.
    """
    plain = stored if kind == KIND_PLAIN else _codec(kind)[1](stored, plain_bytes)
    if len(plain) != plain_bytes:
        raise ValueError(f"{len(plain)} plain bytes, not {plain_bytes}")
    return plain


def _codec(kind: int) -> _Codec:
    # Per thread, because a zstandard object works for one thread at a time.
    found: _Codec | None = getattr(_thread, NAMES[kind], None)
    if found is None:
        found = _MAKERS[kind]()
        setattr(_thread, NAMES[kind], found)
    return found


def _make_none() -> _Codec:
    return (lambda plain: plain), (lambda stored, _: stored)


def _make_lz4() -> _Codec:
    try:
        import lz4.block as lz4_block
    except ImportError:
        raise CodecMissing("lz4") from None

    def pack(plain: bytes) -> bytes:
        packed: bytes = lz4_block.compress(plain, store_size=False)
        return packed

    def unpack(stored: bytes, plain_bytes: int) -> bytes:
        # The package allocates what it is told: no more than can come out.
        if plain_bytes > _LZ4_RATIO_MAX * len(stored):
            raise ValueError(f"{len(stored)} bytes cannot hold {plain_bytes} plain bytes")
        try:
            plain: bytes = lz4_block.decompress(stored, uncompressed_size=plain_bytes)
        except lz4_block.LZ4BlockError as error:
            raise ValueError(f"not an LZ4 block: {error}") from error
        return plain

    return pack, unpack


def _make_zstd() -> _Codec:
    try:
        import zstandard
    except ImportError:
        raise CodecMissing("zstd") from None
    packer: Any = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
    unpacker: Any = zstandard.ZstdDecompressor()

    def unpack(stored: bytes, plain_bytes: int) -> bytes:
        try:
            # The library allocates what the frame states: it has to be what is expected.
            size = zstandard.get_frame_parameters(stored).content_size
            if size != plain_bytes:
                raise ValueError(f"a frame of {size} plain bytes, not {plain_bytes}")
            # Both may lie: no more than can come out.
            if size > _ZSTD_RATIO_MAX * len(stored):
                raise ValueError(f"{len(stored)} bytes cannot hold {size} plain bytes")
            plain: bytes = unpacker.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"not a Zstandard frame: {error}") from error
        return plain

    return packer.compress, unpack


_MAKERS = {KIND_PLAIN: _make_none, KIND_LZ4: _make_lz4, KIND_ZSTD: _make_zstd}
