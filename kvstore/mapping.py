"""StoreMapping: a store as a MutableMapping, made of its get, put, delete, batch and scan."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from contextlib import AbstractContextManager
from typing import Any, TypeVar, overload

from kvstore.batch import WriteBatch
from kvstore.native import BytesLike

__all__ = ["StoreMapping"]

T = TypeVar("T")

_CLEAR_KEYS = 4096  # at most 256 MiB of keys in a batch


class StoreMapping(MutableMapping[bytes, bytes]):
    """A mutable mapping whose keys are in order."""

    @overload
    def get(self, key: BytesLike) -> bytes | None: ...
    @overload
    def get(self, key: BytesLike, default: T) -> bytes | T: ...
    @abstractmethod
    def get(self, key: BytesLike, default: Any = None) -> Any: ...
    @abstractmethod
    def put(self, key: BytesLike, value: BytesLike, *, sync: bool | None = None) -> None: ...
    @abstractmethod
    def delete(self, key: BytesLike, *, sync: bool | None = None) -> None: ...
    @abstractmethod
    def batch(self, *, sync: bool | None = None) -> AbstractContextManager[WriteBatch]: ...
    @abstractmethod
    def scan(
        self,
        start: BytesLike | None = None,
        stop: BytesLike | None = None,
        *,
        prefix: BytesLike | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]: ...

    def __getitem__(self, key: BytesLike) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: BytesLike, value: BytesLike) -> None:
        self.put(key, value)

    def __delitem__(self, key: BytesLike) -> None:
        if self.get(key) is None:
            raise KeyError(key)
        self.delete(key)

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan())

    def __reversed__(self) -> Iterator[bytes]:
        return (key for key, _ in self.scan(reverse=True))

    def items(self) -> ItemsView[bytes, bytes]:
        """A view of the (key, value) pairs in key order; iterating it is a scan."""
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        """A view of the values in key order; iterating it is a scan."""
        return _Values(self)

    def clear(self) -> None:
        """Deletes every key that is there, in a few batches. O(keys)."""
        keys = iter(self)
        while chunk := list(itertools.islice(keys, _CLEAR_KEYS)):
            with self.batch() as batch:
                for key in chunk:
                    batch.delete(key)


class _Items(ItemsView[bytes, bytes]):
    """Iterates by one scan, where the inherited view would look every key up again."""

    _mapping: StoreMapping

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.scan()


class _Values(ValuesView[bytes]):
    """The same for values; and a key that goes meanwhile is not missed."""

    _mapping: StoreMapping

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping.scan())

    def __contains__(self, value: object) -> bool:
        return any(other == value for other in self)
