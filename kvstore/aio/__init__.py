"""The store for asyncio: the same API, awaited, and no thread on the way of a write.

writer.py     the queue of writes: log, submit at the end of the loop's iteration, reap, wake
write.py      one write, for which a task waits as for a future
lookups.py    gets that need the disk, by a few threads
reads.py      scans and snapshots, which never make the loop wait for the disk either
store.py      AsyncKVStore itself
"""

from kvstore.aio.reads import AsyncSnapshot
from kvstore.aio.store import AsyncKVStore, open_async

__all__ = ["AsyncKVStore", "AsyncSnapshot", "open_async"]
