"""Hypothesis strategies of keys, entries and tables."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.table_oracle import Entry

__all__ = ["entry_lists", "keys"]

# Short alphabets, so that keys share prefixes and runs share keys; and the ends of the byte range.
_letters = st.binary(min_size=1, max_size=4)
_narrow = st.text("ab", min_size=1, max_size=8).map(str.encode)
_prefixed = st.tuples(
    st.sampled_from([b"", b"user", b"user:0000000", b"\xff" * 9]), _narrow | _letters
).map(b"".join)
_ends = st.sampled_from([b"\0", b"\0\0", b"\xff", b"\xff" * 8, b"\xff" * 9, b"a" * 300])

keys = _narrow | _prefixed | _letters | _ends
_values = st.none() | st.binary(max_size=12) | st.integers(0, 400).map(lambda n: b"v" * n)


def entry_lists(max_size: int = 60) -> st.SearchStrategy[list[Entry]]:
    """Sorted, each key once; at least one."""
    return st.dictionaries(keys, _values, min_size=1, max_size=max_size).map(
        lambda entries: sorted(entries.items())
    )
