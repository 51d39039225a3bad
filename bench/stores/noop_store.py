"""A store that does nothing: what it costs is the generator's and the clock's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bench.stores.base import Client, Entry, Operation, Settings, Store, client_of_values

__all__ = ["NoopStore"]


class NoopStore(Store):
    """Every call returns at once. It holds nothing, so nothing of it is verified."""

    cannot_share_processes = ""
    relaxed = "it writes nothing"
    repetitions_max = 1  # its figure is the generator's cost, and varies little

    def __init__(self, directory: str, settings: Settings) -> None:
        del directory
        self._layout = settings.layout

    def load(self, entries: Iterable[Entry]) -> None: ...

    def client(self) -> Client[Operation]:
        record = bytes(self._layout.record_bytes)
        return client_of_values(
            lambda _key: record,
            lambda _key, _value: None,
            lambda _key: None,
            lambda _key, _length: 0,
            self._layout,
        )

    def get(self, key: bytes) -> bytes | None:
        del key
        return None

    def entries(self, reverse: bool) -> Iterator[Entry]:
        del reverse
        return iter(())

    def close(self) -> None: ...
