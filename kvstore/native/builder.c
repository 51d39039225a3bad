/* Making a table; the format's specification is the docstring of kvstore/sstable/format.py.
 *
 * Entries of the block that is open stand in the output buffer, whole, one behind the other, as far
 * behind the closed blocks as a block's head can at most be long. Only when the block is closed is
 * it known what its keys share; then each entry moves left, less that prefix. So no entry is copied
 * to a place of its own first, however large it is.
 */
#include "run.h"

#include <errno.h>
#include <stdlib.h>

enum { OUTPUT_FULL = 1 << 20, BLOCK_BYTES_MAX = 1 << 20, FILTER_BITS_MAX = 32 };
/* A block may lose what its keys share with any entry that comes. So it is closed, too, when it
 * would be so many times as large as asked for if they shared nothing. */
enum { UNSHARED_MAX = 8 };

typedef struct {
    uint32_t key_length, value_length, hash;
    bool deleted;
} pending;

struct kv_builder {
    kv_builder_config config;
    kv_builder_info info;
    int error; /* of a call that failed: nothing can be added any more */

    uint8_t *output;
    size_t used, room; /* closed parts; memory */
    size_t waiting;    /* plain bytes of the closed block at used that is not stored yet */
    size_t gap;        /* the open block's entries begin at used + gap */
    size_t staged;     /* their bytes */
    size_t last_at;    /* where the last of them begins */
    size_t prefix;     /* what their keys share */
    pending *open;
    size_t open_count, open_room;

    uint8_t *first, *last; /* key of the table, key of the last closed block */
    size_t first_length, last_length;

    uint64_t *offsets; /* of the closed blocks */
    size_t offset_count, offset_room;
    uint32_t *separator_ends; /* of the blocks that another follows */
    size_t separator_count, separator_end_room;
    uint8_t *separators;
    size_t separator_bytes, separator_room;

    uint32_t *hashes; /* of all entries, for the filter */
    size_t hash_count, hash_room;
};

/* `memory` with room for at least `need` items: twice as many as before if it has to grow. NULL
 * when there is none, and nothing has changed. */
static void *grown(void *memory, size_t *room, size_t need, size_t size) {
    if (need <= *room) {
        return memory;
    }
    size_t wanted = *room * 2 > need ? *room * 2 : need;
    void *larger = wanted > SIZE_MAX / 2 / size ? NULL : realloc(memory, wanted * size);
    if (larger) {
        *room = wanted;
    }
    return larger;
}

kv_builder *kv_builder_new(const kv_builder_config *config) {
    if (config->block_bytes > BLOCK_BYTES_MAX || config->filter_bits > FILTER_BITS_MAX) {
        return NULL;
    }
    kv_builder *b = calloc(1, sizeof *b);
    if (!b) {
        return NULL;
    }
    b->config = *config;
    b->info.position = config->position;
    /* Each entry but the last takes at least 8 bytes beside its own. */
    b->gap = BLOCK_HEAD + 12 * ((size_t)config->block_bytes / 8 + 1);
    b->room = OUTPUT_FULL + b->gap + 2 * (size_t)config->block_bytes;
    b->output = malloc(b->room);
    if (!b->output) {
        kv_builder_free(b);
        return NULL;
    }
    return b;
}

void kv_builder_free(kv_builder *builder) {
    if (builder) {
        free(builder->output);
        free(builder->open);
        free(builder->first);
        free(builder->last);
        free(builder->offsets);
        free(builder->separator_ends);
        free(builder->separators);
        free(builder->hashes);
        free(builder);
    }
}

/* Room for so many bytes behind the closed parts. Not twice as much as before: one value of 512 MiB
 * would leave 1 GiB behind. */
static int output_room(kv_builder *b, size_t bytes) {
    size_t need = b->used + bytes;
    if (need <= b->room) {
        return 0;
    }
    size_t wanted = need + need / 8;
    uint8_t *output = realloc(b->output, wanted);
    if (!output) {
        return -ENOMEM;
    }
    b->output = output;
    b->room = wanted;
    return 0;
}

static uint8_t *staged_at(const kv_builder *b, size_t at) {
    return b->output + b->used + b->gap + at;
}

