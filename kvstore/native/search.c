/* Finding a key among many that are sorted: the blocks of a table, the tables of a run.
 *
 * A plain binary search over keys costs a cache miss at each step. Nearly all steps are decided by
 * 8 bytes behind what all keys share, and those of thousands of keys fit into a core's cache.
 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>

/* Of a great many heads, each GROUP-th is kept apart once more: those stay in the cache, and the
 * last steps of the search fall into the lines of one group, which are fetched together. */
enum { GROUP = 16 };

int separators_prepare(separators *s) {
    size_t first_length, last_length;
    const uint8_t *first = separator_at(s, 0, &first_length);
    const uint8_t *last = separator_at(s, s->count - 1, &last_length);
    s->common = common_prefix(first, first_length, last, last_length);
    s->groups = s->count / GROUP;
    s->heads = malloc(((size_t)s->count + s->groups) * sizeof *s->heads);
    if (!s->heads) {
        return -ENOMEM;
    }
    s->group_heads = s->heads + s->count;
    for (uint32_t i = 0; i < s->count; i++) {
        size_t length;
        const uint8_t *key = separator_at(s, i, &length);
        /* Keys of a manifest that lies need not ascend, and may lack the common bytes. */
        s->heads[i] = length < s->common ? 0 : load_head(key + s->common, length - s->common);
        if (i % GROUP == GROUP - 1) {
            s->group_heads[i / GROUP] = s->heads[i];
        }
    }
    return 0;
}

void separators_release(separators *s) {
    free(s->heads);
    s->heads = NULL;
}

/* The first of heads[0..count), count at least 1, that is not below `head`. No branch depends on
 * the data, so none is mispredicted. */
static uint32_t lower_bound(const uint64_t *heads, uint32_t count, uint64_t head) {
    const uint64_t *base = heads;
    uint32_t left = count;
    while (left > 1) {
        uint32_t half = left / 2;
        left -= half;
        base += base[half - 1] < head ? half : 0;
    }
    return (uint32_t)(base - heads) + (*base < head);
}

/* As lower_bound, of all heads. */
static uint32_t heads_find(const separators *s, uint64_t head) {
    uint32_t start = s->groups ? GROUP * lower_bound(s->group_heads, s->groups, head) : 0;
    uint32_t left = s->count - start;
    if (!left) {
        return start;
    }
    if (s->beside) {
        const uint8_t *beside = s->beside + (size_t)8 * start;
        __builtin_prefetch(beside);
        __builtin_prefetch(beside + 64);
    }
    __builtin_prefetch(s->heads + start + GROUP / 2);
    return start + lower_bound(s->heads + start, left < GROUP ? left : GROUP, head);
}

/* Among separators low..high, whose heads are all equal. */
static uint32_t keys_find(const separators *s, uint32_t low, uint32_t high, const uint8_t *key,
                          size_t key_length) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        size_t length;
        const uint8_t *separator = separator_at(s, middle, &length);
        if (compare_keys(separator, length, key, key_length) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

uint32_t separators_find(const separators *s, const uint8_t *key, size_t key_length) {
    size_t first_length;
    const uint8_t *first = separator_at(s, 0, &first_length);
    size_t shared = key_length < s->common ? key_length : s->common;
    int order = memcmp(key, first, shared);
    if (order) {
        return order < 0 ? 0 : s->count;
    }
    if (key_length < s->common) {
        return 0;
    }
    uint64_t head = load_head(key + s->common, key_length - s->common);
    uint32_t low = heads_find(s, head);
    if (low == s->count || s->heads[low] != head) {
        return low;
    }
    size_t length;
    const uint8_t *separator = separator_at(s, low, &length);
    if (compare_keys(separator, length, key, key_length) >= 0) {
        return low;
    }
    uint32_t high = head == UINT64_MAX ? s->count : heads_find(s, head + 1);
    return keys_find(s, low + 1, high, key, key_length);
}
