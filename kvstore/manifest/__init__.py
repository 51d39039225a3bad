"""Which sorted tables there are: edits, immutable versions, and the durable log of edits."""

from kvstore.manifest.edit import LEVELS, TableMeta, VersionEdit
from kvstore.manifest.log import ManifestLog, orphans
from kvstore.manifest.version import Version, VersionError

__all__ = [
    "LEVELS",
    "ManifestLog",
    "TableMeta",
    "Version",
    "VersionEdit",
    "VersionError",
    "orphans",
]
