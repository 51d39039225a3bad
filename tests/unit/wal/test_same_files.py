"""One script, every configuration: both backends write the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.wal import IoUringConfig, PortableWalWriter
from tests.support import oracle
from tests.support.wal import FIXED_SALT, direct_io_refusal, fixed_random, payloads

CONFIGS = {
    "tiny": IoUringConfig(1, False, 0, 1, False, 1, 4096),
    "odd": IoUringConfig(64, False, 0, 8, False, 9, 512),
    "minimal": IoUringConfig.minimal(),
    "default": IoUringConfig(),
    "large": IoUringConfig(4096, False, 0, 1024, False, 8, 1 << 20),
    "tiny direct": IoUringConfig(8, False, 0, 8, True, 1, 4096),
    "direct": IoUringConfig(direct_io=True),
}


def script(log: PortableWalWriter) -> list[object]:
    """Calls in a fixed order, each after the one before has been answered; what they returned."""
    answers: list[object] = []

    def call(function: Callable[..., object], *arguments: object) -> None:
        answers.append(function(*arguments))
        answers.append((log.size(), log.pending_batch_bytes(), log.pending_batch_ops()))
        answers.append((log.last_lsn, log.durable_lsn))

    call(log.append, b"first")
    call(log.append_with_checksum, b"second" * 100)
    call(log.append_batched, b"")
    for size in (0, 1, 7, 8, 9, 100, 4071, 4072, 4073, 5000):
        call(log.append_with_checksum_batched, bytes([size % 251]) * size)
    call(log.flush_batch)
    call(log.mark)
    call(log.append, b"behind the mark")
    call(log.append_batched, b"q" * 40_000)
    call(log.sync)
    for _ in range(300):
        log.append_batched(b"")
    call(log.append_and_commit, b"committed")
    call(log.commit, log.last_lsn - 3)
    return answers


@pytest.mark.parametrize("name", CONFIGS)
def test_the_script_gives_the_same_file_and_answers_on_both_backends(
    tmp_path: Path, name: str, backend: str
) -> None:
    config = CONFIGS[name]
    if config.direct_io and (refusal := direct_io_refusal(tmp_path)):
        pytest.skip(f"no direct I/O in {tmp_path}: {refusal}")
    files, answers = [], []
    for chosen in (backend, "pwrite"):
        path = tmp_path / f"{chosen}.wal"
        path.unlink(missing_ok=True)
        with fixed_random(), PortableWalWriter(path, config, backend=chosen) as log:
            answers.append(script(log))
        files.append(path.read_bytes())
    assert answers[0] == answers[1]
    assert files[0] == files[1]
    assert oracle.decode(files[0]).sealed
    assert files[0][48:64] == FIXED_SALT


def test_the_script_stores_the_same_entries_whatever_the_configuration(
    tmp_path: Path, backend: str
) -> None:
    stored = []
    for name, config in CONFIGS.items():
        path = tmp_path / f"{name}.wal"
        with PortableWalWriter(path, config, backend=backend) as log:
            script(log)
        stored.append(payloads(path))
    assert all(each == stored[0] for each in stored)


def test_a_buffered_file_is_byte_for_byte_the_oracles(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "x.wal"
    with fixed_random(), PortableWalWriter(path, backend=backend) as log:
        log.append(b"plain")
        log.append_with_checksum(b"checked")
        log.append_batched(b"a")
        log.append_with_checksum_batched(b"b" * 1000)
        log.flush_batch()
        log.append_batched(b"")
        log.flush_batch()
        log.mark()
    expected = oracle.encode_log(
        oracle.Header(FIXED_SALT, FIXED_SALT),
        [
            (oracle.PLAIN, b"plain", 0),
            (oracle.CHECKED, b"checked", 1),
            (oracle.PLAIN, b"a", 2),
            (oracle.CHECKED, b"b" * 1000, 3),
            (oracle.PLAIN, b"", 0),
            (oracle.MARK, b"", 0),
            (oracle.SEAL, b"", 0),
        ],
    )
    assert path.read_bytes() == expected
