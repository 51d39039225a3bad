"""Reads that must not wait for the disk: the same answers, or none."""

from __future__ import annotations

import mmap
import os
import random
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.fs import PosixFileSystem
from kvstore.sstable import NOT_RESIDENT, BlockCache, Cursor, Table, View
from tests.support.pages import drop_pages, resident_pages
from tests.support.table_files import KINDS, make_view, read_all, write_table

each_kind = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
KEYS = [b"%04d" % i for i in range(400)]


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def reopen(directory: Path) -> View:
    """The tables there, each a run, the first the newest; nothing of them in memory."""
    paths = sorted(directory.glob("*.sst"))
    for path in paths:
        drop_pages(path)
    fs = PosixFileSystem()
    return View([[Table.open(fs, str(path))] for path in paths], BlockCache(1 << 20))


def write(directory: Path, name: str, entries: dict[bytes, bytes | None], **encoding: Any) -> None:
    write_table(directory / f"{name}.sst", entries, **encoding)


def patient(view: View, key: bytes) -> tuple[Any, Any]:
    """The answer, and what the one that may not wait said before."""
    return view.get(key), view.get_resident(key)


@each_kind
def test_what_is_in_memory_is_answered_and_what_is_not_is_not_read(
    tmp_path: Path, kinds: Any
) -> None:
    entries: dict[bytes, bytes | None] = {key: noise(2000, i) for i, key in enumerate(KEYS)}
    entries[KEYS[5]] = None
    write(tmp_path, "0", entries, kinds=kinds)
    view = reopen(tmp_path)
    assert view.get_resident(KEYS[0]) is NOT_RESIDENT  # neither filter nor index was read
    assert view.get(KEYS[0]) == entries[KEYS[0]]
    assert view.get_resident(KEYS[0]) == entries[KEYS[0]]
    assert view.get_resident(KEYS[200]) is NOT_RESIDENT
    assert not all(resident_pages(tmp_path / "0.sst"))
    for key in KEYS:
        assert view.get(key) == entries[key]
        assert view.get_resident(key) == entries[key]
    assert view.get_resident(b"0000 missing") is None
    assert view.get_resident(b"9") is None


@pytest.mark.parametrize("kinds", [KINDS["plain"], KINDS["zstd"]], ids=["plain", "zstd"])
@pytest.mark.parametrize("size", [65_536, 65_537, 900_000])
def test_long_values_in_memory_are_answered(tmp_path: Path, kinds: Any, size: int) -> None:
    value = noise(size, 1)
    write(tmp_path, "0", {b"long": value, b"z": b""}, kinds=kinds)
    view = reopen(tmp_path)
    assert view.get_resident(b"long") is NOT_RESIDENT
    assert view.get(b"long") == value
    assert view.get_resident(b"long") == value


def test_values_that_take_long_to_copy_are_left_to_a_thread(tmp_path: Path) -> None:
    value = noise(2 << 20, 1)
    view = make_view(tmp_path, [[{b"long": value}]])
    for _ in range(2):
        assert view.get_resident(b"long") is NOT_RESIDENT
        assert view.get(b"long") == value


@pytest.mark.slow
def test_an_index_of_more_than_a_mebibyte_is_looked_at_whole(tmp_path: Path) -> None:
    entries: dict[bytes, bytes | None] = {bytes(16_000) + b"%03d" % i: b"v" for i in range(70)}
    write(tmp_path, "0", entries, block_bytes=1)
    view = reopen(tmp_path)
    assert view.tables[0].footer.index_length > 1 << 20
    key = next(iter(entries))
    assert view.get_resident(key) is NOT_RESIDENT
    assert view.get(key) == b"v"
    assert view.get_resident(key) == b"v"


