"""What the documentation shows is run: examples in docstrings, code blocks of the README."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import tempfile
from pathlib import Path

import pytest

README = Path(__file__).parent.parent.parent / "README.md"


@pytest.mark.parametrize("name", ["kvstore", "kvstore.batch", "kvstore.wal.writer"])
def test_examples_in_docstrings_run_as_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # they leave their stores behind
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, str(README), "exec"), {})
    assert sorted(os.listdir(tmp_path)) == ["events.wal", "jobs.db"]


def test_every_link_in_the_documentation_leads_somewhere() -> None:
    pages = [README, *(README.parent / "docs").glob("*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    ]
    assert links
    missing = [(page.name, target) for page, target in links if not (page.parent / target).exists()]
    # The wheel's test run has no sources beside it; only links within the documentation hold there.
    sources = (README.parent / "kvstore").is_dir()
    assert [m for m in missing if sources or m[1].startswith("docs/")] == []
