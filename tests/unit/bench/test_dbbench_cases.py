"""Each case of db_bench does to its keys what db_bench does."""

from __future__ import annotations

import struct
from collections import Counter

import pytest

from bench.dbbench.cases import CASES, Case, Form, make_script, make_writer_script
from bench.dbbench.entries import Entries
from bench.ycsb.script import Kind, Script
from tests.support.chi_square import fits

SEED = 20110511
ENTRIES = 200
OPERATIONS = 4_000

CONTENTS = Entries(SEED)
SCRIPTED = [case for case in CASES.values() if case.kind is not None]
WALKS = [case for case in CASES.values() if case.kind is None]
RANDOM = [case for case in SCRIPTED if not case.sequential]


def _script(case: Case, *, seed: int = SEED, seek_nexts: int = 0) -> Script:
    return make_script(
        case,
        CONTENTS,
        entries=ENTRIES,
        operations=OPERATIONS,
        seed=seed,
        seek_nexts=seek_nexts,
    )


def _number(key: bytes) -> int:
    number: int = struct.unpack_from(">Q", key)[0]
    return number


def _name(case: Case) -> str:
    return case.name


def test_the_cases_are_those_of_db_bench() -> None:
    assert list(CASES) == [
        *("fillseq", "fillsync", "fillrandom", "overwrite", "readrandom", "readmissing"),
        *("readseq", "readreverse", "seekrandom", "readwhilewriting", "deleterandom"),
    ]
    assert [case.name for case in CASES.values() if case.fresh] == [
        *("fillseq", "fillsync", "fillrandom")
    ]
    assert [case.name for case in CASES.values() if case.durable] == ["fillsync"]
    assert [(case.name, case.form) for case in CASES.values() if case.form != Form.SCRIPT] == [
        ("readseq", Form.FORWARDS),
        ("readreverse", Form.BACKWARDS),
        ("readwhilewriting", Form.BESIDE_A_WRITER),
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fillseq", Kind.PUT),
        ("fillsync", Kind.PUT),
        ("fillrandom", Kind.PUT),
        ("overwrite", Kind.PUT),
        ("readrandom", Kind.READ),
        ("readmissing", Kind.READ_MISSING),
        ("seekrandom", Kind.SEEK),
        ("readwhilewriting", Kind.READ),
        ("deleterandom", Kind.DELETE),
    ],
)
def test_a_case_is_of_one_kind_of_operation(name: str, kind: Kind) -> None:
    assert set(_script(CASES[name]).kinds) == {kind}


def test_fillseq_puts_every_key_once_in_order() -> None:
    script = _script(CASES["fillseq"])
    assert list(map(_number, script.keys)) == list(range(ENTRIES))
    assert list(script.keys) == sorted(script.keys)
    assert list(zip(script.keys, script.values, strict=True)) == list(
        CONTENTS.pairs(range(ENTRIES))
    )


@pytest.mark.parametrize("case", RANDOM, ids=_name)
def test_random_keys_are_drawn_from_all_alike(case: Case) -> None:
    script = _script(case)
    assert len(script) == OPERATIONS
    drawn = Counter(map(_number, script.keys))
    assert fits([drawn[number] for number in range(ENTRIES)], [1 / ENTRIES] * ENTRIES)


def test_as_many_random_keys_as_entries_leave_some_out() -> None:
    case = CASES["fillrandom"]
    script = make_script(case, CONTENTS, entries=10_000, operations=10_000, seed=SEED)
    assert len(set(script.keys)) / 10_000 == pytest.approx(1 - 1 / 2.71828, abs=0.02)


def test_overwriting_changes_the_value_and_filling_does_not() -> None:
    filled, overwritten = _script(CASES["fillrandom"]), _script(CASES["overwrite"])
    for key, value in zip(filled.keys, filled.values, strict=True):
        assert value == CONTENTS.value(_number(key))
    for key, value in zip(overwritten.keys, overwritten.values, strict=True):
        assert value == CONTENTS.value(_number(key), overwritten=True)
        assert value != CONTENTS.value(_number(key))


@pytest.mark.parametrize("case", SCRIPTED, ids=_name)
def test_only_puts_have_values_and_only_seeks_lengths(case: Case) -> None:
    script = _script(case, seek_nexts=10)
    assert {value is not None for value in script.values} == {case.kind == Kind.PUT}
    assert set(script.lengths) == {11 if case.kind == Kind.SEEK else 0}


def test_a_seek_alone_hands_out_one_entry() -> None:
    assert set(_script(CASES["seekrandom"]).lengths) == {1}


def test_missing_keys_lie_between_those_that_are_there() -> None:
    filled = {CONTENTS.key(number) for number in range(ENTRIES)}
    missing = set(_script(CASES["readmissing"]).keys)
    assert not missing & filled
    for key in missing:
        number = _number(key)
        assert CONTENTS.key(number) < key < CONTENTS.key(number + 1)


@pytest.mark.parametrize("case", WALKS, ids=_name)
def test_a_walk_has_no_script(case: Case) -> None:
    assert case.operations(ENTRIES) == ENTRIES
    with pytest.raises(ValueError, match=case.name):
        _script(case)


def test_fillsync_has_fewer_operations() -> None:
    assert CASES["fillsync"].operations(1_000_000) == 10_000
    assert CASES["fillsync"].operations(7) == 1
    assert CASES["fillrandom"].operations(1_000_000) == 1_000_000


def test_the_writer_beside_the_readers_overwrites() -> None:
    writer = make_writer_script(CONTENTS, entries=ENTRIES, operations=50, seed=SEED)
    assert set(writer.kinds) == {Kind.PUT}
    assert all(
        value == CONTENTS.value(_number(key), overwritten=True)
        for key, value in zip(writer.keys, writer.values, strict=True)
    )
    readers = _script(CASES["readwhilewriting"])
    assert list(writer.keys) != list(readers.keys[:50]), "drawn apart from the readers'"


def test_the_same_seed_makes_the_same_script() -> None:
    for case in SCRIPTED:
        assert _script(case) == _script(case)
    for case in RANDOM:
        assert _script(case) != _script(case, seed=SEED + 1)


@pytest.mark.parametrize(("key_bytes", "value_bytes"), [(8, 0), (16, 100), (64, 1000)])
def test_keys_and_values_have_their_sizes(key_bytes: int, value_bytes: int) -> None:
    contents = Entries(SEED, key_bytes=key_bytes, value_bytes=value_bytes)
    keys = [contents.key(number) for number in (0, 1, 255, 256, 2**40)]
    assert {len(key) for key in keys} == {key_bytes}
    assert keys == sorted(keys)
    assert len(contents.missing_key(1)) == key_bytes + 1
    assert len(contents.value(1)) == value_bytes


def test_a_key_too_small_for_its_number_is_refused() -> None:
    with pytest.raises(ValueError, match="7 B"):
        Entries(SEED, key_bytes=7)


def test_a_value_that_cannot_be_the_one_of_its_key_is_noticed() -> None:
    key = CONTENTS.key(3)
    assert CONTENTS.holds(key, CONTENTS.value(3))
    assert CONTENTS.holds(key, CONTENTS.value(3, overwritten=True))
    for wrong in (CONTENTS.value(4), CONTENTS.value(3)[:-1], b""):
        assert not CONTENTS.holds(key, wrong)
