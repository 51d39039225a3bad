"""The mutants: deliberate breakages of one line each, and the tests that are likely to see them.

A mutant is data. Each ``old`` stands exactly once in its file, so a change of the code under it
fails test_table.py, and the mutant is brought up to date. Most have one edit; those of a file
format break its writer and its reader alike, so that no test notices merely that they disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "ROOT", "Edit", "Mutant", "StaleMutantError"]

ROOT = Path(__file__).resolve().parents[2]


class StaleMutantError(Exception):
    """The code has changed under a mutant."""


@dataclass(frozen=True)
class Edit:
    """One line of a file below ``kvstore/``, broken."""

    path: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Breaks the file in the tree at ``root``. Raises StaleMutantError."""
        file = root / "kvstore" / self.path
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise StaleMutantError(f"{self.path} has {text.count(self.old)} times: {self.old!r}")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """A breakage, and the tests that should see it, likeliest first."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


POWER_LOSS = "tests/crash/test_power_loss.py"
STEPS = "tests/crash/test_flush_steps.py"
AIO = "tests/unit/aio"
CORE = "tests/unit/native/test_log_core.py"
WAL = "tests/unit/wal"
STORE = "tests/unit/store"
TABLES = "tests/unit/sstable"
DIRTY = "tests/unit/wal/test_dirty_pages.py"

MUTANTS = (
    # ---- durable before it is acknowledged ----
    Mutant(
        "pwrite: the write does not sync itself",
        (
            Edit(
                "native/engine_pwrite.c",
                "(off_t)o->offset, RWF_DSYNC);",
                "(off_t)o->offset, 0);",
            ),
        ),
        (DIRTY,),
    ),
    Mutant(
        "pwrite: no fdatasync",
        (Edit("native/engine_pwrite.c", "result = fdatasync(fd);", "result = 0;"),),
        (DIRTY,),
    ),
    Mutant(
        "pwrite: an fdatasync that fails is taken for one that did not",
        (
            Edit(
                "native/engine_pwrite.c",
                "result = fdatasync(fd);",
                "result = fdatasync(fd) * 0;",
            ),
        ),
        ("tests/faults/test_sweep.py::test_an_fdatasync_of_the_log_that_fails_is_told",),
    ),
    Mutant(
        "io_uring: RWF_DSYNC dropped",
        (Edit("native/engine_uring.c", "sqe->rw_flags = RWF_DSYNC;", "sqe->rw_flags = 0;"),),
        (DIRTY,),
    ),
    Mutant(
        "no sync before the acknowledgement",
        (
            Edit(
                "native/round.c",
                "round->needs_fdatasync = durable && !dsync;",
                "round->needs_fdatasync = false;",
            ),
        ),
        (DIRTY, CORE),
    ),
    Mutant(
        "a write that syncs itself runs beside an fdatasync",
        (
            Edit(
                "native/round.c",
                "waits = waits || round_at(log, i)->needs_fdatasync || round_at(log, i)->here;",
                "waits = waits || round_at(log, i)->here;",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "a write whose RWF_DSYNC is refused is not synced",
        (Edit("native/round.c", "round->needs_fdatasync = true;", "round->trial = 0;"),),
        (CORE,),
    ),
    Mutant(
        "acknowledged when the write completes, not its sync",
        (
            Edit(
                "native/round.c",
                "if (round->state == WRITTEN && !round->needs_fdatasync) {",
                "if (round->state == WRITTEN) {",
            ),
        ),
        (DIRTY, CORE),
    ),
    Mutant(
        "the sync begins when the first of two writes is done",
        (
            Edit(
                "native/round.c",
                "if (round->state == WRITING && round->in_flight == 0) {",
                "if (round->state == WRITING) {",
            ),
        ),
        (CORE, f"{WAL}/test_faults.py"),
    ),
    Mutant(
        "a write that syncs itself is to cover what was written before it",
        (
            Edit(
                "native/round.c",
                "&& first == length && !log->unsynced_bytes) {",
                "&& first == length) {",
            ),
        ),
        (DIRTY,),
    ),
    Mutant(
        "the durable watermark frozen",
        (
            Edit(
                "native/round.c",
                "log->durable_lsn = round->lsn;",
                "log->durable_lsn += 0;",
            ),
        ),
        (f"{WAL}/test_writer.py",),
    ),
    Mutant(
        "the durable watermark ahead of later rounds",
        (
            Edit(
                "native/round.c",
                "log->durable_lsn = round->lsn;",
                "log->durable_lsn = log->submitted_lsn;",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "a short write ignored",
        (
            Edit(
                "native/round.c",
                "if (done < o->length && !op_again(log, round, o, done)) {",
                "if (done == 0 && o->length > 0 && !op_again(log, round, o, done)) {",
            ),
        ),
        (f"{WAL}/test_faults.py",),
    ),
    Mutant(
        "EINTR and EAGAIN of a write taken for success",
        (
            Edit(
                "native/round.c",
                "if (!op_again(log, round, o, 0)) {",
                "if (false) {",
            ),
        ),
        (f"{WAL}/test_faults.py",),
    ),
    Mutant(
        "a sync that was interrupted is tried again",
        (
            Edit(
                "native/round.c",
                "(o->kind == KV_OP_WRITE && (result == -EINTR || result == -EAGAIN));",
                "result == -EINTR || result == -EAGAIN;",
            ),
        ),
        (f"{WAL}/test_faults.py",),
    ),
    Mutant(
        "a failed sync ignored",
        (
            Edit(
                "native/round.c",
                "} else if (result < 0) {",
                "} else if (result < 0 && o->kind != KV_OP_SYNC) {",
            ),
        ),
        (f"{WAL}/test_faults.py",),
    ),
    Mutant(
        "after a failed round the next one counts",
        (
            Edit(
                "native/round.c",
                "while (log->error == 0 && log->round_count > 0 && "
                "round_at(log, 0)->state == DONE) {",
                "while (log->round_count > 0 && round_at(log, 0)->state >= DONE) {",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "poison not set",
        (
            Edit(
                "native/log.c",
                "log->error || log->broken ? KV_E_POISONED : 0;",
                "log->broken ? KV_E_POISONED : 0;",
            ),
        ),
        (f"{WAL}/test_faults.py",),
    ),
    Mutant(
        "the wake-up of the next driver lost",
        (
            Edit(
                "native/round.c",
                "if (w && !log->driving) {\n        unlink_waiter(log, w);",
                "if (w && !log->driving) {",
            ),
        ),
        (f"{WAL}/test_threads.py",),
    ),
    Mutant(
        "the wake-up of those whose write was applied lost",
        (
            Edit(
                "native/ticket.c",
                "log->applying = false;\n    tell_first(log);\n",
                "log->applying = false;\n",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "the wake-up of the event loop lost",
        (
            Edit(
                "native/round.c",
                "if (block && (retired || log->error)) {",
                "if (block && log->error) {",
            ),
        ),
        (f"{WAL}/test_submit_reap.py",),
    ),
    Mutant(
        "db.sync() syncs nothing",
        (Edit("store.py", "self._wal.sync()", "self._wal.has_pending_batch()"),),
        (f"{STORE}/test_visibility.py",),
    ),
    Mutant(
        "asyncio: a barrier resolved when it is submitted",
        (
            Edit(
                "aio/writer.py",
                "self._barriers.append((self._wanted_lsn, barrier))",
                "self._barriers.append((self._wal.durable_lsn, barrier))",
            ),
        ),
        (f"{AIO}/test_api.py", f"{AIO}/test_faults.py"),
    ),
    Mutant(
        "asyncio: told before it is applied",
        (
            Edit(
                "aio/writer.py",
                "applied_lsn = self._pipeline.applied_lsn",
                "applied_lsn = self._wal.last_lsn",
            ),
        ),
        (f"{AIO}/test_order.py",),
    ),
    # ---- visible: when it is durable, in order, a batch at once ----
    Mutant(
        "applied before it is durable",
        (
            Edit(
                "native/ticket.c",
                "if (lsn > log->durable_lsn && !log->relaxed[slot]) {",
                "if (lsn > log->submitted_lsn && !log->relaxed[slot]) {",
            ),
        ),
        ("tests/unit/native/test_try_append.py", f"{AIO}/test_order.py"),
    ),
    Mutant(
        "visible out of order: relaxed writes pass durable ones",
        (
            Edit(
                "native/append.c",
                "(int64_t)(lsn << 1) | (log->taken_lsn + 1 != lsn);",
                "(int64_t)(lsn << 1);",
            ),
        ),
        (CORE, f"{WAL}/test_writer.py"),
    ),
    Mutant(
        "visible out of order: what is ready passes what is not",
        (
            Edit(
                "native/ticket.c",
                "&& !log->relaxed[slot]) {\n                break;",
                "&& !log->relaxed[slot]) {\n                continue;",
            ),
        ),
        ("tests/unit/native/test_try_append.py",),
    ),
    Mutant(
        "a batch applied in part",
        (
            Edit(
                "memtable/table.py",
                "        values.update(changes)\n",
                "        values.update(list(changes.items())[:1])\n",
            ),
        ),
        (f"{STORE}/test_visibility.py",),
    ),
    Mutant(
        "a batch decoded in part",
        (Edit("native/batch.c", "            return -2;\n", "            break;\n"),),
        ("tests/unit/native/test_frame.py",),
    ),
    Mutant(
        "a batch written though its block raised",
        (
            Edit(
                "store.py",
                "        yield collected\n        self.write(collected, sync=sync)",
                "        with contextlib.ExitStack() as stack:\n"
                "            stack.callback(lambda: self.write(collected, sync=sync))\n"
                "            yield collected",
            ),
        ),
        (f"{STORE}/test_lifecycle.py", f"{STORE}/test_mapping.py"),
    ),
    # ---- the log's format, and reading it ----
    Mutant(
        "the header's CRC does not cover the length",
        (
            Edit(
                "native/frame.h",
                "kv_crc32c(seed, (const char *)header + 4, FRAME_HEADER - 4));",
                "kv_crc32c(seed, (const char *)header + 12, FRAME_HEADER - 12));",
            ),
            Edit(
                "native/frame.c",
                "kv_crc32c(seed, (const char *)at + 4, FRAME_HEADER - 4) &&",
                "kv_crc32c(seed, (const char *)at + 12, FRAME_HEADER - 12) &&",
            ),
        ),
        ("tests/unit/native/test_frame.py",),
    ),
    Mutant(
        "payload CRC not checked",
        (
            Edit(
                "native/frame.c",
                "if (state->actual != state->expected) {",
                "if (state->actual == 0 && state->expected != 0) {",
            ),
        ),
        (f"{WAL}/test_damage.py", f"{WAL}/test_reader.py"),
    ),
    Mutant(
        "LSNs need not follow each other",
        (
            Edit(
                "native/frame.c",
                "if (e.lsn != state->lsn) {",
                "if (e.lsn < state->lsn) {",
            ),
        ),
        (f"{WAL}/test_reader.py", "tests/unit/native/test_frame.py"),
    ),
    Mutant(
        "the salt constant",
        (Edit("wal/format.py", "salt = os.urandom(SALT_BYTES)", "salt = bytes(SALT_BYTES)"),),
        (f"{WAL}/test_segments.py",),
    ),
    Mutant(
        "entries of a file's earlier life accepted: the salt not in their CRC",
        (Edit("wal/format.py", "return crc32c(self.salt)", "return 0"),),
        (f"{WAL}/test_segments.py",),
    ),
    Mutant(
        "entries vouch for nothing",
        (
            Edit(
                "native/append.c",
                "uint64_t unsynced = log->next_lsn - 1 - log->durable_lsn;",
                "uint64_t unsynced = UNSYNCED_NO_CLAIM;",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "entries vouch for what was not durable",
        (
            Edit(
                "native/append.c",
                "uint64_t unsynced = log->next_lsn - 1 - log->durable_lsn;",
                "uint64_t unsynced = 0;",
            ),
        ),
        (CORE,),
    ),
    Mutant(
        "damage in the middle of the log taken for a torn tail",
        (
            Edit(
                "wal/reader.py",
                "if was_durable and lsn > expected:",
                "if was_durable and lsn < expected:",
            ),
        ),
        (f"{WAL}/test_reader.py",),
    ),
    Mutant(
        "a torn tail not cut",
        (Edit("wal/tail.py", "        file.truncate(offset)\n", ""),),
        (f"{WAL}/test_writer.py",),
    ),
    Mutant(
        "a torn tail's cut not synced",
        (
            Edit(
                "wal/tail.py",
                "        file.truncate(offset)\n        file.sync()\n",
                "        file.truncate(offset)\n",
            ),
        ),
        ("tests/unit/recovery/test_settling.py",),
    ),
    Mutant(
        "a segment that ends too early accepted",
        (
            Edit(
                "wal/reader.py",
                "if says is not None and (at, expected - 1) == (says.end_offset, says.last_lsn):",
                "if says is not None:",
            ),
        ),
        (f"{WAL}/test_segments.py",),
    ),
    Mutant(
        "replay begins one entry too late",
        (
            Edit(
                "recovery/replay.py",
                "after_lsn + 1 - first_lsn, 0)",
                "after_lsn + 2 - first_lsn, 0)",
            ),
        ),
        (f"{STORE}/test_lifecycle.py",),
    ),
    Mutant(
        "recovery decides on bytes that are only in the page cache",
        (Edit("recovery/opening.py", "            file.sync()\n", "            file.size()\n"),),
        ("tests/unit/recovery/test_settling.py",),
    ),
    # ---- names, and the order of things on the disk ----
    Mutant(
        "log segment: its header not synced before its name",
        (
            Edit(
                "wal/writer.py",
                "write_all(file, header.encode(), 0)\n        file.sync()\n",
                "write_all(file, header.encode(), 0)\n",
            ),
        ),
        (POWER_LOSS,),
    ),
    Mutant(
        "log segment: directory not synced",
        (
            Edit(
                "wal/writer.py",
                "self._fs.sync_directory(os.path.dirname(os.path.abspath(path)))",
                "os.path.dirname(os.path.abspath(path))",
            ),
        ),
        (POWER_LOSS,),
    ),
    Mutant(
        "table: its bytes not synced before its name",
        (Edit("sstable/builder.py", "            file.sync()\n", ""),),
        (f"{TABLES}/test_builder.py", POWER_LOSS),
    ),
    Mutant(
        "table: directory not synced",
        (
            Edit(
                "sstable/builder.py",
                'self._fs.sync_directory(os.path.dirname(self.path) or ".")',
                'os.path.dirname(self.path) or "."',
            ),
        ),
        (f"{TABLES}/test_builder.py", POWER_LOSS),
    ),
    Mutant(
        "manifest: CURRENT not synced before its name",
        (
            Edit(
                "manifest/current.py",
                "write_all(file, encode_current(name), 0)\n        file.sync()\n",
                "write_all(file, encode_current(name), 0)\n",
            ),
        ),
        (POWER_LOSS,),
    ),
    Mutant(
        "manifest: directory not synced after the swap of CURRENT",
        (
            Edit(
                "manifest/current.py",
                "fs.rename(paths.format_tmp(path), path)\n    fs.sync_directory(directory)",
                "fs.rename(paths.format_tmp(path), path)",
            ),
        ),
        (POWER_LOSS,),
    ),
    Mutant(
        "manifest: an edit not synced",
        (
            Edit(
                "manifest/log.py",
                "self._log.append_and_commit(payload)\n        except",
                "self._log.append_with_checksum(payload)\n        except",
            ),
        ),
        (POWER_LOSS,),
    ),
    Mutant(
        "inputs of a compaction unlinked before the edit",
        (
            Edit(
                "compaction/job.py",
                "        installing = True\n",
                "        installing = True\n        tree.remove(meta.number for meta in inputs)\n",
            ),
        ),
        (STEPS,),
    ),
    Mutant(
        "the log given up before the edit",
        (
            Edit(
                "compaction/flush.py",
                "    edit = VersionEdit(\n",
                "    log.release(first_needed)\n    edit = VersionEdit(\n",
            ),
        ),
        (STEPS,),
    ),
    Mutant(
        "the log given up further than the table reaches",
        (
            Edit(
                "compaction/flush.py",
                "first_needed = log.first_needed(memtable.covered_lsn)",
                "first_needed = log.first_needed(memtable.covered_lsn + (1 << 40))",
            ),
        ),
        (f"{STORE}/test_flush.py",),
    ),
    Mutant(
        "a flush is to cover writes that are still pending",
        (
            Edit(
                "pipeline.py",
                "memtable.last_lsn if self._pending else log_end",
                "log_end",
            ),
        ),
        (f"{STORE}/test_flush.py",),
    ),
    Mutant(
        "two openers at a time",
        (
            Edit(
                "fs/posix.py",
                "fcntl.LOCK_EX | fcntl.LOCK_NB)\n    except BlockingIOError",
                "fcntl.LOCK_SH | fcntl.LOCK_NB)\n    except BlockingIOError",
            ),
        ),
        ("tests/unit/fs/test_posix.py",),
    ),
    # ---- tables ----
    Mutant(
        "tables of level 0 oldest first",
        (
            Edit(
                "tree.py",
                "runs += [[meta] for meta in tables] if level == 0",
                "runs += [[meta] for meta in reversed(tables)] if level == 0",
            ),
        ),
        (f"{STORE}/test_compaction.py",),
    ),
    Mutant(
        "a compaction merges its inputs oldest first",
        (
            Edit(
                "compaction/job.py",
                "newer = [[meta] for meta in plan.inputs]",
                "newer = [[meta] for meta in reversed(plan.inputs)]",
            ),
        ),
        (f"{STORE}/test_compaction.py",),
    ),
    Mutant(
        "a scan prefers what is older",
        (Edit("snapshot.py", "for part in reversed(parts):", "for part in parts:"),),
        (f"{STORE}/test_flush.py",),
    ),
    Mutant(
        "a tombstone dropped above an entry of its key",
        (
            Edit(
                "compaction/job.py",
                "range(plan.output_level + 1, len(levels))",
                "range(plan.output_level + 2, len(levels))",
            ),
        ),
        (f"{STORE}/test_compaction.py",),
    ),
    Mutant(
        "a tombstone forgotten in memory above an entry of its key",
        (
            Edit(
                "memtable/table.py",
                "if not self._snapshots and not self.older_may_hold(key):",
                "if not self._snapshots:",
            ),
        ),
        (f"{STORE}/test_compaction.py",),
    ),
    Mutant(
        "the filter says no to keys that are there",
        (
            Edit(
                "native/builder.c",
                "for (uint32_t probe = 0; probe < probes; probe++) {",
                "for (uint32_t probe = 0; probe + 1 < probes; probe++) {",
            ),
        ),
        (f"{TABLES}/test_builder.py",),
    ),
    Mutant(
        "block checksums not checked",
        (
            Edit(
                "native/table.c",
                "if (load_u32(trailer + 5) != *crc) {",
                "if (load_u32(trailer + 5) != *crc && p->what != KV_PART_DATA) {",
            ),
        ),
        (f"{TABLES}/test_table_kernels.py",),
    ),
    Mutant(
        "a key taken for one that begins with it",
        (
            Edit(
                "native/block.c",
                "if (e.suffix_length == rest_length && !memcmp(",
                "if (e.suffix_length >= rest_length && !memcmp(",
            ),
        ),
        (f"{TABLES}/test_block.py",),
    ),
    Mutant(
        "keys that begin alike compare equal",
        (
            Edit(
                "native/table.h",
                "return order ? order : (a_length > b_length) - (a_length < b_length);",
                "return order;",
            ),
        ),
        (f"{TABLES}/test_merge_kernels.py", f"{TABLES}/test_builder.py"),
    ),
    # ---- snapshots ----
    Mutant(
        "a snapshot does not pin its moment of the memtable",
        (
            Edit(
                "snapshot.py",
                "state.memtable.open_snapshot() if state.memtable.entry_count else None",
                "state.memtable.last_lsn if state.memtable.entry_count else None",
            ),
        ),
        (f"{STORE}/test_snapshot.py",),
    ),
    Mutant(
        "a snapshot does not pin its tables",
        (
            Edit(
                "tree.py",
                "        self.remove(number for number in tables if number not in self._tables)",
                "        for number in tables.keys() - self._tables.keys():\n"
                "            os.truncate(self.table_path(number), 0)",
            ),
        ),
        (f"{STORE}/test_snapshot.py",),
    ),
)
