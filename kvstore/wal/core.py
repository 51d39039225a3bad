"""LogCore: the C log as an object, and the one place where its codes become errors."""

from __future__ import annotations

import errno
import itertools
import os
from typing import Any, NoReturn

from kvstore.errors import (
    ClosedError,
    ForkedError,
    KVStoreError,
    PoisonedError,
    StorageIOError,
    storage_error,
)
from kvstore.fs import File
from kvstore.native import ffi, lib
from kvstore.wal.config import IoUringConfig

__all__ = ["READY_MAX", "LogCore", "PythonEngine"]

PYTHON, PWRITE, IO_URING = lib.KV_ENGINE_PYTHON, lib.KV_ENGINE_PWRITE, lib.KV_ENGINE_URING
_OPERATIONS = {
    lib.KV_OP_WRITE: "write",
    lib.KV_OP_WRITE_DSYNC: "synchronous write",
    lib.KV_OP_SYNC: "sync",
}
READY_MAX = 1024


class PythonEngine:
    """Carries out a log's operations on a simulated file, in the order in which they come.

    A subclass may delay and shuffle: ``begin`` is told of an operation, ``wait`` says which
    completed and how (a byte count, 0 for a sync, or -errno). Both run on whatever thread waits for
    the log and must not call that log.
    """

    dsync = False
    """Whether a log may ask for KV_OP_WRITE_DSYNC; asked when the log is made."""

    def __init__(self) -> None:
        self.file: File | None = None
        self._done: list[tuple[int, int]] = []

    def begin(self, identity: int, kind: int, data: bytes, offset: int) -> None:
        """Operation ``identity`` begins: KV_OP_WRITE or KV_OP_WRITE_DSYNC of ``data`` at
        ``offset``, or KV_OP_SYNC."""
        self._done.append((identity, self.carry_out(kind, data, offset)))

    def wait(self, block: bool) -> list[tuple[int, int]]:  # noqa: ARG002
        """(identity, result) of what completed; with ``block`` at least one of those begun."""
        done, self._done = self._done, []
        return done

    def carry_out(self, kind: int, data: bytes, offset: int) -> int:
        """Does one operation on the file; its result as the kernel would put it."""
        assert self.file is not None
        try:
            done = 0 if kind == lib.KV_OP_SYNC else self.file.pwrite(data, offset)
            if kind != lib.KV_OP_WRITE:
                self.file.sync()
        except OSError as error:
            return -(error.errno or errno.EIO)
        return done


_engines: dict[int, PythonEngine] = {}
_handles = itertools.count(1)


def _broken_engine(*_: object) -> None:
    """An exception in a callback is the engine's own failure: the log is poisoned with EIO."""


@ffi.def_extern(onerror=_broken_engine)
def kv_python_begin(  # noqa: PLR0917 (the C side calls it)
    handle: int, identity: int, kind: int, data: Any, length: int, offset: int
) -> None:
    payload = bytes(ffi.buffer(data, length)) if length else b""
    try:
        _engines[handle].begin(identity, kind, payload, offset)
    except BaseException:
        del _engines[handle]  # so the wait that follows fails, and with it the log
        raise


@ffi.def_extern(error=-errno.EIO, onerror=_broken_engine)
def kv_python_wait(handle: int, block: int, ids: Any, results: Any, limit: int) -> int:
    done = _engines[handle].wait(bool(block))
    assert len(done) <= limit
    for index, (identity, result) in enumerate(done):
        ids[index], results[index] = identity, result
    return len(done)


