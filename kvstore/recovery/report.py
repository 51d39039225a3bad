"""RecoveryReport: what recovery found and did."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from kvstore.wal import Damage

__all__ = ["RecoveryReport"]


@dataclass(frozen=True)
class RecoveryReport:
    """What opening a store found; plain data, ``to_json`` for machines.

    ``files``          log segments read
    ``entries``        log entries read, those that are in tables too (the log's own not counted)
    ``bytes``          bytes of log up to its end
    ``torn_bytes``     bytes cut from the end: writes that a crash stopped, never acknowledged
    ``torn_reason``    what made the first of them invalid
    ``saved``          files that keep what was cut or dropped
    ``damage``         lost durable data, where the mode allowed to go on over it
    ``sealed``         whether the log had been closed in order
    ``last_lsn``       of the last entry that counts
    ``seconds``        how long opening took
    """

    path: str
    mode: str
    files: int
    entries: int
    bytes: int
    torn_bytes: int
    torn_reason: str
    saved: tuple[str, ...]
    damage: tuple[Damage, ...]
    sealed: bool
    last_lsn: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, strings and numbers."""
        return asdict(self)

    def to_json(self) -> str:
        """The same as a JSON object."""
        return json.dumps(self.to_dict())