/* Writes the trailer behind a part whose `size` stored bytes stand at used, and goes on behind it.
 */
static void finish_part(kv_builder *b, size_t size, int kind, size_t plain_size) {
    uint8_t *part = b->output + b->used;
    part[size] = (uint8_t)kind;
    store_u32(part + size + 1, (uint32_t)plain_size);
    uint32_t crc = part_seed(b->config.seed, b->info.position);
    store_u32(part + size + 5, kv_crc32c(crc, (const char *)part, size + 5));
    b->used += size + TRAILER;
    b->info.position += size + TRAILER;
}

/* ---- blocks ---- */

static size_t open_size(const kv_builder *b) {
    size_t n = b->open_count;
    size_t narrow = BLOCK_HEAD + 8 * n + b->prefix + b->staged - n * b->prefix;
    return narrow < BLOCK_NARROW ? narrow : narrow + 4 * n;
}

static size_t open_size_unshared(const kv_builder *b) {
    return BLOCK_HEAD + 8 * b->open_count + b->staged;
}

/* Makes a plain block of the open entries, at used. Nothing is written over before it is read:
 * the arrays fit into the gap, and every entry moves left or stays. */
static void write_block(kv_builder *b, size_t size) {
    uint8_t *out = b->output + b->used;
    size_t n = b->open_count, width = size < BLOCK_NARROW ? 2 : 4;
    uint8_t *hashes = out + BLOCK_HEAD, *keys = hashes + 4 * n, *values = keys + width * n;
    const uint8_t *from = staged_at(b, 0);
    uint8_t *to = values + width * n;
    store_u32(out, (uint32_t)n);
    store_u16(out + 4, (uint32_t)b->prefix);
    out[6] = (uint8_t)width;
    out[7] = 0;
    memmove(to, from, b->prefix);
    to += b->prefix;
    for (size_t i = 0; i < n; i++) {
        const pending *e = &b->open[i];
        size_t bytes = e->key_length - b->prefix + e->value_length;
        uint32_t key_at = (uint32_t)(to - out);
        uint32_t value_at = key_at + e->key_length - (uint32_t)b->prefix;
        store_u32(hashes + 4 * i, e->hash);
        if (width == 2) {
            store_u16(keys + 2 * i, key_at);
            store_u16(values + 2 * i, value_at | (uint32_t)e->deleted << 15);
        } else {
            store_u32(keys + 4 * i, key_at);
            store_u32(values + 4 * i, value_at | (uint32_t)e->deleted << 31);
        }
        memmove(to, from + b->prefix, bytes);
        from += b->prefix + bytes;
        to += bytes;
    }
}

static int close_block(kv_builder *b) {
    uint64_t *offsets = grown(b->offsets, &b->offset_room, b->offset_count + 1, sizeof *offsets);
    if (!offsets) {
        return -ENOMEM;
    }
    b->offsets = offsets;
    b->offsets[b->offset_count++] = b->info.position;
    b->last_length = b->open[b->open_count - 1].key_length;
    memcpy(b->last, staged_at(b, b->last_at), b->last_length);
    size_t size = open_size(b);
    write_block(b, size);
    b->open_count = 0;
    b->staged = 0;
    b->info.blocks++;
    if (b->config.compress) {
        b->waiting = size;
    } else {
        finish_part(b, size, KIND_PLAIN, size);
    }
    return 0;
}

static int add_separator(kv_builder *b, const uint8_t *separator, size_t length) {
    size_t count = b->separator_count + 1, bytes = b->separator_bytes + length;
    uint32_t *ends = grown(b->separator_ends, &b->separator_end_room, count, sizeof *ends);
    if (!ends) {
        return -ENOMEM;
    }
    b->separator_ends = ends;
    uint8_t *texts = grown(b->separators, &b->separator_room, bytes, 1);
    if (!texts) {
        return -ENOMEM;
    }
    b->separators = texts;
    if (4 + 12 * ((uint64_t)count + 1) + bytes > UINT32_MAX) {
        return -EOVERFLOW;
    }
    memcpy(b->separators + b->separator_bytes, separator, length);
    b->separator_bytes = bytes;
    b->separator_ends[b->separator_count++] = (uint32_t)bytes;
    return 0;
}

