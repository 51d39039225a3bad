"""SortedRun: whatever the order of a dict, its entries come out in the order of their keys."""

from __future__ import annotations

import errno
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.errors import LimitError
from kvstore.fs import PosixFileSystem
from kvstore.native import ffi, lib
from kvstore.sstable.builder import SortedRun, TableBuilder
from tests.support import table_oracle


def sorted_by_run(directory: Path, items: dict[bytes, bytes | None]) -> list[table_oracle.Entry]:
    """The entries of a table made from a run of them."""
    path = directory / "000001.sst"
    builder = TableBuilder(PosixFileSystem(), str(path), block_bytes=4096, filter_bits_per_key=0)
    assert builder.add_run(SortedRun(items), None, len(items))
    assert builder.finish(1, 1)
    return table_oracle.decode(path.read_bytes()).entries


@settings(max_examples=40, deadline=None)
@given(
    items=st.dictionaries(
        st.builds(
            lambda prefix, rest: prefix + rest,
            st.sampled_from([b"", b"a", b"a" * 7, b"a" * 8, b"a" * 9, b"\0" * 8, b"a" * 30]),
            st.lists(st.sampled_from([0, 1, 97, 255]), min_size=1, max_size=12).map(bytes),
        ),
        st.binary(max_size=4),
        min_size=1,
        max_size=200,
    )
)
def test_entries_come_in_key_order(
    tmp_path_factory: pytest.TempPathFactory, items: dict[bytes, bytes | None]
) -> None:
    directory = tmp_path_factory.mktemp("run")
    assert sorted_by_run(directory, items) == sorted(items.items())


@pytest.mark.parametrize("prefix", [b"", b"p" * 7, b"p" * 8, b"p" * 500, b"\0" * 16])
def test_keys_that_differ_only_in_zeros_at_their_ends_are_told_apart(
    tmp_path: Path, prefix: bytes
) -> None:
    keys = [
        prefix + bytes(digits)
        for length in range(1, 10)
        for digits in itertools.product((0, 1), repeat=length)
    ]
    keys += [prefix + bytes(length) for length in range(10, 60)]
    random.Random(1).shuffle(keys)
    items: dict[bytes, bytes | None] = {key: b"%d" % i for i, key in enumerate(keys)}
    assert sorted_by_run(tmp_path, items) == sorted(items.items())


def test_groups_within_groups_are_sorted(tmp_path: Path) -> None:
    # Each level shares 11 bytes, so heads of 8 are equal over and over.
    source = random.Random(2)
    keys = {
        b"".join(b"same prefix%d" % source.randrange(3) for _ in range(source.randrange(1, 9)))
        for _ in range(5000)
    }
    items: dict[bytes, bytes | None] = dict.fromkeys(source.sample(sorted(keys), len(keys)), b"v")
    assert sorted_by_run(tmp_path, items) == sorted(items.items())


def test_many_entries_of_all_sizes_keep_their_values(tmp_path: Path) -> None:
    source = random.Random(3)
    items: dict[bytes, bytes | None] = {
        source.randbytes(source.randrange(1, 30)): source.randbytes(source.randrange(60))
        for _ in range(7000)
    }
    assert sorted_by_run(tmp_path, items) == sorted(items.items())


def test_an_empty_run_is_exhausted_at_once(tmp_path: Path) -> None:
    run = SortedRun({})
    assert run.entries == 0
    builder = TableBuilder(
        PosixFileSystem(), str(tmp_path / "t"), block_bytes=4096, filter_bits_per_key=0
    )
    assert builder.add_run(run, None, 0)
    builder.abandon()


def test_a_run_can_be_taken_in_portions_by_several_builders(tmp_path: Path) -> None:
    items: dict[bytes, bytes | None] = {b"%03d" % i: b"v" for i in range(100)}
    run = SortedRun(items)
    entries: list[table_oracle.Entry] = []
    for number in range(4):
        path = tmp_path / f"{number}.sst"
        builder = TableBuilder(
            PosixFileSystem(), str(path), block_bytes=4096, filter_bits_per_key=0
        )
        for portion in range(5):
            assert builder.add_run(run, None, 5) == (number == 3 and portion == 4)
        assert builder.finish(1, 1)
        entries += table_oracle.decode(path.read_bytes()).entries
    assert entries == sorted(items.items())


@pytest.mark.parametrize("key", [b"", b"k" * 65537])
def test_a_key_that_no_table_can_hold_is_refused(key: bytes) -> None:
    with pytest.raises(LimitError):
        SortedRun({b"good": b"", key: b"value"})


def test_lengths_that_do_not_add_up_are_refused() -> None:
    run = ffi.gc(lib.kv_run_new(), lib.kv_run_free)
    data = ffi.from_buffer(b"keyvalue")

    def add(key_length: int, value_length: int) -> int:
        lengths = ffi.new("uint32_t[]", [key_length]), ffi.new("int32_t[]", [value_length])
        return lib.kv_run_add(run, 1, data, len(data), *lengths, ffi.new("uint64_t[]", [0]))

    for lengths in ((3, 4), (3, 6), (0, 8), (9, -1), (3, -2), (8, 2**31 - 1), (2**32 - 1, 1)):
        assert add(*lengths) == -errno.EINVAL
    assert add(3, 5) == 0
    assert lib.kv_run_sort(run) == 0
    assert add(3, 5) == -errno.EINVAL
