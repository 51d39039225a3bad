"""Point reads and scans over many tables."""

from __future__ import annotations

import gc
import os
import random
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, KVStoreError, LimitError
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.native import ffi, lib
from kvstore.sstable import BlockCache, Cursor, Table, View
from kvstore.sstable import view as view_module
from tests.support import table_oracle
from tests.support.damage import flip
from tests.support.faultfs import FaultFileSystem
from tests.support.stores import output_of
from tests.support.table_files import KINDS, SMALL, make_view, read_all, write_table
from tests.unit.sstable.test_builder import build_run
from tests.unit.store.test_interrupts import Interrupter, points

Run = dict[bytes, "bytes | None"]
each_kind = pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)


def merged(runs: list[Run]) -> dict[bytes, bytes]:
    """What runs, newest first, hold together, in key order."""
    model: Run = {}
    for run in reversed(runs):
        model.update(run)
    return {key: value for key, value in sorted(model.items()) if value is not None}


def split(run: Run, pieces: int) -> list[Run]:
    """A run as several tables, disjoint and in order."""
    entries = sorted(run.items())
    size = -(-len(entries) // pieces) or 1
    return [dict(entries[at : at + size]) for at in range(0, len(entries), size)]


@pytest.fixture
def collector_off() -> Iterator[None]:
    """What goes, goes by its last reference."""
    gc.disable()
    yield
    gc.enable()


# ---- against a dict ----

keys = st.binary(min_size=1, max_size=3) | st.sampled_from(
    [b"common prefix %d" % n for n in range(12)]
)
values = st.none() | st.binary(max_size=12) | st.integers(0, 400).map(lambda n: b"v" * n)
some_runs = st.lists(
    st.tuples(st.dictionaries(keys, values, min_size=1, max_size=40), st.integers(1, 3)),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(
    some_runs,
    st.sampled_from([64, 256, 4096]),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from([0, 10]),
    st.tuples(st.none() | keys, st.none() | keys, st.booleans(), st.integers(1, 20)),
)
def test_a_view_reads_as_a_dict_does(
    parts: list[tuple[Run, int]], block_bytes: int, kinds: str, filter_bits: int, scan: Any
) -> None:
    runs = [run for run, _ in parts]
    model = merged(runs)
    start, stop, reverse, step = scan
    with tempfile.TemporaryDirectory() as directory:
        view = make_view(
            Path(directory),
            [split(run, pieces) for run, pieces in parts],
            block_bytes=block_bytes,
            kinds=KINDS[kinds],
            filter_bits=filter_bits,
            cache_bytes=300,
        )
    everywhere = {key for run in runs for key in run}
    for key in everywhere | {b"absent", b"\xff\xff\xff", b"common prefix"}:
        assert view.get(key) == model.get(key)
        assert view.may_contain(key) or key not in everywhere
    expected = [
        entry
        for entry in model.items()
        if (start is None or start <= entry[0]) and (stop is None or entry[0] < stop)
    ]
    if reverse:
        expected.reverse()
    assert read_all(view.cursor(start, stop, reverse), step) == expected
    assert view.cursor(start, stop, reverse).count() == len(expected)
    first, are_all = view.first(start, stop, step, reverse=reverse)
    assert first == expected[: len(first)]
    assert len(first) <= step
    assert not are_all or first == expected
    assert kinds != "plain" or len(first) == min(step, len(expected))


def test_an_empty_view_holds_nothing() -> None:
    for view in (View([], BlockCache(0)), View([[], []], BlockCache(0))):
        assert view.get(b"key") is None
        assert not view.may_contain(b"key")
        assert view.cursor().read(10) == []
        assert view.cursor(reverse=True).count() == 0


def test_too_many_tables_are_refused(tmp_path: Path) -> None:
    table = make_view(tmp_path, [[SMALL]]).tables[0]
    with pytest.raises(LimitError, match="32768 tables"):
        View([[table]] * 32768, BlockCache(0))


@each_kind
def test_values_of_every_length_are_read_whole(tmp_path: Path, kinds: tuple[int, ...]) -> None:
    lengths = [0, 1, 32767, 32768, 65534, 65535, 65536, 300_000]
    run: Run = {b"%07d" % length: os.urandom(length) for length in lengths}
    view = make_view(tmp_path, [[run]], kinds=kinds)
    for key, value in run.items():
        assert view.get(key) == value
    assert read_all(view.cursor()) == sorted(run.items())
    assert read_all(view.cursor(reverse=True), 1) == sorted(run.items(), reverse=True)
    assert view.get(b"absent") is None


def test_a_deleted_key_hides_what_is_older(tmp_path: Path) -> None:
    newest: Run = {b"a": None, b"b": b"new"}
    oldest: Run = {b"a": b"old", b"b": b"old", b"c": b"old"}
    for kinds in KINDS.values():
        view = make_view(tmp_path, [[newest], [oldest]], kinds=kinds)
        assert [view.get(key) for key in (b"a", b"b", b"c")] == [None, b"new", b"old"]
        assert read_all(view.cursor()) == [(b"b", b"new"), (b"c", b"old")]


@pytest.mark.slow
def test_many_tombstones_are_passed_over_in_one_read(tmp_path: Path) -> None:
    deleted: Run = {b"%06d" % number: None for number in range(20_000)}
    view = make_view(tmp_path, [[deleted], [{b"%06d" % 19_999: b"", b"zzz": b"last"}]])
    assert view.cursor().read(1) == [(b"zzz", b"last")]
    assert view.cursor(reverse=True).read(10) == [(b"zzz", b"last")]
    assert view.cursor(stop=b"z").read(1) == []
    assert view.cursor().count() == 1


@pytest.mark.parametrize("lengths", ["alike", "different"])
def test_more_entries_than_one_read_gives_come_in_order(tmp_path: Path, lengths: str) -> None:
    size = 20 if lengths == "alike" else 0
    run: Run = {b"%05d" % n: bytes(size or n % 50) for n in range(9000)}
    view = make_view(tmp_path, [[run]])
    cursor = view.cursor()
    first = cursor.read(1 << 30)
    assert 0 < len(first) < len(run)
    assert first + read_all(cursor) == sorted(run.items())
    assert cursor.read(5) == []


def test_a_counted_cursor_is_at_its_end(tmp_path: Path) -> None:
    cursor = make_view(tmp_path, [[SMALL]]).cursor()
    cursor.read(3)
    assert cursor.count() == len(merged([SMALL])) - 3
    assert cursor.read(1) == []


def test_lookups_are_counted(tmp_path: Path) -> None:
    stats = ffi.new("kv_view_stats *")
    tables = make_view(tmp_path, [[SMALL]]).tables
    view = View([tables], BlockCache(0), stats)
    view.get(b"key01")
    view.get(b"key0x")
    assert (stats.gets, stats.blocks_checked) == (2, 1)
    assert stats.tables_probed + stats.filter_negatives == 2


def test_a_get_counts_on_when_nothing_else_of_its_view_is_left(
    tmp_path: Path, collector_off: None
) -> None:
    stats = ffi.new("kv_view_stats *")
    kept = weakref.ref(stats)
    get = View([make_view(tmp_path, [[SMALL]]).tables], BlockCache(0), stats).get
    del stats
    assert kept() is not None
    assert get(b"key01") == SMALL[b"key01"]
    del get
    assert kept() is None


def test_a_cursor_interrupted_while_it_is_given_a_block_goes_on(tmp_path: Path) -> None:
    run: Run = {b"key%03d" % number: b"value" * 20 for number in range(40)}
    cursor = make_view(tmp_path, [[run]], kinds=(table_oracle.LZ4,), cache_bytes=0).cursor()
    given: list[bytes] = []

    def feed(c: Any, slot: int, block: int, plain: bytes, size: int) -> int:
        lib.kv_merge_feed(c, slot, block, plain, size)
        given.append(plain)
        # The kernel has its address, and no reference.
        assert plain in cursor._fed.values()
        raise KeyboardInterrupt

    with (
        mock.patch.object(view_module, "lib", mock.Mock(wraps=lib, kv_merge_feed=feed)),
        pytest.raises(KeyboardInterrupt),
    ):
        cursor.read(10)
    assert len(given) == 1
    assert read_all(cursor) == list(merged([run]).items())


@each_kind
def test_a_cursor_interrupted_anywhere_goes_on_without_a_hole_or_not_at_all(
    tmp_path: Path, kinds: tuple[int, ...]
) -> None:
    view = make_view(tmp_path, [[SMALL]], kinds=kinds, block_bytes=100, cache_bytes=0)
    expected = list(merged([SMALL]).items())
    went_on = refused = 0
    interrupted = True
    for point in points():
        cursor = view.cursor()
        got: list[tuple[bytes, bytes]] = []

        def read(cursor: Cursor = cursor, got: list[tuple[bytes, bytes]] = got) -> None:
            while entries := cursor.read(4):
                got.extend(entries)

        interrupted = Interrupter(point).run(read)
        try:
            got += read_all(cursor, 4)
        except KVStoreError:
            refused += 1
            assert got == expected[: len(got)]
            for call in (partial(cursor.read, 1), cursor.count):
                with pytest.raises(KVStoreError, match="begin it again"):
                    call()
        else:
            went_on += 1
            assert got == expected
        if not interrupted:
            break
    assert not interrupted
    assert went_on > 5
    assert refused > 5


def test_a_count_that_was_interrupted_is_not_given_for_the_whole(tmp_path: Path) -> None:
    cursor = make_view(tmp_path, [[SMALL]]).cursor()

    def count(*arguments: Any) -> int:
        lib.kv_merge_count(*arguments)
        raise KeyboardInterrupt

    with (
        mock.patch.object(view_module, "lib", mock.Mock(wraps=lib, kv_merge_count=count)),
        pytest.raises(KeyboardInterrupt),
    ):
        cursor.count()
    for call in (cursor.count, partial(cursor.read, 1)):
        with pytest.raises(KVStoreError, match="begin it again"):
            call()


# ---- compressed blocks and their cache ----


def test_a_block_is_decompressed_once_while_it_is_cached(tmp_path: Path) -> None:
    view = make_view(tmp_path, [[SMALL]], kinds=KINDS["lz4"])
    for _ in range(3):
        for key, value in SMALL.items():
            assert view.get(key) == value
        assert len(read_all(view.cursor())) == len(merged([SMALL]))
    assert view.cache.misses == 1
    uncached = make_view(tmp_path, [[SMALL]], kinds=KINDS["lz4"], cache_bytes=0)
    assert read_all(uncached.cursor()) == list(merged([SMALL]).items())
    assert uncached.cache.hits == 0


# ---- life ----


def test_a_view_keeps_its_tables_and_a_cursor_its_view(tmp_path: Path, collector_off: None) -> None:
    fs = FaultFileSystem()
    view: Any = make_view(tmp_path, [[SMALL], [SMALL]], fs=fs, kinds=KINDS["mixed"])
    for path in tmp_path.iterdir():
        path.unlink()
    get, c = view.get, view.c
    cursor: Any = view.cursor()
    cursor.read(2)
    del view
    assert get(b"key01") == SMALL[b"key01"]
    assert lib.kv_view_may_contain(c, b"key01", 5, 0) in (0, 1)
    del get, c
    assert fs.open_files == 2
    assert len(read_all(cursor)) == len(merged([SMALL])) - 2
    del cursor
    assert fs.open_files == 0


def test_tables_are_shared_between_views(tmp_path: Path, collector_off: None) -> None:
    fs = FaultFileSystem()
    first: Any = make_view(tmp_path, [[SMALL], [{b"key": b"value"}]], fs=fs)
    second: Any = View([[first.tables[1]]], first.cache)
    del first
    assert fs.open_files == 1
    assert second.get(b"key") == b"value"
    assert second.get(b"key01") is None
    del second
    assert fs.open_files == 0


# ---- threads ----


@each_kind
def test_threads_read_a_view_that_nobody_read_before(
    tmp_path: Path, kinds: tuple[int, ...]
) -> None:
    runs: list[Run] = [
        {b"%04d" % n: os.urandom(30) for n in range(start, 1500, 3)} for start in range(3)
    ]
    model = merged(runs)
    view = make_view(tmp_path, [split(run, 2) for run in runs], kinds=kinds, cache_bytes=8000)
    barrier = threading.Barrier(4)
    wrong: list[object] = []

    def work(seed: int) -> None:
        sample = random.Random(seed).sample(sorted(model), 300)
        barrier.wait()
        wrong.extend(key for key in sample if view.get(key) != model[key])
        if read_all(view.cursor(reverse=seed % 2 == 1), 64)[:: -1 if seed % 2 else 1] != list(
            model.items()
        ):
            wrong.append("scan")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the CorruptionError that it raises."""
    try:
        return call(*arguments)
    except CorruptionError as error:
        return error


def refusals(path: Path, fs: FileSystem) -> list[CorruptionError]:
    """Asks a table of SMALL everything; what it answers is right, or one of these."""
    model = merged([SMALL])
    entries = list(model.items())
    table = outcome(partial(Table.open, fs, str(path), smallest=min(SMALL), largest=max(SMALL)))
    if isinstance(table, CorruptionError):
        return [table]
    view = View([[table]], BlockCache(1000))
    answers: list[tuple[Any, Any]] = [
        (outcome(view.get, key), model.get(key)) for key in (*SMALL, b"absent", b"zzz")
    ]
    answers += [(outcome(read_all, view.cursor(), 5), entries)]
    answers += [(outcome(read_all, view.cursor(reverse=True)), entries[::-1])]
    answers += [(outcome(view.cursor().count), len(entries))]
    refused = [answer for answer, _ in answers if isinstance(answer, CorruptionError)]
    assert all(answer in (expected, *refused) for answer, expected in answers)
    return refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "fs"),
    [("mixed", PosixFileSystem()), ("plain", FaultFileSystem())],
    ids=["mixed", "plain, no descriptor"],
)
def test_no_flipped_byte_gives_a_wrong_answer(tmp_path: Path, kinds: str, fs: FileSystem) -> None:
    path = write_table(tmp_path / "table.sst", SMALL, block_bytes=100, kinds=KINDS[kinds])
    assert refusals(path, fs) == []
    data_end = Table.open(fs, str(path)).footer.data_end
    whole = path.read_bytes()
    for offset in range(len(whole)):
        flip(path, offset, bit=offset * 5 % 8)
        refused = refusals(path, fs)
        assert refused or offset >= data_end  # padding and properties are not looked at
        for error in refused:
            assert error.path == str(path)
            assert 0 <= error.offset < len(whole)
        path.write_bytes(whole)


@each_kind
def test_a_scan_gives_what_is_before_the_damage_and_never_goes_on(
    tmp_path: Path, kinds: tuple[int, ...]
) -> None:
    run: Run = {b"%04d" % n: b"value %d" % n for n in range(200)}
    view = make_view(tmp_path, [[run]], kinds=kinds, block_bytes=300)
    path = view.tables[0].path
    blocks = table_oracle.decode(Path(path).read_bytes()).blocks
    bad = blocks[3]
    flip(Path(path), bad.offset + 3)
    before = [entry for block in blocks[:3] for entry in block.entries]
    behind = [entry for block in blocks[4:] for entry in block.entries]
    for reverse, expected in ((False, before), (True, behind[::-1])):
        first, are_all = view.first(None, None, 1000, reverse=reverse)
        assert not are_all
        assert first == expected[: len(first)]
        assert kinds != KINDS["plain"] or first == expected
        cursor = view.cursor(reverse=reverse)
        got: list[tuple[bytes, bytes]] = []
        while len(got) < len(expected):
            got += cursor.read(1000)
        assert got == expected
        for _ in range(2):
            with pytest.raises(CorruptionError) as caught:
                cursor.read(10)
            assert (caught.value.path, caught.value.offset) == (path, bad.offset)
        with pytest.raises(CorruptionError):
            cursor.count()
    with pytest.raises(CorruptionError) as caught:
        view.get(bad.entries[0][0])
    assert (caught.value.path, caught.value.offset) == (path, bad.offset)
    assert view.get(before[0][0]) == before[0][1]


@each_kind
def test_a_block_whose_keys_are_not_where_the_index_says_is_damage(
    tmp_path: Path, kinds: tuple[int, ...]
) -> None:
    """A look-up that trusted it could miss a key in silence, or find an older version."""
    with mock.patch.object(
        table_oracle, "_separator", lambda last, _: last[:-1] + bytes([last[-1] - 1])
    ):
        view = make_view(tmp_path, [[SMALL]], block_bytes=100, kinds=kinds)
    for _ in range(2):
        with pytest.raises(CorruptionError, match="malformed") as caught:
            view.get(b"key00")
        assert (caught.value.path, caught.value.offset) == (view.tables[0].path, 32)
        with pytest.raises(CorruptionError, match="malformed"):
            view.cursor().read(1)


def test_a_damaged_newer_table_hides_nothing_silently(tmp_path: Path) -> None:
    newest: Run = {b"key": b"new", b"other": b"new"}
    view = make_view(tmp_path, [[newest], [{b"key": b"old"}]], filter_bits=0)
    flip(Path(view.tables[0].path), 40)
    with pytest.raises(CorruptionError):
        view.get(b"key")
    with pytest.raises(CorruptionError):
        view.cursor().read(1)


WITHOUT_MEMORY = """
import errno, os, resource, sys
from pathlib import Path
from kvstore import StorageIOError
from kvstore.fs import PosixFileSystem
from kvstore.sstable import BlockCache, Table, View

small, large = (
    View([[Table.open(PosixFileSystem(), path)]], BlockCache(0)) for path in sys.argv[1:]
)
small.cursor().read(1)  # takes the memory that every read needs
cursor = large.cursor()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * os.sysconf("SC_PAGE_SIZE") + (1 << 18)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
refused = 0
for _ in range(2):
    try:
        cursor.read(1)
    except StorageIOError as error:
        refused += error.errno == errno.ENOMEM
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(refused, cursor.read(1), cursor.count())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
def test_a_cursor_that_met_no_memory_goes_on_when_there_is_some(tmp_path: Path) -> None:
    blocks = 100_000  # whose index needs 1 MB
    build_run(tmp_path / "large", {b"%06d" % n: b"" for n in range(blocks)}, block_bytes=1)
    write_table(tmp_path / "small", SMALL)
    printed = output_of(WITHOUT_MEMORY, tmp_path / "small", tmp_path / "large")
    assert printed == f"2 [(b'000000', b'')] {blocks - 1}\n"
