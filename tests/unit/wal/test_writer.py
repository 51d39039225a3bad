"""The contract of every call of PortableWalWriter, on both backends."""

from __future__ import annotations

import array
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvstore.errors import (
    BackendUnavailableError,
    ClosedError,
    FormatError,
    LimitError,
    LockedError,
    StorageIOError,
)
from kvstore.fs import PosixFileSystem
from kvstore.wal import IoUringConfig, PortableWalWriter, backends
from tests.support import oracle
from tests.support.oracle import CHECKED, MARK, PLAIN, SEAL
from tests.support.wal import FIXED_SALT, SMALL, fixed_random, payloads, read_log
from tests.unit.wal.conftest import OpenLog

FIRST = 4096
BATCH = SMALL.max_batch_bytes()


def test_a_new_log_is_empty(open_log: OpenLog) -> None:
    log = open_log()
    assert (log.size(), log.last_lsn, log.durable_lsn) == (0, 0, 0)
    assert (log.pending_batch_bytes(), log.pending_batch_ops()) == (0, 0)
    assert not log.has_pending_batch()
    assert log.stats().ops_submitted == 0
    assert log.stats().completion_rate() == 1.0


def test_append_returns_offsets_that_count_from_the_first_entry(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log()
    assert log.append(b"") == 0
    assert log.append(b"x") == 24
    assert log.append_with_checksum(b"12345678") == 56
    assert log.append_with_checksum(b"9") == 88
    assert log.size() == 120
    assert not log.has_pending_batch()
    log.close()
    entries, end = read_log(path)
    assert [(e.offset - FIRST, e.kind, e.payload) for e in entries] == [
        (0, PLAIN, b""),
        (24, PLAIN, b"x"),
        (56, CHECKED, b"12345678"),
        (88, CHECKED, b"9"),
    ]
    assert end.sealed


def test_append_writes_at_once_but_does_not_sync(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    log.append(b"direct")
    assert oracle.decode(path.read_bytes()).user_entries() == [(1, b"direct")]
    assert (log.durable_lsn, log.last_lsn, log.stats().syncs) == (0, 1, 0)
    log.sync()
    assert (log.durable_lsn, log.stats().syncs) == (1, 1)


def test_append_writes_what_is_queued_first(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    assert log.append_batched(b"queued") == 6
    assert log.size() == 0
    assert log.append(b"direct") == 32
    assert not log.has_pending_batch()
    assert oracle.decode(path.read_bytes()).user_entries() == [(1, b"queued"), (2, b"direct")]
    log.flush_batch()
    assert log.durable_lsn == 2


def test_batched_appends_return_the_pending_payload_bytes(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    assert log.append_batched(b"abc") == 3
    assert log.append_with_checksum_batched(b"defgh") == 8
    assert log.append_batched(b"") == 8
    assert (log.pending_batch_bytes(), log.pending_batch_ops()) == (8, 3)
    assert log.has_pending_batch()
    assert log.size() == 0
    assert oracle.decode(path.read_bytes()).entries == []
    log.flush_batch()
    assert (log.pending_batch_bytes(), log.pending_batch_ops()) == (0, 0)
    assert log.size() == 32 + 32 + 24
    assert log.durable_lsn == log.last_lsn == 3
    log.close()
    assert [e.kind for e in read_log(path)[0]] == [PLAIN, CHECKED, PLAIN]


def test_the_call_that_fills_the_batch_flushes_it_and_returns_what_was_pending(
    open_log: OpenLog,
) -> None:
    log = open_log(SMALL)
    assert log.max_batch_bytes() == BATCH == 4096
    assert log.append_batched(bytes(BATCH - 1)) == BATCH - 1
    assert log.pending_batch_ops() == 1
    assert log.durable_lsn == 0
    assert log.append_with_checksum_batched(b"x") == BATCH
    assert log.pending_batch_bytes() == log.pending_batch_ops() == 0
    assert log.durable_lsn == 2
    assert log.append_batched(bytes(3 * BATCH)) == 3 * BATCH
    assert log.pending_batch_bytes() == 0
    assert log.durable_lsn == 3


def test_headers_that_fill_the_memory_before_payloads_do_keep_the_batch_pending(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log(SMALL)
    for _ in range(5000):  # 120000 bytes of headers through 16 KiB of memory
        assert log.append_with_checksum_batched(b"") == 0
    assert log.pending_batch_ops() == 5000
    assert (log.durable_lsn, log.size()) == (0, 0)
    assert log.append_batched(b"z") == 1
    log.flush_batch()
    assert log.durable_lsn == 5001
    assert log.size() == 5000 * 24 + 32
    log.close()
    assert payloads(path) == [b""] * 5000 + [b"z"]


@pytest.mark.parametrize("size", [BATCH * 4 - 24, BATCH * 4, BATCH * 4 + 1, 1 << 20, (3 << 20) + 5])
def test_an_entry_larger_than_all_buffers_arrives_whole(
    open_log: OpenLog, path: Path, size: int
) -> None:
    log = open_log(SMALL)
    blob = os.urandom(size)
    log.append_batched(b"before")
    assert log.append_with_checksum_batched(blob) == size + 6
    assert log.append(blob) == 32 + oracle.entry_bytes(size)
    assert log.append_batched(b"after") == 5
    log.close()
    assert payloads(path) == [b"before", blob, blob, b"after"]


def test_sync_covers_direct_appends_and_the_queue(open_log: OpenLog) -> None:
    log = open_log()
    log.append(b"direct")
    log.append_batched(b"queued")
    log.sync()
    assert log.durable_lsn == log.last_lsn == 2
    syncs = log.stats().syncs
    log.sync()
    log.flush_batch()
    assert log.stats().syncs == syncs  # nothing was left to be synced


def test_commit_makes_everything_up_to_the_lsn_durable(open_log: OpenLog) -> None:
    log = open_log()
    for number in range(5):
        log.append_batched(b"%d" % number)
    log.commit(3)
    assert log.durable_lsn >= 3
    log.commit(0)
    log.commit(5)
    assert log.durable_lsn == 5


@pytest.mark.parametrize("lsn", [-1, 3, 2**64])
def test_commit_refuses_an_lsn_that_is_not_in_the_log(open_log: OpenLog, lsn: int) -> None:
    log = open_log()
    log.append_batched(b"a")
    log.append_batched(b"b")
    with pytest.raises(LimitError, match=re.escape(f"LSN {lsn} ")):
        log.commit(lsn)
    assert log.durable_lsn == 0


def test_append_and_commit_returns_the_lsn_once_it_is_durable(open_log: OpenLog) -> None:
    log = open_log()
    log.append_batched(b"earlier")
    assert log.append_and_commit(b"mine") == 2
    assert log.durable_lsn == 2
    assert not log.has_pending_batch()


def test_append_relaxed_queues_and_says_whether_it_is_next(open_log: OpenLog) -> None:
    log = open_log()
    assert log.append_relaxed(b"a") >> 1 == 1
    assert log.append_relaxed(b"b") >> 1 == 2
    assert (log.pending_batch_ops(), log.durable_lsn) == (2, 0)


def test_stats_count_what_was_done(open_log: OpenLog) -> None:
    log = open_log(preallocate_bytes=0)
    for _ in range(3):
        log.append_batched(b"12345678")
        log.flush_batch()
    stats = log.stats()
    assert (stats.entries, stats.batches, stats.syncs) == (3, 3, 3)
    assert stats.bytes_written == 3 * 32
    assert 3 <= stats.ops_submitted <= 6
    assert (stats.ops_completed, stats.in_flight()) == (stats.ops_submitted, 0)
    assert (stats.cqe_overflows, stats.sq_dropped, stats.bytes_read) == (0, 0, 0)
    assert sum(stats.sync_latency_us) == 3
    log.close()
    assert log.stats().batches == 4  # the SEAL; answered after close, too


def test_a_mark_is_written_once_behind_what_became_durable(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    assert not log.mark()  # nothing to be witnessed
    log.append_batched(b"a")
    assert not log.mark()  # not durable yet
    log.flush_batch()
    assert log.mark()
    assert not log.mark()
    assert (log.last_lsn, log.pending_batch_ops()) == (2, 0)
    witness = oracle.decode(path.read_bytes()).entries[-1]
    assert (witness.kind, witness.lsn, witness.unsynced) == (MARK, 2, 0)
    log.flush_batch()
    assert not log.mark()
    log.append_and_commit(b"b")
    assert log.mark()
    log.close()
    assert payloads(path) == [b"a", b"b"]


def test_a_file_full_to_the_brim_gets_no_mark_and_goes_on(open_log: OpenLog, path: Path) -> None:
    log = open_log(preallocate_bytes=0)
    room = 4 * 4096 - 48  # what a SEAL needs stays free
    log.append_and_commit(bytes(room - 24))
    assert log.size() == room
    assert not log.mark()
    log.append_and_commit(b"more")
    assert log.mark()
    log.close()
    assert payloads(path) == [bytes(room - 24), b"more"]


def test_close_flushes_seals_and_cuts_the_zeros_behind_the_end(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log()
    log.append_with_checksum_batched(b"queued")
    assert path.stat().st_size > FIRST + 56
    log.close()
    assert path.stat().st_size == FIRST + 32 + 24
    decoded = oracle.decode(path.read_bytes())
    assert decoded.sealed
    assert decoded.user_entries() == [(1, b"queued")]
    log.close()
    assert path.stat().st_size == FIRST + 32 + 24


def test_the_seal_vouches_for_everything_before_it(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    log.append_and_commit(b"durable")
    log.append_batched(b"queued when closed")
    log.close()
    seal = oracle.decode(path.read_bytes()).entries[-1]
    assert (seal.kind, seal.unsynced) == (SEAL, 0)


def test_every_call_on_a_closed_log_is_a_closed_error(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    log.append_and_commit(b"a")
    log.close()
    calls = [
        lambda: log.append(b"x"),
        lambda: log.append_batched(b"x"),
        lambda: log.append_with_checksum(b"x"),
        lambda: log.append_with_checksum_batched(b"x"),
        lambda: log.append_and_commit(b"x"),
        lambda: log.append_relaxed(b"x"),
        log.flush_batch,
        log.sync,
        lambda: log.commit(1),
        log.submit,
        log.reap,
        log.mark,
        lambda: log.eventfd,
    ]
    for _ in range(2):
        for call in calls:
            with pytest.raises(ClosedError, match=re.escape(str(path))):
                call()
    assert (log.last_lsn, log.durable_lsn, log.pending_batch_ops()) == (2, 2, 0)
    assert log.max_batch_bytes() == IoUringConfig().max_batch_bytes()
    assert "closed" in repr(log)


def test_the_context_manager_closes_also_after_an_exception(path: Path, backend: str) -> None:
    def fail_within() -> None:
        with log:
            log.append_batched(b"kept")
            raise KeyError

    log = PortableWalWriter(path, backend=backend)
    with pytest.raises(KeyError):
        fail_within()
    with pytest.raises(ClosedError):
        log.append(b"x")
    assert payloads(path) == [b"kept"]


def test_a_log_that_was_not_closed_warns(path: Path, backend: str) -> None:
    log = PortableWalWriter(path, backend=backend)
    with pytest.warns(ResourceWarning, match="was not closed"):
        log.__del__()
    log.close()


def test_reopening_goes_on_behind_the_last_entry(open_log: OpenLog, path: Path) -> None:
    for number in range(4):
        log = open_log()
        assert log.last_lsn == log.durable_lsn == 2 * number
        assert log.size() == number * (32 + 24)
        assert log.append(b"%d" % number) == number * (32 + 24)
        log.close()
    assert payloads(path) == [b"0", b"1", b"2", b"3"]
    assert [e.lsn for e in read_log(path)[0]] == [1, 3, 5, 7]


def test_reopening_and_closing_without_a_write_changes_nothing(
    open_log: OpenLog, path: Path
) -> None:
    log = open_log()
    log.append_batched(b"x")
    log.close()
    before = path.read_bytes()
    for _ in range(3):
        again = open_log()
        assert again.stats().bytes_read > FIRST
        again.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("garbage", [b"\x01", b"\xff" * 100, bytes(50) + b"torn", b"g" * 70_000])
def test_reopening_after_a_torn_tail_keeps_the_prefix_and_saves_the_tail(
    open_log: OpenLog, path: Path, garbage: bytes
) -> None:
    log = open_log()
    log.append_and_commit(b"durable")
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + garbage)
    again = open_log(preallocate_bytes=0)
    assert Path(f"{path}.torn").read_bytes() == garbage
    assert again.last_lsn == 2
    again.append_and_commit(b"later")
    again.close()
    assert payloads(path) == [b"durable", b"later"]
    assert path.read_bytes()[: len(whole)] == whole


def test_what_was_cut_never_comes_back_when_new_entries_end_where_it_began(
    open_log: OpenLog, path: Path
) -> None:
    with fixed_random():
        log = open_log()
    log.close()
    base = oracle.LogImage(oracle.Header(FIXED_SALT, FIXED_SALT))
    base.add(CHECKED, b"first")
    torn = base.add(CHECKED, b"second")
    base.add(CHECKED, b"third", unsynced=2)
    base.erase(torn)
    path.write_bytes(base.data)
    again = open_log(preallocate_bytes=0)
    assert again.last_lsn == 1
    # As long as the lost one, so the stale third entry would follow on it, with the right LSN.
    assert again.append_and_commit(b"SECOND") == 2
    copy = path.read_bytes()
    again.close()
    assert oracle.decode(copy).user_entries() == [(1, b"first"), (2, b"SECOND")]
    assert payloads(path) == [b"first", b"SECOND"]


@pytest.mark.parametrize(
    "data",
    [
        bytearray(b"bytes-like"),
        memoryview(b"bytes-like"),
        memoryview(b"b.y.t.e.s.-.l.i.k.e.")[::2],
        array.array("B", b"bytes-like"),
    ],
)
def test_any_bytes_like_object_can_be_appended(open_log: OpenLog, path: Path, data: bytes) -> None:
    log = open_log()
    log.append(data)
    log.append_batched(data)
    log.append_with_checksum(data)
    log.append_with_checksum_batched(data)
    log.append_and_commit(data)
    log.close()
    assert payloads(path) == [b"bytes-like"] * 5


def test_a_wide_array_counts_in_bytes(open_log: OpenLog, path: Path) -> None:
    data: Any = array.array("I", [1, 2, 3])
    log = open_log()
    assert log.append_batched(data) == 12
    log.close()
    assert payloads(path) == [data.tobytes()]


@pytest.mark.parametrize("data", ["text", 7, None, [1, 2], object()])
def test_what_is_not_bytes_is_a_type_error_and_appends_nothing(
    open_log: OpenLog, data: bytes
) -> None:
    log = open_log()
    for call in (log.append, log.append_batched, log.append_with_checksum, log.append_and_commit):
        with pytest.raises(
            TypeError, match=f"bytes-like object is needed, not {type(data).__name__}"
        ):
            call(data)
    assert log.last_lsn == 0


def test_a_buffer_changed_after_the_call_changes_nothing(open_log: OpenLog, path: Path) -> None:
    log = open_log()
    data = bytearray(b"original")
    log.append_with_checksum_batched(data)
    data[:] = b"changed!"
    log.close()
    assert payloads(path) == [b"original"]


def test_an_entry_above_the_limit_is_refused_and_nothing_is_written(open_log: OpenLog) -> None:
    log = open_log()
    log.append_batched(b"queued")
    too_long = bytes((1 << 30) + 1)
    for call in (log.append, log.append_batched):
        with pytest.raises(LimitError, match="at most 1073741824 bytes, not 1073741825"):
            call(too_long)
    assert (log.last_lsn, log.pending_batch_bytes(), log.size()) == (1, 6, 0)
    log.flush_batch()


def test_the_file_grows_ahead_of_the_entries(open_log: OpenLog, path: Path) -> None:
    log = open_log(preallocate_bytes=0)
    assert path.stat().st_size == FIRST + 4 * 4096
    blob = bytes(range(256)) * 16
    for number in range(40):
        assert log.append_and_commit(blob) == number + 1
    assert path.stat().st_size >= 1 << 20
    log.close()
    assert payloads(path) == [blob] * 40


def test_preallocation_is_as_large_as_asked_and_not_negative(open_log: OpenLog, path: Path) -> None:
    log = open_log(preallocate_bytes=3 << 20)
    assert path.stat().st_size == FIRST + (3 << 20) + 4 * 4096
    log.close()
    with pytest.raises(LimitError, match="preallocate_bytes"):
        open_log(preallocate_bytes=-1)


def test_a_config_must_be_one(open_log: OpenLog) -> None:
    with pytest.raises(TypeError, match="IoUringConfig, not dict"):
        open_log({"sq_entries": 8})


def test_a_second_opener_is_kept_out_until_the_first_closes(open_log: OpenLog, path: Path) -> None:
    first = open_log()
    first.append_and_commit(b"mine")
    with pytest.raises(LockedError, match=re.escape(str(path))):
        open_log()
    first.append_and_commit(b"still mine")
    first.close()
    assert open_log().last_lsn == 3


def test_a_file_that_is_no_log_is_refused_and_left_alone(open_log: OpenLog, path: Path) -> None:
    for content in (b"", b"some text\n", b"KVSTWAL\n", bytes(8192)):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            open_log()
        assert path.read_bytes() == content


def test_a_directory_or_a_missing_one_is_a_storage_error(backend: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for where in (tmp_path / "directory", tmp_path / "missing" / "x.wal"):
        with pytest.raises(StorageIOError) as caught:
            PortableWalWriter(where, backend=backend)
        assert str(where) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["directory"]


def test_a_leftover_of_an_interrupted_creation_is_no_obstacle(
    open_log: OpenLog, path: Path
) -> None:
    Path(f"{path}.tmp").write_bytes(b"half a header")
    log = open_log()
    log.append_and_commit(b"x")
    log.close()
    assert payloads(path) == [b"x"]
    assert not Path(f"{path}.tmp").exists()


def test_a_log_that_appears_while_ours_is_being_created_is_not_replaced(
    backend: str, path: Path
) -> None:
    class SlowToLook(PosixFileSystem):
        def exists(self, path: str) -> bool:
            there = super().exists(path)
            if not there and path.endswith("test.wal") and not rivals:
                rivals.append(PortableWalWriter(path, backend=backend))
                rivals[0].append_and_commit(b"acknowledged")
            return there

    rivals: list[PortableWalWriter] = []
    try:
        with pytest.raises(LockedError):
            PortableWalWriter(path, backend=backend, fs=SlowToLook())
        rivals[0].append_and_commit(b"and this")
    finally:
        rivals[0].close()
    assert payloads(path) == [b"acknowledged", b"and this"]
    assert sorted(p.name for p in path.parent.iterdir() if p.name.startswith("test")) == [
        "test.wal"
    ]


def test_the_backend_says_what_it_is_and_why(open_log: OpenLog, backend: str) -> None:
    log = open_log()
    assert log.backend == backend
    assert f"asked for by backend='{backend}'" in log.backend_reason
    assert backend in repr(log)


def test_the_environment_overrides_the_argument(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(backends.ENVIRONMENT, "pwrite")
    with PortableWalWriter(path, backend="io_uring") as log:
        assert log.backend == "pwrite"
        assert "KVSTORE_WAL_BACKEND=pwrite" in log.backend_reason
    monkeypatch.setenv(backends.ENVIRONMENT, "floppy")
    with pytest.raises(ValueError, match="KVSTORE_WAL_BACKEND=floppy"):
        PortableWalWriter(path)


def test_an_unknown_backend_is_a_value_error_and_releases_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match="one of auto, io_uring, pwrite"):
        PortableWalWriter(path, backend="tape")
    PortableWalWriter(path).close()


def test_without_io_uring_auto_takes_pwrite_and_says_why(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "probe_io_uring", lambda: "the kernel refuses a ring")
    with PortableWalWriter(path) as log:
        assert (log.backend, log.backend_reason) == (
            "pwrite",
            "no io_uring: the kernel refuses a ring",
        )
        assert log.append_and_commit(b"x") == 1
    with pytest.raises(BackendUnavailableError, match="refuses a ring") as caught:
        PortableWalWriter(path, backend="io_uring")
    assert (caught.value.backend, caught.value.reason) == ("io_uring", "the kernel refuses a ring")
    with PortableWalWriter(path) as log:
        assert log.last_lsn == 2


def test_the_sync_strategy_is_measured_then_kept_for_the_device(
    open_log: OpenLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_measured", {})
    log = open_log()
    for _ in range(60):
        assert log.sync_strategy in backends.SYNC_STRATEGIES.values()
        log.append_and_commit(b"x")
    strategy = log.sync_strategy
    assert strategy in set(backends.SYNC_STRATEGIES.values()) - {"measuring"}
    log.close()
    assert open_log().sync_strategy == strategy
    assert payloads(path) == [b"x"] * 60


class AlwaysMeasured(dict):
    """What every log is told to have been measured: one strategy."""

    def __init__(self, strategy: int) -> None:
        super().__init__()
        self.strategy = strategy

    def get(self, *_: object) -> int:
        return self.strategy


@pytest.mark.parametrize("strategy", sorted(backends.SYNC_STRATEGIES))
def test_every_sync_strategy_writes_the_same_log(
    open_log: OpenLog, path: Path, monkeypatch: pytest.MonkeyPatch, strategy: int
) -> None:
    monkeypatch.setattr(backends, "_measured", AlwaysMeasured(strategy))
    log = open_log(SMALL)
    for number in range(60):  # several times around the memory
        log.append_batched(b"%d" % number * 700)
        if number % 3 == 0:
            log.submit()
        if number % 5 == 0:
            log.reap()
        log.flush_batch()
        assert log.durable_lsn == number + 1
    log.close()
    assert payloads(path) == [b"%d" % n * 700 for n in range(60)]


def test_a_log_for_one_thread_works_in_that_thread(open_log: OpenLog, path: Path) -> None:
    log = open_log(single_thread=True)
    for number in range(50):
        log.append_batched(b"%d" % number)
        log.submit()
    log.flush_batch()
    assert log.durable_lsn == 50
    log.close()
    assert payloads(path) == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("entries", [1, 2, 3, 6])
def test_the_smallest_rings_carry_batches_that_wrap_around_the_memory(
    open_log: OpenLog, path: Path, entries: int, polling: bool
) -> None:
    config = IoUringConfig(entries, polling, 1, entries, False, 1, 4096)
    log = open_log(config)
    expected = []
    for number in range(60):
        expected.append(bytes([number]) * (1500 + 111 * number % 2000))
        log.append_with_checksum_batched(expected[-1])
        log.submit()
        if number % 7 == 0:
            log.reap()
    log.flush_batch()
    log.close()
    assert payloads(path) == expected


calls = st.lists(
    st.tuples(
        st.sampled_from(["append", "batched", "checked", "checked batched", "flush", "sync", "mark",
                         "commit", "submit", "reap", "reopen"]),
        st.binary(max_size=30) | st.integers(0, 9000).map(lambda n: b"%d" % n * (n // 4 + 1)),
    ),
    max_size=12,
)  # fmt: skip


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=calls, direct=st.booleans())
def test_any_sequence_of_calls_leaves_what_the_oracle_reads(
    calls: list[tuple[str, bytes]], direct: bool, path: Path, backend: str
) -> None:
    path.unlink(missing_ok=True)
    config = IoUringConfig(8, False, 0, 8, direct, 1, 4096)
    log = PortableWalWriter(path, config, backend=backend, preallocate_bytes=0)
    expected: list[bytes] = []
    durable = 0
    try:
        for name, data in calls:
            if name in ("append", "checked"):
                offset = (log.append if name == "append" else log.append_with_checksum)(data)
                assert 0 <= offset < log.size()
                expected.append(data)
            elif name in ("batched", "checked batched"):
                before = log.pending_batch_bytes()
                call = log.append_batched if name == "batched" else log.append_with_checksum_batched
                assert call(data) == before + len(data)
                expected.append(data)
            elif name == "commit":
                log.commit(log.last_lsn)
                assert log.durable_lsn >= log.last_lsn
            elif name == "reopen":
                log.close()
                log = PortableWalWriter(path, config, backend=backend, preallocate_bytes=0)
            else:
                {"flush": log.flush_batch, "sync": log.sync, "mark": log.mark,
                 "submit": log.submit, "reap": log.reap}[name]()  # fmt: skip
                if name in ("flush", "sync"):
                    assert log.durable_lsn == log.last_lsn
                    assert not log.has_pending_batch()
            assert durable <= log.durable_lsn <= log.last_lsn
            durable = log.durable_lsn
            decoded = oracle.decode(path.read_bytes())
            assert decoded.corrupt_at is None
            assert [e.lsn for e in decoded.entries] == list(range(1, len(decoded.entries) + 1))
            assert len(decoded.entries) >= durable
    finally:
        log.close()
    decoded = oracle.decode(path.read_bytes())
    assert [payload for _, payload in decoded.user_entries()] == expected == payloads(path)
    assert decoded.sealed
    assert path.stat().st_size == decoded.end_offset
