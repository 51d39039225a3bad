"""Event loops for tests: asyncio's own and uvloop, each closed clean, none waiting for ever."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from tests.support.stores import BACKENDS

__all__ = [
    "LOOPS",
    "TaskFactory",
    "each_backend",
    "each_kind",
    "each_loop",
    "each_loop_and_kind",
    "run",
    "ticks",
    "until",
]

T = TypeVar("T")

PATIENCE_SECONDS = 30
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
TaskFactory = Callable[..., Any] | None


def python_tasks(loop: asyncio.AbstractEventLoop, coroutine: Any, **rest: Any) -> Any:
    """Makes the tasks that are written in Python."""
    return asyncio.tasks._PyTask(coroutine, loop=loop, **rest)  # type: ignore[attr-defined]


KINDS: list[TaskFactory] = [python_tasks]
if sys.version_info >= (3, 12):
    KINDS.append(asyncio.eager_task_factory)
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
# (uvloop calls the eager factory of Python 3.13.0 in a way that it does not understand.)
each_loop_and_kind = pytest.mark.parametrize(
    ("loop", "kind"), [(loop, None) for loop in LOOPS] + [("asyncio", kind) for kind in KINDS]
)
each_loop = pytest.mark.parametrize("loop", LOOPS)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def run(main: Coroutine[Any, Any, T], loop: str = "asyncio") -> T:
    """``asyncio.run`` on a loop of that kind. What a callback raises, and nobody hears, fails."""
    unheard: list[dict[str, Any]] = []
    runner = LOOPS[loop]()
    runner.set_exception_handler(lambda _, context: unheard.append(context))
    try:
        result = runner.run_until_complete(asyncio.wait_for(main, PATIENCE_SECONDS))
    finally:
        if left := asyncio.all_tasks(runner):
            for task in left:
                task.cancel()
            runner.run_until_complete(asyncio.wait(left))
        runner.run_until_complete(runner.shutdown_asyncgens())
        runner.run_until_complete(runner.shutdown_default_executor())
        runner.close()
    assert not unheard, unheard
    return result


async def until(condition: Callable[[], object]) -> None:
    """Gives up the loop until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0)


async def ticks(count: int) -> None:
    """Gives the loop so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)
