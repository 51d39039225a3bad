/* Entries from memory, sorted by key.
 *
 * A sort by comparing keys would follow two pointers into cold memory at every comparison. So it
 * sorts by 8 bytes of each key, held beside the entry's number, and looks at the next 8 only for
 * entries that those leave equal. What all keys of such a group share is skipped first: 8 bytes of
 * paths or of numbered names often say nothing.
 */
#include "run.h"

#include <errno.h>
#include <stdlib.h>

/* Groups up to this size are sorted by insertion, with whole comparisons. */
enum { FEW = 24 };

typedef struct {
    uint64_t head; /* 8 bytes of the key, as a number that sorts as they do */
    uint32_t entry;
} item;

/* Items that agree, zeros standing for bytes that a key lacks, in their first depth bytes. */
typedef struct {
    size_t first, count, depth;
} group;

typedef struct {
    const run_entry *entries;
    item *items, *spare;
    group *groups; /* still to be sorted; each has more than FEW items, and they are disjoint */
    size_t group_count;
    size_t counts[8][256];
} sorter;

kv_run *kv_run_new(void) { return calloc(1, sizeof(kv_run)); }

void kv_run_free(kv_run *run) {
    if (run) {
        free(run->entries);
        free(run->order);
        free(run);
    }
}

static int make_room(kv_run *run, size_t count) {
    if (count <= run->room - run->count) {
        return 0;
    }
    size_t room = run->room * 2 > run->count + count ? run->room * 2 : run->count + count;
    if (room > UINT32_MAX) { /* entries are numbered with 32 bits */
        return -ENOMEM;
    }
    run_entry *entries = realloc(run->entries, room * sizeof *entries);
    if (!entries) {
        return -ENOMEM;
    }
    run->entries = entries;
    run->room = room;
    return 0;
}

int kv_run_add(kv_run *run, size_t count, const char *data, size_t size,
               const uint32_t *key_lengths, const int32_t *value_lengths, const uint64_t *hashes) {
    if (run->order) {
        return -EINVAL;
    }
    if (count > UINT32_MAX - run->count || make_room(run, count)) {
        return -ENOMEM;
    }
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t value_length = value_lengths[i];
        size_t value_bytes = value_length > 0 ? (size_t)value_length : 0;
        if (key_lengths[i] < 1 || key_lengths[i] > KEY_MAX || value_length < -1 ||
            value_length > VALUE_MAX || key_lengths[i] + value_bytes > size - at) {
            return -EINVAL;
        }
        run->entries[run->count + i] = (run_entry){(const uint8_t *)data + at, key_lengths[i],
                                                   value_length, (uint32_t)hashes[i]};
        at += key_lengths[i] + value_bytes;
    }
    if (at != size) {
        return -EINVAL;
    }
    run->count += count;
    return 0;
}

/* Whether a's key is less than b's; both belong to a group of this depth. */
static bool less(const sorter *s, item a, item b, size_t depth) {
    const run_entry *x = &s->entries[a.entry], *y = &s->entries[b.entry];
    size_t shorter = x->key_length < y->key_length ? x->key_length : y->key_length;
    size_t skip = depth < shorter ? depth : shorter;
    return compare_keys(x->key + skip, x->key_length - skip, y->key + skip, y->key_length - skip) <
           0;
}

static void sort_few(const sorter *s, item *items, size_t count, size_t depth) {
    for (size_t i = 1; i < count; i++) {
        item moving = items[i];
        size_t at = i;
        while (at > 0 && less(s, moving, items[at - 1], depth)) {
            items[at] = items[at - 1];
            at--;
        }
        items[at] = moving;
    }
}

/* Moves the keys that end within the first depth bytes to the front, in order; returns how many.
 * They differ in nothing but the number of zeros at their ends, so they are at most 9. */
