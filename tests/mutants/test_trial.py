"""What the output of a run of pytest says about a mutant."""

from __future__ import annotations

import pytest

from tests.mutants.trial import caught_by

BEGUN = """
tests/unit/test_a.py::test_one PASSED [ 50%]
tests/unit/test_a.py::test_two[key 1] """


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, f"{BEGUN}PASSED\n", ""),
        (
            1,
            f"{BEGUN}FAILED\nERROR    it\nFAILED tests/unit/test_a.py::test_two[key 1] - no\n",
            "tests/unit/test_a.py::test_two[key 1]",
        ),
        (
            1,
            f"{BEGUN}+++++ Timeout +++++\n",
            "tests/unit/test_a.py::test_two[key 1] (time limit)",
        ),
        (None, BEGUN, "tests/unit/test_a.py::test_two[key 1] (time limit)"),
        (
            -7,
            f"{BEGUN}Fatal Python error: Bus error\n",
            "tests/unit/test_a.py::test_two[key 1] (signal 7)",
        ),
    ],
    ids=["none", "failed", "late", "never ended", "killed"],
)
def test_the_first_test_that_failed_is_named(
    status: int | None, output: str, expected: str
) -> None:
    assert caught_by(status, output) == expected


@pytest.mark.parametrize("status", [2, 4, 5])
def test_where_no_test_was_run_nothing_was_caught(status: int) -> None:
    with pytest.raises(RuntimeError):
        caught_by(status, "ERROR: file or directory not found: tests/none.py")
