"""Disk: what a power cut may leave of a SimFS, worked out from its events.

The rules, which are those of docs/durability.md and of design's fault model:

- What a completed sync covers is fixed, and the bytes of a write that synced itself. Every other
  512-byte sector that was written is, each for itself, as it was, as any of the writes left it,
  zero, or garbage: random bytes, or, where nothing was synced yet, what stood in a file that was
  removed or cut. Where it holds synced bytes it is old or new (power-safe overwrite), unless the
  write was a direct one.
- A file's length is any that it had since its last sync.
- A name is there or not, each for itself, as any change since the last sync of the directory left
  it. A sync of a file does nothing for its name. A renamed file may have both names, but it has one
  of them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.support.simfs import (
    DirectorySynced,
    Event,
    Fill,
    Image,
    Named,
    SyncBegun,
    SyncDone,
    Truncate,
    Write,
    WriteDone,
    WriteSynced,
)

__all__ = ["SECTOR_BYTES", "Disk"]

SECTOR_BYTES = 512
_ZEROS = bytes(SECTOR_BYTES)
_STALE_MAX = 64
_NAMINGS_MAX = 64

Naming = dict[str, int]


@dataclass(eq=False)
class _Piece:
    """A change of a file that no sync has covered."""

    event: Write | Fill | Truncate
    done: bool

    def size_after(self, size: int) -> int:
        event = self.event
        if isinstance(event, Truncate):
            return event.size
        length = len(event.data) if isinstance(event, Write) else event.size
        return max(size, event.offset + length)

    def apply(self, data: bytearray) -> None:
        """Does it to the whole file."""
        event = self.event
        size = self.size_after(len(data))
        del data[size:]
        data.extend(bytes(size - len(data)))
        if isinstance(event, Write):
            data[event.offset : event.offset + len(event.data)] = event.data
        elif isinstance(event, Fill):
            data[event.offset : event.offset + event.size] = bytes(event.size)

    def sectors(self) -> Iterable[int]:
        """Those that it writes something else than zeros to, or cuts in two."""
        event = self.event
        if isinstance(event, Write):
            end = event.offset + len(event.data)
            return range(event.offset // SECTOR_BYTES, -(-end // SECTOR_BYTES))
        if isinstance(event, Truncate) and event.size % SECTOR_BYTES:
            return [event.size // SECTOR_BYTES]
        return []

    def on_sector(self, before: bytes, sector: int) -> bytes:
        """What it makes of a sector."""
        event, begin = self.event, sector * SECTOR_BYTES
        if isinstance(event, Write):
            start, end = event.offset - begin, event.offset + len(event.data) - begin
            piece = event.data[max(0, -start) : SECTOR_BYTES - start]
            return before[: max(0, start)] + piece + before[max(0, min(end, SECTOR_BYTES)) :]
        cut = max(0, (event.size if isinstance(event, Truncate) else event.offset) - begin)
        return (before[:cut] + _ZEROS)[:SECTOR_BYTES]


@dataclass(frozen=True)
class _Unit:
    """Bytes that survive or not together: from ``offset`` on they are any of ``versions``, the
    first of which is the oldest."""

    offset: int
    versions: list[bytes]
    newest: int


@dataclass(frozen=True)
class _Doubt:
    """All that a file may have become."""

    base: bytes
    sizes: list[int]
    units: list[_Unit]

    @property
    def count(self) -> int:
        return len(self.sizes) * math.prod(len(unit.versions) for unit in self.units)

    def build(self, size: int, choice: Iterable[int]) -> bytes:
        data = bytearray(self.base)
        for unit, version in zip(self.units, choice, strict=True):
            chosen = unit.versions[version]
            end = unit.offset + len(chosen)
            if len(data) < end:
                data.extend(bytes(end - len(data)))
            data[unit.offset : end] = chosen
        del data[size:]
        data.extend(bytes(size - len(data)))
        return bytes(data)

    def all(self) -> Iterator[bytes]:
        ranges = [range(len(unit.versions)) for unit in self.units]
        for choice in itertools.product(*ranges):
            for size in self.sizes:
                yield self.build(size, choice)

    def some(self, chance: random.Random, newest: float, oldest: float) -> bytes:
        """One of them; with so much probability each part is the newest, or the oldest."""

        def pick(count: int, last: int) -> int:
            throw = chance.random()
            if throw < newest:
                return last
            return 0 if throw < newest + oldest else chance.randrange(count)

        size = self.sizes[pick(len(self.sizes), len(self.sizes) - 1)]
        return self.build(size, [pick(len(unit.versions), unit.newest) for unit in self.units])


class Disk:
    """What is durable, and what is not, after the events that it was told."""

    def __init__(self, image: Image, stale: Iterable[bytes] = ()) -> None:
        self._durable = dict(image.data)
        self._pending: dict[int, list[_Piece]] = {}
        self._covered: dict[int, list[_Piece]] = {}
        self._names = dict(image.names)
        self._changes: list[tuple[tuple[str, int | None], ...]] = []
        self._live = dict(image.names)
        self.stale = list(stale)
        """Sectors of files that were removed or cut."""

    # ---- what happens ----

    def apply(self, event: Event) -> bool:
        """Takes note of what happened; whether a power cut may leave something else now."""
        if isinstance(event, Write):
            self._pending.setdefault(event.inode, []).append(_Piece(event, done=False))
        elif isinstance(event, Fill | Truncate):
            if isinstance(event, Truncate):
                self._free(self._newest(event.inode), event.size)
            self._pending.setdefault(event.inode, []).append(_Piece(event, done=True))
        elif isinstance(event, WriteDone):
            self._complete(event)
            return False
        elif isinstance(event, SyncBegun):
            pieces = self._pending.get(event.inode, [])
            self._covered[event.identity] = [piece for piece in pieces if piece.done]
            return False
        elif isinstance(event, SyncDone | WriteSynced):
            self._settle(event)
        elif isinstance(event, Named):
            self._changes.append(event.changes)
            self._name(event.changes)
        elif isinstance(event, DirectorySynced):
            for changes in self._changes:
                _rename(self._names, changes)
            self._changes.clear()
        else:
            return False
        return True

    def _complete(self, event: WriteDone | WriteSynced) -> list[_Piece]:
        """The write that it was; none after a kill that was followed by a sync."""
        pieces = self._pending.get(event.inode, [])
        found = [
            piece
            for piece in pieces
            if isinstance(piece.event, Write) and piece.event.identity == event.identity
        ]
        for piece in found:
            piece.done = True
        if isinstance(event, WriteSynced):
            # Else what it covers would depend on that, which nothing here knows of.
            assert all(isinstance(piece.event, Write) for piece in pieces), "its room is not synced"
        return found

    def _settle(self, event: SyncDone | WriteSynced) -> None:
        inode = event.inode
        if isinstance(event, SyncDone):
            covered = self._covered.pop(event.identity)
        else:
            covered = self._complete(event)
        if covered:
            data = bytearray(self._durable.get(inode, b""))
            for piece in covered:
                piece.apply(data)
            self._durable[inode] = bytes(data)
        # A second sync may have covered some of them already: then they are applied again, which
        # changes nothing, since nobody writes twice what is on its way.
        pieces = self._pending.get(inode, [])
        self._pending[inode] = [piece for piece in pieces if piece not in covered]

    def _name(self, changes: tuple[tuple[str, int | None], ...]) -> None:
        touched = [self._live.get(name) for name, _ in changes]
        _rename(self._live, changes)
        for inode in touched:
            if inode is not None and inode not in self._live.values():
                self._free(self._newest(inode), 0)

    def _free(self, data: bytes, offset: int) -> None:
        """What stood behind ``offset`` may be met again wherever the disk uses the room."""
        begin = offset - offset % SECTOR_BYTES
        sectors = (data[at : at + SECTOR_BYTES] for at in range(begin, len(data), SECTOR_BYTES))
        used = [one.ljust(SECTOR_BYTES, b"\0") for one in sectors if one.strip(b"\0")]
        self.stale = (self.stale + used)[-_STALE_MAX:]

    def freed(self, image: Image) -> list[bytes]:
        """``stale`` when ``image`` is what is left: also what was written in vain."""
        after = Disk(Image(), self.stale)
        for inode in self._pending:
            after._free(self._newest(inode), len(image.data.get(inode, b"")))
        return after.stale

    def _newest(self, inode: int) -> bytes:
        pieces = self._pending.get(inode)
        durable = self._durable.get(inode, b"")
        if not pieces:
            return durable
        data = bytearray(durable)
        for piece in pieces:
            piece.apply(data)
        return bytes(data)

    # ---- what is left ----

    def killed(self) -> Image:
        """What a kill leaves: all that was written and named is still in the page cache. What
        happens next can be told to this disk, too."""
        for pieces in self._pending.values():
            for piece in pieces:
                piece.done = True
        return Image(dict(self._live), {i: self._newest(i) for i in set(self._live.values())})

    def settled(self) -> bool:
        """Whether a power cut can leave just one thing."""
        return not self._changes and not any(self._pending.values())

    def states(self, chance: random.Random, limit: int) -> Iterator[Image]:
        """Every legal state after a power cut now, or ``limit`` of them when there are more."""
        namings = self._namings(chance)
        doubts = {
            inode: self._doubt(inode, pieces, chance)
            for inode, pieces in self._pending.items()
            if pieces
        }
        total = sum(
            math.prod(doubts[i].count for i in set(naming.values()) if i in doubts)
            for naming in namings
        )
        if total <= limit:
            yield from self._all(namings, doubts)
            return
        for number in range(limit):
            naming, newest, oldest = namings[-1], 1.0, 0.0
            if number == 1:
                naming, newest, oldest = namings[0], 0.0, 1.0
            elif number > 1:
                naming = namings[-1] if chance.random() < 0.6 else chance.choice(namings)
                newest, oldest = chance.choice([(0.8, 0.1), (0.1, 0.8), (0.4, 0.4), (0.0, 0.0)])
            yield self._image(
                naming, {i: doubt.some(chance, newest, oldest) for i, doubt in doubts.items()}
            )

    def _all(self, namings: list[Naming], doubts: dict[int, _Doubt]) -> Iterator[Image]:
        built = {inode: list(dict.fromkeys(doubt.all())) for inode, doubt in doubts.items()
                 if doubt.count <= 4096}  # fmt: skip
        for naming in namings:
            doubtful = sorted(set(naming.values()) & doubts.keys())
            for datas in itertools.product(*(built[inode] for inode in doubtful)):
                yield self._image(naming, dict(zip(doubtful, datas, strict=True)))

    def _image(self, naming: Naming, datas: dict[int, bytes]) -> Image:
        there = set(naming.values())
        return Image(
            naming,
            {i: datas[i] if i in datas else self._durable.get(i, b"") for i in there},
        )

    def _namings(self, chance: random.Random) -> list[Naming]:
        """What the directory may hold, from the oldest to the newest."""
        versions: dict[str, list[tuple[int, int | None]]] = {}
        for order, changes in enumerate(self._changes):
            for name, inode in changes:
                versions.setdefault(name, [(-1, self._names.get(name))]).append((order, inode))
        names = list(versions)
        choices: Iterable[tuple[tuple[int, int | None], ...]]
        if math.prod(len(each) for each in versions.values()) <= 4 * _NAMINGS_MAX:
            choices = itertools.product(*versions.values())
        else:
            choices = [
                tuple(each[0] for each in versions.values()),
                *(
                    tuple(chance.choice(each) for each in versions.values())
                    for _ in range(4 * _NAMINGS_MAX)
                ),
                tuple(each[-1] for each in versions.values()),
            ]
        namings = []
        for choice in choices:
            if self._loses_no_file(dict(zip(names, choice, strict=True))):
                naming = dict(self._names)
                _rename(naming, zip(names, (inode for _, inode in choice), strict=True))
                namings.append(naming)
        return namings

    def _loses_no_file(self, choice: dict[str, tuple[int, int | None]]) -> bool:
        """A renamed file has lost its old name only if it has the new one."""
        for order, changes in enumerate(self._changes):
            if len(changes) == 2:
                (new, _), (old, _) = changes
                if choice[old][0] >= order and choice[new][0] < order:
                    return False
        return True

    def _doubt(self, inode: int, pieces: list[_Piece], chance: random.Random) -> _Doubt:
        base = self._durable.get(inode, b"")
        size = len(base)
        sizes = [size]
        for piece in pieces:
            size = piece.size_after(size)
            sizes.append(size)
        units = [*self._ranges(base, pieces, chance)]
        sectors = sorted({sector for piece in pieces for sector in piece.sectors()})
        units += [self._sector(base, sector, pieces, chance) for sector in sectors]
        return _Doubt(base, list(dict.fromkeys(sizes)), units)

    def _ranges(self, base: bytes, pieces: list[_Piece], chance: random.Random) -> Iterator[_Unit]:
        """What was filled with zeros, or cut off, in one each: too many sectors to tell apart."""
        for piece in pieces:
            event = piece.event
            if isinstance(event, Fill):
                garbage = bytearray(event.size)
                for at in range(0, event.size, SECTOR_BYTES):
                    if chance.random() < 0.2:
                        garbage[at : at + SECTOR_BYTES] = self._garbage(chance, _ZEROS)
                zeros = bytes(event.size)
                # Neither this nor what cut off the bytes that stood there need have happened.
                before = base[event.offset : event.offset + event.size].ljust(event.size, b"\0")
                versions = list(dict.fromkeys([before, zeros, bytes(garbage[: event.size])]))
                yield _Unit(event.offset, versions, versions.index(zeros))
            elif isinstance(event, Truncate) and event.size < len(base):
                begin = event.size + -event.size % SECTOR_BYTES
                if begin < len(base):
                    yield _Unit(begin, [base[begin:], bytes(len(base) - begin)], 1)

    def _sector(
        self, base: bytes, sector: int, pieces: list[_Piece], chance: random.Random
    ) -> _Unit:
        begin = sector * SECTOR_BYTES
        old = base[begin : begin + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0")
        versions = [old]
        done = old
        free = old == _ZEROS
        allocated = begin < len(base)
        for piece in pieces:
            if isinstance(piece.event, Truncate):
                free = free or piece.event.size <= begin
                if piece.event.size >= begin + SECTOR_BYTES:
                    continue
            elif sector not in piece.sectors():
                continue
            elif isinstance(piece.event, Write) and piece.event.direct:
                free, allocated = True, False
            versions.append(piece.on_sector(versions[-1], sector))
            alone = piece.on_sector(done, sector)  # those under way may have come before it, or not
            versions.insert(1, alone)
            if piece.done:
                done = alone
        newest = versions[-1]
        if free:
            garbage = chance.randbytes(SECTOR_BYTES) if allocated else self._garbage(chance, newest)
            versions += [_ZEROS, garbage]
        versions = list(dict.fromkeys(versions))
        return _Unit(begin, versions, versions.index(newest))

    def _garbage(self, chance: random.Random, instead: bytes) -> bytes:
        if self.stale and chance.random() < 0.5:
            # The worst there is: a log entry with the same LSN, of another life of the store.
            alike = [one for one in self.stale if one[16:24] == instead[16:24]]
            return chance.choice(alike or self.stale)
        return chance.randbytes(SECTOR_BYTES)


def _rename(names: Naming, changes: Iterable[tuple[str, int | None]]) -> None:
    for name, inode in changes:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode
