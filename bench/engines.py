"""The engines that are read from, each behind the same few methods.

All of them hold the same data in the same order, uncompressed, compacted where there is such a
thing, with caches larger than the data and Bloom filters of 10 bits where there are such. What is
put into them later is not synced.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Protocol, TypeVar

import kvstore

__all__ = ["ENGINES", "OURS", "PEERS", "Engine", "count_entries", "installed"]

T = TypeVar("T")
Entry = tuple[bytes, bytes]

OURS = "kvstore"
PEERS = ("lmdb", "rocksdict", "plyvel")
FILTER_BITS_PER_KEY = 10
_BATCH_ENTRIES = 1000
_WRITE_BUFFER_BYTES = 64 << 20


class Engine(Protocol):
    """A store in a directory of its own; ``data_bytes`` is what it is going to hold, roughly."""

    def __init__(self, directory: str, data_bytes: int) -> None: ...

    def load(self, pairs: Iterable[Entry]) -> None:
        """Writes pairs that come sorted, by the engine's fast path, and compacts."""

    def put_each(self, pairs: Iterable[Entry]) -> None:
        """Puts each by itself, in an order of the caller's; no sync."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_each(self, keys: Sequence[bytes]) -> int:
        """Gets each by itself; how many were there. The loop is the engine's own, so that no
        wrapper is measured with it.
        """

    def scan(
        self,
        start: bytes | None,
        limit: int | None,
        reverse: bool,
        consume: Callable[[Iterable[Entry]], T],
    ) -> T:
        """What ``consume`` makes of the entries from ``start`` on, an absent key or either end."""

    def close(self) -> None: ...


def installed(names: Iterable[str]) -> tuple[str, ...]:
    """Those whose module is here."""
    return tuple(name for name in names if importlib.util.find_spec(name) is not None)


def count_entries(entries: Iterable[Entry]) -> int:
    """Takes keys and values, as a caller would, and counts them."""
    count = 0
    for _key, _value in entries:
        count += 1
    return count


class KVStoreEngine:
    """Ours."""

    def __init__(self, directory: str, data_bytes: int) -> None:
        del data_bytes  # plain tables are mapped: the page cache is the cache
        self._db = kvstore.open(
            directory, sync=False, filter_bits_per_key=FILTER_BITS_PER_KEY, compression="none"
        )
        self.get = self._db.get

    def load(self, pairs: Iterable[Entry]) -> None:
        put = self._db.put
        for key, value in pairs:
            put(key, value)
        self._db.flush()
        self._db.compact()

    def put_each(self, pairs: Iterable[Entry]) -> None:
        put = self._db.put
        for key, value in pairs:
            put(key, value)

    def get_each(self, keys: Sequence[bytes]) -> int:
        get, found = self._db.get, 0
        for key in keys:
            if get(key) is not None:
                found += 1
        return found

    def scan(
        self,
        start: bytes | None,
        limit: int | None,
        reverse: bool,
        consume: Callable[[Iterable[Entry]], T],
    ) -> T:
        if reverse:
            return consume(self._db.scan(stop=start, limit=limit, reverse=True))
        return consume(self._db.scan(start, limit=limit))

    def close(self) -> None:
        self._db.close()


class LmdbEngine:
    """LMDB, each read in a transaction of its own: one that is kept would show old data."""

    def __init__(self, directory: str, data_bytes: int) -> None:
        import lmdb

        self._env = lmdb.open(directory, map_size=4 * data_bytes + (64 << 20), sync=False)

    def load(self, pairs: Iterable[Entry]) -> None:
        with self._env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs, append=True)

    def put_each(self, pairs: Iterable[Entry]) -> None:
        env = self._env
        for key, value in pairs:
            with env.begin(write=True) as transaction:
                transaction.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(key)
            return value

    def get_each(self, keys: Sequence[bytes]) -> int:
        env, found = self._env, 0
        for key in keys:
            with env.begin() as transaction:
                if transaction.get(key) is not None:
                    found += 1
        return found

    def scan(
        self,
        start: bytes | None,
        limit: int | None,
        reverse: bool,
        consume: Callable[[Iterable[Entry]], T],
    ) -> T:
        with self._env.begin() as transaction, transaction.cursor() as cursor:
            # A cursor that found no place would begin at an end by itself.
            placed = cursor.last() if reverse else cursor.first()
            if start is not None:
                at_or_behind = cursor.set_range(start)
                if reverse:
                    placed = cursor.prev() if at_or_behind else cursor.last()
                else:
                    placed = at_or_behind
            if not placed:
                return consume(())
            entries: Iterator[Entry] = cursor.iterprev() if reverse else cursor.iternext()
            return consume(islice(entries, limit))

    def close(self) -> None:
        self._env.close()


class RocksdictEngine:
    """RocksDB through rocksdict, in raw mode: bytes as they are."""

    def __init__(self, directory: str, data_bytes: int) -> None:
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_bloom_filter(FILTER_BITS_PER_KEY, False)
        blocks.set_block_cache(rocksdict.Cache(_cache_bytes(data_bytes)))
        options.set_block_based_table_factory(blocks)
        self._db = rocksdict.Rdict(directory, options)
        self._make_batch = rocksdict.WriteBatch
        self.get = self._db.get

    def load(self, pairs: Iterable[Entry]) -> None:
        for chunk in _chunks(pairs):
            batch = self._make_batch(raw_mode=True)
            for key, value in chunk:
                batch.put(key, value)
            self._db.write(batch)
        self._db.flush()
        self._db.compact_range(None, None)

    def put_each(self, pairs: Iterable[Entry]) -> None:
        put = self._db.put
        for key, value in pairs:
            put(key, value)

    def get_each(self, keys: Sequence[bytes]) -> int:
        get, found = self._db.get, 0
        for key in keys:
            if get(key) is not None:
                found += 1
        return found

    def scan(
        self,
        start: bytes | None,
        limit: int | None,
        reverse: bool,
        consume: Callable[[Iterable[Entry]], T],
    ) -> T:
        return consume(islice(self._db.items(backwards=reverse, from_key=start), limit))

    def close(self) -> None:
        self._db.close()


class PlyvelEngine:
    """LevelDB through plyvel."""

    def __init__(self, directory: str, data_bytes: int) -> None:
        import plyvel

        self._db = plyvel.DB(
            directory,
            create_if_missing=True,
            compression=None,
            bloom_filter_bits=FILTER_BITS_PER_KEY,
            lru_cache_size=_cache_bytes(data_bytes),
            write_buffer_size=_WRITE_BUFFER_BYTES,
        )
        self.get = self._db.get

    def load(self, pairs: Iterable[Entry]) -> None:
        for chunk in _chunks(pairs):
            with self._db.write_batch() as batch:
                for key, value in chunk:
                    batch.put(key, value)
        self._db.compact_range()

    def put_each(self, pairs: Iterable[Entry]) -> None:
        put = self._db.put
        for key, value in pairs:
            put(key, value)

    def get_each(self, keys: Sequence[bytes]) -> int:
        get, found = self._db.get, 0
        for key in keys:
            if get(key) is not None:
                found += 1
        return found

    def scan(
        self,
        start: bytes | None,
        limit: int | None,
        reverse: bool,
        consume: Callable[[Iterable[Entry]], T],
    ) -> T:
        bound = "stop" if reverse else "start"
        with closing(self._db.iterator(reverse=reverse, **{bound: start})) as entries:
            return consume(islice(entries, limit))

    def close(self) -> None:
        self._db.close()


ENGINES: dict[str, type[Engine]] = {
    OURS: KVStoreEngine,
    "lmdb": LmdbEngine,
    "rocksdict": RocksdictEngine,
    "plyvel": PlyvelEngine,
}


def _cache_bytes(data_bytes: int) -> int:
    return 2 * data_bytes + (32 << 20)


def _chunks(pairs: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(pairs)
    while chunk := list(islice(iterator, _BATCH_ENTRIES)):
        yield chunk
