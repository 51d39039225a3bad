"""Every kind of damage in every mode: what is raised, what is kept, what is on disk afterwards."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore import ChecksumMismatch, CorruptionError, FormatError, StorageIOError
from kvstore.manifest import ManifestLog
from kvstore.options import RECOVERY_MODES
from tests.support.damage import (
    HEADER_BYTES,
    all_puts,
    build,
    cut,
    entries,
    expected,
    extend,
    flip,
    newer_header,
    snapshot,
    zero,
)

Puts = list[tuple[int, int]]
ALL = all_puts()


@dataclass(frozen=True)
class Refused:
    """Opening raises ``error`` for ``file``, at an offset or at its put number so-and-so (4: behind
    the last); neither: not a thing of offsets."""

    error: type[Exception]
    file: str
    says: str
    offset: int | None = None
    put: int | None = None


@dataclass(frozen=True)
class Opened:
    """Opening keeps ``puts``; ``torn`` and ``dropped``: files set aside beside the log."""

    puts: Puts
    torn: str = ""
    dropped: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Damage, and what each mode makes of it; ``default`` serves modes that are not named."""

    hurt: Callable[[Path], object]
    default: Refused | Opened
    modes: dict[str, Refused | Opened] = field(default_factory=dict)

    def outcome(self, mode: str) -> Refused | Opened:
        return self.modes.get(mode, self.default)


def put_offset(directory: Path, name: str, put: int) -> int:
    """Where a put begins; MARKs may stand between them."""
    path = directory / name
    return [*(entry.offset for entry in entries(path)), path.stat().st_size][put]


def flip_payload(name: str, put: int) -> Callable[[Path], None]:
    return lambda d: flip(d / name, put_offset(d, name, put) + 40)


def flip_entry_header(name: str, put: int) -> Callable[[Path], None]:
    return lambda d: flip(d / name, put_offset(d, name, put) + 9)


def zero_entry(name: str, put: int) -> Callable[[Path], None]:
    return lambda d: zero(d / name, put_offset(d, name, put), 64)


def cut_within(name: str, put: int) -> Callable[[Path], None]:
    return lambda d: cut(d / name, put_offset(d, name, put) + 50)


def cut_before(name: str, put: int) -> Callable[[Path], None]:
    return lambda d: cut(d / name, put_offset(d, name, put))


def foreign(d: Path) -> None:
    other = d.parent / "other"
    build(other, segments=3, puts=4)
    with kvstore.open(other) as db:
        db.put(b"foreign", b"foreign")
    (other / "000003.wal").rename(d / "000003.wal")


def swap(d: Path) -> None:
    (d / "000002.wal").rename(d / "x")
    (d / "000003.wal").rename(d / "000002.wal")
    (d / "x").rename(d / "000003.wal")


def directory_in_its_place(d: Path) -> None:
    (d / "000002.wal").unlink()
    (d / "000002.wal").mkdir()


CONSENT = "recovery='point_in_time'"
BUT_1_2 = [put for put in ALL if put != (1, 2)]
BUT_3_1 = [put for put in ALL if put != (3, 1)]
BUT_3_3 = ALL[:-1]


def middle_of_last(error: type[Exception]) -> tuple[Refused, dict[str, Refused | Opened]]:
    return Refused(error, "000003.wal", CONSENT, put=1), {
        "point_in_time": Opened(ALL[:9], torn="000003.wal", damaged=("000003.wal",)),
        "salvage": Opened(BUT_3_1, damaged=("000003.wal",)),
    }


def earlier(error: type[Exception]) -> tuple[Refused, dict[str, Refused | Opened]]:
    return Refused(error, "000001.wal", CONSENT, put=2), {
        "point_in_time": Opened(
            ALL[:2],
            torn="000001.wal",
            dropped=("000002.wal", "000003.wal"),
            damaged=("000001.wal",),
        ),
        "salvage": Opened(BUT_1_2, damaged=("000001.wal",)),
    }


