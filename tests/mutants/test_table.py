"""The table of mutants is in step with the code: ``make mutants`` would try what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.mutants.table import MUTANTS, ROOT, Mutant


@pytest.mark.slow  # not for its time: the other interpreters test a wheel, without the sources
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_breaks_stands_in_the_code_once(mutant: Mutant, tmp_path: Path) -> None:
    for edit in mutant.edits:
        copy = tmp_path / "kvstore" / edit.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "kvstore" / edit.path, copy)
        edit.apply(tmp_path)
        assert copy.read_text() != (ROOT / "kvstore" / edit.path).read_text()


def test_mutants_have_names_of_their_own_and_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
