"""Every test of the writer runs on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kvstore.wal import IoUringConfig, PortableWalWriter
from kvstore.wal.backends import ENVIRONMENT, probe_io_uring

OpenLog = Callable[..., PortableWalWriter]


@pytest.fixture(autouse=True)
def _no_forced_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)


@pytest.fixture(params=["io_uring", "pwrite"])
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend; a test that takes it runs on each that this machine has."""
    why_not = probe_io_uring()
    if request.param == "io_uring" and why_not is not None:
        pytest.skip(f"no io_uring: {why_not}")
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log of a test is."""
    return tmp_path / "test.wal"


@pytest.fixture
def open_log(backend: str, path: Path) -> Iterator[OpenLog]:
    """Opens the log at ``path``; whatever is still open at the end is closed."""
    with ExitStack() as stack:

        def opener(config: IoUringConfig | None = None, **options: Any) -> PortableWalWriter:
            options.setdefault("backend", backend)
            log = PortableWalWriter(path, config, **options)
            stack.callback(log.close)
            return log

        yield opener
