"""Bit rot: one byte of a store that is closed, or was killed, is not what had been written.

Whatever byte of whatever file it is, opening refuses with an error that names the place, or
``verify`` finds it; and no read ever gives a wrong answer in silence, also not behind a compaction
that met the damage. Bytes of which this cannot hold are told, with the reason, by ``excuse``.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kvstore
from kvstore import (
    CorruptionError,
    FormatError,
    KVStore,
    KVStoreError,
    Options,
    PoisonedError,
    paths,
)
from kvstore.recovery import VerifyReport, verify_store
from tests.faults.history import Model
from tests.support import oracle
from tests.support.faultfs import FaultFileSystem
from tests.support.memfs import MemoryFileSystem
from tests.support.stores import NEVER, SMALLEST_SEGMENT

__all__ = ["GOAL", "SMALL", "Image", "chunk", "flip_all", "flip_large", "make_image"]

GOAL = {"flips": 300_000}
CHUNK_FLIPS = 2500
LARGE_FLIPS = 40
LARGE_EVERY = 8
COMPACT_EVERY = 16

SMALL = ("none, closed", "none, killed", "lz4, closed", "zstd, killed")


@dataclass(frozen=True)
class Image:
    """The files of a store by name, and what it holds; ``without_last``: but for the last batch,
    if that has no witness behind it."""

    files: dict[str, bytes]
    model: Model
    without_last: Model
    options: Options

    def places(self) -> list[tuple[str, int]]:
        """Every byte: (file, offset)."""
        return [(name, at) for name in sorted(self.files) for at in range(len(self.files[name]))]


# ---- making stores ----


def make_image(directory: Path, name: str) -> Image:
    """A small store with all kinds of files: a sealed and an unsealed or closed log segment, tables
    on two levels, a manifest of several edits. ``name``: compression, and how it ended."""
    compression, end = name.split(", ")
    options = Options(
        wal_backend="pwrite",
        wal_segment_bytes=SMALLEST_SEGMENT,
        flush_interval_ms=NEVER,
        memtable_bytes_max=64 << 10,
        block_bytes=256,
        compression=compression,
    )
    store = directory / "made"
    shutil.rmtree(store, ignore_errors=True)
    db = KVStore(store, options, fs=FaultFileSystem())  # whose log is written by one thread
    model: Model = {}

    def put(key: bytes, value: bytes) -> None:
        db.put(key, value)
        model[key] = value

    for level in range(3):
        for number in range(level, 24, level + 1):
            put(b"key %02d" % number, b"%d-%d " % (level, number) * (number % 9))
        db.delete(b"key %02d" % (level + 3))
        model.pop(b"key %02d" % (level + 3), None)
        db.flush()
        if level == 0:
            db.compact()
    for number in range(5):
        put(b"log %d" % number, b"first segment " * number)
    if end == "killed":
        db.close()  # so that a sealed segment stands before the last
        db = KVStore(store, options, fs=FaultFileSystem())
    for number in range(5):
        put(b"log %d again" % number, b"second segment " * number)
    without_last = dict(model)
    with db.batch() as batch:
        batch.put(b"key 03", b"one")
        batch.put(b"last", b"other")
    model.update({b"key 03": b"one", b"last": b"other"})
    if end == "closed":
        db.close()
        without_last = model
    files = {path.name: path.read_bytes() for path in store.iterdir()}
    if end == "killed":
        db.close()
        files.pop(paths.SPARE, None)  # never looked at
        files = {name: _shortened(data) for name, data in files.items()}
    return Image(files, dict(sorted(model.items())), dict(sorted(without_last.items())), options)


def _shortened(data: bytes) -> bytes:
    """Of the zeros that a file is filled with ahead, a few: all are alike."""
    used = len(data.rstrip(b"\0"))
    return data[: (used + 200) // 8 * 8]


def newest_segment(names: Iterable[str]) -> str:
    """The log file in which the log ends."""
    return max(name for name in names if paths.parse_segment(name))


# ---- which bytes mean nothing ----


def excuse(name: str, data: bytes, at: int, newest: str) -> str:
    """Why a change of this byte may go unnoticed; "" when it may not. ``newest``: log segment."""
    if name == paths.LOCK:
        return "the holder's process id: for people, and only while it is held"
    if paths.parse_segment(name) is None and paths.parse_manifest(name) is None:
        return ""
    entries = oracle.decode(data).entries
    last = entries[-1]
    for entry in entries:
        end = entry.offset + oracle.ENTRY_HEADER_BYTES + len(entry.payload)
        if end <= at < end + -end % 8:
            return "it only fills an entry up to a multiple of 8"
    if at >= last.offset + oracle.entry_bytes(len(last.payload)):
        return "zeros behind the log's end, allocated ahead: told as torn bytes"
    vouched = paths.parse_segment(name) is not None and name != newest  # by the next one's header
    if at >= last.offset and last.kind in (oracle.MARK, oracle.SEAL) and not vouched:
        return "the last MARK or SEAL: it is a witness, says nothing itself, and has none behind it"
    return ""


def may_lose_last(image: Image, name: str, at: int) -> bool:
    """Whether the byte belongs to the batch without a witness (docs/durability.md, limit 1)."""
    if image.model == image.without_last or name != newest_segment(image.files):
        return False
    last = oracle.decode(image.files[name]).entries[-1]
    end = last.offset + oracle.ENTRY_HEADER_BYTES + len(last.payload)
    return last.kind == oracle.CHECKED and last.offset <= at < end


# ---- asking a damaged store everything ----


def answer(call: Callable[[], Any], path: str) -> tuple[Any, KVStoreError | None]:
    """What a call returns, or the error by which it says that there is damage in that file."""
    try:
        return call(), None
    except PoisonedError as error:
        if not isinstance(error.cause, CorruptionError):
            raise
        return None, error
    except (CorruptionError, FormatError) as error:
        check_names_the_place(error, path)
        return None, error


def check_names_the_place(error: CorruptionError | FormatError, path: str) -> None:
    """CURRENT names a manifest, so a file that seems to be missing is told of in its place."""
    assert os.path.basename(error.path) in path, f"{error} is not about {path}"
    assert not isinstance(error, CorruptionError) or error.offset >= 0


def ask(db: KVStore, model: Model, path: str, *, keys: list[bytes]) -> list[KVStoreError]:
    """Reads in every way; what is answered is right. Returns the errors."""
    entries = list(model.items())
    questions: list[tuple[Callable[[], Any], Any]] = [
        (lambda: list(db.scan()), entries),
        (lambda: list(db.scan(reverse=True)), entries[::-1]),
        (lambda: len(db), len(entries)),
    ]
    questions += [(lambda key=key: db.get(key), model.get(key)) for key in keys]  # type: ignore[misc]
    errors = []
    for question, right in questions:
        found, error = answer(question, path)
        assert error is not None or found == right, f"a wrong answer: {found!r:.300}"
        errors += [error] if error else []
    return errors


def check_flip(image: Image, name: str, at: int, change: int, *, compact: bool) -> None:
    """One changed byte."""
    damaged = bytearray(image.files[name])
    damaged[at] ^= change
    files = {**image.files, name: bytes(damaged)}
    directory = "/in memory/db"
    path = f"{directory}/{name}"
    report = verify_store(MemoryFileSystem(files), directory)
    excused = excuse(name, image.files[name], at, newest_segment(files))
    lossy = may_lose_last(image, name, at)
    noticed = not report.ok or report.torn_bytes > 0
    assert noticed or excused, "verify finds nothing"
    assert report.ok or not excused, f"verify takes {excused} for damage"
    check_report(report, path)

    db, refusal = answer(
        lambda: KVStore(directory, image.options, fs=MemoryFileSystem(files)), path
    )
    if refusal is not None:
        assert not report.ok, f"verify finds nothing, and opening refuses: {refusal}"
        return
    try:
        model = image.model
        if lossy and db.recovery.torn_bytes:
            model = image.without_last
        keys = [*image.model, b"absent", b"key 03a", b"zzz"]
        errors = ask(db, model, path, keys=keys)
        # Of a table verify reads more than a store that is open ever looks at.
        assert report.ok or errors or name.endswith(".sst"), "verify finds it, opening does not"
        live = db.verify()
        assert live.ok == report.ok, "verifying it open says another thing"
        if compact and name.endswith(".sst"):
            answer(db.compact, path)
            ask(db, model, path, keys=keys)
    finally:
        answer(db.close, path)


def check_report(report: VerifyReport, path: str) -> None:
    """Damage is told of the file that has it; what that one would have said may be missed too."""
    if not report.ok:
        first = report.damage[0]
        assert os.path.basename(first.path) in path, first
        assert first.offset >= 0
        assert first.reason


def flip_all(image: Image, places: Iterator[tuple[str, int]], rng: random.Random) -> int:
    """Changes one byte after the other, each in one bit or in all; how many."""
    count = 0
    for count, (name, at) in enumerate(places, 1):  # noqa: B007 (the count is returned)
        change = rng.choice((1, 2, 4, 8, 16, 32, 64, 128, 0xFF, rng.randrange(1, 256)))
        try:
            check_flip(image, name, at, change, compact=rng.randrange(COMPACT_EVERY) == 0)
        except AssertionError as error:
            raise AssertionError(f"{name}, byte {at} changed by {change:#x}: {error}") from error
    return count


# ---- a large store ----


def make_large(directory: Path, compression: str) -> Model:
    """Some 20 MB in many tables on two levels, and a log; on real files."""
    model: Model = {}
    rng = random.Random(compression)
    with kvstore.open(directory, **large_options(compression)) as db:
        for part in range(3):
            batch = kvstore.WriteBatch()
            for number in range(part, 30_000, part + 1):
                key = b"%08d" % (number * 7919 % 1_000_003)
                batch.put(key, rng.randbytes(150) * 3)
                if len(batch) == 500:
                    db.write(batch, sync=False)
                    model.update(_puts(batch))
                    batch = kvstore.WriteBatch()
            db.write(batch)
            model.update(_puts(batch))
            if part < 2:
                db.compact()
        db.flush()
        db.put(b"in the log", b"only")
        model[b"in the log"] = b"only"
    return dict(sorted(model.items()))


def _puts(batch: kvstore.WriteBatch) -> Model:
    return {key: value for key, value in batch.changes.items() if value is not None}


def large_options(compression: str) -> dict[str, Any]:
    """Small tables, and no compaction by itself between two looks."""
    return {
        "memtable_bytes_max": 2 << 20,
        "table_bytes_max": 1 << 20,
        "level_bytes_base": 64 << 20,
        "wal_segment_bytes": 1 << 20,
        "compression": compression,
        "wal_backend": "pwrite",
    }


def flip_large(directory: Path, flips: int, seed: int) -> int:
    """Damages samples of a large store, each in a copy that shares the other tables; how many."""
    rng = random.Random(seed)
    compression = ("none", "lz4", "zstd")[seed % 3]
    source = directory / "large"
    model = make_large(source, compression)
    names = sorted(path.name for path in source.iterdir() if path.name != paths.LOCK)
    keys = rng.sample(sorted(model), 200)
    for _ in range(flips):
        # Files of each kind, however few there are of it.
        kind = rng.choice(sorted({name.split(".")[-1].split("-")[0] for name in names}))
        name = rng.choice([name for name in names if kind in name])
        at = rng.randrange((source / name).stat().st_size)
        change = rng.choice((1 << rng.randrange(8), 0xFF))
        try:
            _check_large(
                source, directory / "db", (name, at, change), model, keys, compression=compression
            )
        except AssertionError as error:
            place = f"seed {seed}, {name}, byte {at} changed by {change:#x}"
            raise AssertionError(f"{place}: {error}") from error
    shutil.rmtree(source)
    return flips


def _check_large(
    source: Path,
    target: Path,
    damage: tuple[str, int, int],
    model: Model,
    keys: list[bytes],
    *,
    compression: str,
) -> None:
    name, at, change = damage
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for path in source.iterdir():
        # Tables are never written again, so a copy may share those that are sound.
        share = path.suffix == ".sst" and path.name != name
        (os.link if share else shutil.copyfile)(path, target / path.name)
    path = target / name
    sound = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([sound[at] ^ change]))
    excused = excuse(name, sound, at, newest_segment(os.listdir(source)))
    report = kvstore.verify(target)
    assert excused or not report.ok, "verify finds nothing"
    check_report(report, str(path))
    options = large_options(compression)
    db, refusal = answer(lambda: kvstore.open(target, **options), str(path))
    if refusal is None:
        try:
            ask(db, model, str(path), keys=keys)
        finally:
            db.close()
    shutil.rmtree(target)


def chunk(index: int, directory: Path) -> Counter[str]:
    """Part of the bytes of one small store, or samples of a large one."""
    if index % LARGE_EVERY == LARGE_EVERY - 1:
        return Counter(flips=flip_large(directory, LARGE_FLIPS, index))
    number = index - index // LARGE_EVERY
    part, which = divmod(number, len(SMALL))
    image = make_image(directory, SMALL[which])
    places = image.places()
    begin = part * CHUNK_FLIPS % len(places)
    some = itertools.islice(itertools.cycle(places), begin, begin + CHUNK_FLIPS)
    try:
        return Counter(flips=flip_all(image, some, random.Random(index)))
    except AssertionError:
        for name, data in image.files.items():  # salts are new each time
            (directory / f"sound {name}").write_bytes(data)
        raise
