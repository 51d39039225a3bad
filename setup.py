"""What pyproject.toml cannot say: the cffi module and the wheel's stable-ABI tag."""

import sysconfig

from setuptools import setup

# cffi builds against the stable ABI, so one wheel serves every Python from 3.10 on.
# Free-threaded builds have no such ABI; there the wheel keeps its own tag.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    cffi_modules=["kvstore/native/build.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE_ABI else {},
)
