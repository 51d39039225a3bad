"""Job: a compaction, step by step: tables are merged into new ones a level deeper.

    merge         newest version of each key; a tombstone goes when nothing deeper may hold its key
    finish        each output synced, renamed, directory synced
    install       one edit: inputs out, outputs in; durable in the manifest, then visible
    remove        the inputs' files; readers that still have them mapped go on

A crash leaves the inputs or the outputs in the version, never both or neither.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field

from kvstore.compaction.counters import Counters
from kvstore.compaction.flush import describe, new_builder
from kvstore.compaction.picker import Plan
from kvstore.manifest import TableMeta, VersionEdit
from kvstore.sstable import Merge, View
from kvstore.tree import Tree, open_table

__all__ = ["Progress", "compact"]

_STEP_ENTRIES = 16384


@dataclass
class Progress:
    """How far a compaction is: entries read, of about so many (0: nobody has counted)."""

    entries_done: int = 0
    entries_total: int = 0

    def share(self) -> float:
        """0.0 to 1.0."""
        return min(self.entries_done / self.entries_total, 1.0) if self.entries_total else 0.0


@dataclass
class _Output:
    tables: list[TableMeta] = field(default_factory=list)
    bytes_written: int = 0
    tombstones: int = 0


def compact(
    tree: Tree, plan: Plan, counters: Counters, progress: Progress
) -> Generator[None, None, None]:
    """Executes ``plan`` in bounded steps. Closing the iterator undoes what was begun.

    Raises CorruptionError (an input is damaged), StorageIOError (DiskFullError); nothing has
    changed then.
    """
    inputs = (*plan.inputs, *plan.overlapping)
    removed = tuple((plan.level, meta.number) for meta in plan.inputs) + tuple(
        (plan.output_level, meta.number) for meta in plan.overlapping
    )
    if plan.trivial:
        added = tuple((plan.output_level, meta) for meta in plan.inputs)
        tree.install(VersionEdit(added=added, removed=removed, next_table=tree.next_table))
        counters.moves += 1
        return
    tree.ensure_manifest()
    output = _Output()
    numbers: list[int] = []
    installing = False
    try:
        yield from _merge(tree, plan, output, numbers, progress)
        built = {meta.number: open_table(tree.fs, tree.directory, meta) for meta in output.tables}
        added = tuple((plan.output_level, meta) for meta in output.tables)
        installing = True
        tree.install(
            VersionEdit(added=added, removed=removed, next_table=tree.next_table), built=built
        )
    except BaseException:
        if not installing:  # else the tree removes them, when it is settled
            tree.remove(numbers)
        raise
    counters.compacted(
        sum(meta.bytes for meta in inputs),
        output.bytes_written,
        sum(meta.tombstones for meta in inputs) - output.tombstones,
    )


def _merge(
    tree: Tree, plan: Plan, output: _Output, numbers: list[int], progress: Progress
) -> Iterator[None]:
    """Builds the output tables; ``numbers`` gets each as soon as its file may be there."""
    merge = Merge(_inputs_view(tree, plan), None, None)
    levels = tree.state.version.levels
    below = tree.view_of(tree.state.version, range(plan.output_level + 1, len(levels)))
    inputs = (*plan.inputs, *plan.overlapping)
    first_lsn = min(meta.first_lsn for meta in inputs)
    last_lsn = max(meta.last_lsn for meta in inputs)
    exhausted = False
    while not exhausted:
        number = tree.new_number()
        builder = new_builder(tree, number)
        try:
            while True:
                before = progress.entries_done - builder.stats().entries_in
                step = builder.add_merge(merge, below, _STEP_ENTRIES, tree.options.table_bytes_max)
                progress.entries_done = before + builder.stats().entries_in
                exhausted = step.exhausted
                yield
                if step.exhausted or step.full:
                    break
            numbers.append(number)
            info = builder.finish(first_lsn, last_lsn)
        finally:
            builder.abandon()  # nothing once it is finished
        if info:
            output.tables.append(describe(number, info))
            output.bytes_written += info.file_bytes
            output.tombstones += info.properties.tombstones


def _inputs_view(tree: Tree, plan: Plan) -> View:
    """The inputs, newest first; tables of level 0 may overlap each other, others do not."""
    newer = [[meta] for meta in plan.inputs] if plan.level == 0 else [list(plan.inputs)]
    return tree.view_of_runs([*newer, list(plan.overlapping)])
