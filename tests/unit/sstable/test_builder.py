"""TableBuilder: byte for byte what the oracle makes; one file, whole or not at all."""

from __future__ import annotations

import errno
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import CorruptionError, KVStoreError, LimitError, StorageIOError
from kvstore.fs import FileSystem, PosixFileSystem
from kvstore.sstable import BlockCache, Merge, Table, View
from kvstore.sstable.builder import SortedRun, TableBuilder, TableInfo
from tests.support import table_oracle
from tests.support.faultfs import MUTATIONS, Fault, FaultFileSystem
from tests.support.table_files import make_view

SALT = bytes(range(16))
KINDS = {"none": 0, "lz4": 1, "zstd": 2}
Items = Mapping[bytes, bytes | None]


def make_builder(path: Path, fs: FileSystem | None = None, **options: Any) -> TableBuilder:
    chosen: dict[str, Any] = {"block_bytes": 4096, "filter_bits_per_key": 10, "salt": SALT}
    return TableBuilder(fs or PosixFileSystem(), str(path), **chosen | options)


def build_run(
    path: Path, items: Items, below: View | None = None, portion: int = 1000, **options: Any
) -> TableInfo:
    """A table of a dict's entries."""
    builder = make_builder(path, **options)
    run = SortedRun(items)
    while not builder.add_run(run, below, portion):
        pass
    info = builder.finish(7, 8)
    assert info is not None
    assert info.file_bytes == path.stat().st_size
    return info


def build_merge(
    directory: Path, merge: Merge, below: View | None, stop_bytes: int, **options: Any
) -> list[Path]:
    """The tables that a merge makes, each closed when it has reached stop_bytes."""
    paths: list[Path] = []
    exhausted = False
    while not exhausted:
        path = directory / f"merged-{len(paths)}.sst"
        builder = make_builder(path, **options)
        full = False
        while not (exhausted or full):
            added = builder.add_merge(merge, below, 50, stop_bytes)
            exhausted, full = added.exhausted, added.full
        assert not (exhausted and full)
        if builder.finish(7, 8):
            paths.append(path)
    return paths


def expected(items: Items, **options: Any) -> bytes:
    """The oracle's table of these entries."""
    return table_oracle.encode(
        sorted(items.items()),
        block_bytes=options.get("block_bytes", 4096),
        filter_bits=options.get("filter_bits_per_key", 10),
        salt=SALT,
        kinds=(KINDS[options.get("compression", "none")],),
        lsns=(7, 8),
        saving=True,
    )


def live(items: Items) -> dict[bytes, bytes | None]:
    return {key: value for key, value in items.items() if value is not None}