def lost_segment(
    refusal: Refused, kept: Puts, dropped: tuple[str, ...], salvaged: Puts
) -> tuple[Refused, dict[str, Refused | Opened]]:
    return refusal, {
        "point_in_time": Opened(kept, dropped=dropped, damaged=(refusal.file,)),
        "salvage": Opened(salvaged, damaged=(refusal.file,)),
    }


TORN_MODES: tuple[Opened, dict[str, Refused | Opened]] = (
    Opened(BUT_3_3, torn="000003.wal"),
    {
        "strict": Refused(CorruptionError, "000003.wal", "tolerate_torn_tail", put=3),
        "salvage": Opened(BUT_3_3),
    },
)
NEWER = Refused(FormatError, "000003.wal", "version 2")
UNREADABLE = Refused(StorageIOError, "000002.wal", "directory")

CASES = {
    "clean": Case(lambda d: None, Opened(ALL)),
    "cut within the last entry": Case(cut_within("000003.wal", 3), *TORN_MODES),
    "cut between two entries": Case(cut_before("000003.wal", 3), Opened(BUT_3_3)),
    "last segment only a header": Case(
        lambda d: cut(d / "000003.wal", HEADER_BYTES), Opened(ALL[:8])
    ),
    "zeros behind the end": Case(lambda d: extend(d / "000003.wal", bytes(9999)), Opened(ALL)),
    "garbage behind the end": Case(
        lambda d: extend(d / "000003.wal", b"garbage!" * 50),
        Opened(ALL, torn="000003.wal"),
        {
            "strict": Refused(CorruptionError, "000003.wal", "tolerate_torn_tail", put=4),
            "salvage": Opened(ALL),
        },
    ),
    "payload in the last segment": Case(
        flip_payload("000003.wal", 1), *middle_of_last(ChecksumMismatch)
    ),
    "entry header in the last segment": Case(
        flip_entry_header("000003.wal", 1), *middle_of_last(CorruptionError)
    ),
    "zeroed entry in the last segment": Case(
        zero_entry("000003.wal", 1), *middle_of_last(CorruptionError)
    ),
    "payload in an earlier segment": Case(
        flip_payload("000001.wal", 2), *earlier(ChecksumMismatch)
    ),
    "entry header in an earlier segment": Case(
        flip_entry_header("000001.wal", 2), *earlier(CorruptionError)
    ),
    "earlier segment cut": Case(
        cut_within("000001.wal", 2),
        Refused(CorruptionError, "000001.wal", CONSENT, put=2),
        {
            "point_in_time": Opened(
                ALL[:2],
                torn="000001.wal",
                dropped=("000002.wal", "000003.wal"),
                damaged=("000001.wal",),
            ),
            "salvage": Opened(ALL[:2] + ALL[4:], damaged=("000001.wal",)),
        },
    ),
    "earlier segment cut at an entry": Case(
        cut_before("000001.wal", 2),
        Refused(CorruptionError, "000001.wal", CONSENT, put=2),
        {
            "point_in_time": Opened(
                ALL[:2], dropped=("000002.wal", "000003.wal"), damaged=("000001.wal",)
            ),
            "salvage": Opened(ALL[:2] + ALL[4:], damaged=("000001.wal",)),
        },
    ),
    "missing middle segment": Case(
        lambda d: (d / "000002.wal").unlink(),
        *lost_segment(
            Refused(CorruptionError, "000003.wal", "segment 2, which is missing", offset=16),
            ALL[:4],
            ("000003.wal",),
            ALL[:4] + ALL[8:],
        ),
    ),
    "missing first segment": Case(
        lambda d: (d / "000001.wal").unlink(),
        *lost_segment(
            Refused(CorruptionError, "000002.wal", "segment 1, which is missing", offset=16),
            [],
            ("000002.wal", "000003.wal"),
            ALL[4:],
        ),
    ),
    "header of the first": Case(
        lambda d: flip(d / "000001.wal", 40),
        Refused(ChecksumMismatch, "000001.wal", CONSENT, offset=0),
        {
            "point_in_time": Opened(
                [],
                dropped=("000001.wal", "000002.wal", "000003.wal"),
                damaged=("000001.wal",),
            ),
            "salvage": Opened(ALL[4:], damaged=("000001.wal", "000002.wal")),
        },
    ),
    "header of the middle": Case(
        lambda d: flip(d / "000002.wal", 4095),
        Refused(ChecksumMismatch, "000002.wal", CONSENT, offset=0),
        {
            "point_in_time": Opened(
                ALL[:4], dropped=("000002.wal", "000003.wal"), damaged=("000002.wal",)
            ),
            "salvage": Opened(ALL[:4] + ALL[8:], damaged=("000002.wal", "000003.wal")),
        },
    ),
    "header of the last": Case(
        lambda d: flip(d / "000003.wal", 48),
        *lost_segment(
            Refused(ChecksumMismatch, "000003.wal", CONSENT, offset=0),
            ALL[:8],
            ("000003.wal",),
            ALL[:8],
        ),
    ),
    "magic of the last": Case(
        lambda d: flip(d / "000003.wal", 0),
        *lost_segment(
            Refused(CorruptionError, "000003.wal", CONSENT, offset=0),
            ALL[:8],
            ("000003.wal",),
            ALL[:8],
        ),
    ),
    "last segment cut within its header": Case(
        lambda d: cut(d / "000003.wal", 100),
        *lost_segment(
            Refused(CorruptionError, "000003.wal", CONSENT, offset=0),
            ALL[:8],
            ("000003.wal",),
            ALL[:8],
        ),
    ),
    "empty file": Case(
        lambda d: cut(d / "000003.wal", 0),
        *lost_segment(
            Refused(CorruptionError, "000003.wal", "empty", offset=0),
            ALL[:8],
            ("000003.wal",),
            ALL[:8],
        ),
    ),
    "foreign segment": Case(
        foreign,
        *lost_segment(
            Refused(CorruptionError, "000003.wal", "another store", offset=16),
            ALL[:8],
            ("000003.wal",),
            ALL[:8],
        ),
    ),
    "copy of an earlier segment": Case(
        lambda d: (d / "000004.wal").write_bytes((d / "000001.wal").read_bytes()),
        *lost_segment(
            Refused(CorruptionError, "000004.wal", "says that it is segment 1", offset=16),
            ALL,
            ("000004.wal",),
            ALL,
        ),
    ),
    "segments changed places": Case(
        swap,
        Refused(CorruptionError, "000002.wal", "says that it is segment 3", offset=16),
        {
            "point_in_time": Opened(
                ALL[:4], dropped=("000002.wal", "000003.wal"), damaged=("000002.wal",)
            ),
            "salvage": Opened(ALL[:4], damaged=("000002.wal", "000003.wal")),
        },
    ),
    "newer version": Case(
        lambda d: (d / "000003.wal").write_bytes(newer_header(3)),
        NEWER,
    ),
    "directory in its place": Case(directory_in_its_place, UNREADABLE),
}