/* The shortest start of the key that begins a block, where that serves, else all of the key before
 * it: not below that key, and below this one. */
static int add_separator_before(kv_builder *b, const uint8_t *key, size_t length) {
    size_t shared = common_prefix(b->last, b->last_length, key, length);
    if (shared + 1 < length && shared + 1 < b->last_length) {
        return add_separator(b, key, shared + 1);
    }
    return add_separator(b, b->last, b->last_length);
}

/* ---- entries ---- */

/* Copies an entry to where the open block's next one stands; its key is whole there. */
static int stage(kv_builder *b, const uint8_t *prefix, size_t prefix_length, const uint8_t *rest,
                 size_t rest_length) {
    int error = output_room(b, b->gap + b->staged + prefix_length + rest_length + TRAILER);
    if (error) {
        return error;
    }
    uint8_t *to = staged_at(b, b->staged);
    if (prefix_length) {
        memcpy(to, prefix, prefix_length);
    }
    memcpy(to + prefix_length, rest, rest_length);
    return 0;
}

/* The first key of all is kept, and there is room for any key as the last one. */
static int add_first(kv_builder *b, const uint8_t *key, size_t length) {
    b->first = malloc(length);
    b->last = malloc(KEY_MAX);
    if (!b->first || !b->last) {
        return -ENOMEM;
    }
    memcpy(b->first, key, length);
    b->first_length = length;
    return 0;
}

static int add_to_open(kv_builder *b, const uint8_t *key, pending e) {
    if (b->open_count) {
        const uint8_t *first = staged_at(b, 0), *last = staged_at(b, b->last_at);
        if (compare_keys(last, b->open[b->open_count - 1].key_length, key, e.key_length) >= 0) {
            return -EINVAL;
        }
        if (e.key_length < b->prefix || memcmp(first, key, b->prefix) != 0) {
            b->prefix = common_prefix(first, b->prefix, key, e.key_length);
        }
    } else {
        if (b->offset_count && compare_keys(b->last, b->last_length, key, e.key_length) >= 0) {
            return -EINVAL;
        }
        int error = b->offset_count ? add_separator_before(b, key, e.key_length)
                                    : add_first(b, key, e.key_length);
        if (error) {
            return error;
        }
        b->prefix = e.key_length < PREFIX_MAX ? e.key_length : PREFIX_MAX;
    }
    b->open[b->open_count++] = e;
    b->last_at = b->staged;
    b->staged += e.key_length + e.value_length;
    return 0;
}

/* Adds the entry that was staged. */
static int add_staged(kv_builder *b, pending e) {
    pending *open = grown(b->open, &b->open_room, b->open_count + 1, sizeof *open);
    if (!open) {
        return -ENOMEM;
    }
    b->open = open;
    if (b->config.filter_bits) {
        uint32_t *hashes = grown(b->hashes, &b->hash_room, b->hash_count + 1, sizeof *hashes);
        if (!hashes) {
            return -ENOMEM;
        }
        b->hashes = hashes;
    }
    int error = add_to_open(b, staged_at(b, b->staged), e);
    if (error) {
        return error;
    }
    if (b->config.filter_bits) {
        b->hashes[b->hash_count++] = e.hash;
    }
    b->info.entries++;
    b->info.tombstones += e.deleted;
    b->info.key_bytes += e.key_length;
    b->info.value_bytes += e.value_length;
    if (open_size(b) < b->config.block_bytes &&
        open_size_unshared(b) < UNSHARED_MAX * (size_t)b->config.block_bytes) {
        return 0;
    }
    return close_block(b);
}

/* Takes one entry from a source: its key is `prefix` and the first bytes of `rest`, which holds the
 * value behind them. */
static int take(kv_builder *b, kv_view *below, const uint8_t *prefix, size_t prefix_length,
                const uint8_t *rest, pending e) {
    size_t rest_length = e.key_length - prefix_length + e.value_length;
    int error = stage(b, prefix, prefix_length, rest, rest_length);
    if (error) {
        return error;
    }
    b->info.entries_in++;
    b->info.bytes_in += e.key_length + e.value_length;
    if (e.deleted) {
        const char *key = (const char *)staged_at(b, b->staged);
        if (!below || !kv_view_may_contain(below, key, e.key_length, e.hash)) {
            b->info.dropped++;
            return 0;
        }
    }
    return add_staged(b, e);
}

