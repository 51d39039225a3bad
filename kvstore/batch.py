"""WriteBatch: changes that become durable and visible together, and their encoding.

A batch is the payload of one log entry, so the entry's checksum covers all of it: after a crash it
is there whole or not at all. Its sequence number is the entry's LSN.

Encoding, little-endian, one operation after another up to the payload's end::

    +------+------------+--------------+-----------+-------------+
    | type | key length | value length |    key    |    value    |
    |  u8  |    u24     |     u32      |           |             |
    +------+------------+--------------+-----------+-------------+

    type          1 = put, 2 = delete (value length 0)
    key length    1 to 65536
    value length  0 to 2**29

Example, put "k" -> "hi" and delete "x"::

    01 010000 02000000 6b 6869   02 010000 00000000 78
"""

from __future__ import annotations

import struct

from kvstore.errors import LimitError
from kvstore.native import BytesLike, as_bytes, lib
from kvstore.options import KEY_BYTES_MAX, VALUE_BYTES_MAX

__all__ = [
    "OPERATION_BYTES",
    "WriteBatch",
    "check_key",
    "check_value",
    "encode",
    "encode_delete",
    "encode_put",
]

# Part of the format.
_OPERATION = struct.Struct("<II")
OPERATION_BYTES = _OPERATION.size
"""What an operation takes beside its key and value."""
_PUT, _DELETE = lib.KV_PUT, lib.KV_DELETE
_BATCH_BYTES_MAX = 1 << 30  # one log entry


def check_key(key: BytesLike) -> bytes:
    """``key`` as bytes, its length checked (1 B to 64 KiB)."""
    size = _size(key)
    if not 0 < size <= KEY_BYTES_MAX:
        raise LimitError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {size}")
    return as_bytes(key)


def check_value(value: BytesLike) -> bytes:
    """``value`` as bytes, its length checked (0 B to 512 MiB)."""
    size = _size(value)
    if size > VALUE_BYTES_MAX:
        raise LimitError(f"a value has at most {VALUE_BYTES_MAX} bytes, not {size}")
    return as_bytes(value)


def _size(data: BytesLike) -> int:
    """How many bytes ``data`` would be, looked at before they are copied."""
    try:
        return memoryview(data).nbytes
    except TypeError:
        return len(as_bytes(data))  # which says what is wrong


def encode_put(key: bytes, value: bytes) -> bytes:
    """One put, checked already."""
    return _OPERATION.pack(_PUT | len(key) << 8, len(value)) + key + value


def encode(change: tuple[bytes, bytes | None] | dict[bytes, bytes | None]) -> bytes:
    """The payload of a put, of a delete (value None), or of the changes of a batch."""
    if isinstance(change, dict):
        return _encode_all(change)
    key, value = change
    return encode_delete(key) if value is None else encode_put(key, value)


def encode_delete(key: bytes) -> bytes:
    """One delete, checked already."""
    return _OPERATION.pack(_DELETE | len(key) << 8, 0) + key


class WriteBatch:
    """Puts and deletes to be written at once; of several for one key the last counts.

    At most 1 GiB encoded (LimitError). Not thread-safe. Nothing is written until
    ``db.write(batch)``.

    >>> batch = WriteBatch()
    >>> batch.put(b"k", b"hi")
    >>> batch.delete(b"x")
    >>> len(batch), batch.encode().hex()
    (2, '01010000020000006b6869020100000000000078')
    """

    __slots__ = ("_bytes", "_changes")

    def __init__(self) -> None:
        self._changes: dict[bytes, bytes | None] = {}
        self._bytes = 0

    def put(self, key: BytesLike, value: BytesLike) -> None:
        """Sets ``key`` (1 B to 64 KiB) to ``value`` (0 B to 512 MiB)."""
        self._add(check_key(key), check_value(value))

    def delete(self, key: BytesLike) -> None:
        """Removes ``key``, if it is there."""
        self._add(check_key(key), None)

    def clear(self) -> None:
        """Empties the batch."""
        self._changes.clear()
        self._bytes = 0

    def _add(self, key: bytes, value: bytes | None) -> None:
        size = _OPERATION.size + len(key) + len(value or b"")
        if key in self._changes:
            size -= _OPERATION.size + len(key) + len(self._changes[key] or b"")
        if self._bytes + size > _BATCH_BYTES_MAX:
            raise LimitError(f"a batch has at most {_BATCH_BYTES_MAX} bytes; write it in parts")
        self._changes[key] = value
        self._bytes += size

    def __len__(self) -> int:
        return len(self._changes)

    def __repr__(self) -> str:
        return f"<WriteBatch of {len(self)} changes>"

    @property
    def bytes_encoded(self) -> int:
        """The size of ``encode()``."""
        return self._bytes

    @property
    def changes(self) -> dict[bytes, bytes | None]:
        """key -> value, None where it is deleted; a copy."""
        return dict(self._changes)

    def encode(self) -> bytes:
        """The payload of the log entry."""
        return _encode_all(self._changes)


def _encode_all(changes: dict[bytes, bytes | None]) -> bytes:
    parts: list[bytes] = []
    for key, value in changes.items():
        if value is None:
            parts.append(encode_delete(key))
        else:
            parts += (_OPERATION.pack(_PUT | len(key) << 8, len(value)), key, value)
    return b"".join(parts)
