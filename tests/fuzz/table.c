/* Sorted tables in runs: prepared, looked up in through a view, merged both ways. The input is made
 * of sections: parts.py. What a compressed block holds is handed back as its plain bytes. */
#include "fuzz.h"

enum {
    FOOTER_TAG = 6,
    SMALLEST = 7,
    LARGEST = 8,
    NEXT_TABLE = 9,
    NEXT_RUN = 10,
    KEY = 11,
    RAW_OFFSETS = 64,
    WRONG_CRC = 128, /* of tags */
    TABLES_MAX = 6,
    BLOCKS_MAX = 64,
    KEYS_MAX = 16,
    SECTION_HEAD = 3,
    FOOTER_BYTES = 64,
    OUT = 512,
    ENTRIES = 9
};

typedef struct {
    uint32_t run;
    bytes blocks[BLOCKS_MAX];
    uint8_t block_tags[BLOCKS_MAX];
    uint32_t block_count;
    bytes parts[LARGEST + 1];
    uint8_t part_tags[LARGEST + 1];
    /* What is made of them: */
    uint8_t *map;
    size_t size, room;
    uint64_t offsets[BLOCKS_MAX + 1];
    kv_table *table;
} table_input;

typedef struct {
    table_input tables[TABLES_MAX];
    uint32_t table_count;
    bytes keys[KEYS_MAX];
    uint32_t key_count;
    kv_table *all[TABLES_MAX];
    uint32_t run_ends[TABLES_MAX];
} inputs;

static void parse(inputs *in, bytes data) {
    in->table_count = 1;
    while (data.size >= SECTION_HEAD) {
        uint8_t tag = data.data[0];
        int kind = tag & 15;
        bytes body = bytes_behind(data, SECTION_HEAD);
        size_t length = load_u16(data.data + 1);
        body.size = length < body.size ? length : body.size;
        data = bytes_behind(data, SECTION_HEAD + body.size);
        table_input *t = &in->tables[in->table_count - 1];
        if (kind <= KIND_ZSTD) {
            if (t->block_count < BLOCKS_MAX) {
                t->block_tags[t->block_count] = tag;
                t->blocks[t->block_count++] = body;
            }
        } else if (kind <= LARGEST) {
            t->parts[kind] = body;
            t->part_tags[kind] = tag;
        } else if (kind <= NEXT_RUN && in->table_count < TABLES_MAX) {
            in->tables[in->table_count++].run = t->run + (kind == NEXT_RUN);
        } else if (kind == KEY && in->key_count < KEYS_MAX) {
            in->keys[in->key_count++] = body;
        }
    }
}

/* ---- making the file ---- */

static uint32_t seed(void) {
    uint8_t salt[16];
    for (uint8_t i = 0; i < 16; i++) {
        salt[i] = i;
    }
    return kv_crc32c(0, (const char *)salt, sizeof salt);
}

static uint64_t put_part(table_input *t, uint8_t tag, bytes body, uint8_t kind,
                         uint32_t plain_bytes) {
    uint8_t *out = t->map + t->size;
    memcpy(out, body.data, body.size);
    out[body.size] = kind;
    store_u32(out + body.size + 1, plain_bytes);
    uint32_t crc = kv_crc32c(part_seed(seed(), t->size), (const char *)out, body.size + 5);
    store_u32(out + body.size + 5, crc ^ (tag & WRONG_CRC));
    uint64_t offset = t->size;
    t->size += body.size + TRAILER;
    return offset;
}

static void put_blocks(table_input *t) {
    for (uint32_t i = 0; i < t->block_count; i++) {
        uint8_t kind = t->block_tags[i] & 15;
        bytes body = t->blocks[i];
        uint32_t plain_bytes = (uint32_t)body.size;
        if (kind != KIND_PLAIN) {
            uint8_t sized[4] = {0};
            memcpy(sized, body.data, body.size < 4 ? body.size : 4);
            plain_bytes = load_u32(sized);
            body = bytes_behind(body, 4);
        }
        t->offsets[i] = put_part(t, t->block_tags[i], body, kind, plain_bytes);
    }
    t->offsets[t->block_count] = t->size;
}

