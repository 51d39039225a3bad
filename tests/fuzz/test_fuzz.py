"""The corpora replayed, a few thousand changes of them, and that findings are told."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvstore.errors import FormatError, storage_error
from tests.fuzz import executions, runner, targets
from tests.fuzz.mutate import mutations
from tests.fuzz.native import NoSanitizers, harness
from tests.fuzz.runner import Finding, fuzz, replay
from tests.fuzz.targets import CORPUS, NATIVE, TARGETS, Target, corpus_files
from tests.fuzz.worker import RUNNING

MUTATIONS = 3000
NATIVE_MUTATIONS = 20_000
CORPUS_BYTES_MAX = 200_000

each_target = pytest.mark.parametrize("name", TARGETS)


@each_target
def test_every_input_kept_is_decoded_or_refused(name: str) -> None:
    files = corpus_files(name)
    assert files
    for path in files:
        TARGETS[name].run(path.read_bytes())


@pytest.mark.slow
@each_target
def test_inputs_changed_at_random_are_decoded_or_refused(name: str) -> None:
    target = TARGETS[name]
    inputs = [path.read_bytes() for path in corpus_files(name)]
    for data in mutations(inputs, MUTATIONS, 0, sections=target.sections):
        try:
            target.run(data)
        except BaseException:  # noqa: PERF203 (pytest shows what is printed)
            print(f"target {name}, input {data.hex()}")
            raise


def test_the_corpora_stay_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) <= CORPUS_BYTES_MAX
    assert len(sizes) <= 600


def test_every_corpus_belongs_to_a_target() -> None:
    used = {folder.name for name in (*TARGETS, *NATIVE) for folder in targets.corpora(name)}
    assert used == {folder.name for folder in CORPUS.iterdir()}


# ---- the C kernels under ASan and UBSan ----


@pytest.fixture(scope="module")
def built() -> Path:
    try:
        return harness(coverage=False)
    except NoSanitizers as error:
        pytest.skip(f"no compiler here has the sanitizers: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_the_kernels_take_every_input_kept_and_changes_of_them(
    name: str, built: Path, tmp_path: Path
) -> None:
    replay(name, corpus_files(name), tmp_path, coverage=False)
    done = fuzz(name, NATIVE_MUTATIONS, 0, tmp_path, coverage=False)
    assert done == NATIVE_MUTATIONS


# ---- a fuzzer that cannot fail is none ----


def raising(error: BaseException) -> Target:
    def decode(data: bytes) -> None:
        raise error

    return Target(decode, "log")


def test_only_typed_errors_are_let_pass() -> None:
    raising(FormatError("path", "not a log")).run(b"")
    for error in (ValueError(), IndexError(), AssertionError(), storage_error(12, "read", "path")):
        with pytest.raises(type(error)):
            raising(error).run(b"")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS bounds nothing there")
def test_an_allocation_beyond_the_bound_is_a_finding() -> None:
    def take(megabytes: int) -> Callable[[bytes], None]:
        def decode(data: bytes) -> None:
            assert bytes(megabytes << 20)

        return decode

    Target(take(30), "log").run(b"")
    with pytest.raises(MemoryError):
        Target(take(64), "log").run(b"")
    large = Target(take(64), "log", bytes_each=1 << 20)
    large.run(bytes(64))
    with pytest.raises(MemoryError):
        large.run(bytes(16))


def test_what_is_found_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CRASHERS", tmp_path / "crashers")
    monkeypatch.setattr(runner, "harness", lambda coverage: sys.executable)
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(Finding, match="the input is not known"):
        replay("c-log", [], work)
    (work / RUNNING).write_bytes(b"\3\0\0\0abc\0\0")
    with pytest.raises(Finding) as caught:
        replay("c-log", [], work)
    assert caught.value.path is not None
    assert caught.value.path.read_bytes() == b"abc"
    assert re.search(
        r"python -m tests.fuzz c-log \S+crashers/c-log-[0-9a-f]{12}", str(caught.value)
    )
    (work / "crash-1").write_bytes(b"saved")
    with pytest.raises(Finding) as caught:
        replay("c-log", [], work)
    assert caught.value.path is not None
    assert caught.value.path.read_bytes() == b"saved"


@pytest.mark.slow
def test_a_chunk_counts_what_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    monkeypatch.setattr(executions, "_PYTHON_RUNS", 100)
    monkeypatch.setattr(executions, "_NATIVE_RUNS", {"c-batch": 200})
    assert executions.chunk(0, tmp_path) == {"executions": 300}
