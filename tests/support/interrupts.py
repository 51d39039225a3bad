"""KeyboardInterrupt where a loop goes back, which is one of the places where CPython looks for
signals."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable
from types import CodeType, FrameType

__all__ = ["interrupted_in_loop"]


@functools.cache
def _jumps_back(code: CodeType) -> set[int]:
    return {
        instruction.offset
        for instruction in dis.get_instructions(code)
        if instruction.opcode in (*dis.hasjabs, *dis.hasjrel)
        and instruction.argval < instruction.offset
        and not instruction.opname.endswith("NO_INTERRUPT")
    }


class _LoopInterrupter:
    """A trace function that raises as a loop of the package goes back for the n-th time."""

    def __init__(self, point: int) -> None:
        self.left = point
        self.raised = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> _LoopInterrupter | None:
        if not frame.f_globals.get("__name__", "").startswith("kvstore."):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_lasti in _jumps_back(frame.f_code):
            if self.left == 0:
                self.raised = True
                sys.settrace(None)
                raise KeyboardInterrupt
            self.left -= 1
        return self


def interrupted_in_loop(call: Callable[[], object], point: int) -> bool:
    """Whether ``call`` was interrupted as a loop of kvstore went back for the n-th time."""
    interrupter = _LoopInterrupter(point)
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for it before it begins to trace
    try:
        sys.settrace(interrupter)
        call()
    except KeyboardInterrupt:
        assert interrupter.raised
    finally:
        sys.settrace(before)
    return interrupter.raised
