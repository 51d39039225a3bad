"""Writes the corpora's seeds, valid inputs and such with damage: python -m tests.fuzz.seeds

They are checked in, beside what coverage found (named by its SHA-1), so that fuzzing begins behind
what only a valid file reaches.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from kvstore.batch import encode, encode_delete, encode_put
from tests.formats import generate_manifest_v1, generate_v1
from tests.fuzz import parts, squeezed
from tests.fuzz.sections import Section, join
from tests.fuzz.targets import CORPUS
from tests.support import table_oracle
from tests.support.oracle import CHECKED, MARK, PAD, PLAIN, SEAL, Header, LogImage
from tests.support.table_oracle import LZ4, ZSTD, Entry

__all__ = ["seeds"]

_BATCHES = {
    "put": encode_put(b"k", b"value"),
    "delete": encode_delete(b"key"),
    "several": encode({b"a": b"1", b"b": None, b"c" * 40: b"3" * 100, b"d": b""}),
    "empty": b"",
    "cut": encode_put(b"k", b"value")[:-1],
}
_SIMPLE: list[Entry] = [(b"key%02d" % n, b"v" * (n % 5)) for n in range(8)]
_LISTS: dict[str, list[Entry]] = {
    "one": [(b"k", b"v")],
    "simple": _SIMPLE,
    "tombstones": [(key, None if key[-1] % 2 else value) for key, value in _SIMPLE],
    "prefixes": [(b"shared/prefix/" + key, value) for key, value in _SIMPLE],
    "long-keys": [(b"k" * 200 + b"%d" % n, b"v") for n in range(4)],
    "wide": [(b"a", b"1"), (b"b", bytes(32_800)), (b"c", None)],
}


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """(corpus, name, input)."""
    for name, image in _logs():
        yield "log", name, squeezed.squeeze(image)
    yield "log", "as-it-is", squeezed.squeeze(dict(_logs())["kinds"], flags=0)
    yield from (("batch", name, data) for name, data in _BATCHES.items())
    for name, entries in _LISTS.items():
        if name != "wide":
            yield "block", name, table_oracle.encode_block(entries)
    yield "block", "long-prefix", table_oracle.encode_block([(b"k" * 300, b""), (b"k" * 301, None)])
    for kind in (LZ4, ZSTD):
        plain = table_oracle.encode_block(_LISTS["prefixes"])
        stored = table_oracle._store(plain, kind)
        yield "compressed", f"kind-{kind}", struct.pack("<BI", kind, len(plain)) + stored
    yield "compressed", "frame-says", struct.pack("<BI", 128 | ZSTD, 0) + stored
    hostile = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", 3 << 30) + b"\1\0\0" + bytes(8)
    yield "compressed", "states-3-gb", struct.pack("<BI", ZSTD, 3 << 30) + hostile
    yield "compressed", "kind-0", struct.pack("<BI", 0, len(plain)) + plain
    yield from (("table", name, join(sections)) for name, sections in _tables())
    yield "footer", "sound", _footer()
    for number, edit in enumerate(generate_manifest_v1.EDITS):
        yield "edit", f"edit-{number}", edit
    yield "manifest", "v1", squeezed.squeeze(generate_manifest_v1.manifest())
    yield "current", "v1", generate_manifest_v1.current()
    yield "current", "long-number", b"MANIFEST-1234567890123456789\ncrc32c 00000000\n"
    yield from (("recovery", name, join(sections)) for name, sections in _recoveries())


def _logs() -> Iterator[tuple[str, bytes]]:
    yield "v1", generate_v1.PATH.read_bytes()
    image = LogImage(Header())
    for kind in (PLAIN, CHECKED, PAD, MARK, 200, CHECKED, SEAL):
        image.add(kind, b"payload" * (kind in (PLAIN, CHECKED, PAD, 200)))
    yield "kinds", bytes(image.data)
    image = LogImage(Header(base_lsn=7))
    for name, unsynced in (("put", 0), ("several", 1), ("delete", 2)):
        image.add(CHECKED, _BATCHES[name], unsynced)
    yield "batches", bytes(image.data)
    image.erase(image.entries[1])
    yield "torn", bytes(image.data) + bytes(24)
    image.add(MARK)
    yield "lost", bytes(image.data)
    image.data[image.entries[0].offset + 4 :][:4] = bytes(4)
    yield "lost-twice", bytes(image.data)
    yield "newer", bytes(image.data) + LogImage(Header()).data[64:88]
    recycled = LogImage(Header(flags=1))
    recycled.add(CHECKED, b"new")
    yield "recycled", bytes(recycled.data + image.data[4096:])


def _recoveries() -> Iterator[tuple[str, list[Section]]]:
    first = LogImage(Header())
    for name in ("put", "several"):
        first.add(CHECKED, _BATCHES[name])
    first.add(SEAL)
    last_lsn = first.next_lsn - 1
    header = Header(
        salt=b"the second salt.",
        segment_number=2,
        base_lsn=last_lsn + 1,
        predecessor=(1, len(first.data), last_lsn),
    )
    second = LogImage(header)
    second.add(CHECKED, _BATCHES["delete"], 0)
    second.add(CHECKED, _BATCHES["put"], 1)
    stranger = LogImage(replace(header, log_id=b"another log's id"))
    pieces = {"whole": second, "stranger": stranger}
    for mode in range(4):
        for name, other in pieces.items():
            images = (first, other)
            yield f"{name}-{mode}", [(mode, squeezed.squeeze(bytes(i.data))) for i in images]
    for mode in range(4):
        squashed = squeezed.squeeze(bytes(first.data))
        yield f"no-batch-{mode}", [(mode, squashed.replace(b"value", b"\0\0\0\0\0\0"))]


def _tables() -> Iterator[tuple[str, list[Section]]]:
    keys: list[Section] = [(parts.KEY, b"key01"), (parts.KEY, b"key05")]

    def made(name: str, **encoding: object) -> bytes:
        options = {"salt": parts.SALT, "block_bytes": 60, **encoding}
        return table_oracle.encode(_LISTS[name], **options)  # type: ignore[arg-type]

    for name in ("one", "simple", "tombstones", "prefixes", "long-keys"):
        yield name, parts.sections_of(made(name)) + keys
    yield "separators-beyond-the-end", _beyond(parts.sections_of(made("long-keys")))
    yield "properties-only", parts.sections_of(made("simple"), bounds=False) + keys
    yield "no-filter", parts.sections_of(made("simple", filter_bits=0)) + keys
    for kind in (LZ4, ZSTD):
        image = made("prefixes", kinds=(kind, kind, table_oracle.PLAIN), block_bytes=40)
        yield f"kind-{kind}", parts.sections_of(image) + keys
        # C is given what is stored as the plain bytes.
        yield f"kind-{kind}-plain", parts.sections_of(image, plain=True) + keys
    newer, older = parts.sections_of(made("tombstones")), parts.sections_of(made("simple"))
    other = parts.sections_of(made("prefixes"))
    yield "two-runs", [*newer, (parts.NEXT_RUN, b""), *older, *keys]
    yield "one-run", [*older, (parts.NEXT_TABLE, b""), *other, *keys]
    wrong = [(tag | parts.WRONG_CRC * (tag == parts.FILTER), body) for tag, body in older]
    yield "wrong-filter", [*wrong, (parts.FOOTER, bytes(8)), *keys]
    raw = [(tag | parts.RAW_OFFSETS * (tag == parts.INDEX), body) for tag, body in older]
    yield "raw-index", [*raw, *keys]


def _beyond(sections: list[Section]) -> list[Section]:
    """An index whose third separator begins in its last byte, and ends far behind it."""
    ((tag, index),) = [section for section in sections if section[0] == parts.INDEX]
    at = 4 + 8 * (int.from_bytes(index[:4], "little") + 1) + 4 * 2
    changed = index[:at] + struct.pack("<II", len(index) - 1, len(index) + 300) + index[at + 8 :]
    return [(tag, changed) if section[0] == tag else section for section in sections]


def _footer() -> bytes:
    image = table_oracle.encode([(b"a", b"1"), (b"b", None)], salt=parts.SALT)
    end = len(image) - table_oracle.FOOTER
    properties = image[table_oracle.decode(image).properties_offset : end - table_oracle.TRAILER]
    return parts.SALT + properties + image[end : end + 52]


def main() -> None:
    """Writes them."""
    for corpus, name, data in seeds():
        folder = CORPUS / corpus
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
