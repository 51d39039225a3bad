"""``python -m tests.mutants``: are the tests able to fail? Each mutant must be caught by one.

    python -m tests.mutants                     all of them, two at a time
    python -m tests.mutants snapshot torn       those whose names hold one of these words
    python -m tests.mutants torn --tests tests/unit/wal     with these tests, not the mutant's own

The exit status is 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from bench.termination import terminated_in_order
from tests.mutants.table import MUTANTS, ROOT, Mutant
from tests.mutants.trial import TIME_LIMIT, BaseTree, Verdict

_AT_A_TIME = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--tests", nargs="+", default=[])
    arguments = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not arguments.words or any(word in mutant.name for word in arguments.words)
    ]
    if not chosen:
        parser.error(f"no mutant's name holds any of: {', '.join(arguments.words)}")
    began = time.monotonic()
    with terminated_in_order(), tempfile.TemporaryDirectory(prefix="kvstore-mutants-") as directory:
        verdicts = _try_all(BaseTree(Path(directory)), chosen, arguments.tests)
    survivors = [verdict.name for verdict in verdicts if not verdict.caught_by]
    late = sum(verdict.caught_by.endswith(TIME_LIMIT) for verdict in verdicts)
    print(
        f"{len(verdicts) - len(survivors)} of {len(verdicts)} mutants caught, {late} of them by a "
        f"time limit, {time.monotonic() - began:.0f} s"
    )
    return 1 if survivors else 0


def _try_all(base: BaseTree, mutants: list[Mutant], tests: list[str]) -> list[Verdict]:
    wanted = sorted(set(tests or (test for mutant in mutants for test in mutant.tests)))
    missing = [test for test in wanted if not (ROOT / test.partition("::")[0]).exists()]
    if missing:
        raise SystemExit(f"no such tests: {', '.join(missing)}")
    # A test that fails anyway catches nothing.
    whole = base.run(wanted)
    if whole.caught_by:
        raise SystemExit(f"{whole.output}\nwithout any mutant: {whole.caught_by}")
    print(f"the tests pass without any mutant, {whole.seconds:.0f} s", flush=True)
    width = max(len(mutant.name) for mutant in mutants)
    verdicts = []
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        trials = [
            pool.submit(base.try_mutant, mutant, tests or list(mutant.tests)) for mutant in mutants
        ]
        try:
            for trial in as_completed(trials):
                verdict = trial.result()
                verdicts.append(verdict)
                caught_by = verdict.caught_by or "SURVIVED"
                print(f"{verdict.name:{width}}  {verdict.seconds:5.1f} s  {caught_by}", flush=True)
        except BaseException:  # Ctrl-C, too: those under way are waited for, the others are not
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
