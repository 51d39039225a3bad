"""The oracle: what was written and acknowledged, and what may therefore be found after a crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvstore import KVStore, Options, RecoveryReport, paths
from tests.support.oracle import decode
from tests.support.simfs import Event, Image, Note, SimFS
from tests.support.simulation import PATH
from tests.support.stores import strays

__all__ = ["Bounds", "History", "Recovered", "recover"]

Model = dict[bytes, bytes]

_FLAGS_OFFSET, _RECYCLED = 11, 1
_SUBMITTED, _DURABLE = "submitted", "durable"


@dataclass
class History:
    """Changes in the order of the log. ``models[n]`` is what the first n make of the store."""

    models: list[Model] = field(default_factory=lambda: [{}])

    def submit(self, fs: SimFS, changes: Mapping[bytes, bytes | None]) -> int:
        """A change is about to be written; its number. No two leave the same model."""
        model = dict(self.models[-1])
        for key, value in changes.items():
            model.pop(key, None)
            if value is not None:
                model[key] = value
        self.models.append(model)
        fs.note(_SUBMITTED, len(self.models) - 1)
        return len(self.models) - 1

    def acknowledge(self, fs: SimFS, number: int | None = None) -> None:
        """Somebody was told that all up to that change (None: every one) is durable."""
        fs.note(_DURABLE, len(self.models) - 1 if number is None else number)


@dataclass
class Bounds:
    """How many of a history's changes are durable at least, and were submitted at most."""

    least: int = 0
    most: int = 0

    def apply(self, event: Event) -> bool:
        """Takes note of an event; whether more is promised now."""
        if not isinstance(event, Note):
            return False
        if event.what == _SUBMITTED:
            self.most = max(self.most, event.number)
            return False
        more = event.number > self.least
        self.least = max(self.least, event.number)
        return more


@dataclass(frozen=True)
class Recovered:
    """What recovery made of an image: it holds the first ``count`` changes. ``events``: what it did
    to the disk until it had opened, ``image`` what it left."""

    count: int
    events: list[Event]
    image: Image


def recover(
    image: Image, history: History, bounds: Bounds, options: Options, *, thoroughly: bool
) -> Recovered:
    """Opens what a crash left and checks all that can be known about it; ``thoroughly``: with every
    checksum, twice, and with the log format's own oracle."""
    fs = SimFS(image)
    db = KVStore(PATH, options, fs=fs)
    try:
        events = fs.events[:]
        found = dict(db.items())
        count = _count(found, history, bounds)
        left = fs.image()
        _check_report(db.recovery, image, left, thoroughly=thoroughly)
        _check_names(fs, image)
        if thoroughly:
            report = db.verify()
            assert report.ok, report
            assert len(db) == len(found)
    finally:
        db.close()
    if thoroughly:
        _check_again(fs, found, options)
    return Recovered(count, events, left)


def _count(found: Model, history: History, bounds: Bounds) -> int:
    models = history.models
    for count in range(bounds.most, bounds.least - 1, -1):
        if models[count] == found:
            return count
    elsewhere = [count for count, model in enumerate(models) if model == found]
    if not elsewhere:
        whole = _brief(models[bounds.most])
        raise AssertionError(f"no prefix of what was written: {_brief(found)}; all of it: {whole}")
    raise AssertionError(
        f"the first {elsewhere[-1]} changes are there; {bounds.least} were acknowledged as durable "
        f"and {bounds.most} submitted"
    )


def _brief(found: Model) -> dict[bytes, bytes]:
    return {key: value[:16] for key, value in found.items()}


def _check_again(fs: SimFS, found: Model, options: Options) -> None:
    with KVStore(PATH, options, fs=fs) as db:
        again = dict(db.items())
        assert again == found, f"recovered again: {_brief(again)}, not {_brief(found)}"
        report = db.recovery
        assert (report.torn_bytes, report.saved, report.damage) == (0, (), ()), report


# ---- the report ----


def _check_report(report: RecoveryReport, image: Image, left: Image, *, thoroughly: bool) -> None:
    assert report.damage == (), f"legal, but reported as damage: {report.damage}"
    assert bool(report.torn_bytes) == bool(report.saved) == bool(report.torn_reason), report
    segments = [name for name in sorted(left.names) if paths.parse_segment(name)]
    assert report.files >= len(segments)
    if not segments:
        return
    before, after = image.file(segments[-1]), left.file(segments[-1])
    end = len(after)
    if report.torn_bytes:
        assert report.saved == (f"{PATH}/{paths.format_torn(segments[-1])}",)
        saved = left.file(paths.format_torn(segments[-1]))
        assert saved == before[end : end + report.torn_bytes]
    elif not before[_FLAGS_OFFSET] & _RECYCLED:
        assert not before[end:].strip(b"\0"), "bytes were cut, and the report does not say so"
    if thoroughly:
        _check_counts(report, image, segments)


def _check_counts(report: RecoveryReport, image: Image, segments: list[str]) -> None:
    """Against the log as its specification reads it."""
    read = [decode(image.file(name)) for name in segments]
    assert all(one.corrupt_at is None for one in read)
    if report.files == len(segments):
        assert report.entries == sum(len(one.user_entries()) for one in read)
        assert report.bytes == sum(one.end_offset for one in read)
    last = read[-1]
    assert report.sealed == last.sealed
    assert not last.entries or report.last_lsn == last.entries[-1].lsn


def _check_names(fs: SimFS, image: Image) -> None:
    """Every file is explained: by the manifest, by the log, or kept for inspection."""
    assert not strays(PATH, fs)
    for name in fs.list(PATH):
        whole = name.removesuffix(".torn")
        assert whole == name or name in image.names or whole in image.names, name
