"""Options: what is accepted, and what the refusals say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import kvstore
from kvstore import LimitError, Options

RANGES: dict[str, tuple[float, float]] = {
    "wal_buffer_bytes": (32 << 10, 1 << 30),
    "wal_segment_bytes": (64 << 10, 64 << 30),
    "flush_interval_ms": (0, 60_000),
}


@pytest.mark.parametrize("name", RANGES)
def test_both_ends_of_a_range_are_accepted(name: str) -> None:
    for limit in RANGES[name]:
        options = Options(**{name: limit})  # type: ignore[arg-type]
        assert getattr(options, name) == limit


@pytest.mark.parametrize("name", RANGES)
def test_a_number_out_of_range_is_refused_by_name_and_range(name: str) -> None:
    smallest, largest = RANGES[name]
    for wrong in (smallest - 1, largest + 1, -1, float("nan"), float("inf")):
        with pytest.raises(LimitError, match=f"{name} must be {smallest} to {largest}"):
            Options(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("wrong", ["1000000", None, True, b"70000", [70000]])
def test_a_number_of_another_type_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(LimitError, match=name):
        Options(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wal_buffer_bytes", "wal_segment_bytes"])
def test_sizes_are_whole_numbers(name: str) -> None:
    with pytest.raises(LimitError, match=name):
        Options(**{name: 100_000.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sync", "create_if_missing", "error_if_exists", "wal_direct_io"])
@pytest.mark.parametrize("wrong", [1, 0, None, "yes"])
def test_switches_are_true_or_false(name: str, wrong: object) -> None:
    with pytest.raises(LimitError, match=f"{name} must be True or False"):
        Options(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["wal_backend", "recovery"])
@pytest.mark.parametrize("wrong", ["", "AUTO", None, 1, ["auto"]])
def test_an_unknown_choice_is_refused_and_the_choices_named(name: str, wrong: object) -> None:
    with pytest.raises(LimitError, match=f"{name} must be one of .*(auto|strict)"):
        Options(**{name: wrong})  # type: ignore[arg-type]


def test_a_refusal_is_also_a_value_error() -> None:
    with pytest.raises(ValueError, match="wal_buffer_bytes"):
        Options(wal_buffer_bytes=1)


def test_options_cannot_be_changed() -> None:
    options = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.sync = False  # type: ignore[misc]


def test_an_unknown_option_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no such option: fsync; there are .*flush_interval_ms"):
        kvstore.open(tmp_path / "db", fsync=True)
    assert not (tmp_path / "db").exists()


def test_a_refused_option_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(LimitError):
        kvstore.open(tmp_path / "db", wal_buffer_bytes=1)
    assert not (tmp_path / "db").exists()


def test_the_store_says_how_it_was_opened(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db", sync=False, wal_segment_bytes=1 << 20) as db:
        assert db.options == Options(sync=False, wal_segment_bytes=1 << 20)
