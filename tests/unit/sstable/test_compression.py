"""Compression of blocks: there and back, bounded, and clear about what is missing."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from kvstore.errors import LimitError
from kvstore.options import COMPRESSIONS
from kvstore.sstable.compression import (
    KINDS,
    NAMES,
    CodecMissing,
    check_available,
    compress,
    decompress,
)

CODECS = [KINDS["lz4"], KINDS["zstd"]]
TEXT = b"what repeats is what compresses; " * 100


def test_every_name_of_the_options_has_its_number() -> None:
    assert sorted(KINDS) == sorted(COMPRESSIONS)
    assert KINDS == {"none": 0, "lz4": 1, "zstd": 2}
    assert NAMES == {0: "none", 1: "lz4", 2: "zstd"}
    for name in COMPRESSIONS:
        check_available(name)


@pytest.mark.parametrize("kind", CODECS)
def test_a_block_comes_back(kind: int) -> None:
    stored = compress(kind, TEXT)
    assert stored is not None
    assert len(stored) < len(TEXT) // 8
    assert decompress(kind, stored, len(TEXT)) == TEXT


def test_without_compression_nothing_is_done() -> None:
    assert compress(KINDS["none"], TEXT) is None
    assert decompress(KINDS["none"], TEXT, len(TEXT)) == TEXT


@pytest.mark.parametrize("kind", CODECS)
def test_what_saves_less_than_an_eighth_is_stored_plain(kind: int) -> None:
    noise = random.Random(1).randbytes(4096)
    assert compress(kind, noise) is None
    seen = set()
    for zeros in range(0, 1200, 10):
        plain = noise[: 4096 - zeros] + bytes(zeros)
        stored = compress(kind, plain)
        seen.add(stored is None)
        if stored is not None:
            assert len(stored) * 8 <= len(plain) * 7
    assert seen == {True, False}


@pytest.mark.parametrize("kind", [0, *CODECS])
def test_a_length_that_does_not_fit_is_an_error(kind: int) -> None:
    stored = compress(kind, TEXT) or TEXT
    for plain_bytes in (0, 1, len(TEXT) - 1, len(TEXT) + 1):
        with pytest.raises(ValueError, match=r"plain bytes|LZ4|Zstandard"):
            decompress(kind, stored, plain_bytes)


@pytest.mark.parametrize("kind", CODECS)
def test_damaged_blocks_are_errors_or_have_the_right_length(kind: int) -> None:
    source = random.Random(2)
    stored = compress(kind, TEXT)
    assert stored is not None
    refused = 0
    for _ in range(200):
        bad = bytearray(stored)
        bad[source.randrange(len(bad))] ^= 1 << source.randrange(8)
        try:
            assert len(decompress(kind, bytes(bad), len(TEXT))) == len(TEXT)
        except ValueError:
            refused += 1
    assert refused
    for size in range(len(stored)):
        with pytest.raises(ValueError, match=r"plain bytes|LZ4|Zstandard"):
            decompress(kind, stored[:size], len(TEXT))


def test_a_frame_that_states_no_size_or_too_much_is_not_decompressed() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(ValueError, match="plain bytes"):
        decompress(KINDS["zstd"], silent, len(TEXT))
    huge = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    with pytest.raises(ValueError, match="a frame of 16777216"):
        decompress(KINDS["zstd"], huge, 4096)


def refusals(name: str) -> tuple[LimitError, CodecMissing]:
    """What is raised for a codec, in a thread that has not used it before."""
    with pytest.raises(LimitError) as limit:
        check_available(name)
    with pytest.raises(CodecMissing) as missing:
        decompress(KINDS[name], b"stored", 10)
    return limit.value, missing.value


def test_an_lz4_block_takes_no_more_memory_than_can_come_out_of_it() -> None:
    stored = compress(KINDS["lz4"], bytes(1 << 20))
    assert stored is not None
    assert decompress(KINDS["lz4"], stored, 1 << 20) == bytes(1 << 20)
    with pytest.raises(ValueError, match="cannot hold"):
        decompress(KINDS["lz4"], stored, 2**31 - 1)


def test_a_zstandard_frame_takes_no_more_memory_than_can_come_out_of_it() -> None:
    """Found by fuzzing: a frame of 20 bytes that states 3 GB, in a part that says the same."""
    stored = compress(KINDS["zstd"], bytes(1 << 20))
    assert stored is not None
    assert decompress(KINDS["zstd"], stored, 1 << 20) == bytes(1 << 20)
    stated = 3 << 30
    frame = b"\x28\xb5\x2f\xfd\xa0" + stated.to_bytes(4, "little") + b"\x01\0\0" + bytes(8)
    assert zstandard.get_frame_parameters(frame).content_size == stated
    with pytest.raises(ValueError, match="cannot hold"):
        decompress(KINDS["zstd"], frame, stated)


@pytest.mark.parametrize(("name", "module"), [("lz4", "lz4.block"), ("zstd", "zstandard")])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with ThreadPoolExecutor(1) as thread:
        limit, missing = thread.submit(refusals, name).result()
    assert missing.package == module.partition(".")[0]
    assert f"the package {missing.package}: install it" in str(limit)
