"""Walks over many tables: each live key once, in its newest version, in order."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.native import ffi, lib
from tests.support.native_tables import Damaged, NativeMerge, NativeTable, NativeView
from tests.support.table_oracle import Entry, decode, encode
from tests.support.table_strategies import entry_lists, keys


def live(
    runs: list[list[Entry]],
    lower: bytes | None = None,
    upper: bytes | None = None,
    *,
    reverse: bool = False,
) -> list[Entry]:
    newest = {key: value for run in reversed(runs) for key, value in run}
    return sorted(
        (
            (key, value)
            for key, value in newest.items()
            if value is not None
            and (lower is None or key >= lower)
            and (upper is None or key < upper)
        ),
        reverse=reverse,
    )


def view_of(
    runs: list[list[Entry]], cut: int = 0, block_bytes: int = 60, kinds: tuple[int, ...] = (0,)
) -> NativeView:
    """Each run as one or two tables."""
    tables = []
    for entries in runs:
        middle = cut % len(entries)
        pieces = [piece for piece in (entries[:middle], entries[middle:]) if piece]
        data = [encode(piece, block_bytes=block_bytes, kinds=kinds) for piece in pieces]
        tables.append([NativeTable(table) for table in data])
    return NativeView(tables)


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(entry_lists(25), min_size=0, max_size=7),
    cut=st.integers(0, 40),
    lower=st.none() | keys,
    upper=st.none() | keys,
    reverse=st.booleans(),
    block_bytes=st.sampled_from([1, 60, 4096]),
    kinds=st.sampled_from([(0,), (0, 1), (2,)]),
    out_bytes=st.sampled_from([0, 1, 30, 400, 1 << 16]),
    max_entries=st.sampled_from([1, 2, 7, 1000]),
)
def test_a_merge_gives_what_is_live_in_order(
    *,
    runs: list[list[Entry]],
    cut: int,
    lower: bytes | None,
    upper: bytes | None,
    reverse: bool,
    block_bytes: int,
    kinds: tuple[int, ...],
    out_bytes: int,
    max_entries: int,
) -> None:
    view = view_of(runs, cut, block_bytes, kinds)
    merge = NativeMerge(view, lower, upper, reverse=reverse)
    expected = live(runs, lower, upper, reverse=reverse)
    assert list(merge.entries(out_bytes, max_entries)) == expected
    assert merge.read() == (lib.KV_END, []), "the end is final"


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(entry_lists(25), min_size=0, max_size=7),
    cut=st.integers(0, 40),
    lower=st.none() | keys,
    upper=st.none() | keys,
    reverse=st.booleans(),
    block_bytes=st.sampled_from([1, 60, 4096]),
    kinds=st.sampled_from([(0,), (0, 1)]),
    out_bytes=st.sampled_from([0, 30, 400, 1 << 16]),
    max_entries=st.sampled_from([1, 2, 7, 1000]),
)
def test_a_scan_of_one_call_gives_the_first_of_what_is_live(
    *,
    runs: list[list[Entry]],
    cut: int,
    lower: bytes | None,
    upper: bytes | None,
    reverse: bool,
    block_bytes: int,
    kinds: tuple[int, ...],
    out_bytes: int,
    max_entries: int,
) -> None:
    view = view_of(runs, cut, block_bytes, kinds)
    expected = live(runs, lower, upper, reverse=reverse)
    status, entries = view.scan(
        lower, upper, reverse=reverse, out_bytes=out_bytes, max_entries=max_entries
    )
    assert entries == expected[: len(entries)]
    assert len(entries) <= max_entries
    if status == lib.KV_END:
        assert entries == expected
    elif status == lib.KV_NEED_BLOCK:
        assert kinds != (0,)
    elif status == lib.KV_NEED_ROOM:
        assert not entries
    else:
        assert status == lib.KV_FULL
        assert len(entries) in range(1, max_entries + 1)
    key, value = expected[0] if expected else (b"", b"")
    if kinds == (0,) and len(key) + len(value or b"") <= out_bytes:
        assert bool(entries) == bool(expected)


def test_a_scan_of_one_call_leaves_very_many_runs_to_a_merge() -> None:
    few: list[list[Entry]] = [[(b"%02d" % i, b"v")] for i in range(16)]
    assert view_of(few).scan(None, None) == (lib.KV_END, live(few))
    many: list[list[Entry]] = [*few, [(b"x", b"")]]
    assert view_of(many).scan(None, None) == (lib.KV_MORE, [])


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(entry_lists(25), min_size=1, max_size=5),
    kinds=st.sampled_from([(0,), (0, 1)]),
    reverse=st.booleans(),
    max_entries=st.sampled_from([1, 5, 1000]),
)
def test_a_count_is_that_of_the_entries(
    runs: list[list[Entry]], kinds: tuple[int, ...], reverse: bool, max_entries: int
) -> None:
    merge = NativeMerge(view_of(runs, kinds=kinds), reverse=reverse)
    count, counted = ffi.new("uint64_t *"), 0
    while True:
        status = lib.kv_merge_count(merge.handle, max_entries, count, merge.chunk)
        assert merge.chunk.count <= max_entries
        counted += merge.chunk.count
        if status == lib.KV_END:
            break
        assert status in (lib.KV_MORE, lib.KV_NEED_BLOCK)
        if status == lib.KV_NEED_BLOCK:
            merge.feed()
    assert count[0] == counted == len(live(runs))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kinds", [(0,), (1,)], ids=["plain", "compressed"])
def test_long_keys_and_values_pass_through(reverse: bool, kinds: tuple[int, ...]) -> None:
    longest: list[Entry] = [(b"k" * 65535 + bytes([c]), b"v" * 70_000) for c in b"abcd"]
    short: list[Entry] = [(b"\0", b""), *longest[1:3], (b"k" * 65535, None), (b"z", b"")]
    runs = [sorted(short), longest]
    merge = NativeMerge(view_of(runs, 1, 1, kinds), reverse=reverse)
    assert list(merge.entries(100, 3)) == live(runs, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_keys_that_are_equal_in_all_that_is_compared_first(reverse: bool) -> None:
    """Heads are zero-padded: these have the same, but are not the same."""
    names = [b"", b"\0", b"\0\0", b"\0" * 7, b"\0" * 8, b"\0" * 9, b"\0" * 9 + b"a", b"\xff" * 9]
    runs: list[list[Entry]] = [
        [(b"p" + name, b"%d" % run) for name in names[run % 3 :: run % 2 + 1]] for run in range(6)
    ]
    for block_bytes in (1, 40, 4096):
        view = view_of(runs, 3, block_bytes)
        assert list(NativeMerge(view, reverse=reverse).entries()) == live(runs, reverse=reverse)


@pytest.mark.slow
def test_a_call_looks_at_a_bounded_number_of_entries() -> None:
    deleted: list[Entry] = [(b"%05d" % i, None) for i in range(9000)]
    older: list[Entry] = [(b"%05d" % i, b"old") for i in range(9001)]
    merge = NativeMerge(view_of([deleted, older], block_bytes=4096))
    calls = 0
    while True:
        status, entries = merge.read(1000, 10)
        calls += 1
        if status != lib.KV_MORE:
            break
        assert entries == []
    assert (status, entries) == (lib.KV_END, [(b"09000", b"old")])
    assert calls == pytest.approx(18_000 / (4 * 10 + 1024), abs=2)


def test_an_entry_too_long_for_the_output_says_what_it_needs() -> None:
    merge = NativeMerge(view_of([[(b"a", b"1"), (b"bb", b"22222"), (b"c", b"3")]]))
    assert merge.read(6) == (lib.KV_FULL, [(b"a", b"1")])
    assert merge.read(6) == (lib.KV_NEED_ROOM, [])
    assert merge.chunk.need == 7
    assert merge.read(7) == (lib.KV_FULL, [(b"bb", b"22222")])
    assert merge.read(7) == (lib.KV_END, [(b"c", b"3")])


def test_a_block_that_was_not_asked_for_is_not_taken() -> None:
    view = view_of([[(b"a", b"1"), (b"b", b"2")]], block_bytes=1, kinds=(1,))
    merge = NativeMerge(view)
    plain = view.tables[0].plain(1)
    assert merge.read()[0] == lib.KV_NEED_BLOCK
    assert (merge.chunk.slot, merge.chunk.block) == (0, 0)
    assert lib.kv_merge_feed(merge.handle, 0, 1, plain, len(plain)) == -22
    assert lib.kv_merge_feed(merge.handle, 1, 0, plain, len(plain)) == -22
    assert merge.read()[0] == lib.KV_NEED_BLOCK


def test_a_block_of_other_keys_than_the_index_says_is_damage() -> None:
    view = view_of([[(b"a", b"1"), (b"b", b"2")]], block_bytes=1, kinds=(1,))
    merge = NativeMerge(view)
    plain = view.tables[0].plain(1)
    assert merge.read()[0] == lib.KV_NEED_BLOCK
    assert lib.kv_merge_feed(merge.handle, 0, 0, plain, len(plain)) == 0
    with pytest.raises(Damaged) as damage:
        list(merge.entries())
    assert damage.value.fault.malformed == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_a_table_that_begins_behind_its_smallest_key_gives_no_entry_out_of_order(
    reverse: bool,
) -> None:
    data = encode([(b"k%03d" % i, b"value") for i in range(40)], block_bytes=100)
    parts = decode(data)
    assert parts.separators[0] < b"k030"
    table = NativeTable(data, dataclasses.replace(parts, smallest=b"k030"))
    merge = NativeMerge(NativeView([[table]]), reverse=reverse)
    assert merge.read() == (lib.KV_DAMAGED, [])
    assert (table.fault().part, table.fault().malformed) == (lib.KV_PART_INDEX, 1)


@pytest.mark.parametrize("reverse", [False, True])
def test_damage_ends_a_merge_behind_what_was_whole(reverse: bool) -> None:
    entries: list[Entry] = [(b"%03d" % i, b"value") for i in range(40)]
    data = encode(entries, block_bytes=100)
    parts = decode(data)
    middle = parts.blocks[len(parts.blocks) // 2]
    flipped = bytearray(data)
    flipped[middle.offset + 30] ^= 1
    table = NativeTable(bytes(flipped), parts)
    whole = live([entries], reverse=reverse)
    upto = whole.index(middle.entries[-1 if reverse else 0])
    for _ in range(2):
        merge = NativeMerge(NativeView([[table]]), reverse=reverse)
        assert merge.read() == (lib.KV_DAMAGED, whole[:upto])
        for _ in range(2):
            merge.chunk.slot = merge.chunk.block = 99
            assert merge.read() == (lib.KV_DAMAGED, [])
            assert (merge.chunk.slot, merge.chunk.block) == (0, len(parts.blocks) // 2)
    assert table.fault().offset == middle.offset


def test_bounds_spare_the_blocks_outside_of_them() -> None:
    entries: list[Entry] = [(b"%04d" % i, b"value") for i in range(1000)]
    for reverse in (False, True):
        view = view_of([entries], block_bytes=200)
        merge = NativeMerge(view, b"0500", b"0502", reverse=reverse)
        assert len(list(merge.entries())) == 2
        assert view.stats.blocks_checked <= 2
        assert list(NativeMerge(view, b"0502", b"0500", reverse=reverse).entries()) == []
        assert list(NativeMerge(view, b"5", None, reverse=reverse).entries()) == []
        assert list(NativeMerge(view, None, b"", reverse=reverse).entries()) == []
        assert view.stats.blocks_checked <= 2