/* Writes the index, with the offsets of the blocks, as many as there is room for. */
static uint64_t put_index(table_input *t, uint8_t tag, bytes index) {
    uint8_t *copy = exact_copy(index);
    if (!(tag & RAW_OFFSETS) && index.size >= 4) {
        uint64_t count = (uint64_t)load_u32(copy) + 1;
        count = count < t->block_count + 1 ? count : t->block_count + 1;
        count = count < (index.size - 4) / 8 ? count : (index.size - 4) / 8;
        for (uint64_t i = 0; i < count; i++) {
            store_u64(copy + 4 + 8 * i, t->offsets[i]);
        }
    }
    bytes placed = {copy, index.size};
    uint64_t offset = put_part(t, tag, placed, KIND_PLAIN, (uint32_t)index.size);
    free(copy);
    return offset;
}

/* The footer is not read by C: what it says comes as the layout. */
static kv_table_layout write_file(table_input *t) {
    size_t room = TABLE_HEAD + FILTER_LINE + FOOTER_BYTES;
    for (uint32_t i = 0; i < t->block_count; i++) {
        room += t->blocks[i].size + TRAILER;
    }
    for (int i = 0; i <= LARGEST; i++) {
        room += t->parts[i].size + TRAILER;
    }
    t->map = checked_malloc(room);
    memset(t->map, 0, room);
    t->size = TABLE_HEAD;
    put_blocks(t);
    uint64_t fields[5] = {t->size, 0, 0, 0, 0};
    bytes filter = t->parts[KV_PART_FILTER + 1], index = t->parts[KV_PART_INDEX + 1];
    if (filter.data) {
        t->size += (FILTER_LINE - t->size % FILTER_LINE) % FILTER_LINE;
        fields[1] = put_part(t, t->part_tags[3], filter, KIND_PLAIN, (uint32_t)filter.size);
        fields[2] = t->size - fields[1];
    }
    fields[3] = t->size;
    if (index.data) {
        put_index(t, t->part_tags[4], index);
    }
    fields[4] = t->size - fields[3];
    t->size += FOOTER_BYTES;
    uint8_t changes[sizeof fields] = {0};
    bytes footer = t->parts[FOOTER_TAG];
    if (footer.data) {
        memcpy(changes, footer.data, footer.size < sizeof changes ? footer.size : sizeof changes);
    }
    for (size_t i = 0; i < 5; i++) {
        fields[i] ^= load_u64(changes + 8 * i);
    }
    uint8_t *exact = exact_copy((bytes){t->map, t->size});
    free(t->map);
    t->map = exact;
    return (kv_table_layout){-1,        seed(),    t->size,   fields[0],
                             fields[1], fields[2], fields[3], fields[4]};
}

static void open_table(inputs *in, uint32_t number) {
    table_input *t = &in->tables[number];
    kv_table_layout layout = write_file(t);
    bytes small = t->parts[SMALLEST], large = t->parts[LARGEST];
    t->table = kv_table_new((const char *)t->map, &layout, (const char *)small.data, small.size,
                            (const char *)large.data, large.size);
    CHECK(t->table);
    in->all[number] = t->table;
    in->run_ends[t->run] = number + 1;
}

/* ---- reading ---- */

/* The plain bytes of a block that C calls compressed: those stored, if they are a block that fits
 * there. NULL when they are not. The caller frees them. */
static char *plain_of(table_input *t, uint64_t index, size_t *size) {
    uint64_t offset, length;
    kv_table_block_at(t->table, index, &offset, &length);
    CHECK(offset + length <= t->size);
    char *plain = (char *)exact_copy((bytes){t->map + offset, (size_t)length});
    *size = (size_t)length;
    if (kv_block_check(plain, *size) && !kv_table_check_plain(t->table, index, plain, *size)) {
        return plain;
    }
    free(plain);
    return NULL;
}

/* Whether all of a table can be read. */
static bool is_sound(table_input *t) {
    bool sound = !kv_table_prepare(t->table);
    for (uint64_t i = 0; sound && i < kv_table_blocks(t->table); i++) {
        size_t size;
        char *plain = plain_of(t, i, &size);
        sound = plain && !kv_table_check_block(t->table, i);
        free(plain);
    }
    return sound;
}

