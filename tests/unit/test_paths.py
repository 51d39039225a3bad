"""File names, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvstore import paths


@given(st.integers(1, paths.NUMBER_MAX))
def test_a_segments_name_gives_its_number_back(number: int) -> None:
    assert paths.parse_segment(paths.format_segment(number)) == number


@given(st.lists(st.integers(1, 999_999)))
def test_names_sort_as_the_numbers_do(numbers: list[int]) -> None:
    names = [paths.format_segment(number) for number in sorted(numbers)]
    assert names == sorted(names)


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,25}\.wal(\.[a-z]+)?", fullmatch=True))
def test_a_name_that_parses_is_the_one_that_is_written(name: str) -> None:
    number = paths.parse_segment(name)
    if number is not None:
        assert paths.format_segment(number) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "LOCK",
        "spare.wal.tmp",
        "000000.wal",
        "1.wal",
        "00001.wal",
        "0000001.wal",
        "000001.wal.torn",
        "000001.wal.dropped",
        "000001.WAL",
        " 000001.wal",
        "000001.wal\n",
        "-00001.wal",
        "+00001.wal",
        "00_001.wal",
        "\u0660" * 5 + "\u0661.wal",  # digits to str.isdigit, not to us
        "0" * 21 + "1.wal",
    ],
)
def test_a_name_of_something_else_is_no_segment(name: str) -> None:
    assert paths.parse_segment(name) is None


def test_what_recovery_sets_aside_is_no_segment() -> None:
    name = paths.format_segment(7)
    assert paths.format_torn(name) == "000007.wal.torn"
    assert paths.format_dropped(name) == "000007.wal.dropped"
    assert paths.format_dropped(name, 3) == "000007.wal.dropped.3"
    for other in (paths.format_torn(name), paths.format_dropped(name), paths.SPARE, paths.LOCK):
        assert paths.parse_segment(other) is None
