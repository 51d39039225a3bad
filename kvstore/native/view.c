/* Point reads over many tables. A view never changes; threads read it without a lock.
 *
 * What a lookup costs is cache misses: a line of the filter for each table that lacks the key; for
 * the table that has it the index (search.c), the head of the block, whose lines are fetched at
 * once, and the entry. Measured over 22 MB of blocks where a miss takes 150 ns: 350 ns a get, 80 of
 * them when all is in the cache.
 */
#include "table.h"

#include <stdlib.h>

enum { LINES_AHEAD = 8 }; /* of a block: hashes and offsets of some 50 entries */

/* What a lookup did; added to the shared counters once, at its end. */
typedef struct {
    uint64_t probed, negatives;
} tally;

/* Threads that count at once may lose a count: an exact one would cost each look-up 20 ns. */
static void count(uint64_t *counter, uint64_t more) {
    uint64_t before = __atomic_load_n(counter, __ATOMIC_RELAXED);
    __atomic_store_n(counter, before + more, __ATOMIC_RELAXED);
}

static void tally_add(const kv_view *view, tally t) {
    if (view->stats) {
        count(&view->stats->gets, 1);
        count(&view->stats->tables_probed, t.probed);
        count(&view->stats->filter_negatives, t.negatives);
    }
}

/* The slot of the only table of a run that may hold the key; -1 when none may. */
static int64_t run_table(const kv_view *view, const view_run *run, const uint8_t *key,
                         size_t key_length) {
    uint32_t slot = run->first + separators_find(&run->largest, key, key_length);
    if (slot == run->end) {
        return -1;
    }
    const kv_table *table = view->tables[slot];
    int order = compare_keys(key, key_length, table->smallest, table->smallest_length);
    return order < 0 ? -1 : (int64_t)slot;
}

/* How a look-up reads: RESIDENT not at all from the disk. WHOLE: index and block as a whole, so
 * that the next one that is RESIDENT finds them; from a mapping only the pages come that are
 * touched. */
typedef enum { ANYHOW, RESIDENT, WHOLE } manner;

/* KV_FOUND: the filter may hold the hash; else KV_ABSENT, KV_NOT_RESIDENT or KV_DAMAGED. */
static int ask_filter(kv_table *table, uint32_t hash, manner how, tally *t) {
    if (how == RESIDENT && !table_filter_resident(table, hash)) {
        return KV_NOT_RESIDENT;
    }
    if (!table->layout.filter_length) {
        return KV_FOUND;
    }
    if (table_need_filter(table)) {
        return KV_DAMAGED;
    }
    if (!table_filter_has(table, hash)) {
        t->negatives++;
        return KV_ABSENT;
    }
    return KV_FOUND;
}

/* The only block that may hold the key, its first lines on their way; KV_FOUND, KV_ABSENT,
 * KV_NOT_RESIDENT or KV_DAMAGED. */
static int find_block(kv_table *table, const uint8_t *key, size_t key_length, manner how,
                      uint32_t *index) {
    if (how == RESIDENT && !table_index_resident(table)) {
        return KV_NOT_RESIDENT;
    }
    if (table_need_index(table)) {
        return KV_DAMAGED;
    }
    if (how == WHOLE) {
        table_read_ahead(table, table->layout.index_offset, table->layout.index_length);
    }
    *index = separators_find(&table->index, key, key_length);
    if (*index == table->index.count) {
        return KV_ABSENT;
    }
    const uint8_t *start = table->map + table_block_offset(table, *index);
    for (int line = 0; line < LINES_AHEAD; line++) {
        __builtin_prefetch(start + 64 * line);
    }
    return KV_FOUND;
}

/* Looks for the key in one table; KV_FOUND, KV_DELETED and the rest, and sets out but its status.
 * In the last run, which holds nearly all keys, the index is searched while the filter's line is on
 * its way; in the others the filter spares the search. */
static int find_in_table(const kv_view *view, kv_table *table, const char *key, size_t key_length,
                         uint64_t hash, bool last_run, manner how, kv_found *out, tally *t) {
    uint32_t index = 0;
    int status = KV_FOUND;
    if (last_run) {
        table_prefetch_filter(table, (uint32_t)hash);
        status = find_block(table, (const uint8_t *)key, key_length, how, &index);
    }
    if (status == KV_FOUND) {
        status = ask_filter(table, (uint32_t)hash, how, t);
    }
    if (status != KV_FOUND) {
        return status;
    }
    t->probed++;
    if (!last_run) {
        status = find_block(table, (const uint8_t *)key, key_length, how, &index);
        if (status != KV_FOUND) {
            return status;
        }
    }
    out->block = index;
    if (how == RESIDENT && !table_block_resident(table, index)) {
        return KV_NOT_RESIDENT;
    }
    if (how == WHOLE) {
        uint64_t start = table_block_offset(table, index);
        table_read_ahead(table, start, table_block_offset(table, index + 1) - start);
    }
    int state = view_need_block(view, table, index, false);
    if (state != BLOCK_PLAIN) {
        return state == BLOCK_COMPRESSED ? KV_NEED_BLOCK : KV_DAMAGED;
    }
    uint64_t offset = table_block_offset(table, index);
    uint64_t end = table_block_offset(table, index + 1) - TRAILER;
    uint64_t found[2] = {0, 0};
    status = kv_block_find((const char *)table->map + offset, (size_t)(end - offset), key,
                           key_length, hash, found);
    out->offset = offset + found[0];
    out->length = found[1];
    return status;
}

