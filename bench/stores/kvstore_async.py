"""Ours, called by tasks."""

from __future__ import annotations

import kvstore
from bench.stores.base import AsyncOperation, AsyncStore, Client, Layout, Misses, Settings, Span
from bench.stores.kvstore_store import RELAXED, SPANS, options_of, ring_syncs

__all__ = ["KVStoreAsync"]


class KVStoreAsync(AsyncStore):
    """The same files as KVStoreStore, which loads them."""

    relaxed = RELAXED

    def __init__(self, directory: str, settings: Settings) -> None:
        self._layout = settings.layout
        self._opening = kvstore.open_async(directory, **options_of(settings))

    async def open(self) -> None:
        self._db = await self._opening.__aenter__()

    def client(self) -> Client[AsyncOperation]:
        db, misses = self._db, Misses()
        read, read_missing, scan = _readers(db, self._layout, misses)
        update, read_modify_write, delete = _writers(db, self._layout, misses)
        return Client(read, read_missing, db.put, update, read_modify_write, scan, delete, misses)

    async def own_syncs(self) -> int | None:
        return ring_syncs(await self._db.stats())

    async def close(self) -> None:
        await self._opening.__aexit__(None, None, None)

    def background(self) -> list[Span]:
        return list(SPANS)


def _readers(
    db: kvstore.AsyncKVStore, layout: Layout, misses: Misses
) -> tuple[AsyncOperation, ...]:
    """read, read_missing, scan."""
    get, scan_entries, split = db.get, db.scan, layout.split

    async def read(key: bytes, _argument: None) -> object:
        value = await get(key)
        if value is None:
            misses.lost += 1
            return None
        return split(value)

    async def read_missing(key: bytes, _argument: None) -> None:
        if await get(key) is not None:
            misses.unexpected += 1

    async def scan(key: bytes, length: int) -> int:
        taken = 0
        async for _key, _value in scan_entries(key, limit=length):
            taken += 1
        return taken

    return read, read_missing, scan


def _writers(
    db: kvstore.AsyncKVStore, layout: Layout, misses: Misses
) -> tuple[AsyncOperation, ...]:
    """update, read_modify_write, delete."""
    get, put, delete, split, width = db.get, db.put, db.delete, layout.split, layout.field_bytes

    async def update(key: bytes, argument: tuple[int, bytes]) -> None:
        value = await get(key)
        if value is None:
            misses.lost += 1
            return
        field, becomes = argument
        start = field * width
        await put(key, value[:start] + becomes + value[start + width :])

    async def read_modify_write(key: bytes, argument: tuple[int, bytes]) -> None:
        value = await get(key)
        if value is None:
            misses.lost += 1
            return
        fields = list(split(value))
        fields[argument[0]] = argument[1]
        await put(key, b"".join(fields))

    async def remove(key: bytes, _argument: None) -> None:
        await delete(key)

    return update, read_modify_write, remove