keys = st.builds(
    lambda prefix, rest: prefix + rest,
    st.sampled_from([b"", b"", b"users/", b"a" * 40, b"a" * 300]),
    st.binary(min_size=1, max_size=5),
)
values = st.one_of(st.binary(max_size=20), st.sampled_from([b"x" * 300, b"y" * 5000]))
options = st.fixed_dictionaries(
    {
        "block_bytes": st.sampled_from([256, 1024, 4096, 65536]),
        "filter_bits_per_key": st.sampled_from([0, 1, 5, 10, 32]),
        "compression": st.sampled_from(sorted(KINDS)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    items=st.dictionaries(keys, values, min_size=1, max_size=120),
    portion=st.integers(1, 40),
    options=options,
)
def test_a_table_of_a_run_is_the_oracles_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
    items: dict[bytes, bytes | None],
    portion: int,
    options: dict[str, Any],
) -> None:
    path = tmp_path_factory.mktemp("table") / "000001.sst"
    build_run(path, items, portion=portion, **options)
    assert path.read_bytes() == expected(items, **options)


def newest(runs: list[dict[bytes, bytes | None]]) -> dict[bytes, bytes | None]:
    merged: dict[bytes, bytes | None] = {}
    for run in reversed(runs):
        merged |= run
    return merged


@settings(max_examples=50, deadline=None)
@given(
    runs=st.lists(
        st.dictionaries(keys, st.none() | values, min_size=1, max_size=40), min_size=1, max_size=4
    ),
    lower=st.dictionaries(keys, values, max_size=20),
    kind=st.sampled_from(sorted(KINDS)),
    options=st.tuples(st.sampled_from([0, 100, 1500]), options),
)
def test_a_merge_makes_the_oracles_tables_of_the_newest_versions(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[dict[bytes, bytes | None]],
    lower: dict[bytes, bytes | None],
    kind: str,
    options: tuple[int, dict[str, Any]],
) -> None:
    stop_bytes, chosen = options
    directory = tmp_path_factory.mktemp("merge")
    (directory / "below").mkdir()
    source = make_view(directory, [[run] for run in runs], kinds=(KINDS[kind],), block_bytes=256)
    below = make_view(directory / "below", [[lower]] if lower else [])
    merged = newest(runs)
    kept = {k: v for k, v in merged.items() if v is not None or below.may_contain(k)}
    assert set(kept) >= set(merged) & set(lower)

    paths = build_merge(directory, Merge(source), below, stop_bytes, **chosen)
    entries: dict[bytes, bytes | None] = {}
    for path in paths:
        own = dict(table_oracle.decode(path.read_bytes()).entries)
        assert path.read_bytes() == expected(own, **chosen)
        assert not entries or max(entries) < min(own)
        entries |= own
    assert entries == kept
    if not stop_bytes:
        assert len(paths) == (1 if kept else 0)


def test_a_table_stops_at_the_first_block_that_reaches_its_size(tmp_path: Path) -> None:
    items: dict[bytes, bytes | None] = {b"%05d" % i: b"v" * 100 for i in range(2000)}
    for compression in sorted(KINDS):
        directory = tmp_path / compression
        directory.mkdir()
        view = make_view(directory, [[items]])
        stop_bytes = 20_000 if compression == "none" else 2_000
        paths = build_merge(directory, Merge(view), None, stop_bytes, compression=compression)
        tables = [table_oracle.decode(path.read_bytes()) for path in paths]
        assert len(tables) > 3
        for table in tables[:-1]:
            assert table.blocks[-1].offset < stop_bytes <= table.data_end
        assert [entry for table in tables for entry in table.entries] == sorted(items.items())


def test_tombstones_are_kept_only_above_an_entry_of_their_key(tmp_path: Path) -> None:
    items: dict[bytes, bytes | None] = {b"%03d" % i: None if i % 3 else b"v" for i in range(300)}
    lower: dict[bytes, bytes | None] = {b"%03d" % i: b"old" for i in range(0, 300, 2)}
    below = make_view(tmp_path, [[lower]])
    info = build_run(tmp_path / "kept.sst", items, below)
    table = table_oracle.decode((tmp_path / "kept.sst").read_bytes())
    kept = {k: v for k, v in items.items() if v is not None or below.may_contain(k)}
    assert dict(table.entries) == kept
    assert {k for k, v in items.items() if v is None and k in lower} <= set(kept)
    assert info.properties.tombstones == len(kept) - len(live(items))
    assert len(kept) < len(items)

    build_run(tmp_path / "dropped.sst", items)
    table = table_oracle.decode((tmp_path / "dropped.sst").read_bytes())
    assert dict(table.entries) == live(items)


def test_what_came_in_and_went_out_is_counted(tmp_path: Path) -> None:
    new: dict[bytes, bytes | None] = {b"a": b"12", b"b": None, b"c": None}
    old: dict[bytes, bytes | None] = {b"a": b"1", b"b": b"123", b"d": b""}
    view = make_view(tmp_path, [[new], [old]])
    builder = make_builder(tmp_path / "t.sst")
    merge = Merge(view)
    while not builder.add_merge(merge, None, 1).exhausted:
        pass
    stats = builder.stats()
    assert (stats.entries_in, stats.bytes_in, stats.shadowed) == (6, 12, 2)
    assert (stats.dropped, stats.entries) == (2, 2)
    info = builder.finish(3, 9)
    assert info is not None
    properties = info.properties
    assert (properties.entries, properties.tombstones, properties.data_blocks) == (2, 0, 1)
    assert (properties.key_bytes, properties.value_bytes) == (2, 2)
    assert (properties.smallest, properties.largest) == (b"a", b"d")
    assert (properties.first_lsn, properties.last_lsn) == (3, 9)
    assert builder.stats().entries_in == 6


@pytest.mark.parametrize(
    "items",
    [
        {b"k" * 65536: b"v"},
        {b"k" * 65535: b"", b"k" * 65536: b"v"},
        {b"k" * 65535 + b"a": b"1", b"k" * 65535 + b"b": b"2"},
        {b"a": b"x" * 3_000_000, b"b": b"y", b"c": b"z" * 2_000_000},
        {b"a": b"x" * 32740, b"b": b""},
        {b"\0": b"", b"\0\0": b"", b"\xff" * 9: b""},
        {b"a" * n: b"v" for n in range(1, 300)},
    ],
    ids=["longest key", "prefix of another", "longest prefix", "large values", "width", "zeros",
         "each begins the next"],
)  # fmt: skip
@pytest.mark.parametrize("block_bytes", [256, 32768, 1 << 20])
def test_the_edges_of_the_format_are_the_oracles(
    tmp_path: Path, items: Items, block_bytes: int
) -> None:
    build_run(tmp_path / "t.sst", items, block_bytes=block_bytes)
    assert (tmp_path / "t.sst").read_bytes() == expected(items, block_bytes=block_bytes)


def test_widths_change_where_the_format_says(tmp_path: Path) -> None:
    widths = set()
    for value_bytes in range(32730, 32775):
        items: Items = {b"key": b"x" * value_bytes}
        build_run(tmp_path / "t.sst", items)
        data = (tmp_path / "t.sst").read_bytes()
        assert data == expected(items)
        widths.add(data[38])
    assert widths == {2, 4}


def test_a_key_that_shares_nothing_does_not_blow_up_a_block(tmp_path: Path) -> None:
    items: dict[bytes, bytes | None] = {b"p" * 1000 + b"%04d" % i: b"" for i in range(1000)}
    items[b"q"] = b""
    build_run(tmp_path / "t.sst", items)
    data = (tmp_path / "t.sst").read_bytes()
    assert data == expected(items)
    assert max(len(block.plain) for block in table_oracle.decode(data).blocks) < 9 * 4096


def test_the_file_is_written_in_pieces_that_fill_huge_pages(tmp_path: Path) -> None:
    source = random.Random(1)
    items: dict[bytes, bytes | None] = {
        source.randbytes(16): source.randbytes(1000) for _ in range(5000)
    }
    fs = FaultFileSystem()
    build_run(tmp_path / "t.sst", items, fs=fs)
    data = (tmp_path / "t.sst").read_bytes()
    assert data == expected(items)
    assert fs.log.count("write") == len(data) // (2 << 20) + 1


def test_short_writes_are_gone_on_with(tmp_path: Path) -> None:
    items: Items = {b"%d" % i: b"value" for i in range(100)}
    fs = FaultFileSystem(0, Fault(error=0, operations=frozenset({"write"}), forever=True, keep=100))
    build_run(tmp_path / "t.sst", items, fs=fs)
    assert (tmp_path / "t.sst").read_bytes() == expected(items)


def test_the_table_gets_its_name_when_it_is_durable(tmp_path: Path) -> None:
    fs = FaultFileSystem()
    build_run(tmp_path / "t.sst", {b"a": b"b"}, fs=fs)
    assert fs.log == [
        "open", "truncate", "write", "sync", "rename", "sync directory",
    ]  # fmt: skip
    assert fs.open_files == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.sst"]


def failed_operation(path: Path, fs: FaultFileSystem) -> StorageIOError | None:
    """How building a table of a few output pieces fails."""
    try:
        build_run(path, {b"%d" % i: b"v" * 5000 for i in range(1000)}, fs=fs)
    except StorageIOError as failure:
        return failure
    return None


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_failed_operation_ends_the_build_and_leaves_nothing(tmp_path: Path, error: int) -> None:
    failed = []
    for index in range(100):
        fs = FaultFileSystem(index, Fault(error=error))
        path = tmp_path / f"{index}.sst"
        failure = failed_operation(path, fs)
        if failure is None:
            break
        assert failure.errno == error
        assert not path.with_name(path.name + ".tmp").exists()
        assert path.exists() == (failure.operation == "sync directory")
        assert fs.open_files == 0
        failed.append(failure.operation)
    assert set(failed) == MUTATIONS - {"preallocate", "unlink"}
    assert failed.count("write") == 3


def test_when_even_removing_fails_the_first_error_is_raised(tmp_path: Path) -> None:
    fs = FaultFileSystem(0, Fault(operations=frozenset({"sync", "unlink"}), forever=True))
    with pytest.raises(StorageIOError) as caught:
        build_run(tmp_path / "t.sst", {b"a": b"b"}, fs=fs)
    assert caught.value.operation == "sync"
    assert [path.name for path in tmp_path.iterdir()] == ["t.sst.tmp"]
    build_run(tmp_path / "t.sst", {b"a": b"b"})
    assert [path.name for path in tmp_path.iterdir()] == ["t.sst"]


def test_what_an_earlier_build_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "t.sst.tmp").write_bytes(b"rubbish" * 10_000)
    build_run(tmp_path / "t.sst", {b"a": b"b"})
    assert (tmp_path / "t.sst").read_bytes() == expected({b"a": b"b"})