static void check_table(table_input *t) {
    if (kv_table_prepare(t->table)) {
        kv_table_fault fault;
        kv_table_fault_get(t->table, &fault);
        CHECK(fault.part && !fault.error);
    }
    uint64_t blocks = kv_table_blocks(t->table), end = TABLE_HEAD;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t offset, length;
        kv_table_block_at(t->table, i, &offset, &length);
        CHECK(offset == end && length && offset + length + TRAILER <= t->size);
        end = offset + length + TRAILER;
        kv_table_check_block(t->table, i);
    }
    CHECK(kv_table_check_block(t->table, blocks) < 0);
}

static void look_up(inputs *in, kv_view *view, bytes wanted, uint64_t hash) {
    const char *key = (const char *)wanted.data;
    char *out = checked_malloc(KV_VALUE_ROOM);
    int64_t got = kv_view_get(view, key, wanted.size, hash, out);
    CHECK(kv_view_get_resident(view, key, wanted.size, hash, out) == got || got < 0);
    if (!kv_view_may_contain(view, key, wanted.size, hash)) {
        CHECK(got < 0);
    }
    int64_t after = -1;
    for (uint32_t i = 0; i <= in->table_count; i++) {
        kv_found found;
        kv_view_find(view, key, wanted.size, hash, after, false, &found);
        CHECK(found.status != KV_FOUND || found.slot < in->table_count);
        if (found.status == KV_FOUND) {
            const table_input *t = &in->tables[found.slot];
            CHECK(found.offset <= t->size && found.length <= t->size - found.offset);
            touch(t->map + found.offset, found.length);
            CHECK(after >= 0 || got == (int64_t)found.length || found.length > KV_VALUE_ROOM);
        }
        if (found.status != KV_NEED_BLOCK) {
            break;
        }
        size_t size;
        char *plain = plain_of(&in->tables[found.slot], found.block, &size);
        uint64_t place[2];
        if (plain && kv_block_find(plain, size, key, wanted.size, hash, place) == KV_FOUND) {
            CHECK(place[0] <= size && place[1] <= size - place[0]);
        }
        free(plain);
        after = found.slot;
    }
    free(out);
}

typedef struct {
    kv_merge *merge;
    char *fed[TABLES_MAX]; /* of each run */
} merge_run;

/* Whether the merge can go on. */
static bool resolve(inputs *in, merge_run *m, int status, const kv_chunk *chunk) {
    if (status != KV_NEED_BLOCK) {
        return status == KV_MORE || status == KV_FULL;
    }
    size_t size;
    table_input *t = &in->tables[chunk->slot];
    char *plain = plain_of(t, chunk->block, &size);
    if (!plain) {
        return false;
    }
    CHECK(!kv_merge_feed(m->merge, chunk->slot, chunk->block, plain, size));
    free(m->fed[t->run]); /* nobody may look at it any more */
    m->fed[t->run] = plain;
    return true;
}

static void check_order(const uint8_t *out, const uint32_t *lengths, const kv_chunk *chunk,
                        bool reverse, bool ordered) {
    size_t at = 0;
    const uint8_t *before = NULL;
    size_t before_length = 0;
    for (size_t i = 0; i < chunk->count; i++) {
        size_t length = lengths[2 * i];
        CHECK(length >= 1 && length <= KEY_MAX);
        if (before && ordered) {
            int order = compare_keys(before, before_length, out + at, length);
            CHECK(reverse ? order > 0 : order < 0);
        }
        before = out + at;
        before_length = length;
        at += length + lengths[2 * i + 1];
    }
    CHECK(at == chunk->bytes);
}

/* Reads all there is between two bounds; how many entries, -1 when it could not go on. */
static int64_t read_merge(inputs *in, kv_view *view, bytes lower, bytes upper, bool reverse,
                          bool counting) {
    merge_run m = {.merge = kv_merge_new(view, (const char *)lower.data, lower.size,
                                         (const char *)upper.data, upper.size, reverse)};
    CHECK(m.merge);
    kv_chunk chunk;
    size_t room = OUT;
    uint64_t count = 0;
    int status = KV_MORE;
    while (status != KV_END) {
        if (counting) {
            status = kv_merge_count(m.merge, ENTRIES, &count, &chunk);
        } else {
            uint8_t *out = checked_malloc(room);
            uint32_t *lengths = checked_malloc(2 * ENTRIES * sizeof *lengths);
            status = kv_merge_read(m.merge, (char *)out, room, lengths, ENTRIES, &chunk);
            CHECK(chunk.count <= ENTRIES && chunk.bytes <= room);
            check_order(out, lengths, &chunk, reverse, in->table_count == 1);
            count += chunk.count;
            free(out);
            free(lengths);
        }
        if (status == KV_NEED_ROOM) {
            CHECK(chunk.need > room && !chunk.count);
            room = chunk.need;
        } else if (status != KV_END && !resolve(in, &m, status, &chunk)) {
            break;
        }
    }
    kv_merge_free(m.merge);
    for (uint32_t i = 0; i < TABLES_MAX; i++) {
        free(m.fed[i]);
    }
    return status == KV_END ? (int64_t)count : -1;
}

