"""Runner: chunks of the parts, each in a process of its own, some at a time, until all is done.

The part that is furthest behind its goal is next, so all of them progress together and whatever
time is given, each gets its share. A chunk that raises, ends badly, or does not end in time is a
loss; its directory is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.parts import Part
from tests.torture.progress import Display
from tests.torture.state import ROOT, Progress, State

PROCESSES = 2
CHUNK_SECONDS_MAX = 600.0
# A part that only loses, or never gets further, is not tried for ever.
LOSSES_MAX = 10
IDLE_CHUNKS_MAX = 20
_POLL_SECONDS = 0.02
_MESSAGE_CHARACTERS_MAX = 4000


@dataclass
class Chunk:
    """One that is under way."""

    part: Part
    index: int
    directory: Path
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, part: Part, index: int, scratch: Path) -> Chunk:
        """Starts it in a new directory."""
        directory = scratch / f"{part.name}-{index}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        with _log(directory, "out").open("wb") as out, _log(directory, "err").open("wb") as err:
            worker = [sys.executable, "-m", "tests.torture.worker"]
            process = subprocess.Popen(
                [*worker, part.module, str(index), str(directory)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                start_new_session=True,
            )
        return cls(part, index, directory, process)

    def kill(self) -> None:
        """With everything that it started, also what outlived it."""
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def result(self) -> Counter[str] | str:
        """What it did, or what went wrong. It has ended."""
        code = self.process.returncode
        if code == 0:
            last = _log(self.directory, "out").read_text("utf-8", "replace").rstrip()
            try:
                return Counter(json.loads(last.rpartition("\n")[2]))
            except (ValueError, TypeError):
                return f"it printed no result but {last[-200:]!r}"
        complaint = _log(self.directory, "err").read_text("utf-8", "replace").strip()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        return f"{how}\n{complaint[-_MESSAGE_CHARACTERS_MAX:]}"

    def clean_up(self, *, keep: bool) -> None:
        """Removes its files."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
            for kind in ("out", "err"):
                _log(self.directory, kind).unlink(missing_ok=True)


def _log(directory: Path, kind: str) -> Path:
    return directory.with_name(f"{directory.name}.{kind}")


class Runner:
    """``run`` does all that is left to do of ``parts``; the state is saved to ``path`` (None: it
    is not) after each chunk."""

    def __init__(
        self,
        parts: Sequence[Part],
        state: State,
        path: Path | None,
        display: Display,
        *,
        chunk_seconds_max: float = CHUNK_SECONDS_MAX,
    ) -> None:
        self._parts = [part for part in parts if part.goal and not part.skipped]
        self._state, self._path, self._display = state, path, display
        self._scratch = Path(state.scratch)
        self._limit = chunk_seconds_max
        self._under_way: list[Chunk] = []
        self._idle: Counter[str] = Counter()
        self._again = {part.name: self._progress(part).begun[:] for part in self._parts}

    def run(self) -> bool:
        """Until it is done; whether anything was left to do. Whatever ends it, nothing is left
        running."""
        began = last = time.monotonic()
        busy = False
        with self._display:
            for part in self._parts:
                self._display.update(part, self._progress(part))
            try:
                while self._fill():
                    busy = True
                    self._reap()
                    now = time.monotonic()
                    self._state.seconds += now - last
                    last = now
            finally:
                for chunk in self._under_way:
                    chunk.kill()
                    chunk.clean_up(keep=False)
                self._save()
        self._display.say(f"{time.monotonic() - began:.0f} s")
        return busy

    def run_one(self, part: Part, index: int) -> None:
        """Only that chunk, and nothing of it counts."""
        chunk = Chunk.begin(part, index, self._scratch)
        self._under_way.append(chunk)
        try:
            while self._under_way:
                self._reap()
        finally:
            if self._under_way:
                chunk.kill()

    def _progress(self, part: Part) -> Progress:
        return self._state.parts.setdefault(part.name, Progress())

    def _fill(self) -> bool:
        """Starts what can be started; whether anything is under way."""
        while len(self._under_way) < PROCESSES and (part := self._next_part()):
            again = self._again[part.name]
            index = again.pop() if again else self._progress(part).take()
            self._under_way.append(Chunk.begin(part, index, self._scratch))
        return bool(self._under_way)

    def _next_part(self) -> Part | None:
        """The one that is, with what is under way, furthest behind; None when none needs more."""
        open_parts = [
            (share, part)
            for part in self._parts
            if len(self._progress(part).losses) < LOSSES_MAX
            and (share := self._expected_share(part)) < 1
        ]
        return min(open_parts, key=lambda one: one[0])[1] if open_parts else None

    def _expected_share(self, part: Part) -> float:
        progress = self._progress(part)
        share = part.share_done(progress.done)
        busy = sum(chunk.part is part for chunk in self._under_way)
        return share + busy * share / progress.chunks if progress.chunks else share + busy / 1000

    def _reap(self) -> None:
        """Takes in a chunk that has ended, if there is one; else waits a little."""
        for chunk in self._under_way:
            late = time.monotonic() - chunk.began > self._limit
            if chunk.process.poll() is not None or late:
                break
        else:
            time.sleep(_POLL_SECONDS)
            return
        late = chunk.process.poll() is None
        chunk.kill()
        result = f"not done after {self._limit:.0f} seconds" if late else chunk.result()
        self._under_way.remove(chunk)
        self._account(chunk, result)
        chunk.clean_up(keep=isinstance(result, str))

    def _account(self, chunk: Chunk, result: Counter[str] | str) -> None:
        part, progress = chunk.part, self._progress(chunk.part)
        if isinstance(result, Counter):
            before = part.share_done(progress.done)
            progress.done.update(result)
            idle = part.share_done(progress.done) <= before
            self._idle[part.name] = self._idle[part.name] + 1 if idle else 0
            if self._idle[part.name] > IDLE_CHUNKS_MAX:
                result = f"{IDLE_CHUNKS_MAX} chunks came no nearer to {part.goal}"
        progress.chunks += 1
        progress.seconds += time.monotonic() - chunk.began
        if chunk.index in progress.begun:
            progress.begun.remove(chunk.index)
        if isinstance(result, str):
            repeat = f"python -m tests.torture --only {part.name} --chunk {chunk.index}"
            loss = {"chunk": chunk.index, "message": result, "repeat": repeat}
            loss["directory"] = str(chunk.directory)
            progress.losses.append(loss)
            self._display.say(
                f"LOSS in {part.name}, chunk {chunk.index}: {result}\n"
                f"  repeat it: {repeat}\n  its files: {chunk.directory}"
            )
        self._display.update(part, progress)
        self._save()

    def _save(self) -> None:
        if self._path is not None:
            self._state.save(self._path)
