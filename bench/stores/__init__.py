"""The engines that are compared, each behind the same few functions; see base.py.

Each is used as its experienced users would. Nothing is compressed, Bloom filters have 10 bits a key
where there are such, and none is wrapped in a queue or a group commit of our making.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from bench.colours import NOOP, OURS_ASYNC
from bench.engines import OURS
from bench.stores.base import AsyncStore, Capable, Store
from bench.stores.dbm_store import DbmStore
from bench.stores.diskcache_store import DiskcacheStore
from bench.stores.kvstore_async import KVStoreAsync
from bench.stores.kvstore_store import KVStoreStore
from bench.stores.lmdb_store import LmdbStore
from bench.stores.noop_store import NoopStore
from bench.stores.plyvel_store import PlyvelStore
from bench.stores.rocksdict_store import RocksdictStore
from bench.stores.sqlite_store import SqliteStore

__all__ = ["ASYNC_STORES", "NAMES", "NOOP", "OURS_ASYNC", "STORES", "capable", "loader", "missing"]

STORES: dict[str, type[Store]] = {
    OURS: KVStoreStore,
    "rocksdict": RocksdictStore,
    "plyvel": PlyvelStore,
    "lmdb": LmdbStore,
    "sqlite3": SqliteStore,
    "diskcache": DiskcacheStore,
    "dbm": DbmStore,
    NOOP: NoopStore,
}
"""Those that threads call."""

ASYNC_STORES: dict[str, type[AsyncStore]] = {OURS_ASYNC: KVStoreAsync}
"""Those that tasks await."""

NAMES = (OURS, OURS_ASYNC, *(name for name in STORES if name != OURS))
_DISTRIBUTIONS = ("rocksdict", "plyvel", "lmdb", "diskcache")


def capable(name: str) -> type[Capable]:
    """What says what an engine cannot do."""
    return ASYNC_STORES[name] if name in ASYNC_STORES else STORES[name]


def loader(name: str) -> str:
    """The engine that loads the files of ``name``."""
    return OURS if name in ASYNC_STORES else name


def missing(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are not installed."""
    return tuple(
        name for name in names if name in _DISTRIBUTIONS and importlib.util.find_spec(name) is None
    )
