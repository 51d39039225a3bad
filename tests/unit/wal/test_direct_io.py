"""Direct I/O: whole blocks, PAD entries, and doing without it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kvstore.errors import storage_error
from kvstore.fs import PosixFileSystem
from kvstore.fs.posix import PosixFile
from kvstore.wal import IoUringConfig, PortableWalWriter
from tests.support import oracle
from tests.support.oracle import MARK, PAD
from tests.support.wal import direct_io_refusal, payloads, read_log
from tests.unit.wal.conftest import OpenLog

DIRECT = IoUringConfig(
    sq_entries=8, sq_poll_idle_ms=0, max_inflight=8, direct_io=True, registered_buffers=1,
    buffer_size=4096,
)  # fmt: skip
BLOCK = 4096


@pytest.fixture(autouse=True)
def _where_direct_io_is(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    refusal = direct_io_refusal(tmp_path)
    if refusal is not None and "refus" not in request.node.name:
        pytest.skip(f"no direct I/O in {tmp_path}: {refusal}")


def kinds(path: Path) -> list[int]:
    return [entry.kind for entry in oracle.decode(path.read_bytes()).entries]


def test_every_batch_ends_with_its_block(open_log: OpenLog, path: Path) -> None:
    log = open_log(DIRECT)
    assert "direct" not in log.backend_reason
    for number in range(10):
        log.append_with_checksum_batched(b"%d" % number * 400)
        log.flush_batch()
        assert log.size() % BLOCK == 0
    assert log.last_lsn == 20
    assert log.pending_batch_ops() == 0
    assert kinds(path)[:20] == [2, PAD] * 10
    log.close()
    assert payloads(path) == [b"%d" % number * 400 for number in range(10)]
    assert path.stat().st_size % BLOCK == 0


@pytest.mark.parametrize("over", range(0, 32, 8))
def test_a_gap_too_small_for_a_header_takes_the_next_block_too(
    open_log: OpenLog, path: Path, over: int
) -> None:
    log = open_log(DIRECT)
    log.append_and_commit(bytes(BLOCK - 24 - over))
    pad = {0: 0, 8: BLOCK + 8, 16: BLOCK + 16, 24: 24}[over]
    assert log.size() == BLOCK - over + pad
    log.append_and_commit(b"next")
    log.close()
    assert payloads(path) == [bytes(BLOCK - 24 - over), b"next"]


def test_a_synced_block_is_never_written_again(open_log: OpenLog, path: Path) -> None:
    log = open_log(DIRECT)
    before = b""
    for number in range(25):
        log.append_batched(b"%d" % number * 300)
        log.append(b"direct")
        log.flush_batch()
        data = path.read_bytes()[: BLOCK + log.size()]
        assert data.startswith(before)
        before = data
    log.close()


def test_offsets_count_the_padding(open_log: OpenLog) -> None:
    log = open_log(DIRECT)
    assert log.append(b"a") == 0
    assert log.append(b"b") == BLOCK
    log.append_batched(b"c")
    assert log.append(b"d") == 2 * BLOCK + 32


@pytest.mark.parametrize("size", [BLOCK, 3 * BLOCK - 24, 16 * BLOCK, (1 << 20) + 77])
def test_entries_larger_than_the_memory_spill_in_whole_blocks(
    open_log: OpenLog, path: Path, size: int
) -> None:
    log = open_log(DIRECT)
    blob = os.urandom(size)
    log.append_batched(b"small")
    log.append_with_checksum_batched(blob)
    log.append_batched(b"small")
    log.append_with_checksum(blob)
    log.close()
    assert payloads(path) == [b"small", blob, b"small", blob]


def test_empty_entries_fill_the_memory_before_the_batch_is_full(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log(DIRECT)
    for _ in range(2000):
        log.append_batched(b"")
    assert (log.pending_batch_ops(), log.durable_lsn) == (2000, 0)
    log.flush_batch()
    assert log.durable_lsn == log.last_lsn
    log.close()
    assert payloads(path) == [b""] * 2000


def test_a_mark_is_written_once_also_behind_padding(open_log: OpenLog, path: Path) -> None:
    log = open_log(DIRECT)
    log.append_and_commit(b"x")
    assert log.mark()
    log.flush_batch()
    assert not log.mark()
    assert kinds(path) == [2, PAD, MARK, PAD]


def test_a_log_closed_in_order_is_sealed_and_stays_as_it_is(open_log: OpenLog, path: Path) -> None:
    log = open_log(DIRECT)
    log.append_and_commit(b"x")
    log.close()
    assert read_log(path)[1].sealed
    before = path.read_bytes()
    for _ in range(3):
        open_log(DIRECT).close()
    assert path.read_bytes() == before


def test_a_buffered_log_goes_on_under_direct_io_and_back(open_log: OpenLog, path: Path) -> None:
    expected = []
    for number in range(6):
        log = open_log(DIRECT if number % 2 else None)
        for size in (5, 700, 9000):
            expected.append(b"%d" % number * size)
            log.append_with_checksum_batched(expected[-1])
        log.flush_batch()
        if number % 2:
            assert log.size() % BLOCK == 0
        log.close()
        assert payloads(path) == expected
    assert [e.lsn for e in oracle.decode(path.read_bytes()).entries] == list(
        range(1, open_log().last_lsn + 1)
    )


@pytest.mark.parametrize("gap", [8, 16, 24, 2048])
def test_reopening_within_a_block_pads_it_whatever_is_left(
    open_log: OpenLog, path: Path, gap: int
) -> None:
    image = oracle.LogImage()
    image.add(oracle.CHECKED, bytes(BLOCK - 24 - gap))
    path.write_bytes(image.data)
    log = open_log(DIRECT)
    assert log.last_lsn == log.durable_lsn == 2
    assert log.size() == (BLOCK if gap >= 24 else 2 * BLOCK)
    assert log.append(b"x") == log.size() - BLOCK
    log.close()
    assert payloads(path) == [bytes(BLOCK - 24 - gap), b"x"]


@pytest.mark.parametrize("name", ["high_throughput", "low_latency", "minimal"])
def test_the_presets_work_here_or_say_what_they_do_without(
    open_log: OpenLog, path: Path, name: str
) -> None:
    config: IoUringConfig = getattr(IoUringConfig, name)()
    log = open_log(config)
    assert log.max_batch_bytes() == config.max_batch_bytes()
    for number in range(100):
        log.append_with_checksum_batched(b"%d" % number * 50)
        if number % 10 == 9:
            log.flush_batch()
    log.append(b"direct")
    log.close()
    assert payloads(path) == [b"%d" % number * 50 for number in range(100)] + [b"direct"]


class NoDirectIO(PosixFileSystem):
    """Where O_DIRECT is refused, as on some file systems."""

    def open(self, path: str, *, create: bool = False, direct: bool = False) -> PosixFile:
        if direct:
            raise storage_error(errno.EINVAL, "open for direct I/O", path)
        return super().open(path, create=create)


def test_where_direct_io_is_refused_the_log_is_buffered_and_says_so(
    path: Path, backend: str
) -> None:
    with PortableWalWriter(path, DIRECT, backend=backend, fs=NoDirectIO()) as log:
        assert log.backend == backend
        assert "no direct I/O here (Invalid argument)" in log.backend_reason
        log.append_and_commit(b"x")
        assert log.size() == 32  # no padding
    assert payloads(path) == [b"x"]
