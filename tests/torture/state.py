"""State: how far a run is, in a file, so that it can be interrupted and resumed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Progress:
    """Of one part. ``begun``: chunks that were given out and have not come back."""

    done: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    next_index: int = 0
    begun: list[int] = field(default_factory=list)
    seconds: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)

    def take(self) -> int:
        """The next chunk to be done."""
        index = self.next_index
        self.next_index += 1
        self.begun.append(index)
        return index


@dataclass
class State:
    """Of the whole run. ``revisions``: of what was tested, more than one if told to go on with
    another; ``scratch``: where chunks work; ``seconds``: that somebody waited."""

    revisions: list[str]
    parts: dict[str, Progress] = field(default_factory=dict)
    seconds: float = 0.0
    scratch: str = ""

    def save(self, path: Path) -> None:
        """At once or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self, default=vars, indent=1), encoding="utf-8")
        os.replace(temporary, path)


def load(path: Path) -> State | None:
    """What ``save`` wrote; None when there is nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for name, progress in found["parts"].items():
            progress["done"] = Counter(progress["done"])
            found["parts"][name] = Progress(**progress)
        return State(**found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def revision() -> str:
    """What is being tested: the version, the commit, and what differs from it."""
    version = importlib.metadata.version("kvstore")
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changes = _git("diff", "HEAD", "--", "kvstore", "tests", "bench")
    except (OSError, subprocess.CalledProcessError):
        return version
    digest = hashlib.sha1(changes.encode()).hexdigest()[:12]
    return f"{version} {commit}{f' with changes {digest}' if changes else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout
