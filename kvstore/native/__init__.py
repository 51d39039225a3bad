"""All the C: checksum, entry framing and scanning, batch decoding, the log core and its engines.

``kv.h`` says what each function does. cffi releases the GIL around every call, so the C code has
its own locks and never relies on Python's.
"""

from kvstore.native._native import ffi, lib

__all__ = ["CRC32C", "HAS_URING", "BytesLike", "as_bytes", "crc32c", "ffi", "lib"]

BytesLike = bytes | bytearray | memoryview

CRC32C: str = ffi.string(lib.kv_crc32c_implementation()).decode()
HAS_URING: bool = bool(lib.kv_has_uring())


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC-32C (RFC 3720) of ``data``, continuing from ``crc``. O(n); thread-safe."""
    return lib.kv_crc32c(crc, data, len(data))


def as_bytes(data: BytesLike) -> bytes:
    """``data`` as bytes that nobody can change while C reads them; TypeError for what is none."""
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise TypeError(f"a bytes-like object is needed, not {type(data).__name__}") from None