def hurt_store(tmp_path: Path, name: str) -> Path:
    directory = tmp_path / "db"
    build(directory)
    CASES[name].hurt(directory)
    return directory


def place(sound: Path, refusal: Refused) -> int | None:
    """The offset at which a refusal is due."""
    if refusal.put is None:
        return refusal.offset
    return put_offset(sound, refusal.file, refusal.put)


def each_outcome(kind: type) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "mode"),
        [
            pytest.param(name, mode, id=f"{name}-{mode}")
            for name, case in CASES.items()
            for mode in RECOVERY_MODES
            if isinstance(case.outcome(mode), kind)
        ],
    )


@each_outcome(Refused)
def test_a_refusal_names_the_place_and_changes_nothing(
    tmp_path: Path, name: str, mode: str
) -> None:
    outcome = CASES[name].outcome(mode)
    assert isinstance(outcome, Refused)
    directory = tmp_path / "db"
    build(directory)
    offset = place(directory, outcome)
    CASES[name].hurt(directory)
    before = snapshot(directory)
    for _ in range(2):  # the first refusal must not keep the lock, nor a file
        with pytest.raises(outcome.error) as caught:
            kvstore.open(directory, recovery=mode)
        error = caught.value
        assert isinstance(error, CorruptionError | FormatError | StorageIOError)
        path = error.filename if isinstance(error, StorageIOError) else error.path
        assert path == str(directory / outcome.file)
        assert str(error).startswith(f"{path}: ")
        assert outcome.says in str(error)
        if offset is not None:
            assert isinstance(error, CorruptionError)
            assert error.offset == offset
            assert f"offset {offset}: " in str(error)
            assert error.advice
            assert error.advice in str(error)
        assert snapshot(directory) == before


