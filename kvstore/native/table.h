/* What the parts of sorted tables share; the format's specification is the docstring of
 * kvstore/sstable/format.py.
 *
 * block.c reads one plain block, search.c finds a key among separators, table.c checks the parts of
 * a file before their first use, view.c looks keys up in many tables, merge.c walks over many in
 * order; run.c and builder.c make tables.
 *
 * Trust. Bytes of a file are hostile until they are checked: the checksum shows that they are those
 * which were written, the structure check that whoever wrote them kept to the format. After both,
 * every offset in them lies within, and keys ascend: within a block, and from block to block,
 * because a block's keys lie between its separator and the one before.
 */
#ifndef KV_TABLE_H
#define KV_TABLE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pread under -std=c11 */
#endif

#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64 /* off_t, on 32-bit systems; before any header of the system */
#endif

#include "frame.h"
#include "sst.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* All of these are part of the format. */
enum { TABLE_HEAD = 32, TRAILER = 9, BLOCK_HEAD = 8, FILTER_LINE = 64, PROBES_MAX = 16 };
enum { BLOCK_NARROW = 32768 }; /* blocks shorter than that have offsets of 2 bytes, others of 4 */
enum { KIND_PLAIN = 0, KIND_LZ4 = 1, KIND_ZSTD = 2 };
enum { KEY_MAX = 65536, PREFIX_MAX = 65535, VALUE_MAX = 1 << 29 };
#define BLOCK_MAX (((size_t)1 << 31) - 1)

