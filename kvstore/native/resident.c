/* Whether the bytes of a mapped table are in memory, for callers that must not wait for the disk.
 *
 * mincore(2) answers from the page tables and the page cache. What it says may be outdated a moment
 * later; then a read waits after all, as rarely as the kernel evicts what was just looked at.
 */
#include "table.h"

#include <sys/mman.h>
#include <unistd.h>

enum {
    COPIED_MAX = 1 << 20, /* what is longer is not looked at: to copy it holds a loop up, too */
    PAGES_AT_ONCE = 256
};

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

bool table_index_resident(const kv_table *table) {
    return atomic_load_explicit(&table->index_ready, memory_order_acquire) &&
           resident(table, table->layout.index_offset, table->layout.index_length);
}

bool table_block_resident(const kv_table *table, uint32_t index) {
    uint64_t offset = table_block_offset(table, index);
    uint64_t length = table_block_offset(table, index + 1) - offset;
    return (length <= COPIED_MAX || table->layout.fd < 0) && resident(table, offset, length);
}