@each_outcome(Opened)
def test_what_a_mode_keeps_is_there_and_what_it_removes_is_set_aside(
    tmp_path: Path, name: str, mode: str
) -> None:
    outcome = CASES[name].outcome(mode)
    assert isinstance(outcome, Opened)
    directory = hurt_store(tmp_path, name)
    before = snapshot(directory)
    with kvstore.open(directory, recovery=mode) as db:
        assert dict(db.items()) == expected(outcome.puts)
        report = db.recovery
    after = snapshot(directory)

    assert report.mode == mode
    assert report.path == str(directory)
    assert report.last_lsn >= len(outcome.puts)
    assert tuple(sorted({Path(d.path).name for d in report.damage})) == outcome.damaged
    plain = json.loads(report.to_json())
    assert plain["damage"] == [
        {"path": d.path, "offset": d.offset, "end_offset": d.end_offset,
         "lsn_first": d.lsn_first, "lsn_last": d.lsn_last, "reason": d.reason}
        for d in report.damage
    ]  # fmt: skip
    assert all(d.reason for d in report.damage)
    assert report.torn_bytes == 0 or report.torn_reason

    if mode == "salvage":
        assert after == before
        assert report.saved == ()
        return
    saved = {f"{name}.dropped": before[name] for name in outcome.dropped}
    if outcome.torn:
        whole = before[outcome.torn]
        kept = after[outcome.torn]
        assert whole is not None
        assert kept is not None
        assert whole.startswith(kept)
        saved[f"{outcome.torn}.torn"] = whole[len(kept) :].rstrip(b"\0")
        assert saved[f"{outcome.torn}.torn"]
    assert sorted(Path(path).name for path in report.saved) == sorted(saved)
    for kept_name, content in saved.items():
        found = after[kept_name]
        assert found is not None
        assert found.rstrip(b"\0") == (content or b"").rstrip(b"\0")
    untouched = before.keys() - set(outcome.dropped) - {outcome.torn}
    assert after.keys() == (before.keys() - set(outcome.dropped)) | saved.keys()
    for same in untouched:
        assert (after[same] or b"").rstrip(b"\0") == (before[same] or b"").rstrip(b"\0")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["tolerate_torn_tail", "point_in_time"])
def test_what_has_been_recovered_is_a_sound_store(tmp_path: Path, name: str, mode: str) -> None:
    outcome = CASES[name].outcome(mode)
    if isinstance(outcome, Refused):
        return
    directory = hurt_store(tmp_path, name)
    kvstore.open(directory, recovery=mode).close()
    # Once decided, even the strictest mode finds nothing to complain about, again and again.
    for _ in range(2):
        with kvstore.open(directory, recovery="strict") as db:
            assert dict(db.items()) == expected(outcome.puts)
            assert (db.recovery.damage, db.recovery.torn_bytes, db.recovery.saved) == ((), 0, ())
    with kvstore.open(directory) as db:
        db.put(b"new", b"after recovery")
    with kvstore.open(directory, recovery="strict") as db:
        assert dict(db.items()) == {**expected(outcome.puts), b"new": b"after recovery"}


def test_salvaged_damage_says_which_entries_are_lost(tmp_path: Path) -> None:
    directory = tmp_path / "db"
    build(directory)
    entry = entries(directory / "000001.wal")[2]
    flip(directory / "000001.wal", entry.offset + 40)
    with kvstore.open(directory, recovery="salvage") as db:
        (damage,) = db.recovery.damage
    assert (damage.path, damage.offset) == (str(directory / "000001.wal"), entry.offset)
    assert damage.end_offset == entry.offset + 24 + len(entry.payload)
    assert (damage.lsn_first, damage.lsn_last) == (entry.lsn, entry.lsn)