static size_t sort_ended(const sorter *s, item *items, size_t count, size_t depth) {
    size_t ended = 0;
    for (size_t i = 0; i < count; i++) {
        if (s->entries[items[i].entry].key_length <= depth) {
            item moving = items[i];
            items[i] = items[ended];
            items[ended++] = moving;
        }
    }
    sort_few(s, items, ended, depth);
    return ended;
}

/* How many bytes all these keys share, of which they are known to share depth. */
static size_t shared_bytes(const sorter *s, const item *items, size_t count, size_t depth) {
    const run_entry *first = &s->entries[items[0].entry];
    size_t shared = first->key_length;
    for (size_t i = 1; i < count && shared > depth; i++) {
        const run_entry *e = &s->entries[items[i].entry];
        shared = depth + common_prefix(first->key + depth, shared - depth, e->key + depth,
                                       e->key_length - depth);
    }
    return shared;
}

/* By head, least significant byte first; bytes that are the same in all cost no pass. */
static void sort_by_head(sorter *s, item *items, size_t count) {
    memset(s->counts, 0, sizeof s->counts);
    for (size_t i = 0; i < count; i++) {
        for (int byte = 0; byte < 8; byte++) {
            s->counts[byte][items[i].head >> (8 * byte) & 0xff]++;
        }
    }
    item *from = items, *to = s->spare;
    for (int byte = 0; byte < 8; byte++) {
        size_t *counts = s->counts[byte], place = 0;
        if (counts[items[0].head >> (8 * byte) & 0xff] == count) {
            continue;
        }
        for (int value = 0; value < 256; value++) {
            size_t many = counts[value];
            counts[value] = place;
            place += many;
        }
        for (size_t i = 0; i < count; i++) {
            to[counts[from[i].head >> (8 * byte) & 0xff]++] = from[i];
        }
        item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items) {
        memcpy(items, from, count * sizeof *items);
    }
}

/* Sorts a group, but for the groups of equal heads in it that are left to be sorted later. */
static void sort_group(sorter *s, group g) {
    item *items = s->items + g.first;
    size_t ended = sort_ended(s, items, g.count, g.depth);
    items += ended;
    size_t count = g.count - ended;
    if (count == 0) {
        return;
    }
    size_t depth = shared_bytes(s, items, count, g.depth);
    for (size_t i = 0; i < count; i++) {
        const run_entry *e = &s->entries[items[i].entry];
        items[i].head = load_head(e->key + depth, e->key_length - depth);
    }
    sort_by_head(s, items, count);
    for (size_t i = 0, next; i < count; i = next) {
        for (next = i + 1; next < count && items[next].head == items[i].head;) {
            next++;
        }
        if (next - i > FEW) {
            s->groups[s->group_count++] =
                (group){(size_t)(items - s->items) + i, next - i, depth + 8};
        } else {
            sort_few(s, items + i, next - i, depth + 8);
        }
    }
}

int kv_run_sort(kv_run *run) {
    size_t count = run->count;
    sorter *s = calloc(1, sizeof *s);
    uint32_t *order = malloc((count + 1) * sizeof *order);
    if (s) {
        s->entries = run->entries;
        s->items = malloc((count + 1) * sizeof *s->items);
        s->spare = malloc((count + 1) * sizeof *s->spare);
        s->groups = malloc((count / FEW + 1) * sizeof *s->groups);
    }
    bool ready = s && order && s->items && s->spare && s->groups && !run->order;
    if (ready) {
        for (size_t i = 0; i < count; i++) {
            s->items[i] = (item){0, (uint32_t)i};
        }
        s->groups[s->group_count++] = (group){0, count, 0};
        while (s->group_count) {
            sort_group(s, s->groups[--s->group_count]);
        }
        for (size_t i = 0; i < count; i++) {
            order[i] = s->items[i].entry;
        }
        run->order = order;
        order = NULL;
    }
    free(order);
    if (s) {
        free(s->items);
        free(s->spare);
        free(s->groups);
        free(s);
    }
    return ready ? 0 : -ENOMEM;
}