def test_behind_a_compressed_block_without_the_key_nothing_is_read_either(tmp_path: Path) -> None:
    # Without filters each run is looked into; the newer one's block has to be decompressed first.
    newer: dict[bytes, bytes | None] = {KEYS[0]: bytes(500), KEYS[-1]: bytes(500)}
    older: dict[bytes, bytes | None] = {key: noise(2000, i) for i, key in enumerate(KEYS)}
    write(tmp_path, "0", newer, kinds=KINDS["zstd"], filter_bits=0)
    write(tmp_path, "1", older, filter_bits=0)
    view = reopen(tmp_path)
    view.get(KEYS[1])
    assert view.get_resident(KEYS[1]) == older[KEYS[1]]
    assert view.get_resident(KEYS[0]) == newer[KEYS[0]]
    assert view.get_resident(KEYS[200]) is NOT_RESIDENT
    assert view.get(KEYS[200]) == view.get_resident(KEYS[200]) == older[KEYS[200]]


def read_patiently(cursor: Cursor, entries_max: int) -> tuple[list[tuple[bytes, bytes]], int]:
    """What a cursor gives that waits only when it was told that it has to, and how often."""
    entries: list[tuple[bytes, bytes]] = []
    waits = 0
    while True:
        cursor.only_resident(True)
        try:
            some = cursor.read(entries_max)
        except BlockingIOError:
            waits += 1
            cursor.only_resident(False)
            some = cursor.read(entries_max)
        if not some:
            return entries, waits
        entries += some


@each_kind
def test_a_scan_that_waits_only_when_it_has_to_gives_the_same(tmp_path: Path, kinds: Any) -> None:
    for run in range(3):
        write(
            tmp_path,
            str(run),
            {
                key: noise(3000, run * 1000 + i) if (i + run) % 9 else None
                for i, key in enumerate(KEYS[run :: run + 1])
            },
            kinds=kinds,
        )
    chance = random.Random(7)
    bounds: list[tuple[Any, Any, bool]] = [(None, None, False), (None, None, True)]
    for _ in range(6):
        low, high = sorted(chance.sample(KEYS, 2))
        bounds.append((low, high, chance.random() < 0.5))
    view = reopen(tmp_path)
    wants = [read_all(view.cursor(*bound)) for bound in bounds]
    del view
    for bound, want in zip(bounds, wants, strict=True):
        view = reopen(tmp_path)
        entries, waits = read_patiently(view.cursor(*bound), chance.choice([1, 50, 1000]))
        assert entries == want
        assert waits
        assert read_patiently(view.cursor(*bound), 1000) == (want, 0)
        del view


@settings(max_examples=25, deadline=None)
@given(
    runs=st.lists(
        st.dictionaries(st.sampled_from(KEYS[:20]), st.none() | st.binary(max_size=300)),
        min_size=1,
        max_size=4,
    ),
    kinds=st.sampled_from(list(KINDS.values())),
    block_bytes=st.sampled_from([1, 100, 4096]),
)
def test_of_what_is_in_memory_both_ways_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, runs: Any, kinds: Any, block_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("view")
    view = make_view(
        directory, [[run] for run in runs if run], kinds=kinds, block_bytes=block_bytes
    )
    for key in KEYS[:21]:
        value, quick = patient(view, key)
        assert quick is NOT_RESIDENT or quick == value
        assert view.get_resident(key) == value
    for reverse in (False, True):
        want = read_all(view.cursor(None, KEYS[15], reverse))
        assert read_patiently(view.cursor(None, KEYS[15], reverse), 3)[0] == want


# ---- what is read besides ----


def forget(view: View, directory: Path) -> None:
    """Nothing of the tables is in memory, but all their blocks have been checked before."""
    read_all(view.cursor())
    for table in view.tables:
        assert not isinstance(table.map, bytes)
        table.map.madvise(mmap.MADV_DONTNEED)
    for path in directory.glob("*.sst"):
        drop_pages(path)


def test_a_look_up_reads_its_own_pages_only(tmp_path: Path) -> None:
    view = make_view(tmp_path, [[{key: noise(2000, i) for i, key in enumerate(KEYS)}]])
    forget(view, tmp_path)
    assert view.get(KEYS[200]) == noise(2000, 200)
    (path,) = tmp_path.glob("*.sst")
    pages = resident_pages(path)
    assert len(pages) > 150
    assert sum(pages) < 20


