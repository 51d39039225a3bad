"""IoUringConfig and IoUringStatsSnapshot."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from kvstore.wal import IoUringConfig, IoUringStatsSnapshot


def test_the_defaults_and_presets_are_those_of_the_contract() -> None:
    assert IoUringConfig() == IoUringConfig(1024, False, 10, 256, False, 64, 65536)
    assert IoUringConfig.high_throughput() == IoUringConfig(
        4096, True, 100, 1024, True, 256, 262144
    )
    assert IoUringConfig.low_latency() == IoUringConfig(256, True, 1, 64, True, 32, 16384)
    assert IoUringConfig.minimal() == IoUringConfig(128, False, 0, 32, False, 8, 4096)


def test_a_batch_holds_what_the_buffers_hold() -> None:
    assert IoUringConfig(registered_buffers=3, buffer_size=4096).max_batch_bytes() == 12288


@pytest.mark.parametrize(
    ("field", "smallest", "largest"),
    [
        ("sq_entries", 1, 32768),
        ("sq_poll_idle_ms", 0, 60000),
        ("max_inflight", 1, 32768),
        ("registered_buffers", 1, 16384),
        ("buffer_size", 512, 16 << 20),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_name_and_range(
    field: str, smallest: int, largest: int
) -> None:
    for value in (smallest - 1, largest + 1, -(10**20), 1.5, "8", None, True):
        with pytest.raises(ValueError, match=f"{field} .*from {smallest} to {largest}"):
            IoUringConfig(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["kernel_poll", "direct_io"])
def test_a_switch_takes_nothing_but_true_and_false(field: str) -> None:
    values: list[Any] = [0, 1, None, "yes"]
    for value in values:
        with pytest.raises(ValueError, match=f"{field} must be True or False"):
            IoUringConfig(**{field: value})


def test_buffers_must_be_aligned_and_of_a_sensible_size_together() -> None:
    with pytest.raises(ValueError, match="buffer_size must be a multiple of 512"):
        IoUringConfig(buffer_size=5000)
    with pytest.raises(ValueError, match="buffer_size must be a multiple of 4096 with direct_io"):
        IoUringConfig(buffer_size=512 * 9, direct_io=True)
    with pytest.raises(ValueError, match="registered_buffers \\* buffer_size must be 4096"):
        IoUringConfig(registered_buffers=7, buffer_size=512)
    with pytest.raises(ValueError, match="1073741824"):
        IoUringConfig(registered_buffers=65, buffer_size=16 << 20)
    IoUringConfig(registered_buffers=64, buffer_size=16 << 20)
    IoUringConfig(registered_buffers=8, buffer_size=512)


def test_a_config_is_frozen_and_hashable() -> None:
    config = IoUringConfig()
    with pytest.raises(FrozenInstanceError):
        config.sq_entries = 3  # type: ignore[misc]
    assert hash(config) == hash(IoUringConfig())


def test_completion_is_all_when_nothing_was_submitted() -> None:
    assert IoUringStatsSnapshot(0, 0, 0, 0, 0, 0).completion_rate() == 1.0
    assert IoUringStatsSnapshot(0, 0, 0, 0, 0, 0).in_flight() == 0
    half = IoUringStatsSnapshot(4, 2, 0, 0, 0, 0)
    assert (half.completion_rate(), half.in_flight()) == (0.5, 2)


def test_latency_percentiles_are_upper_bounds_of_buckets() -> None:
    histogram = (0, 0, 5, 4, 0, 0, 0, 1) + (0,) * 24
    stats = IoUringStatsSnapshot(0, 0, 0, 0, 0, 0, sync_latency_us=histogram)
    assert stats.sync_latency_percentile_us(0.0) == 4
    assert stats.sync_latency_percentile_us(0.5) == 4
    assert stats.sync_latency_percentile_us(0.9) == 8
    assert stats.sync_latency_percentile_us(1.0) == 128
    assert IoUringStatsSnapshot(0, 0, 0, 0, 0, 0).sync_latency_percentile_us(0.5) == 0
