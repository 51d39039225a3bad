"""WritePipeline: how a change becomes durable and visible.

A write, top to bottom:

    commit           register the change under a ticket; ONE native call appends the entry and waits
                     until it is durable, sharing the device write with others, and applied
    apply_ready      whoever the core chooses for it applies, in LSN order, all that has become
                     durable, its own change among it; the others come back after that
    seal             a memtable that has become full is given to the background

A relaxed write is applied at once when nothing before it waits to become durable; else it waits for
that, so that what is visible is always a prefix of the log. An event loop, which must not wait,
begins its writes with ``try_begin``, and comes back to ``apply_ready`` when the log has told it.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

from kvstore.access import Access
from kvstore.batch import OPERATION_BYTES
from kvstore.compaction import BackgroundWorker
from kvstore.errors import KVStoreError
from kvstore.memtable import ENTRY_BYTES
from kvstore.tree import Tree
from kvstore.wal import READY_MAX, SegmentedWalWriter
from kvstore.wal.background import BackgroundFlusher

__all__ = ["Change", "WritePipeline"]

Change = tuple[bytes, bytes | None] | dict[bytes, bytes | None]
"""Of one write: one put or delete (None), or a batch."""


class Puts(NamedTuple):
    """Many writes of one key each, that became durable together."""

    keys: Sequence[bytes]
    values: Sequence[bytes | None]
    payload_bytes: int
    deletes: bool
    """Whether there are any (None) among them."""

    @classmethod
    def of(cls, changes: Sequence[tuple[bytes, bytes | None]]) -> Puts:
        keys, values = zip(*changes, strict=True)
        deletes = None in values
        value_bytes = sum(map(len, filter(None, values)))
        return cls(keys, values, sum(map(len, keys)) + value_bytes, deletes)


class WritePipeline:
    """The way of every write of an open store. Thread-safe."""

    def __init__(
        self,
        access: Access,
        tree: Tree,
        wal: SegmentedWalWriter,
        flusher: BackgroundFlusher,
        worker: BackgroundWorker,
    ) -> None:
        self._access, self._tree, self._wal = access, tree, wal
        self._flusher, self._worker = flusher, worker
        self.pressure = worker.pressure
        self._memtable_bytes_max = tree.options.memtable_bytes_max
        self._wal_put, self._wal_put_relaxed = wal.put_and_apply, wal.put_relaxed
        self._tickets = itertools.count(1)
        self._pending: dict[int, Change | Puts] = {}
        self._lock = threading.Lock()
        self.applied_lsn = wal.last_lsn
        """Everything up to this LSN is visible."""

    def commit(self, payload: bytes, change: Change) -> None:
        """Returns when the change is durable and visible; ``payload`` is its encoding."""
        if self._access.refusal is not None or self.pressure.closed:
            self.wait_for_room(len(payload))
        ticket = next(self._tickets)
        self._pending[ticket] = change
        try:
            twice_lsn = self._wal.append_and_apply(payload, ticket)
        except KVStoreError:
            # Refused or failed, so its turn never comes. (After what a signal handler raises it
            # may, whatever that is.)
            self._pending.pop(ticket, None)
            raise
        if twice_lsn & 1:
            self.apply_ready()
        if not self._flusher.awake:
            self._flusher.rouse()

    def put(self, key: bytes, value: bytes) -> None:
        """``commit`` of one put, which C encodes; spelled out: the most frequent durable write."""
        if self._access.refusal is not None or self.pressure.closed:
            self.wait_for_room(len(key) + len(value))
        ticket = next(self._tickets)
        self._pending[ticket] = (key, value)
        try:
            twice_lsn = self._wal_put(key, value, ticket)
        except KVStoreError:
            self._pending.pop(ticket, None)
            raise
        if twice_lsn & 1:
            self.apply_ready()
        if not self._flusher.awake:
            self._flusher.rouse()

    def commit_relaxed(self, payload: bytes, change: Change) -> None:
        """Returns when the change is queued and visible."""
        if self._access.refusal is not None or self.pressure.closed:
            self.wait_for_room(len(payload))
        ticket = next(self._tickets)
        with self._lock:
            self._pending[ticket] = change
            try:
                twice_lsn = self._wal.append_relaxed(payload, ticket, self.applied_lsn)
            except KVStoreError:
                self._pending.pop(ticket, None)
                raise
            if not twice_lsn & 1:
                self._apply(change, twice_lsn >> 1)
                self._pending.pop(ticket, None)
        self._relaxed_done(twice_lsn)

    def put_relaxed(self, key: bytes, value: bytes) -> None:
        """``commit_relaxed`` and ``_apply`` of one put, spelled out: the most frequent write."""
        if self._access.refusal is not None or self.pressure.closed:
            self.wait_for_room(len(key) + len(value))
        ticket = next(self._tickets)
        with self._lock:
            self._pending[ticket] = (key, value)
            try:
                twice_lsn = self._wal_put_relaxed(key, value, ticket, self.applied_lsn)
            except KVStoreError:
                self._pending.pop(ticket, None)
                raise
            if not twice_lsn & 1:
                memtable = self._tree.state.memtable
                self.applied_lsn = memtable.apply_one(key, value, twice_lsn >> 1)
                if memtable.bytes_used >= self._memtable_bytes_max:
                    self._seal()
                self._pending.pop(ticket, None)
        if twice_lsn & 1 or not self._flusher.awake:
            self._relaxed_done(twice_lsn)

    def _relaxed_done(self, twice_lsn: int) -> None:
        if twice_lsn & 1:  # writes before it are not durable yet
            lsn = twice_lsn >> 1
            try:
                self._wal.commit(lsn - 1)
            except KVStoreError:
                # Those before it may be relaxed as well, and it had its turn before they failed:
                # it is visible, or will never be. What was lost is told to the next writer.
                self.apply_ready()
                if self.applied_lsn < lsn:
                    raise
            else:
                self.apply_ready()
        if not self._flusher.awake:
            self._flusher.rouse()

    def try_begin(self, payload: bytes, change: Change, *, relaxed: bool) -> int:
        """Appends a write without waiting for anything; its LSN, or a negative number, which says
        why not (SegmentedWalWriter.try_append). Under no pressure, which the caller sees to."""
        ticket = next(self._tickets)
        self._pending[ticket] = change
        lsn = self._wal.try_append(payload, ticket, relaxed=relaxed)
        if lsn < 0:
            self._pending.pop(ticket, None)
        elif not self._flusher.awake:
            self._flusher.rouse()
        return lsn

    def try_begin_puts(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], size: int, *, deletes: bool
    ) -> int:
        """``try_begin`` of many puts (and ``deletes``), each a write of its own, of ``size`` bytes
        when encoded: all of them or none. They must not change any more."""
        ticket = next(self._tickets)
        payload_bytes = size - OPERATION_BYTES * len(keys)
        self._pending[ticket] = Puts(keys, values, payload_bytes, deletes)
        lsn = self._wal.try_append_puts(keys, values, ticket, deletes=deletes)
        if lsn < 0:
            self._pending.pop(ticket, None)
        elif not self._flusher.awake:
            self._flusher.rouse()
        return lsn

    def wait_for_room(self, entry_bytes: int) -> None:
        """Waits as long as the background holds writers back, or raises why nothing is written."""
        self._access.check_writable()
        self.pressure.wait(entry_bytes, self._access.check_open)

    def apply_ready(self) -> None:
        """Applies, in LSN order, every change whose turn has come.

        An interrupt in the middle loses nothing: what was not reported as taken comes again.
        """
        with self._lock:
            self._apply_all_ready()

    def _apply_all_ready(self) -> None:
        # Its loops do not stand in the block that holds the lock: decision 15.
        pairs = self._wal.ready()
        while pairs:
            tickets, lsns = pairs[::2], pairs[1::2]
            first = bisect(lsns, self.applied_lsn)  # relaxed writes before that applied themselves
            changes = [self._pending[ticket] for ticket in tickets[first:]]
            puts = None
            if _each_of_one_key(changes) and lsns[-1] - lsns[first] == len(changes) - 1:
                puts = Puts.of(changes)
            if puts is not None and self._fits(puts):
                self._apply(puts, lsns[-1])
            else:
                for change, lsn in zip(changes, lsns[first:], strict=True):
                    self._apply(change, lsn)
            self._wal.taken(lsns[-1])
            for ticket in tickets:
                self._pending.pop(ticket, None)
            pairs = self._wal.ready() if len(tickets) == READY_MAX else []

    def _fits(self, puts: Puts) -> bool:
        size = puts.payload_bytes + ENTRY_BYTES * len(puts.keys)
        return self._tree.state.memtable.bytes_used + size < self._memtable_bytes_max

    def _apply(self, change: Change | Puts, lsn: int) -> None:
        memtable = self._tree.state.memtable
        if isinstance(change, dict):
            memtable.apply(change, lsn)
        elif isinstance(change, Puts):
            memtable.apply_each(
                change.keys, change.values, lsn, change.payload_bytes, deletes=change.deletes
            )
        else:
            memtable.apply_one(change[0], change[1], lsn)
        self.applied_lsn = lsn
        if memtable.bytes_used >= self._memtable_bytes_max:
            self._seal()

    def seal(self, memtable: object = None) -> None:
        """Begins a new memtable and has the old one flushed, unless the one before it still is:
        then writers wait (pressure.py). Nothing when the active one is not ``memtable``, if that is
        given."""
        with self._lock:
            if memtable is None or self._tree.state.memtable is memtable:
                self._seal()

    def _seal(self) -> None:
        # Whoever appends has registered its change before: once none is pending, all that the log
        # held a moment ago, its own entries too, is applied.
        log_end = self._wal.last_lsn
        memtable = self._tree.state.memtable
        memtable.covered_lsn = memtable.last_lsn if self._pending else log_end
        if self._tree.seal():
            self._worker.rouse()
        self.pressure.update()


def _each_of_one_key(
    changes: Sequence[Change | Puts],
) -> TypeGuard[Sequence[tuple[bytes, bytes | None]]]:
    return len(changes) > 1 and {tuple}.issuperset(map(type, changes))