def test_what_was_fetched_is_in_memory(tmp_path: Path) -> None:
    view = make_view(tmp_path, [[{key: noise(300, i) for i, key in enumerate(KEYS)}]])
    forget(view, tmp_path)
    for i, key in enumerate(KEYS):
        if view.get_resident(key) is NOT_RESIDENT:
            view.fetch(key)
            assert view.get(key) == noise(300, i)
            wait_until_read(view, key)
        assert view.get_resident(key) == noise(300, i)


def wait_until_read(view: View, key: bytes) -> None:
    """What the kernel was asked for comes by itself, but not at once."""
    deadline = time.monotonic() + 10
    while view.get_resident(key) is NOT_RESIDENT:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("reverse", [False, True])
def test_a_walk_reads_ahead(tmp_path: Path, reverse: bool) -> None:
    entries = {b"%05d" % i: noise(1000, i) for i in range(4000)}
    view = make_view(tmp_path, [[entries]])
    forget(view, tmp_path)
    (path,) = tmp_path.glob("*.sst")
    pages = len(resident_pages(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    assert read_all(view.cursor(reverse=reverse)) == sorted(entries.items(), reverse=reverse)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before < pages // 10


def test_a_long_value_is_read_at_once(tmp_path: Path) -> None:
    view = make_view(tmp_path, [[{b"long": noise(900_000, 1), b"z": b""}]])
    forget(view, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    assert view.get(b"long") == noise(900_000, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before < 20


# ---- a short scan looks ahead ----


def can_populate(tmp_path: Path) -> bool:
    """Whether the kernel has MADV_POPULATE_READ (Linux 5.14)."""
    (tmp_path / "one page").write_bytes(bytes(4096))
    with (tmp_path / "one page").open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        memory.madvise(22)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("reverse", [False, True])
def test_a_short_scan_checks_blocks_that_are_in_memory_where_they_are(
    tmp_path: Path, *, reverse: bool
) -> None:
    """Its file is exchanged for an empty one: whatever it still read of it would be an error."""
    if not can_populate(tmp_path):
        pytest.skip("this kernel does not tell")
    entries = {key: noise(1000, i) for i, key in enumerate(KEYS)}
    view = make_view(tmp_path, [[{**entries}]])
    expected = sorted(entries.items(), reverse=reverse)
    view.first(None, None, 1, reverse=reverse)  # index and first block are read
    fd = view.tables[0].file.fileno()
    assert fd is not None
    with (tmp_path / "empty").open("wb") as empty:
        os.dup2(empty.fileno(), fd)
    assert view.first(None, None, 150, reverse=reverse) == (expected[:150], False)
    with pytest.raises(OSError, match="read of"):
        view.get(expected[300][0])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_short_scan_reads_ahead_what_it_wants_and_not_all(
    tmp_path: Path, *, reverse: bool
) -> None:
    many = [b"%05d" % i for i in range(4000)]
    entries = {key: noise(1000, i) for i, key in enumerate(many)}
    write(tmp_path, "0", {**entries})
    for wanted in (1, 2, 9, 100):
        view = reopen(tmp_path)
        start, stop = (None, many[2000]) if reverse else (many[2000], None)
        expected = many[2000 - wanted : 2000][::-1] if reverse else many[2000 : 2000 + wanted]
        first, are_all = view.first(start, stop, wanted, reverse=reverse)
        assert first == [(key, entries[key]) for key in expected]
        assert not are_all
        assert sum(resident_pages(tmp_path / "0.sst")) < 700, "of a thousand"


@each_kind
def test_a_first_list_that_may_not_wait_is_whole_or_short(tmp_path: Path, kinds: Any) -> None:
    entries = {key: noise(1000, i) for i, key in enumerate(KEYS)}
    write(tmp_path, "0", {**entries}, kinds=kinds)
    view = reopen(tmp_path)
    expected = sorted(entries.items())
    assert view.first(None, None, 50, reverse=False, only_resident=True) == ([], False)
    assert read_all(view.cursor(), 50) == expected
    first, _ = view.first(None, None, 50, reverse=False, only_resident=True)
    assert first == expected[: len(first)]
    assert kinds != KINDS["plain"] or len(first) == 50
