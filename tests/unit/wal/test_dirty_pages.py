"""The kernel's own word for it: what was acknowledged leaves no dirty page of the log behind.

Only this sees whether the real engines sync: a kill does not, as the page cache survives it, and on
simulated file systems another engine writes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.wal import PortableWalWriter, backends
from tests.support.pages import dirty_pages
from tests.unit.wal.conftest import OpenLog
from tests.unit.wal.test_submit_reap import reap_until_durable
from tests.unit.wal.test_writer import AlwaysMeasured

LARGE = b"large" * 20_000


def commit(log: PortableWalWriter) -> None:
    log.append_and_commit(b"committed")


def flush(log: PortableWalWriter) -> None:
    log.append_batched(b"batched")
    log.flush_batch()


def submit(log: PortableWalWriter) -> None:
    log.append_batched(b"submitted")
    reap_until_durable(log, log.submit())


@pytest.fixture(autouse=True)
def _a_file_system_that_tells(tmp_path: Path) -> None:
    probe = tmp_path / "dirty-probe"
    probe.write_bytes(LARGE)
    if not dirty_pages(probe):
        pytest.skip(f"{tmp_path} is on a file system that does not tell of dirty pages")


@pytest.fixture(params=sorted(set(backends.SYNC_STRATEGIES) - {0}))
def strategy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the device was measured."""
    monkeypatch.setattr(backends, "_measured", AlwaysMeasured(request.param))


@pytest.mark.usefixtures("strategy")
@pytest.mark.parametrize("acknowledge", [commit, flush, submit])
def test_what_was_acknowledged_is_on_the_disk(
    open_log: OpenLog, path: Path, acknowledge: Callable[[PortableWalWriter], None]
) -> None:
    log = open_log()
    for _ in range(20):
        acknowledge(log)
        assert dirty_pages(path) == 0


@pytest.mark.usefixtures("strategy")
@pytest.mark.parametrize("acknowledge", [commit, flush, submit])
def test_what_was_only_written_is_on_the_disk_with_what_is_acknowledged_behind_it(
    open_log: OpenLog, path: Path, acknowledge: Callable[[PortableWalWriter], None]
) -> None:
    log = open_log()
    for _ in range(5):
        log.append(LARGE)
        acknowledge(log)
        assert dirty_pages(path) == 0