def test_a_clean_store_reports_what_was_read(tmp_path: Path) -> None:
    build(tmp_path / "db")
    sizes = [path.stat().st_size for path in (tmp_path / "db").glob("*.wal")]
    with kvstore.open(tmp_path / "db") as db:
        report = db.recovery
        assert db.stats().last_lsn == report.last_lsn
    assert report.files == 3
    assert report.entries == len(ALL)
    assert report.bytes >= sum(sizes)
    assert report.sealed
    assert report.last_lsn >= len(ALL) + 3  # the SEALs count, and MARKs if there are any
    assert report.seconds > 0
    assert (report.torn_bytes, report.torn_reason) == (0, "")
    assert json.loads(report.to_json()) == {**report.to_dict(), "saved": [], "damage": []}


def test_a_new_store_reports_nothing(tmp_path: Path) -> None:
    with kvstore.open(tmp_path / "db") as db:
        report = db.recovery
    assert (report.files, report.entries, report.bytes, report.last_lsn) == (0, 0, 0, 0)
    assert not report.sealed


def test_a_batch_that_is_none_is_corruption_with_its_place(tmp_path: Path) -> None:
    build(tmp_path / "db", segments=1)
    with kvstore.PortableWalWriter(tmp_path / "db" / "000001.wal") as log:
        log.append_with_checksum(b"no batch")
        log.append_with_checksum(b"\x01\x01\0\0\0\0\0\0k")
    before = snapshot(tmp_path / "db")
    for mode in ("tolerate_torn_tail", "strict"):
        with pytest.raises(CorruptionError, match="holds no batch") as caught:
            kvstore.open(tmp_path / "db", recovery=mode)
        assert caught.value.offset == entries(tmp_path / "db" / "000001.wal")[4].offset
        assert snapshot(tmp_path / "db") == before


def test_consent_to_lose_a_batch_that_is_none_settles_it(tmp_path: Path) -> None:
    build(tmp_path / "db", segments=1)
    with kvstore.PortableWalWriter(tmp_path / "db" / "000001.wal") as log:
        log.append_with_checksum(b"no batch")
        log.append_with_checksum(b"\x01\x01\0\0\0\0\0\0k")
    with kvstore.open(tmp_path / "db", recovery="point_in_time") as db:
        assert dict(db.items()) == expected(ALL[:4])
    with kvstore.open(tmp_path / "db") as db:
        assert dict(db.items()) == expected(ALL[:4])


def test_salvage_passes_over_a_batch_that_is_none(tmp_path: Path) -> None:
    build(tmp_path / "db", segments=1)
    with kvstore.PortableWalWriter(tmp_path / "db" / "000001.wal") as log:
        log.append_with_checksum(b"no batch")
        log.append_with_checksum(b"\x01\x01\0\0\0\0\0\0k")
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        assert dict(db.items()) == {**expected(ALL[:4]), b"k": b""}


def test_what_was_set_aside_earlier_is_not_overwritten(tmp_path: Path) -> None:
    # The second accident happens to a segment with the number of the one that was dropped.
    directory = hurt_store(tmp_path, "header of the last")
    first = (directory / "000003.wal").read_bytes()
    with kvstore.open(directory, recovery="point_in_time") as db:
        db.put(b"second", b"life")
    flip(directory / "000003.wal", 48)
    second = (directory / "000003.wal").read_bytes()
    kvstore.open(directory, recovery="point_in_time").close()
    kept = [content for name, content in snapshot(directory).items() if ".dropped" in name]
    assert sorted(kept, key=str) == sorted([first, second], key=str)


@pytest.mark.parametrize("mode", RECOVERY_MODES)
def test_salvage_reads_all_of_a_segment_whose_successor_is_missing(
    tmp_path: Path, mode: str
) -> None:
    # Segment 2 is short, 1 is long: its record in 3 must not be taken for one about 1.
    with kvstore.open(tmp_path / "db") as db:
        for put in range(50):
            db.put(b"%02d" % put, bytes(100))
    for name in (b"second", b"third"):
        with kvstore.open(tmp_path / "db") as db:
            db.put(name, b"")
    (tmp_path / "db" / "000002.wal").unlink()
    if mode != "salvage":
        if mode != "point_in_time":
            with pytest.raises(CorruptionError):
                kvstore.open(tmp_path / "db", recovery=mode)
            return
        with kvstore.open(tmp_path / "db", recovery=mode) as db:
            assert len(db) == 50
        return
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        assert len(db) == 51
        assert len(db.recovery.damage) == 1