@pytest.mark.parametrize("items", [{}, {b"deleted": None}])
def test_nothing_added_makes_no_file(tmp_path: Path, items: Items) -> None:
    builder = make_builder(tmp_path / "t.sst")
    assert builder.add_run(SortedRun(items), None, 10)
    assert builder.finish(1, 1) is None
    assert list(tmp_path.iterdir()) == []


def test_an_abandoned_build_leaves_nothing_and_takes_nothing(tmp_path: Path) -> None:
    builder = make_builder(tmp_path / "t.sst")
    run = SortedRun({b"%d" % i: b"v" * 5000 for i in range(1000)})
    builder.add_run(run, None, 900)
    assert [path.name for path in tmp_path.iterdir()] == ["t.sst.tmp"]
    builder.abandon()
    builder.abandon()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="over"):
        builder.add_run(run, None, 1)
    with pytest.raises(RuntimeError, match="over"):
        builder.finish(1, 1)


def test_abandoning_a_finished_table_leaves_it(tmp_path: Path) -> None:
    builder = make_builder(tmp_path / "t.sst")
    builder.add_run(SortedRun({b"a": b"b"}), None, 10)
    assert builder.finish(1, 1)
    builder.abandon()
    assert (tmp_path / "t.sst").exists()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_damage_in_the_source_is_raised_as_reading_it_would(tmp_path: Path, kind: str) -> None:
    items: Items = {b"%05d" % i: b"value" * 20 for i in range(500)}
    view = make_view(tmp_path, [[items]], kinds=(KINDS[kind],))
    path = tmp_path / "0-0.sst"
    offset = table_oracle.decode(path.read_bytes()).blocks[3].offset
    with path.open("r+b") as file:  # in place: the table has it mapped
        file.seek(offset + 20)
        byte = file.read(1)
        file.seek(offset + 20)
        file.write(bytes([byte[0] ^ 1]))
    builder = make_builder(tmp_path / "t.sst")
    with pytest.raises(CorruptionError) as caught:
        builder.add_merge(Merge(view), None, 1000)
    assert (caught.value.path, caught.value.offset) == (str(path), offset)
    assert [found.name for found in tmp_path.iterdir()] == ["0-0.sst"]


