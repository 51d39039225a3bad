"""The sorted view, brought up to date piece by piece."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvstore.memtable import MemTable
from tests.unit.memtable.test_memtable import read

KEYS = [b"%02d" % i for i in range(40)]
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS)),
    st.tuples(st.just("put"), st.sampled_from(KEYS)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS)),
    st.tuples(st.just("sort"), st.integers(1, 5)),
    st.tuples(st.just("read"), st.sampled_from(KEYS)),
)


@settings(deadline=None)
@given(steps=st.lists(steps, max_size=80), older=st.booleans())
def test_sorting_in_pieces_at_any_moment_changes_nothing_that_is_read(
    steps: list[tuple[str, bytes | int]], *, older: bool
) -> None:
    table = MemTable()
    table.older_may_hold = lambda _: older  # else what is deleted is dropped
    model: dict[bytes, bytes | None] = {}
    for lsn, (step, argument) in enumerate(steps, 1):
        if isinstance(argument, int):
            before = table.unsorted_count
            done = table.sort_some(argument)
            assert done == (table.unsorted_count == 0)
            assert done or table.unsorted_count == before - argument
        elif step == "read":
            snapshot = table.open_snapshot()
            want = [(key, value) for key, value in sorted(model.items()) if key >= argument]
            assert read(table, snapshot, argument) == want
            table.close_snapshot(snapshot)
        else:
            value = b"%d" % lsn if step == "put" else None
            table.apply_one(argument, value, lsn)
            model[argument] = value
            if value is None and not older:
                del model[argument]
        table._check()


def test_no_call_sorts_more_than_it_was_asked_to() -> None:
    table = MemTable()
    for i in range(1000):
        table.apply_one(b"%04d" % (i * 7 % 1000), b"", i + 1)
    calls = 1
    while not table.sort_some(100):
        assert table.unsorted_count == 1000 - 100 * calls
        calls += 1
    assert calls == 10
    assert [key for key, _ in read(table, 1000, keys_max=1000)] == [
        b"%04d" % i for i in range(1000)
    ]
