"""Simulated power cuts: a share of what ``power_loss`` tries; and that it finds what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvstore.paths import parse_segment
from kvstore.wal.format import SegmentHeader
from tests.crash import power_loss
from tests.support.history import History
from tests.support.simfs import SimFile, SimFS, SyncDone, Write, WriteDone, WriteSynced
from tests.support.simulation import simulated, tiny

pytestmark = pytest.mark.slow

SEED = 1
STATES_MAX = 40


def every_short_script(keep: Path | None = None) -> Counter[str]:
    """Sequences of one and two operations; those of three take minutes."""
    tried: Counter[str] = Counter()
    with simulated(SEED) as chance:
        for direct, names in power_loss.sequences():
            if len(names) <= 2:
                tried += power_loss.short_script(
                    names, chance, direct=direct, limit=STATES_MAX, keep=keep
                )
    return tried


def some_long_scripts(states: int, keep: Path | None = None) -> Counter[str]:
    """Of those that seed 1 makes, as many as so many states take."""
    tried: Counter[str] = Counter()
    with simulated(SEED) as chance:
        while tried.total() < states:
            tried += power_loss.long_script(chance, keep=keep)
    return tried


def test_a_power_cut_after_one_or_two_operations_loses_nothing(tmp_path: Path) -> None:
    tried = every_short_script(tmp_path)
    print(dict(tried))
    assert tried.total() > 8000


def test_a_power_cut_in_the_middle_of_anything_loses_nothing(tmp_path: Path) -> None:
    tried = some_long_scripts(4000, tmp_path)
    print(dict(tried))
    assert min(tried[kind] for kind in ("in recovery", "in recovery of that", "after kills")) > 10


def test_the_long_scripts_do_all_that_is_to_be_crashed() -> None:
    names: set[str] = set()
    direct_writes = synced_writes = 0
    for seed in range(10):
        with simulated(seed) as chance:
            script = power_loss.Script(tiny(direct=seed % 2 == 1), chance, busy=True)
            operations = [name for name in power_loss.OPERATIONS if name != "reopen"]
            for name in [*operations, "batch_relaxed", "background"] * 3:
                getattr(script, name)()
            names |= {name for event in script.fs.events for name in names_of(event)}
            direct_writes += sum(isinstance(e, Write) and e.direct for e in script.fs.events)
            synced_writes += sum(isinstance(e, WriteSynced) for e in script.fs.events)
            assert script.db.stats().compactions > 0
            script.end()
    assert {"recycled.wal.tmp", "spare.wal.tmp", "000003.wal", "MANIFEST-000003"} <= names
    assert direct_writes > 50
    assert synced_writes > 50


def names_of(event: object) -> list[str]:
    """The names that an event gave or took."""
    return [name for name, _ in getattr(event, "changes", ())]


def test_the_same_chunk_twice_is_the_same(tmp_path: Path) -> None:
    def events(seed: int) -> list[object]:
        with simulated(seed) as chance:
            script = power_loss.Script(tiny(), chance, busy=True)
            for name in ("put", "batch", "flush", "rotate", "compact", "reopen") * 2:
                getattr(script, name)()
            script.end()
            # Inodes and operations are numbered through.
            return [
                (type(e), e.data) if isinstance(e, Write) else (type(e), names_of(e))
                for e in script.fs.events
            ]

    assert events(5) == events(5)
    assert events(5) != events(6)


# ---- the detector, tested ----


def no_sync_of(kind: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of such names are said to be synced, and are not."""
    end = SimFile.end

    def lie(self: SimFile, operation: object) -> None:
        concerned = kind(os.path.basename(self.path))
        if concerned and isinstance(operation, WriteSynced):
            end(self, WriteDone(*operation))
        elif not concerned or not isinstance(operation, SyncDone):
            end(self, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(SimFile, "end", lie)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (parse_segment, "acknowledged"),
        (lambda name: name == "spare.wal.tmp", "000001.wal"),
        (lambda name: name.endswith(".sst.tmp"), ".sst"),
        (lambda name: name == "CURRENT.tmp", "CURRENT"),
        (lambda name: name.startswith("MANIFEST"), "MANIFEST"),
    ],
    ids=["log", "header of the log", "table", "CURRENT", "manifest"],
)
def test_a_sync_that_is_left_out_is_found(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[str], object], loss: str
) -> None:
    no_sync_of(kind, monkeypatch)
    with pytest.raises(AssertionError, match=loss):
        every_short_script()


def test_a_sync_of_the_directory_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimFS, "sync_directory", lambda self, path: None)
    with pytest.raises(AssertionError, match="acknowledged"):
        every_short_script()


def test_an_acknowledgement_that_comes_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = History.submit

    def acknowledge_at_once(self: History, fs: SimFS, changes: power_loss.Changes) -> int:
        number = submit(self, fs, changes)
        self.acknowledge(fs, number)
        return number

    monkeypatch.setattr(History, "submit", acknowledge_at_once)
    with pytest.raises(AssertionError, match="acknowledged"):
        every_short_script()


def test_a_salt_that_stays_the_same_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    make = SegmentHeader.make

    def with_the_same_salt(*arguments: Any, **named: Any) -> SegmentHeader:
        return replace(make(*arguments, **named), salt=bytes(16))

    monkeypatch.setattr(SegmentHeader, "make", with_the_same_salt)
    with pytest.raises(AssertionError, match="is lost"):
        every_short_script()
