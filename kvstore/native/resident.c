/* Whether the bytes of a mapped table are in memory, for callers that must not wait for the disk;
 * and how those come there that are not.
 *
 * mincore(2) answers from the page tables and the page cache. What it says may be outdated a moment
 * later; then a read waits after all, as rarely as the kernel evicts what was just looked at.
 *
 * Left to itself, the kernel reads around each page of a mapping that is not in memory as much as
 * the device's read_ahead_kb says (128, and 8192 where this was measured): right for a walk,
 * ruinous for look-ups in more data than memory, each of which evicts what others need. So it is
 * told that accesses are random (15,000 instead of 700 gets a second of a store of 2.4 times the
 * memory), and who walks, or wants a large block, asks for what comes (without that, walks take 15
 * times as long). The price: of such a mapping the kernel (from Linux 6.3 on) does not heed which
 * pages are used often, until one that it has dropped is wanted again.
 */
#include "table.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    COPIED_MAX = 1 << 20, /* what is longer is not looked at: to copy it holds a loop up, too */
    PAGES_AT_ONCE = 256,
    AT_ONCE = 128 << 10
};

#define MOMENT_NS UINT64_C(10000000)

static uint64_t coarse_ns(void) {
#ifdef CLOCK_MONOTONIC_COARSE
    clockid_t clock = CLOCK_MONOTONIC_COARSE;
#else
    clockid_t clock = CLOCK_MONOTONIC;
#endif
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool resident(const kv_table *table, uint64_t offset, uint64_t length) {
    if (table->layout.fd < 0) {
        return true; /* bytes, not a mapping */
    }
    unsigned char pages[PAGES_AT_ONCE];
    uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t at = (uintptr_t)(table->map + offset);
    uintptr_t end = at + (uintptr_t)length;
    bool all = true;
    for (at -= at % page_bytes; all && at < end; at += PAGES_AT_ONCE * page_bytes) {
        uintptr_t left = end - at;
        size_t count = (left + page_bytes - 1) / page_bytes;
        count = count < PAGES_AT_ONCE ? count : PAGES_AT_ONCE;
        /* The vector's type differs between systems. */
        all = !mincore((void *)at, count * page_bytes, (void *)pages);
        for (size_t i = 0; all && i < count; i++) {
            all = pages[i] & 1;
        }
    }
    return all;
}

void table_map_random(const kv_table *table) {
    if (table->layout.fd >= 0 && table->layout.size) {
        posix_madvise((void *)(uintptr_t)table->map, table->layout.size, POSIX_MADV_RANDOM);
    }
}

void table_read_ahead(const kv_table *table, uint64_t offset, uint64_t length) {
    if (table->layout.fd < 0 || !length) {
        return;
    }
    uintptr_t at = (uintptr_t)(table->map + offset);
    uintptr_t end = at + (uintptr_t)length;
    at -= at % (uintptr_t)sysconf(_SC_PAGESIZE);
    for (; at < end; at += AT_ONCE) { /* of more the kernel reads as much as read_ahead_kb says */
        posix_madvise((void *)at, end - at < AT_ONCE ? end - at : AT_ONCE, POSIX_MADV_WILLNEED);
    }
}

bool table_present(const kv_table *table, uint64_t offset, uint64_t length) {
    if (table->layout.fd < 0 || !length) {
        return true;
    }
#ifdef MADV_POPULATE_READ
    if (resident(table, offset, length)) {
        uintptr_t at = (uintptr_t)(table->map + offset);
        uintptr_t end = at + (uintptr_t)length;
        at -= at % (uintptr_t)sysconf(_SC_PAGESIZE);
        return !madvise((void *)at, end - at, MADV_POPULATE_READ);
    }
#endif
    return false;
}

bool table_filter_resident(const kv_table *table, uint32_t hash) {
    if (!table->layout.filter_length) {
        return true;
    }
    if (!atomic_load_explicit(&table->filter_ready, memory_order_acquire)) {
        return false; /* it is read and checked as a whole */
    }
    const uint8_t *line = table->filter + FILTER_LINE * filter_line(hash, table->filter_lines);
    return resident(table, (uint64_t)(line - table->map), FILTER_LINE);
}

/* Of the index, which has a hundred pages, every look-up reads some: what was there a moment ago is
 * not looked at again (1.5 us). */
bool table_index_resident(kv_table *table) {
    if (!atomic_load_explicit(&table->index_ready, memory_order_acquire)) {
        return false;
    }
    uint64_t now = coarse_ns();
    if (now - atomic_load_explicit(&table->index_seen_ns, memory_order_relaxed) < MOMENT_NS) {
        return true;
    }
    if (!resident(table, table->layout.index_offset, table->layout.index_length)) {
        return false;
    }
    atomic_store_explicit(&table->index_seen_ns, now, memory_order_relaxed);
    return true;
}

bool table_block_resident(const kv_table *table, uint32_t index) {
    uint64_t offset = table_block_offset(table, index);
    uint64_t length = table_block_offset(table, index + 1) - TRAILER - offset;
    return (length <= COPIED_MAX || table->layout.fd < 0) && resident(table, offset, length);
}
