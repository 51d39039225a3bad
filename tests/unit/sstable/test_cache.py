"""The cache of decompressed blocks."""

from __future__ import annotations

import random
import threading

from kvstore.sstable import BlockCache
from tests.support.interrupts import interrupted_in_loop


def test_a_block_that_was_put_is_given_back_and_counted() -> None:
    cache = BlockCache(100)
    assert cache.get(1, 0) is None
    cache.put(1, 0, b"block")
    assert cache.get(1, 0) == b"block"
    assert cache.get(2, 0) is None
    assert cache.get(1, 1) is None
    assert (cache.hits, cache.misses, cache.bytes, len(cache)) == (1, 3, 5, 1)


def test_the_least_recently_used_block_makes_room() -> None:
    cache = BlockCache(30)
    for block in range(3):
        cache.put(1, block, bytes(10))
    cache.get(1, 0)
    cache.put(1, 3, bytes(10))
    assert [cache.get(1, block) is not None for block in range(4)] == [True, False, True, True]
    cache.put(1, 4, bytes(25))
    assert [cache.get(1, block) is not None for block in range(5)] == [False] * 4 + [True]
    assert cache.bytes == 25


def test_making_room_that_is_interrupted_leaves_the_cache_usable() -> None:
    cache = BlockCache(10)
    for block in range(10):
        cache.put(1, block, bytes(1))
    assert interrupted_in_loop(lambda: cache.put(2, 0, bytes(10)), 3)
    assert cache._lock.acquire(timeout=5)
    cache._lock.release()
    cache.put(2, 1, bytes(10))
    assert cache.get(2, 1) == bytes(10)
    cache._check()


def test_a_block_larger_than_the_cache_is_not_kept_and_displaces_nothing() -> None:
    cache = BlockCache(10)
    cache.put(1, 0, bytes(10))
    cache.put(1, 1, bytes(11))
    assert cache.get(1, 1) is None
    assert cache.get(1, 0) == bytes(10)


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = BlockCache(0)
    cache.put(1, 0, b"x")
    assert cache.get(1, 0) is None
    assert cache.bytes == 0


def test_a_block_put_twice_counts_once() -> None:
    cache = BlockCache(30)
    cache.put(1, 0, bytes(10))
    cache.put(1, 0, bytes(20))
    assert (cache.bytes, len(cache), cache.get(1, 0)) == (20, 1, bytes(20))
    cache._check()


def test_threads_share_a_cache() -> None:
    cache = BlockCache(1000)
    wrong: list[tuple[int, bytes]] = []

    def work(seed: int) -> None:
        numbers = random.Random(seed)
        for _ in range(2000):
            block = numbers.randrange(20)
            plain = cache.get(1, block)
            if plain is None:
                cache.put(1, block, bytes([block]) * 100)
            elif plain != bytes([block]) * 100:
                wrong.append((block, plain))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert cache.hits + cache.misses == 8000
    cache._check()
