"""Which engine carries a log: io_uring where it works, pwrite everywhere, and why.

Nothing is concluded from a version string: containers, seccomp filters and sysctls
(kernel.io_uring_disabled) take io_uring away from kernels that have it. So a ring is opened, its
opcodes probed, and a scratch file written and synced, once per process.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from dataclasses import dataclass

from kvstore.errors import BackendUnavailableError, KVStoreError, LimitError
from kvstore.fs import PosixFileSystem
from kvstore.native import HAS_URING, lib
from kvstore.wal import core
from kvstore.wal.config import IoUringConfig
from kvstore.wal.core import LogCore

__all__ = [
    "BACKENDS",
    "ENVIRONMENT",
    "SYNC_STRATEGIES",
    "Backend",
    "is_io_uring_available",
    "open_backend",
    "probe_io_uring",
    "remember_strategy",
]

BACKENDS = ("auto", "io_uring", "pwrite")
ENVIRONMENT = "KVSTORE_WAL_BACKEND"

SYNC_STRATEGIES = {
    lib.KV_SYNC_MEASURE: "measuring",
    lib.KV_SYNC_DSYNC: "RWF_DSYNC",
    lib.KV_SYNC_FDATASYNC: "fdatasync",
    lib.KV_SYNC_CALL: "RWF_DSYNC by call",
}
# What a log found out, for the next one: (st_dev, backend, direct I/O) -> strategy.
_measured: dict[tuple[int, str, bool], int] = {}


@dataclass(frozen=True)
class Backend:
    """A log core and how it came to be: ``name`` is "io_uring", "pwrite" or "simulated"."""

    core: LogCore
    name: str
    reason: str


def is_io_uring_available() -> bool:
    """Whether io_uring really works here: a ring opens, and writes and syncs a file."""
    return probe_io_uring() is None


@functools.cache
def probe_io_uring() -> str | None:
    """None when io_uring works, else the reason why it does not. Tried once per process."""
    if not sys.platform.startswith("linux"):
        return f"io_uring is Linux's, this is {sys.platform}"
    if not HAS_URING:
        return "kvstore was built without liburing"
    try:
        ring = LogCore(IoUringConfig.minimal(), core.IO_URING, name="io_uring probe")
    except OSError as error:
        return error.strerror
    try:
        return _write_scratch_file(ring)
    except (OSError, KVStoreError) as error:
        return f"writing a scratch file failed: {error}"
    finally:
        ring.close()


def _write_scratch_file(ring: LogCore) -> str | None:
    payload = b"kvstore probe"
    with tempfile.TemporaryDirectory(prefix="kvstore-probe-") as directory:
        file = PosixFileSystem().open(os.path.join(directory, "scratch"), create=True)
        try:
            ring.attach(file, direct=False, seed=1, base=0, position=0, limit=4096, lsn=1)
            ring.check(lib.kv_log_append_batched(ring.log, payload, len(payload), lib.KV_PLAIN))
            ring.check(lib.kv_log_flush(ring.log))
            written = file.pread(4096, 0)
        finally:
            ring.close()
            file.close()
    return None if payload in written else "a scratch file was not what had been written to it"


def open_backend(
    config: IoUringConfig,
    wish: str,
    place: str,
    device: int | None,
    *,
    record_tickets: bool = False,
    single_issuer: bool = False,
    batches_in_flight: int = 0,
) -> Backend:
    """A log core for files at ``place``: as wished ("auto", "io_uring", "pwrite"), or by the
    environment.

    ``device`` is what the file system says of the place; None where it is simulated.

    Raises BackendUnavailableError when io_uring was asked for by name and cannot be had, LimitError
    for a name that is none.
    """
    forced = os.environ.get(ENVIRONMENT)
    origin = f"{ENVIRONMENT}={forced}" if forced else f"backend={wish!r}"
    wish = forced or wish
    if wish not in BACKENDS:
        raise LimitError(f"{origin}: the backend must be one of {', '.join(BACKENDS)}")

    def make(engine: int, name: str) -> LogCore:
        strategy = lib.KV_SYNC_MEASURE
        if device is not None:
            strategy = _measured.get((device, name, config.direct_io), strategy)
        return LogCore(
            config,
            engine,
            name=place,
            record_tickets=record_tickets,
            sync_strategy=strategy,
            single_issuer=single_issuer,
            batches_in_flight=batches_in_flight,
        )

    if device is None:
        simulated = make(core.PYTHON, "simulated")
        return Backend(simulated, "simulated", "the file system is not the real one")
    if wish == "pwrite":
        return Backend(make(core.PWRITE, "pwrite"), "pwrite", f"asked for by {origin}")
    why_not = probe_io_uring()
    if why_not is None:
        try:
            ring = make(core.IO_URING, "io_uring")
        except OSError as error:
            why_not = error.strerror
        else:
            how = f"asked for by {origin}" if wish == "io_uring" else "available"
            return Backend(ring, "io_uring", "; ".join(filter(None, (how, ring.note))))
    if wish == "io_uring":
        raise BackendUnavailableError("io_uring", why_not or "no reason given")
    return Backend(make(core.PWRITE, "pwrite"), "pwrite", f"no io_uring: {why_not}")


def remember_strategy(backend: Backend, device: int | None, config: IoUringConfig) -> None:
    """Keeps what a log measured, for the next one of its kind on the same device."""
    strategy = lib.kv_log_sync_strategy(backend.core.log)
    if device is not None and strategy != lib.KV_SYNC_MEASURE:
        _measured[device, backend.name, config.direct_io] = strategy