class LogCore:
    """One C log: framing, group commit, an engine. Thread-safe; GIL released in every call.

    ``name`` stands in errors. ``note`` is what the engine had to do without. Raises OSError (errno,
    note) when the engine cannot be had.
    """

    def __init__(
        self,
        config: IoUringConfig,
        engine: int,
        *,
        name: str,
        record_tickets: bool = False,
        sync_strategy: int = 0,
        single_issuer: bool = False,
        batches_in_flight: int = 0,
        python_engine: PythonEngine | None = None,
    ) -> None:
        self.name = name
        self._handle = 0
        if engine == PYTHON:
            self._handle = next(_handles)
            python_engine = python_engine or PythonEngine()
            _engines[self._handle] = python_engine
            if python_engine.dsync:
                sync_strategy = lib.KV_SYNC_DSYNC  # to time what is simulated would say nothing
        settings = ffi.new(
            "kv_log_config *",
            {
                "engine": engine,
                "sync_strategy": sync_strategy,
                "kernel_poll": config.kernel_poll,
                "single_issuer": single_issuer,
                "record_tickets": record_tickets,
                "sq_entries": config.sq_entries,
                "sq_poll_idle_ms": config.sq_poll_idle_ms,
                "max_inflight": config.max_inflight,
                "batches_in_flight": batches_in_flight,
                "arena_bytes": config.max_batch_bytes(),
                "batch_bytes": config.max_batch_bytes(),
                "python_handle": self._handle,
                "python_dsync": python_engine is not None and python_engine.dsync,
            },
        )
        note, error = ffi.new("char[256]"), ffi.new("int *")
        log = lib.kv_log_new(settings, note, 256, error)
        self.note = ffi.string(note).decode()
        if not log:
            raise OSError(error[0], self.note or os.strerror(error[0]))
        self.log = ffi.gc(log, lib.kv_log_free)
        self._pairs = ffi.new("uint64_t[]", 2 * READY_MAX) if record_tickets else None

    def attach(
        self, file: File, *, direct: bool, seed: int, base: int, position: int, limit: int, lsn: int
    ) -> None:
        """Goes on in ``file``: the next entry, ``lsn``, at ``position``, none beyond ``limit``."""
        if self._handle:
            _engines[self._handle].file = file
        descriptor = file.fileno()
        self.name = file.path
        self.check(
            lib.kv_log_attach(
                self.log,
                ffi.new(
                    "kv_log_file *",
                    (
                        -1 if descriptor is None else descriptor,
                        direct,
                        seed,
                        base,
                        position,
                        limit,
                        lsn,
                    ),
                ),
            )
        )

    def check(self, code: int) -> int:
        """``code`` itself, or the error that it stands for."""
        if code < 0:
            self.fail(code)
        return code

    def fail(self, code: int) -> NoReturn:
        """Raises the error that a negative ``code`` of a C call stands for."""
        if code == lib.KV_E_CLOSED:
            raise ClosedError(self.name)
        if code == lib.KV_E_FORKED:
            raise ForkedError(self.name)
        if code == lib.KV_E_POISONED:
            cause = self.error()
            raise PoisonedError(self.name, cause or OSError(errno.EIO, "ring lost")) from cause
        if code == lib.KV_E_THREAD:
            raise KVStoreError(f"{self.name}: opened for the use of one thread, used in another")
        cause = self.error()
        if cause is not None and cause.errno == -code:
            raise cause
        raise storage_error(-code, "log operation", self.name)

    def error(self) -> StorageIOError | None:
        """The first failure of a write or sync; None while there was none."""
        operation = ffi.new("int *")
        number = lib.kv_log_error(self.log, operation)
        if number == 0:
            return None
        return storage_error(number, _OPERATIONS.get(operation[0], "write"), self.name)

    def ready(self) -> list[int]:
        """Tickets whose turn to be applied has come, in LSN order, each followed by its LSN.

        READY_MAX of them at most. They come again until ``taken`` was told. One thread at a time.
        """
        assert self._pairs is not None
        count = lib.kv_log_ready(self.log, self._pairs, READY_MAX)
        return ffi.unpack(self._pairs, 2 * count) if count else []

    def taken(self, lsn: int) -> None:
        """Everything ready up to ``lsn`` has been applied."""
        lib.kv_log_taken(self.log, lsn)

    def stats(self) -> Any:
        """The C counters (kv_log_stats)."""
        out = ffi.new("kv_log_stats *")
        lib.kv_log_stats_get(self.log, out)
        return out

    def close(self) -> None:
        """Waits for what is in flight and lets everything go; does not flush. Idempotent."""
        lib.kv_log_close(self.log)
        _engines.pop(self._handle, None)