/* The same by one call, which must not be told apart from a merge but where it says so. */
static void scan_once(kv_view *view, bytes lower, bytes upper, bool reverse, int64_t count) {
    uint8_t *out = checked_malloc(OUT);
    uint32_t *lengths = checked_malloc(2 * ENTRIES * sizeof *lengths);
    kv_chunk chunk;
    int status =
        kv_view_scan(view, (const char *)lower.data, lower.size, (const char *)upper.data,
                     upper.size, reverse, false, (char *)out, OUT, lengths, ENTRIES, &chunk);
    CHECK(chunk.count <= ENTRIES && chunk.bytes <= OUT);
    CHECK(status != KV_END || count == (int64_t)chunk.count);
    free(out);
    free(lengths);
}

static int64_t merge_all(inputs *in, kv_view *view, bytes lower, bytes upper) {
    int64_t count = read_merge(in, view, lower, upper, false, false);
    CHECK(read_merge(in, view, lower, upper, false, true) == count);
    int64_t back = read_merge(in, view, lower, upper, true, false);
    scan_once(view, lower, upper, false, count);
    scan_once(view, lower, upper, true, back);
    /* Tables that overlap within a run keep no order; of one table it is the same both ways. */
    CHECK(in->table_count > 1 || (count < 0) == (back < 0));
    CHECK(in->table_count > 1 || count < 0 || count == back);
    return count;
}

/* Every key that the blocks hold, with the hash that they say. */
static void look_up_all(inputs *in, kv_view *view, table_input *t) {
    for (uint64_t i = 0; i < kv_table_blocks(t->table); i++) {
        size_t size;
        char *plain = plain_of(t, i, &size);
        if (!plain) {
            continue;
        }
        block b = block_open(plain, size);
        for (uint32_t j = 0; j < b.count && j < KEYS_MAX; j++) {
            kv_entry e;
            block_entry(&b, j, &e);
            size_t length = e.prefix_length + e.suffix_length;
            uint8_t *key = checked_malloc(length);
            memcpy(key, e.prefix, e.prefix_length);
            memcpy(key + e.prefix_length, e.suffix, e.suffix_length);
            look_up(in, view, (bytes){key, length}, e.hash);
            free(key);
        }
        free(plain);
    }
}

void fuzz_table(bytes data) {
    inputs *in = calloc(1, sizeof *in);
    CHECK(in);
    parse(in, data);
    for (uint32_t i = 0; i < in->table_count; i++) {
        open_table(in, i);
    }
    uint32_t runs = in->tables[in->table_count - 1].run + 1;
    kv_view_stats stats = {0};
    kv_view *view = kv_view_new(in->all, in->run_ends, runs, &stats);
    CHECK(view);
    bytes none = {NULL, 0};
    /* Half of the inputs are read before they are prepared, as a store does. */
    bool prepared = data.size % 2;
    for (uint32_t i = 0; prepared && i < in->table_count; i++) {
        check_table(&in->tables[i]);
    }
    int64_t count = merge_all(in, view, none, none);
    for (uint32_t i = 0; i < in->key_count; i++) {
        bytes key = in->keys[i];
        look_up(in, view, key, key.size >= 4 ? load_u32(key.data) : 0);
        merge_all(in, view, key, i ? in->keys[i - 1] : none);
    }
    bool sound = true;
    for (uint32_t i = 0; i < in->table_count; i++) {
        check_table(&in->tables[i]);
        sound = is_sound(&in->tables[i]) && sound;
        look_up_all(in, view, &in->tables[i]);
    }
    CHECK(count >= 0 || !sound);
    kv_view_free(view);
    for (uint32_t i = 0; i < in->table_count; i++) {
        kv_table_free(in->tables[i].table);
        free(in->tables[i].map);
    }
    free(in);
}
