"""Point reads over many tables: the newest run that has the key decides."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.native import ffi, lib
from tests.support.native_tables import NativeTable, NativeView
from tests.support.table_oracle import Entry, encode, hash32
from tests.support.table_strategies import entry_lists, keys


def newest_first(runs: list[list[Entry]]) -> dict[bytes, bytes | None]:
    return {key: value for run in reversed(runs) for key, value in run}


def tables_of(entries: list[Entry], cuts: list[int], **options: object) -> list[NativeTable]:
    """The entries as a run of disjoint tables."""
    edges = sorted({cut % len(entries) for cut in cuts} | {0})
    pieces = [entries[a:b] for a, b in zip(edges, [*edges[1:], len(entries)], strict=True)]
    return [NativeTable(encode(piece, **options)) for piece in pieces]  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(
    runs=st.lists(entry_lists(30), min_size=0, max_size=5),
    cuts=st.lists(st.integers(0, 99), max_size=4),
    others=st.lists(keys, max_size=20),
    block_bytes=st.sampled_from([1, 60, 4096]),
    filter_bits=st.sampled_from([0, 1, 10]),
    kinds=st.sampled_from([(0,), (0, 1), (2,)]),
)
def test_a_get_gives_the_newest_version(
    *,
    runs: list[list[Entry]],
    cuts: list[int],
    others: list[bytes],
    block_bytes: int,
    filter_bits: int,
    kinds: tuple[int, ...],
) -> None:
    options = {"block_bytes": block_bytes, "filter_bits": filter_bits, "kinds": kinds}
    view = NativeView([tables_of(run, cuts, **options) for run in runs])
    expected = newest_first(runs)
    for key in [*expected, *others]:
        assert view.get(key) == expected.get(key)
        assert view.find(key) == expected.get(key)
        assert view.may_contain(key) or key not in expected


def test_a_view_of_nothing_has_nothing() -> None:
    view = NativeView([])
    assert view.get(b"a") is None
    assert not view.may_contain(b"a")
    with_empty_runs = NativeView([[], [NativeTable(encode([(b"a", b"1")]))], []])
    assert with_empty_runs.get(b"a") == b"1"


def test_a_lookup_may_begin_behind_a_table() -> None:
    runs: list[list[Entry]] = [[(b"a", b"0")], [(b"a", None), (b"b", b"1")], [(b"a", b"2")]]
    view = NativeView([tables_of(run, [1]) for run in runs])
    found = ffi.new("kv_found *")
    seen = []
    for after in range(-1, 4):
        lib.kv_view_find(view.handle, b"a", 1, hash32(b"a"), after, False, found)
        seen.append((found.status, found.slot))
    assert seen == [
        (lib.KV_FOUND, 0),
        (lib.KV_DELETED, 1),
        (lib.KV_FOUND, 3),
        (lib.KV_FOUND, 3),
        (lib.KV_ABSENT, 0),
    ]


@pytest.mark.parametrize(
    ("length", "fits"), [(0, True), (65535, True), (65536, True), (65537, False)]
)
def test_a_value_that_does_not_fit_is_found_the_other_way(length: int, *, fits: bool) -> None:
    view = NativeView([[NativeTable(encode([(b"a", b""), (b"b", b"x" * length)]))]])
    out = ffi.new("char[]", lib.KV_VALUE_ROOM + 1)
    got = lib.kv_view_get(view.handle, b"b", 1, hash32(b"b"), out)
    assert got == (length if fits else lib.KV_NEED_ROOM)
    assert bytes(ffi.buffer(out)) == (b"x" * length if fits else b"").ljust(65537, b"\0")
    assert view.get(b"b") == b"x" * length
    assert view.stats.gets == 1 + fits, "a lookup is counted once, by the call that answers"


def test_counters_tell_what_lookups_cost() -> None:
    newer = NativeTable(encode([(b"a", b"1"), (b"z", b"1")]))
    older = NativeTable(encode([(b"b", b"2"), (b"c", b"2")], block_bytes=1))
    view = NativeView([[newer], [older]])
    assert not newer.may_contain(b"b"), "the test wants a true negative"
    assert [view.get(key) for key in (b"b", b"b", b"c", b"~")] == [b"2", b"2", b"2", None]
    stats = view.stats
    assert (stats.gets, stats.tables_probed, stats.filter_negatives) == (4, 3, 3)
    assert stats.blocks_checked == 2


def test_many_keys_with_equal_heads_are_found() -> None:
    """The 8 bytes that a search compares first are the same in all of these."""
    entries: list[Entry] = [(b"a" + bytes(12) + b"%04d" % i, b"%d" % i) for i in range(300)]
    entries = [(b"Z", b"first"), *entries, (b"b", b"last")]
    view = NativeView([tables_of(entries, [50, 100, 250], block_bytes=100)])
    assert [view.get(key) for key, _ in entries] == [value for _, value in entries]
    assert view.get(b"a" + bytes(12)) is None
    assert view.get(b"a" + bytes(12) + b"0000x") is None


def test_the_longest_keys_are_found() -> None:
    longest = [b"k" * 65535 + bytes([c]) for c in b"abc"]
    entries: list[Entry] = [(key, key[-1:]) for key in longest]
    view = NativeView([[NativeTable(encode(entries, block_bytes=1))]])
    assert [view.get(key) for key in longest] == [b"a", b"b", b"c"]
    assert view.get(b"k" * 65535) is None


def test_threads_may_read_a_view_that_nobody_has_read_yet() -> None:
    """Filter, index and blocks are made ready by whoever comes first."""
    runs: list[list[Entry]] = [
        [(b"key%04d" % i, b"%d of %d" % (i, run)) for i in range(run, 600, run + 1)]
        for run in range(4)
    ]
    expected = newest_first(runs)
    wrong: list[bytes] = []

    def read(view: NativeView, start: threading.Barrier) -> None:
        start.wait(10)
        wrong.extend(key for key, value in expected.items() if view.get(key) != value)

    for _ in range(3):
        view = NativeView([tables_of(run, [40], block_bytes=200) for run in runs])
        start = threading.Barrier(4)
        threads = [threading.Thread(target=read, args=(view, start)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        # Threads that count at once may lose a count.
        assert len(expected) <= view.stats.gets <= 4 * len(expected)
