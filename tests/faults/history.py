"""History: what one writer did to keys of its own, and what a store may hold of it later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Change", "History", "Model", "Write", "difference"]

Model = dict[bytes, bytes]
Change = Mapping[bytes, "bytes | None"]


@dataclass(frozen=True)
class Write:
    """Changes made at once (None deletes), durable or relaxed."""

    changes: Change
    sync: bool


class History:
    """The states of a writer's keys after each of its writes that was acknowledged.

    A store that lives on shows the last one. One that was reopened shows that or an earlier one,
    but none from before the last that is durable; or the state with a write that failed behind all
    of them, for its fate is open.
    """

    def __init__(self) -> None:
        self._begin({})

    def _begin(self, state: Model) -> None:
        self._states = [state]
        self._durable = 0
        self._failed: Model | None = None

    @property
    def now(self) -> Model:
        """What the store shows."""
        return self._states[-1]

    def acknowledged(self, write: Write) -> None:
        """A write returned. One that failed before it was refused: nothing comes behind a failure
        of the log."""
        self._states.append(_after(self.now, write.changes))
        self._failed = None
        if write.sync:
            self.durable()

    def failed(self, write: Write) -> None:
        """A write raised."""
        if self._failed is None:
            self._failed = _after(self.now, write.changes)

    def durable(self) -> None:
        """What was acknowledged so far is durable."""
        self._durable = len(self._states) - 1

    def reopened(self, found: Model) -> None:
        """``found`` is what a store that was reopened shows; it has to be one of what it may."""
        possible = self._states[self._durable :]
        if self._failed is not None:
            possible = [*possible, self._failed]
        assert found in possible, difference(found, possible)
        self._begin(found)


def _after(state: Model, changes: Change) -> Model:
    changed = {**state, **changes}
    return {key: value for key, value in changed.items() if value is not None}


def difference(found: Model, possible: list[Model]) -> str:
    """In what ``found`` is none of the possible states, for people."""
    lines = [f"none of {len(possible)} possible states is what was found; against each:"]
    for state in possible:
        missing, extra = sorted(state.keys() - found.keys()), sorted(found.keys() - state.keys())
        other = sorted(key for key in found.keys() & state.keys() if found[key] != state[key])
        lines.append(f"  missing {missing}, too many {extra}, another value {other}")
    return "\n".join(lines)
