/* One plain data block: the check of its structure, and finding a key in it. */
#include "table.h"

/* The hashes compared at a time, in vectors that every compiler we use knows how to lower. */
enum { LANES = 4, GROUP = 8 };
typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));

/* Whether entry i, whose suffix begins at `key`, lies within the block and keeps the limits; gives
 * where its value begins and ends. */
static bool entry_sound(const block *b, uint32_t i, size_t key, size_t *value, size_t *end) {
    bool deleted;
    *value = block_value_at(b, i, &deleted);
    *end = i + 1 < b->count ? block_key_at(b, i + 1) : b->size;
    if (*value < key || *end < *value || *end > b->size) {
        return false;
    }
    size_t key_length = b->prefix_length + (*value - key);
    size_t value_length = *end - *value;
    return key_length >= 1 && key_length <= KEY_MAX && value_length <= VALUE_MAX &&
           !(deleted && value_length);
}

static bool entries_sound(const block *b) {
    const uint8_t *before = NULL;
    size_t before_length = 0;
    size_t key = block_key_at(b, 0);
    if (key != (size_t)(b->prefix - b->start) + b->prefix_length) {
        return false;
    }
    for (uint32_t i = 0; i < b->count; i++) {
        size_t value, end;
        if (!entry_sound(b, i, key, &value, &end)) {
            return false;
        }
        const uint8_t *suffix = b->start + key;
        if (i && compare_keys(before, before_length, suffix, value - key) >= 0) {
            return false;
        }
        before = suffix;
        before_length = value - key;
        key = end;
    }
    return true;
}

int kv_block_check(const char *start, size_t size) {
    const uint8_t *bytes = (const uint8_t *)start;
    if (size < BLOCK_HEAD || size > BLOCK_MAX) {
        return 0;
    }
    uint64_t count = load_u32(bytes);
    uint64_t width = size < BLOCK_NARROW ? 2 : 4;
    if (!count || bytes[6] != width || bytes[7]) {
        return 0;
    }
    uint64_t arrays = BLOCK_HEAD + count * (4 + 2 * width); /* below 2**37 */
    if (arrays > size || load_u16(bytes + 4) > size - arrays) {
        return 0;
    }
    block b = block_open(start, size);
    return entries_sound(&b);
}

int block_compare(const block *b, uint32_t i, const uint8_t *key, size_t key_length) {
    size_t shorter = key_length < b->prefix_length ? key_length : b->prefix_length;
    int order = memcmp(b->prefix, key, shorter);
    if (order) {
        return order;
    }
    bool deleted;
    size_t start = block_key_at(b, i);
    size_t length = b->prefix_length + block_value_at(b, i, &deleted) - start;
    if (key_length < b->prefix_length) {
        return 1;
    }
    return compare_keys(b->start + start, length - b->prefix_length, key + shorter,
                        key_length - shorter);
}

uint32_t block_lower_bound(const block *b, const uint8_t *key, size_t key_length) {
    uint32_t low = 0;
    uint32_t high = b->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (block_compare(b, middle, key, key_length) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The first entry from `i` on with this hash; count when there is none. */
static uint32_t next_match(const block *b, uint32_t i, uint32_t hash) {
    uint8_t stored[4];
    uint32_t as_stored;
    store_u32(stored, hash);
    memcpy(&as_stored, stored, 4); /* compares right whatever the byte order of the processor */
    lanes wanted = {as_stored, as_stored, as_stored, as_stored};
    for (; b->count - i >= GROUP; i += GROUP) {
        lanes first, second;
        memcpy(&first, b->hashes + (size_t)4 * i, sizeof first);
        memcpy(&second, b->hashes + (size_t)4 * i + sizeof first, sizeof second);
        uint64_t any[2];
        lanes equal = (lanes)((first == wanted) | (second == wanted));
        memcpy(any, &equal, sizeof any);
        if (any[0] | any[1]) {
            break;
        }
    }
    for (; i < b->count; i++) {
        if (load_u32(b->hashes + (size_t)4 * i) == hash) {
            return i;
        }
    }
    return b->count;
}

int kv_block_find(const char *start, size_t size, const char *key, size_t key_length, uint64_t hash,
                  uint64_t *out) {
    block b = block_open(start, size);
    if (key_length < b.prefix_length) {
        return KV_ABSENT;
    }
    const uint8_t *rest = (const uint8_t *)key + b.prefix_length;
    size_t rest_length = key_length - b.prefix_length;
    for (uint32_t i = 0; (i = next_match(&b, i, (uint32_t)hash)) < b.count; i++) {
        kv_entry e;
        block_entry(&b, i, &e);
        /* Most likely it is the one: have its value's lines on their way beside the key's. */
        __builtin_prefetch(e.value);
        __builtin_prefetch(e.value + 64);
        if (e.suffix_length == rest_length && !memcmp(e.suffix, rest, rest_length) &&
            !memcmp(e.prefix, key, b.prefix_length)) {
            out[0] = (uint64_t)(e.value - b.start);
            out[1] = e.value_length;
            return e.deleted ? KV_DELETED : KV_FOUND;
        }
    }
    return KV_ABSENT;
}

size_t kv_block_rows(const char *start, size_t size, size_t first, uint64_t *rows, size_t max_rows,
                     uint64_t *prefix_start, uint64_t *prefix_length) {
    block b = block_open(start, size);
    *prefix_start = (uint64_t)(b.prefix - b.start);
    *prefix_length = b.prefix_length;
    for (size_t i = first; i < b.count && i - first < max_rows; i++) {
        kv_entry e;
        block_entry(&b, (uint32_t)i, &e);
        uint64_t *row = rows + KV_BLOCK_ROW * (i - first);
        row[0] = (uint64_t)(e.suffix - b.start);
        row[1] = (uint64_t)(e.value - b.start);
        row[2] = row[1] + e.value_length;
        row[3] = e.deleted;
        row[4] = e.hash;
    }
    return b.count;
}