static inline uint32_t load_u16(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static inline void store_u16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static inline void store_u64(uint8_t *at, uint64_t value) {
    store_u32(at, (uint32_t)value);
    store_u32(at + 4, (uint32_t)(value >> 32));
}

/* The first 8 of `length` bytes as a number that sorts as they do; zeros for those that lack. */
static inline uint64_t load_head(const uint8_t *at, size_t length) {
    if (length >= 8) {
        return __builtin_bswap64(load_u64(at));
    }
    uint64_t head = 0;
    for (size_t i = 0; i < length; i++) {
        head |= (uint64_t)at[i] << (56 - 8 * i);
    }
    return head;
}

/* As memcmp; of two keys where one begins with the other, the shorter is less. */
static inline int compare_keys(const void *a, size_t a_length, const void *b, size_t b_length) {
    size_t shorter = a_length < b_length ? a_length : b_length;
    int order = shorter ? memcmp(a, b, shorter) : 0;
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

static inline size_t common_prefix(const uint8_t *a, size_t a_length, const uint8_t *b,
                                   size_t b_length) {
    size_t shorter = a_length < b_length ? a_length : b_length;
    size_t length = 0;
    while (length < shorter && a[length] == b[length]) {
        length++;
    }
    return length;
}

/* What the checksum of a part at this file offset is begun with. */
static inline uint32_t part_seed(uint32_t table_seed, uint64_t offset) {
    uint8_t bytes[8];
    store_u64(bytes, offset);
    return kv_crc32c(table_seed, (const char *)bytes, sizeof bytes);
}

/* ---- filter ---- */

/* a_i of the specification. */
extern const uint64_t filter_multipliers[PROBES_MAX];

/* The line of a hash. */
static inline uint64_t filter_line(uint32_t hash, uint32_t lines) {
    return (uint64_t)hash * lines >> 32;
}

static inline uint64_t filter_mix(uint32_t hash) { return hash * UINT64_C(0x9e3779b97f4a7c15); }

/* Bit number of probe i: bit % 8 of byte bit / 8 of the line. */
static inline uint32_t filter_bit(uint64_t mix, uint32_t probe) {
    return (uint32_t)(mix * filter_multipliers[probe] >> 55);
}

/* ---- block.c: a plain block that has passed kv_block_check ---- */

typedef struct {
    const uint8_t *start;
    size_t size;
    uint32_t count;
    uint32_t width; /* 2 or 4 */
    const uint8_t *hashes, *keys, *values;
    const uint8_t *prefix;
    size_t prefix_length;
} block;

/* One entry: its key is prefix and suffix; the value stands behind the suffix, so that suffix and
 * value are one piece of suffix_length + value_length bytes. */
typedef struct {
    const uint8_t *prefix, *suffix, *value;
    size_t prefix_length, suffix_length, value_length;
    uint32_t hash;
    bool deleted;
} kv_entry;

static inline block block_open(const void *start, size_t size) {
    const uint8_t *bytes = start;
    block b = {.start = bytes, .size = size, .count = load_u32(bytes)};
    b.width = size < BLOCK_NARROW ? 2 : 4;
    b.hashes = bytes + BLOCK_HEAD;
    b.keys = b.hashes + (size_t)4 * b.count;
    b.values = b.keys + (size_t)b.width * b.count;
    b.prefix = b.values + (size_t)b.width * b.count;
    b.prefix_length = load_u16(bytes + 4);
    return b;
}

/* Where the suffix of key i begins. */
static inline size_t block_key_at(const block *b, uint32_t i) {
    return b->width == 2 ? load_u16(b->keys + (size_t)2 * i) : load_u32(b->keys + (size_t)4 * i);
}

/* Where value i begins. */
static inline size_t block_value_at(const block *b, uint32_t i, bool *deleted) {
    if (b->width == 2) {
        uint32_t at = load_u16(b->values + (size_t)2 * i);
        *deleted = at >> 15;
        return at & 0x7fff;
    }
    uint32_t at = load_u32(b->values + (size_t)4 * i);
    *deleted = at >> 31;
    return at & 0x7fffffff;
}

static inline void block_entry(const block *b, uint32_t i, kv_entry *out) {
    size_t key = block_key_at(b, i);
    size_t value = block_value_at(b, i, &out->deleted);
    size_t end = i + 1 < b->count ? block_key_at(b, i + 1) : b->size;
    out->prefix = b->prefix;
    out->prefix_length = b->prefix_length;
    out->suffix = b->start + key;
    out->suffix_length = value - key;
    out->value = b->start + value;
    out->value_length = end - value;
    out->hash = load_u32(b->hashes + (size_t)4 * i);
}

/* The first entry whose key is not below this one; b->count when there is none. */
uint32_t block_lower_bound(const block *b, const uint8_t *key, size_t key_length);
/* As compare_keys, of the key of entry i with this one. */
int block_compare(const block *b, uint32_t i, const uint8_t *key, size_t key_length);

/* ---- search.c: finding a key among separators ---- */

/* Keys in ascending order, one behind the other, as the index has them. All begin with the same
 * `common` bytes; heads are the 8 bytes behind those, so that a search touches the keys themselves
 * only where heads are equal. */
typedef struct {
    const uint8_t *base;    /* what offsets count from */
    const uint8_t *offsets; /* u32[count + 1] */
    uint32_t count;
    const uint8_t *beside; /* NULL, or 8 bytes for each that the caller will want next */
    size_t common;
    uint64_t *heads, *group_heads; /* one piece of memory */
    uint32_t groups;
} separators;

static inline const uint8_t *separator_at(const separators *s, uint32_t i, size_t *length) {
    uint32_t start = load_u32(s->offsets + (size_t)4 * i);
    *length = load_u32(s->offsets + (size_t)4 * i + 4) - start;
    return s->base + start;
}

/* base, offsets, count (at least 1) and beside are set; 0 or -ENOMEM. */
int separators_prepare(separators *s);
void separators_release(separators *s);
/* The first separator not below the key; s->count when there is none. */
uint32_t separators_find(const separators *s, const uint8_t *key, size_t key_length);

/* ---- table.c ---- */

/* What is known of a data block. */
enum { BLOCK_UNCHECKED = 0, BLOCK_PLAIN = 1, BLOCK_COMPRESSED = 2 };

/* Shared by threads. What is behind index_ready and filter_ready is written under the lock before
 * they are set, and never again. */
struct kv_table {
    const uint8_t *map;
    kv_table_layout layout;
    uint8_t *smallest, *largest;
    size_t smallest_length, largest_length;
    atomic_bool index_ready, filter_ready;
    atomic_uint_fast64_t index_seen_ns; /* when all of the index was last found in memory */
    separators index;
    const uint8_t *block_offsets; /* u64[index.count + 1] */
    atomic_uchar *checked;        /* of each block: BLOCK_... */
    const uint8_t *filter;        /* its first line */
    uint32_t filter_lines, filter_probes;
    pthread_mutex_t lock;
    kv_table_fault fault; /* under the lock */
};

/* Slow paths of those below: they read and check. 0 or KV_DAMAGED. */
int table_prepare_index(kv_table *table);
int table_prepare_filter(kv_table *table);
/* BLOCK_PLAIN, BLOCK_COMPRESSED or KV_DAMAGED. present: table_present has said so of the block. */
int table_verify_block(kv_table *table, uint32_t index, bool present);
/* Whether the keys of a block that is sound lie between the separators beside it. */
bool table_block_fits(const kv_table *table, uint32_t index, const block *b);
/* Notes a fault of a block whose checksum is right. */
void table_malformed_block(kv_table *table, uint32_t index);

static inline int table_need_index(kv_table *table) {
    return atomic_load_explicit(&table->index_ready, memory_order_acquire)
               ? 0
               : table_prepare_index(table);
}

static inline int table_need_filter(kv_table *table) {
    return atomic_load_explicit(&table->filter_ready, memory_order_acquire)
               ? 0
               : table_prepare_filter(table);
}

static inline uint64_t table_block_offset(const kv_table *table, uint32_t index) {
    return load_u64(table->block_offsets + (size_t)8 * index);
}

static inline block table_block(const kv_table *table, uint32_t index) {
    uint64_t offset = table_block_offset(table, index);
    uint64_t end = table_block_offset(table, index + 1) - TRAILER;
    return block_open(table->map + offset, (size_t)(end - offset));
}

/* Has the line of the filter fetched that table_filter_has will want. */
static inline void table_prefetch_filter(const kv_table *table, uint32_t hash) {
    if (atomic_load_explicit(&table->filter_ready, memory_order_acquire)) {
        __builtin_prefetch(table->filter + FILTER_LINE * filter_line(hash, table->filter_lines));
    }
}

/* 0 when the filter, which is ready, lacks the hash. */
static inline bool table_filter_has(const kv_table *table, uint32_t hash) {
    const uint8_t *line = table->filter + FILTER_LINE * filter_line(hash, table->filter_lines);
    uint64_t mix = filter_mix(hash);
    uint32_t all = 1;
    for (uint32_t i = 0; i < table->filter_probes; i++) {
        uint32_t bit = filter_bit(mix, i);
        all &= (uint32_t)line[bit / 8] >> (bit % 8);
    }
    return all;
}

/* ---- resident.c: whether reading it waits for no disk, and reading ahead ---- */

/* Called once, when the table is made. */
void table_map_random(const kv_table *table);
/* Has the kernel begin to read what of these bytes of the mapping is not in memory. Waits for
 * nothing but room in the device's queue. */
void table_read_ahead(const kv_table *table, uint64_t offset, uint64_t length);
/* Whether these bytes can be read from the mapping at once, and without SIGBUS: they are in memory
 * and in the page tables. Costs 2 us for 64 pages. Where the kernel cannot tell: false. */
bool table_present(const kv_table *table, uint64_t offset, uint64_t length);

/* The filter's line for the hash. */
bool table_filter_resident(const kv_table *table, uint32_t hash);
bool table_index_resident(kv_table *table);
/* Of a table whose index is ready. */
bool table_block_resident(const kv_table *table, uint32_t index);

/* ---- view.c ---- */

typedef struct {
    uint32_t first, end; /* slots */
    separators largest;  /* keys of its tables: which of them may hold a key */
    uint8_t *largest_keys;
} view_run;

struct kv_view {
    kv_table **tables;
    view_run *runs;
    size_t run_count;
    kv_view_stats *stats;
};

enum { BLOCK_PAGES = 8192 }; /* a block that is longer is read as a whole, not page by page */

/* BLOCK_PLAIN, BLOCK_COMPRESSED or KV_DAMAGED: reads and checks the block when nobody has yet.
 * present: as table_verify_block has it. */
static inline int view_need_block(const kv_view *view, kv_table *table, uint32_t index,
                                  bool present) {
    int state = atomic_load_explicit(&table->checked[index], memory_order_acquire);
    if (state != BLOCK_UNCHECKED) {
        uint64_t offset = table_block_offset(table, index);
        uint64_t length = table_block_offset(table, index + 1) - offset;
        if (length > BLOCK_PAGES && state == BLOCK_PLAIN) {
            table_read_ahead(table, offset, length);
        }
        return state;
    }
    if (view->stats) {
        __atomic_fetch_add(&view->stats->blocks_checked, 1, __ATOMIC_RELAXED);
    }
    return table_verify_block(table, index, present);
}

/* ---- merge.c, for the builder ---- */

/* The next key in order, in its newest version, tombstones included. Returns 0 with *out set,
 * valid until the next peek that follows a kv_merge_advance; KV_END; KV_DAMAGED or KV_NEED_BLOCK,
 * with slot and block in *chunk. Peeking again gives the same again. */
int kv_merge_peek(kv_merge *merge, kv_entry *out, kv_chunk *chunk);
/* Moves past the entry that kv_merge_peek gave (only after it returned 0). Older versions of its
 * key are passed over by the next peek. */
void kv_merge_advance(kv_merge *merge);
/* Older versions passed over since the merge was made, and their key and value bytes. */
uint64_t kv_merge_shadowed(const kv_merge *merge, uint64_t *bytes);

#endif