STRAYS = {
    "notes.txt": b"mine",
    "000001.wal.torn": b"kept by an earlier recovery",
    "000009.wal.dropped": b"likewise",
    "1.wal": b"not a segment's name",
    "000001.WAL": b"neither",
    "000000.wal": b"there is no segment 0",
    "CURRENT.old": b"",
    "MANIFEST": b"not a manifest's name",
    "1.sst": b"nor a table's",
    ".hidden": b"\xff\xfe",
}


@pytest.mark.parametrize("mode", RECOVERY_MODES)
def test_files_that_are_not_ours_are_left_alone(tmp_path: Path, mode: str) -> None:
    build(tmp_path / "db")
    for name, content in STRAYS.items():
        (tmp_path / "db" / name).write_bytes(content)
    (tmp_path / "db" / "folder.wal").mkdir()
    with kvstore.open(tmp_path / "db", recovery=mode) as db:
        assert dict(db.items()) == expected(ALL)
        if mode != "salvage":
            db.put(b"more", b"")
    after = snapshot(tmp_path / "db")
    assert {name: after[name] for name in STRAYS} == STRAYS
    assert after["folder.wal"] is None


def test_a_spare_left_by_a_killed_process_goes(tmp_path: Path) -> None:
    build(tmp_path / "db")
    (tmp_path / "db" / "spare.wal.tmp").write_bytes(bytes(1 << 20))
    with kvstore.open(tmp_path / "db", recovery="salvage") as db:
        assert dict(db.items()) == expected(ALL)
    assert (tmp_path / "db" / "spare.wal.tmp").exists()
    with kvstore.open(tmp_path / "db") as db:
        assert not (tmp_path / "db" / "spare.wal.tmp").exists()
        assert dict(db.items()) == expected(ALL)


@pytest.mark.parametrize("mode", RECOVERY_MODES)
def test_a_file_where_the_directory_should_be_is_said_so(tmp_path: Path, mode: str) -> None:
    (tmp_path / "db").write_bytes(b"a file")
    with pytest.raises(StorageIOError) as caught:
        kvstore.open(tmp_path / "db", recovery=mode)
    assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "db").read_bytes() == b"a file"


def test_point_in_time_takes_nothing_behind_a_first_segment_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    db = kvstore.open(path, wal_segment_bytes=65536)
    db.put(b"base", b"1")
    db.flush()
    for n in range(2000):
        db.put(b"%06d" % n, b"v" * 100, sync=False)
    db.close()
    first, *later = sorted(path.glob("*.wal"))
    assert later
    first.unlink()
    with kvstore.open(path, recovery="point_in_time") as db:
        assert list(db) == [b"base"]
        assert db.recovery.damage
        assert len(db.recovery.saved) == len(later)
        db.put(b"more", b"2")
    with kvstore.open(path) as db:
        assert list(db) == [b"base", b"more"]


def test_consent_that_begins_another_manifest_does_not_remove_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is lost is told to the manifest, which is full just then; the clean-up took the new one
    # for an orphan.
    path = tmp_path / "s"
    with kvstore.open(path) as db:
        db.put(b"in a table", b"1")
        db.flush()
        db.put(b"in the log", b"2")
    for segment in path.glob("*.wal"):
        segment.unlink()
    adopt = ManifestLog._adopt

    def adopt_full(self: ManifestLog, log: Any, name: str, snapshot_bytes: int) -> None:
        adopt(self, log, name, snapshot_bytes)
        self._roll_bytes = 0

    monkeypatch.setattr(ManifestLog, "_adopt", adopt_full)
    with kvstore.open(path, recovery="point_in_time") as db:
        assert dict(db.items()) == {b"in a table": b"1"}
    with kvstore.open(path) as db:
        assert dict(db.items()) == {b"in a table": b"1"}
