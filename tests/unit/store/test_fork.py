"""A store and the children of its process. Scripts of their own: forking this one is not safe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.stores import NEVER, contents, each_backend, output_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

SCRIPT = """
import os, sys, warnings
import kvstore
from tests.support.stores import every_call

warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")  # Python 3.12
path, backend, ending, interval = sys.argv[1:]
db = kvstore.open(path, wal_backend=backend, flush_interval_ms=float(interval))
db.put(b"key", b"value")
db.put(b"relaxed", b"1", sync=False)
scan = db.scan()
next(scan)

def child():
    calls = dict(every_call(db))
    calls["enter"] = db.__enter__
    calls["next"] = lambda: next(scan)
    for name, call in calls.items():
        try:
            call()
        except kvstore.ForkedError as error:
            assert path in str(error) and "after the fork" in str(error)
        else:
            raise AssertionError(f"{name} worked in a child")
    repr(db)
    db.close()
    db.close()
    try:
        kvstore.open(path)
    except kvstore.LockedError as error:
        assert error.pid == os.getppid(), error.pid
    else:
        raise AssertionError("a child could open its parent's store")

pid = os.fork()
if pid == 0:
    try:
        child()
        if ending == "return":
            del db, scan
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    if ending == "_exit":
        os._exit(0)
    sys.exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
for i in range(50):
    db.put(b"after%d" % i, b"", sync=i % 2 == 0)
assert next(scan) == (b"relaxed", b"1")
assert db.get(b"other") is None
try:
    kvstore.open(path)
except kvstore.LockedError as error:
    assert error.pid == os.getpid()
else:
    raise AssertionError("the child took the lock along")
print(len(db))
db.close()
"""


@each_backend
@pytest.mark.parametrize("ending", ["_exit", "exit", "return"])
@pytest.mark.parametrize("interval", [1, NEVER])
def test_a_child_is_refused_everything_and_hurts_nothing(
    tmp_path: Path, backend: str, ending: str, interval: float
) -> None:
    assert output_of(SCRIPT, tmp_path / "db", backend, ending, str(interval)) == "52\n"
    found = contents(tmp_path / "db")
    assert found.keys() == {b"key", b"relaxed", *(b"after%d" % i for i in range(50))}


OUTLIVING = """
import os, sys, time, warnings
import kvstore

warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")
db = kvstore.open(sys.argv[1])
db.put(b"key", b"value")
read, write = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(write)
    os.read(read, 1)  # until the parent is gone
    # The pipe of a process that dies may end before its lock goes.
    deadline = time.monotonic() + 20
    while True:
        try:
            own = kvstore.open(sys.argv[1])
            break
        except kvstore.LockedError:
            assert time.monotonic() < deadline
    with own:
        own.put(b"child", b"1")
        print(sorted(own), flush=True)
    os._exit(0)
os.close(read)
if sys.argv[2] == "close":
    db.close()
    os.write(write, b"x")
    os.waitpid(pid, 0)
else:
    # Dies with the store open; the child has copies of its descriptors.
    sys.stdout.flush()
    os.set_inheritable(1, True)
    os._exit(0)
"""


@pytest.mark.parametrize("ending", ["close", "die"])
def test_a_child_may_open_the_store_once_the_parent_has_let_go(tmp_path: Path, ending: str) -> None:
    # The script's output ends when the child's does, so this waits for both.
    assert output_of(OUTLIVING, tmp_path / "db", ending) == "[b'child', b'key']\n"
    assert contents(tmp_path / "db") == {b"key": b"value", b"child": b"1"}


AFRESH = """
import os, sys
import kvstore

children = []
for i in range(3):
    pid = os.fork()
    if pid == 0:
        with kvstore.open(f"{sys.argv[1]}/{i}", wal_backend=sys.argv[2]) as db:
            db.put(b"k", b"%d" % i)
        sys.exit(0)
    children.append(pid)
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@each_backend
def test_children_that_open_stores_of_their_own_are_free_to(tmp_path: Path, backend: str) -> None:
    assert output_of(AFRESH, tmp_path, backend) == ""
    for i in range(3):
        assert contents(tmp_path / str(i)) == {b"k": b"%d" % i}