/* Why no entry can be taken now; 0 when one can. */
static int obstacle(const kv_builder *b, uint64_t stop_position) {
    if (b->error) {
        return b->error;
    }
    if (b->waiting || b->used >= OUTPUT_FULL) {
        return KV_FULL;
    }
    return stop_position && b->info.position >= stop_position ? KV_MORE : 0;
}

int kv_builder_add_run(kv_builder *builder, kv_run *run, kv_view *below, size_t max_entries,
                       uint64_t stop_position) {
    if (!run->order) {
        return -EINVAL;
    }
    for (size_t taken = 0;; taken++) {
        int status = obstacle(builder, stop_position);
        if (status) {
            return status;
        }
        if (run->next == run->count) {
            return KV_END;
        }
        if (taken == max_entries) {
            return KV_MORE;
        }
        const run_entry *entry = run_peek(run);
        bool deleted = entry->value_length < 0;
        pending e = {entry->key_length, deleted ? 0 : (uint32_t)entry->value_length, entry->hash,
                     deleted};
        builder->error = take(builder, below, NULL, 0, entry->key, e);
        run->next += !builder->error;
    }
}

static int add_merge(kv_builder *b, kv_merge *merge, kv_view *below, size_t max_entries,
                     uint64_t stop_position, kv_chunk *chunk) {
    uint64_t bytes, before = kv_merge_shadowed(merge, &bytes);
    for (uint64_t taken = 0;; taken++) {
        int status = obstacle(b, stop_position);
        if (status) {
            return status;
        }
        if (taken + kv_merge_shadowed(merge, &bytes) - before >= max_entries) {
            return KV_MORE;
        }
        kv_entry entry;
        status = kv_merge_peek(merge, &entry, chunk);
        if (status) {
            return status;
        }
        pending e = {(uint32_t)(entry.prefix_length + entry.suffix_length),
                     (uint32_t)entry.value_length, entry.hash, entry.deleted};
        b->error = take(b, below, entry.prefix, entry.prefix_length, entry.suffix, e);
        if (!b->error) {
            kv_merge_advance(merge);
        }
    }
}

int kv_builder_add_merge(kv_builder *builder, kv_merge *merge, kv_view *below, size_t max_entries,
                         uint64_t stop_position, kv_chunk *chunk) {
    uint64_t bytes_before, bytes;
    uint64_t before = kv_merge_shadowed(merge, &bytes_before);
    int status = add_merge(builder, merge, below, max_entries, stop_position, chunk);
    uint64_t shadowed = kv_merge_shadowed(merge, &bytes) - before;
    builder->info.shadowed += shadowed;
    builder->info.entries_in += shadowed;
    builder->info.bytes_in += bytes - bytes_before;
    return status;
}

/* ---- compressed blocks ---- */

const char *kv_builder_block(kv_builder *builder, size_t *size) {
    *size = builder->waiting;
    return (const char *)builder->output + builder->used;
}

int kv_builder_put(kv_builder *builder, const char *stored, size_t size, int kind) {
    size_t plain_size = builder->waiting;
    if (!plain_size || size > plain_size || (kind == KIND_PLAIN && size != plain_size)) {
        return -EINVAL;
    }
    memmove(builder->output + builder->used, stored, size);
    finish_part(builder, size, kind, plain_size);
    builder->waiting = 0;
    return 0;
}

/* ---- the end ---- */

int kv_builder_end_data(kv_builder *builder) {
    if (builder->waiting) {
        return -EINVAL;
    }
    if (!builder->error && builder->open_count) {
        builder->error = close_block(builder);
    }
    return builder->error;
}

/* Probes that came out best, measured for 1 to 32 bits a key; and a 32nd more lines than the bits
 * make, because keys do not fall evenly on lines. At 10 bits: 0.9% false positives, not 1.0%. */
