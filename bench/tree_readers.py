"""Engines that hold a dataset, loaded and checked, ready to be read from."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence

from bench.engines import ENGINES, Engine, count_entries
from bench.keys import Values, make_key, sorted_keys
from bench.tree_plan import Dataset

__all__ = ["check_sample", "loaded"]

_SAMPLE = 1000


@contextlib.contextmanager
def loaded(
    directory: str,
    dataset: Dataset,
    names: Sequence[str],
    *,
    seed: int,
    tell: Callable[[str], None],
) -> Iterator[dict[str, Engine]]:
    """The engines ``names``, open, each with all of the dataset; closed and removed at the end.

    All has been read once, forward and backward, so that every cache holds it.
    """
    values = Values(dataset.value_bytes, seed)
    keys = sorted_keys(dataset.keys)
    engines: dict[str, Engine] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            tell(f"loading {dataset.name} into {name}")
            place = os.path.join(directory, name)
            os.mkdir(place)
            stack.callback(shutil.rmtree, place)
            engine = ENGINES[name](place, dataset.data_bytes)
            stack.callback(engine.close)
            engine.load(values.pairs(keys))
            for reverse in (False, True):
                found = engine.scan(None, None, reverse, count_entries)
                if found != dataset.keys:
                    raise RuntimeError(f"{name} has {found} of {dataset.keys} entries")
            generator = random.Random(seed)
            check_sample(name, engine.get, generator.choices(keys, k=_SAMPLE), values)
            _check_absent(name, engine, dataset, generator)
            engines[name] = engine
        del keys
        yield engines


def check_sample(
    name: str, get: Callable[[bytes], bytes | None], keys: Sequence[bytes], values: Values
) -> None:
    """Raises RuntimeError when a key does not have its value."""
    for key in keys:
        if get(key) != values.of(key):
            raise RuntimeError(f"{name} has lost or changed the value of {key!r}")


def _check_absent(name: str, engine: Engine, dataset: Dataset, generator: random.Random) -> None:
    first = dataset.keys
    keys = [make_key(first + generator.randrange(first)) for _ in range(_SAMPLE)]
    if engine.get_each(keys):
        raise RuntimeError(f"{name} finds keys that were never put")
