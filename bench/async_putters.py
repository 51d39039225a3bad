"""The stores that asyncio tasks write to: each put is durable when it has been awaited."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Protocol

import kvstore
from bench.engines import OURS
from bench.putters import SQLITE_CREATE, SQLITE_DURABLE, SQLITE_FILE, SQLITE_PUT, LogCounts

__all__ = ["ASYNC_PUTTERS", "AsyncPut", "AsyncPutter"]

AsyncPut = Callable[[bytes, bytes], Awaitable[object]]


class AsyncPutter(Protocol):
    """A store in a directory of its own, as those of bench/putters.py, for ``clients`` tasks."""

    def __init__(self, directory: str, backend: str, clients: int) -> None: ...

    async def open(self) -> AsyncPut:
        """The put of all clients."""

    async def log_counts(self) -> LogCounts | None:
        """None: it counts nothing itself."""

    async def close(self) -> None: ...


class KVStoreAsyncPutter:
    """Ours."""

    def __init__(self, directory: str, backend: str, clients: int) -> None:
        del clients
        self._opening = kvstore.open_async(directory, wal_backend=backend)

    async def open(self) -> AsyncPut:
        self._db = await self._opening.__aenter__()
        put: AsyncPut = self._db.put
        return put

    async def log_counts(self) -> LogCounts | None:
        return LogCounts.of(await self._db.stats())

    async def close(self) -> None:
        await self._opening.__aexit__(None, None, None)


class AiosqlitePutter:
    """aiosqlite: one connection, as its documentation has it.

    Several clients: ``execute`` and then ``commit``. The connection's thread does one after the
    other, so the first commit takes with it whatever was executed before, and the next ones find
    nothing to do: a group commit that nobody designed (nobody could roll back), three to eight
    times as fast as autocommit with 16 and 256. One client: autocommit, which is one way to the
    thread instead of two.
    """

    def __init__(self, directory: str, backend: str, clients: int) -> None:
        del backend
        self._path = os.path.join(directory, SQLITE_FILE)
        self._alone = clients == 1

    async def open(self) -> AsyncPut:
        import aiosqlite

        level = None if self._alone else "DEFERRED"
        connection = await aiosqlite.connect(self._path, isolation_level=level)
        self._connection = connection
        for statement in (*SQLITE_DURABLE, SQLITE_CREATE):
            await connection.execute(statement)
        execute, commit = connection.execute, connection.commit

        async def put_alone(key: bytes, value: bytes) -> None:
            await execute(SQLITE_PUT, (key, value))

        async def put(key: bytes, value: bytes) -> None:
            await execute(SQLITE_PUT, (key, value))
            await commit()

        return put_alone if self._alone else put

    async def log_counts(self) -> LogCounts | None:
        return None

    async def close(self) -> None:
        await self._connection.close()


ASYNC_PUTTERS: dict[str, type[AsyncPutter]] = {
    OURS: KVStoreAsyncPutter,
    "aiosqlite": AiosqlitePutter,
}