def test_keys_out_of_order_are_never_written(tmp_path: Path) -> None:
    for first, second in (({b"b": b""}, {b"a": b""}), ({b"a": b""}, {b"a": b""})):
        for block_bytes in (256, 4096):
            builder = make_builder(tmp_path / "t.sst", block_bytes=block_bytes)
            value = b"v" * 300  # closes a small block
            builder.add_run(SortedRun(dict.fromkeys(first, value)), None, 10)
            with pytest.raises(CorruptionError, match="out of order"):
                builder.add_run(SortedRun(dict.fromkeys(second, value)), None, 10)
            assert list(tmp_path.iterdir()) == []


def test_a_salt_is_made_anew_for_each_table(tmp_path: Path) -> None:
    salts = set()
    for number in range(3):
        path = tmp_path / f"{number}.sst"
        build_run(path, {b"a": b"b"}, salt=None)
        salts.add(table_oracle.decode(path.read_bytes()).salt)
    assert len(salts) == 3


def test_sizes_that_no_table_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        make_builder(tmp_path / "t.sst", block_bytes=(1 << 20) + 1)
    with pytest.raises(LimitError):
        make_builder(tmp_path / "t.sst", filter_bits_per_key=33)


def test_filters_of_ten_bits_a_key_say_yes_wrongly_to_fewer_than_one_in_a_hundred(
    tmp_path: Path,
) -> None:
    items: dict[bytes, bytes | None] = {b"key%d" % i: b"" for i in range(50_000)}
    build_run(tmp_path / "0.sst", items)
    table = Table.open(PosixFileSystem(), str(tmp_path / "0.sst"))
    view = View([[table]], BlockCache(0))
    assert all(view.may_contain(key) for key in items)
    # Within the table's range of keys, so that only the filter can tell.
    wrong = sum(view.may_contain(b"key%d.absent" % i) for i in range(50_000))
    assert 200 < wrong < 500


def test_errors_of_the_build_are_kvstores(tmp_path: Path) -> None:
    with pytest.raises(KVStoreError):
        build_run(tmp_path / "missing" / "t.sst", {b"a": b"b"})
