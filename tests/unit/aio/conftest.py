"""Every test of the asynchronous store says itself which loops and backends it is for."""

from __future__ import annotations

import pytest

from kvstore.wal.backends import ENVIRONMENT


@pytest.fixture(autouse=True)
def _no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