static void look_up(const kv_view *view, size_t first_run, const char *key, size_t key_length,
                    uint64_t hash, manner how, kv_found *out, tally *t) {
    *out = (kv_found){.status = KV_ABSENT};
    for (size_t i = first_run; i < view->run_count && out->status == KV_ABSENT; i++) {
        int64_t slot = run_table(view, &view->runs[i], (const uint8_t *)key, key_length);
        if (slot < 0) {
            continue;
        }
        out->slot = (uint32_t)slot;
        bool last_run = i + 1 == view->run_count;
        kv_table *table = view->tables[slot];
        out->status = find_in_table(view, table, key, key_length, hash, last_run, how, out, t);
    }
}

/* The run behind that of a slot; the first for -1. */
static size_t run_behind(const kv_view *view, int64_t slot) {
    size_t i = 0;
    while (i < view->run_count && (int64_t)view->runs[i].first <= slot) {
        i++;
    }
    return i;
}

void kv_view_find(kv_view *view, const char *key, size_t key_length, uint64_t hash,
                  int64_t after_slot, int only_resident, kv_found *out) {
    tally t = {0, 0};
    look_up(view, run_behind(view, after_slot), key, key_length, hash,
            only_resident ? RESIDENT : ANYHOW, out, &t);
    if (after_slot < 0 && out->status != KV_NOT_RESIDENT) {
        tally_add(view, t);
    }
}

static inline int64_t get(kv_view *view, const char *key, size_t key_length, uint64_t hash,
                          manner how, char *out) {
    kv_found found;
    tally t = {0, 0};
    look_up(view, 0, key, key_length, hash, how, &found, &t);
    if (found.status == KV_NOT_RESIDENT) {
        return KV_NOT_RESIDENT; /* and who waits will count it */
    }
    bool fits = found.status == KV_FOUND && found.length <= KV_VALUE_ROOM;
    if (!fits && found.status != KV_ABSENT && found.status != KV_DELETED) {
        return KV_NEED_ROOM; /* and kv_view_find will count it */
    }
    tally_add(view, t);
    if (!fits) {
        return found.status;
    }
    memcpy(out, view->tables[found.slot]->map + found.offset, found.length);
    return (int64_t)found.length;
}

int64_t kv_view_get(kv_view *view, const char *key, size_t key_length, uint64_t hash, char *out) {
    return get(view, key, key_length, hash, ANYHOW, out);
}

int64_t kv_view_get_resident(kv_view *view, const char *key, size_t key_length, uint64_t hash,
                             char *out) {
    return get(view, key, key_length, hash, RESIDENT, out);
}

void kv_view_fetch(kv_view *view, const char *key, size_t key_length, uint64_t hash) {
    kv_found found;
    tally t = {0, 0};
    look_up(view, 0, key, key_length, hash, WHOLE, &found, &t);
}

int kv_view_may_contain(kv_view *view, const char *key, size_t key_length, uint64_t hash) {
    for (size_t i = 0; i < view->run_count; i++) {
        int64_t slot = run_table(view, &view->runs[i], (const uint8_t *)key, key_length);
        if (slot >= 0 && kv_table_may_contain(view->tables[slot], key, key_length, hash)) {
            return 1;
        }
    }
    return 0;
}

/* Copies the largest keys of the run's tables into the shape that a search wants. 0, or -1 when
 * there is no memory. */
static int run_prepare(view_run *run, kv_table *const *tables) {
    size_t count = run->end - run->first;
    size_t start = 4 * (count + 1);
    size_t size = start;
    for (uint32_t slot = run->first; slot < run->end; slot++) {
        size += tables[slot]->largest_length;
    }
    uint8_t *bytes = size > UINT32_MAX ? NULL : malloc(size);
    if (!bytes) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        const kv_table *table = tables[run->first + i];
        store_u32(bytes + 4 * i, (uint32_t)start);
        memcpy(bytes + start, table->largest, table->largest_length);
        start += table->largest_length;
    }
    store_u32(bytes + 4 * count, (uint32_t)start);
    run->largest_keys = bytes;
    run->largest = (separators){.base = bytes, .offsets = bytes, .count = (uint32_t)count};
    return separators_prepare(&run->largest) ? -1 : 0;
}

kv_view *kv_view_new(kv_table *const *tables, const uint32_t *run_ends, size_t runs,
                     kv_view_stats *stats) {
    kv_view *view = calloc(1, sizeof *view);
    if (!view) {
        return NULL;
    }
    size_t slots = runs ? run_ends[runs - 1] : 0;
    view->stats = stats;
    view->tables = calloc(slots + 1, sizeof *view->tables);
    view->runs = calloc(runs + 1, sizeof *view->runs);
    bool made = view->tables && view->runs;
    uint32_t first = 0;
    for (size_t i = 0; made && i < runs; i++) {
        if (run_ends[i] > first) { /* a run without tables is none */
            view_run *run = &view->runs[view->run_count++];
            run->first = first;
            run->end = run_ends[i];
            made = !run_prepare(run, tables);
        }
        first = run_ends[i];
    }
    if (!made) {
        kv_view_free(view);
        return NULL;
    }
    if (slots) {
        memcpy(view->tables, tables, slots * sizeof *tables);
    }
    return view;
}

void kv_view_free(kv_view *view) {
    if (!view) {
        return;
    }
    for (size_t i = 0; view->runs && i < view->run_count; i++) {
        separators_release(&view->runs[i].largest);
        free(view->runs[i].largest_keys);
    }
    free(view->runs);
    free(view->tables);
    free(view);
}
