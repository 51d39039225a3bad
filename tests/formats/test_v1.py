"""Format version 1 on the disk: what was written once reads back for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kvstore.wal import PortableWalWriter
from kvstore.wal.backends import ENVIRONMENT, probe_io_uring
from tests.formats.generate_v1 import ENTRIES, LOG_ID, PATH, SALT
from tests.support import oracle
from tests.support.oracle import CHECKED, PLAIN
from tests.support.wal import fixed_random, payloads, read_log

SHA256 = "a79ac13ef3371465acd3414c774c2b2f78cc52b1a2247d1ee9d11f0040205e3c"


def test_the_checked_in_log_is_the_one_that_was_checked_in() -> None:
    assert hashlib.sha256(PATH.read_bytes()).hexdigest() == SHA256


def test_the_checked_in_log_reads_back_as_listed() -> None:
    entries, end = read_log(PATH)
    expected = [(k, p) for k, p, _ in ENTRIES if k in (PLAIN, CHECKED)]
    assert [(e.kind, e.payload) for e in entries] == expected
    assert [e.lsn for e in entries] == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert (end.offset, end.last_lsn, end.sealed) == (PATH.stat().st_size, 11, True)
    assert (end.torn_bytes, end.torn_reason) == (0, "")


def test_the_oracle_still_writes_it() -> None:
    made = oracle.encode_log(oracle.Header(salt=SALT, log_id=LOG_ID), ENTRIES)
    assert made == PATH.read_bytes()


@pytest.mark.parametrize("backend", ["io_uring", "pwrite"])
def test_the_writer_still_writes_it_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "io_uring" and (why_not := probe_io_uring()):
        pytest.skip(f"no io_uring: {why_not}")
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    path = tmp_path / "v1.wal"
    with fixed_random(salt=SALT), PortableWalWriter(path, backend=backend) as log:
        log.append(ENTRIES[0][1])
        log.append_with_checksum(ENTRIES[1][1])
        log.sync()
        for kind, payload, _ in ENTRIES[2:8]:
            if kind == CHECKED:
                log.append_with_checksum_batched(payload)
            else:
                log.append_batched(payload)
        log.flush_batch()
        assert log.mark()
        log.append_and_commit(ENTRIES[9][1])
    assert path.read_bytes() == PATH.read_bytes()


def test_a_copy_can_be_reopened_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "v1.wal"
    path.write_bytes(PATH.read_bytes())
    with PortableWalWriter(path) as log:
        assert log.append_and_commit(b"written today") == 12
    assert path.read_bytes().startswith(PATH.read_bytes())
    assert payloads(path)[-1] == b"written today"