static uint32_t filter_probes(uint32_t bits) {
    uint32_t probes = (5 * bits + 4) / 8;
    return probes < PROBES_MAX ? probes : PROBES_MAX;
}

static int write_filter(kv_builder *b) {
    uint64_t bits = (uint64_t)b->hash_count * b->config.filter_bits;
    uint64_t count = (33 * bits + 16383) / 16384;
    uint64_t size = FILTER_LINE * (count + 1);
    if (size > UINT32_MAX) {
        return -EOVERFLOW;
    }
    size_t zeros = (size_t)(-b->info.position & (FILTER_LINE - 1));
    int error = output_room(b, zeros + (size_t)size + TRAILER);
    if (error) {
        return error;
    }
    memset(b->output + b->used, 0, zeros + (size_t)size);
    b->used += zeros;
    b->info.position += zeros;
    b->info.filter_offset = b->info.position;
    b->info.filter_length = size + TRAILER;
    uint8_t *out = b->output + b->used, *lines = out + FILTER_LINE;
    uint32_t probes = filter_probes(b->config.filter_bits), line_count = (uint32_t)count;
    store_u32(out, line_count);
    store_u32(out + 4, probes);
    for (size_t i = 0; i < b->hash_count; i++) {
        uint32_t hash = b->hashes[i];
        uint8_t *line = lines + FILTER_LINE * filter_line(hash, line_count);
        uint64_t mix = filter_mix(hash);
        for (uint32_t probe = 0; probe < probes; probe++) {
            uint32_t bit = filter_bit(mix, probe);
            line[bit / 8] |= (uint8_t)(1u << bit % 8);
        }
    }
    finish_part(b, (size_t)size, KIND_PLAIN, (size_t)size);
    return 0;
}

static int write_index(kv_builder *b) {
    size_t m = b->offset_count, fixed = 4 + 12 * (m + 1), size = fixed + b->separator_bytes;
    int error = output_room(b, size + TRAILER);
    if (error) {
        return error;
    }
    b->info.index_offset = b->info.position;
    b->info.index_length = size + TRAILER;
    uint8_t *out = b->output + b->used, *offsets = out + 4, *keys = offsets + 8 * (m + 1);
    store_u32(out, (uint32_t)m);
    store_u32(keys, (uint32_t)fixed);
    for (size_t i = 0; i < m; i++) {
        store_u64(offsets + 8 * i, b->offsets[i]);
        store_u32(keys + 4 * (i + 1), (uint32_t)fixed + b->separator_ends[i]);
    }
    store_u64(offsets + 8 * m, b->info.data_end);
    memcpy(out + fixed, b->separators, b->separator_bytes);
    finish_part(b, size, KIND_PLAIN, size);
    return 0;
}

static int end_parts(kv_builder *b) {
    int error = add_separator(b, b->last, b->last_length);
    b->info.data_end = b->info.position;
    if (!error && b->config.filter_bits) {
        error = write_filter(b);
    }
    return error ? error : write_index(b);
}

int kv_builder_end_parts(kv_builder *builder) {
    if (builder->waiting || builder->open_count || !builder->offset_count ||
        builder->info.index_length) {
        return -EINVAL;
    }
    if (!builder->error) {
        builder->error = end_parts(builder);
    }
    return builder->error;
}

/* ---- what became of it ---- */

const char *kv_builder_output(kv_builder *builder, size_t *size) {
    *size = builder->used;
    return (const char *)builder->output;
}

void kv_builder_taken(kv_builder *builder) {
    size_t rest = builder->open_count ? builder->gap + builder->staged : builder->waiting;
    memmove(builder->output, builder->output + builder->used, rest);
    builder->used = 0;
}

const char *kv_builder_key(kv_builder *builder, int last, size_t *length) {
    if (!builder->info.entries) {
        *length = 0;
        return NULL;
    }
    if (!last) {
        *length = builder->first_length;
        return (const char *)builder->first;
    }
    if (builder->open_count) {
        *length = builder->open[builder->open_count - 1].key_length;
        return (const char *)staged_at(builder, builder->last_at);
    }
    *length = builder->last_length;
    return (const char *)builder->last;
}

void kv_builder_info_get(kv_builder *builder, kv_builder_info *out) { *out = builder->info; }
