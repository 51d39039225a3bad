"""What is shown while a run goes on: bars on a terminal, else a line now and then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from tests.torture.parts import Part
from tests.torture.state import Progress as Done

if TYPE_CHECKING:
    from typing_extensions import Self

_LINE_SECONDS = 15.0


class Display(Protocol):
    """A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, part: Part, done: Done) -> None:
        """A chunk of it has ended."""

    def say(self, text: str) -> None:
        """Shown at once, and stays."""


class Lines:
    """For files and pipes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._last = 0.0
        self._shares: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, part: Part, done: Done) -> None:
        self._shares[part.name] = f"{part.name} {min(part.share_done(done.done), 1):.1%}"
        now = time.monotonic()
        if now - self._last >= _LINE_SECONDS:
            self._last = now
            self.say(f"{now - self._began:5.0f} s  " + "  ".join(self._shares.values()))

    def say(self, text: str) -> None:
        print(text, flush=True)


class Bars:
    """For terminals."""

    def __init__(self) -> None:
        from rich import progress

        self._bars = progress.Progress(
            progress.TextColumn("{task.description:12}"),
            progress.BarColumn(),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[text]}"),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._tasks: dict[str, progress.TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, part: Part, done: Done) -> None:
        if part.name not in self._tasks:
            self._tasks[part.name] = self._bars.add_task(part.name, total=1.0, text="")
        what, wanted = next(iter(part.goal.items()))
        text = f"{done.done[what]:,} of {wanted:,} {what}"
        text += f", {len(done.losses)} lost" if done.losses else ""
        share = min(part.share_done(done.done), 1.0)
        self._bars.update(self._tasks[part.name], completed=share, text=text)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


def display(terminal: bool) -> Display:
    """The one that suits."""
    return Bars() if terminal else Lines()
