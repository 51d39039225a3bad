"""Blocks that hold a lock."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from importlib import import_module

import pytest

import kvstore

# Generator expressions run in a frame of their own.
LOOPS = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)

MODULES = [
    module.name
    for module in pkgutil.walk_packages(kvstore.__path__, "kvstore.")
    if module.name.rpartition(".")[2] not in ("__main__", "_native")
]


def loops_under_a_lock(source: str) -> list[int]:
    """The lines of loops that stand directly in a ``with`` block of a lock."""
    return [
        node.lineno
        for block in ast.walk(ast.parse(source))
        if isinstance(block, ast.With)
        and any(ast.unparse(item.context_expr).endswith("lock") for item in block.items)
        for statement in block.body
        for node in ast.walk(statement)
        if isinstance(node, LOOPS)
    ]


@pytest.mark.parametrize("name", MODULES)
def test_no_loop_stands_in_a_block_that_holds_a_lock(name: str) -> None:
    """Python 3.13 may leave such a block without releasing the lock, when a signal handler raises
    as the loop goes back (python/cpython#130279). The loop belongs in a function of its own."""
    assert loops_under_a_lock(inspect.getsource(import_module(name))) == []


def test_a_loop_in_a_block_that_holds_a_lock_is_found() -> None:
    source = (
        "with self._a_lock:\n    if x:\n        y = [z for z in x]\nwith f():\n    for _ in x: pass"
    )
    assert loops_under_a_lock(source) == [3]
