"""diskcache, evicting nothing: SQLite with a connection per thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.stores.base import Client, Entry, Operation, Settings, Store, batches, client_of_values

__all__ = ["DiskcacheStore"]

_PAGE_BYTES = 4096
_FULL, _NORMAL = 2, 1


class DiskcacheStore(Store):
    """FanoutCache, its answer to many writers, was slower with any number of threads."""

    cannot_scan = "it has no scan from a key"
    cannot_share_processes = ""
    relaxed = "its default: WAL, synchronous=NORMAL"

    def __init__(self, directory: str, settings: Settings) -> None:
        import diskcache

        self._layout = settings.layout
        self._cache = diskcache.Cache(
            directory,
            sqlite_synchronous=_FULL if settings.durable else _NORMAL,
            sqlite_cache_size=max(1, settings.cache_bytes // _PAGE_BYTES),
            size_limit=1 << 60,
            eviction_policy="none",
            cull_limit=0,
        )

    def load(self, entries: Iterable[Entry]) -> None:
        put = self._cache.set
        for some in batches(entries):
            with self._cache.transact():
                for key, value in some:
                    put(key, value)

    def client(self) -> Client[Operation]:
        get, put, delete = self._cache.get, self._cache.set, self._cache.delete
        get(b"")  # opens the thread's connection
        return client_of_values(
            get,
            lambda key, value: put(key, value, retry=True),
            lambda key: delete(key, retry=True),
            None,
            self._layout,
        )

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._cache.get(key)
        return value

    def entries(self, reverse: bool) -> Iterator[Entry]:
        """By two steps for each, as it has no other way."""
        for key in self._cache.iterkeys(reverse=reverse):
            yield key, self._cache.get(key)

    def close(self) -> None:
        self._cache.close()
