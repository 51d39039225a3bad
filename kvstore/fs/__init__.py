"""The I/O seam: the operations on files and directories that everything else is built on."""

from kvstore.fs.base import File, FileSystem, Lock, write_all
from kvstore.fs.posix import PosixFileSystem

__all__ = ["File", "FileSystem", "Lock", "PosixFileSystem", "write_all"]
