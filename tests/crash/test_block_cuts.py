"""Power cuts at block level: a share of what block_cuts.py does in `make torture`."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.crash import block_cuts

SEED = random.randrange(1 << 32)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True], ids=["no cache", "volatile cache"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_was_acknowledged_before_the_power_went_is_on_the_disk(
    tmp_path: Path, kind: str, cache: bool
) -> None:
    if reason := block_cuts.unavailable():
        pytest.skip(reason)
    done = block_cuts.run(kind, cache, SEED, tmp_path, cuts=1)
    print(dict(done))
    # The first may come before anything was acknowledged.
    assert done["cuts"] + done["cuts before anything was acknowledged"] == block_cuts.LIVES
    assert done["cuts"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True], ids=["no cache", "volatile cache"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_cut_takes_what_was_not_synced_and_nothing_else(
    tmp_path: Path, kind: str, cache: bool
) -> None:
    if reason := block_cuts.unavailable():
        pytest.skip(reason)
    script = (
        "import json, mmap, os, sys\n"
        "from pathlib import Path\n"
        "from tests.crash.block_cuts import mounted_disk\n"
        "directory, page = Path(sys.argv[1]), mmap.mmap(-1, 4096)\n"
        "page[:] = b'x' * 4096\n"
        "with mounted_disk(sys.argv[2], sys.argv[3] == 'True', directory) as disk:\n"
        "    file = disk.place / 'file'\n"
        "    file.write_bytes(bytes(1 << 20))\n"
        "    buffered, direct = (os.open(file, os.O_RDWR | flag) for flag in (0, os.O_DIRECT))\n"
        "    os.fsync(buffered)\n"
        "    names = os.open(disk.place, os.O_RDONLY)\n"
        "    os.fsync(names)\n"
        "    os.pwritev(direct, [page], 0)\n"
        "    os.fdatasync(direct)\n"
        "    os.pwritev(direct, [page], 4096)\n"
        "    os.pwrite(buffered, page, 8192)\n"
        "    (disk.place / 'name').touch()\n"
        "    image = disk.cut(0)\n"
        "    for each in (buffered, direct, names):\n"
        "        os.close(each)\n"
        "    with disk.after(image, directory) as place:\n"
        "        data = (place / 'file').read_bytes()\n"
        "        found = [data[at] != 0 for at in (0, 4096, 8192)]\n"
        "        print(json.dumps([*found, (place / 'name').exists()]))\n"
    )
    done = block_cuts.in_namespace("-c", script, str(tmp_path), kind, str(cache))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, not cache, False, False]
