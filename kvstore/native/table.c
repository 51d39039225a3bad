/* One table: its parts are read and checked before their first use.
 *
 * A part is read by pread before the mapping of it is touched, so that a bad sector is an error
 * that can be told, and not a SIGBUS. The checksum is that of the bytes read, the structure is
 * checked in the mapping, which shows the same pages. Blocks that a short scan will come to need
 * no pread when the kernel has just said that they are there (source.c): what is in memory was
 * read without an error.
 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE = 65536 }; /* bytes read at a time */
enum { FILTER_HEAD = 64 };

const uint64_t filter_multipliers[PROBES_MAX] = {
    UINT64_C(0x0000000000000001), UINT64_C(0xd1342543de82ef95), UINT64_C(0xb1b9d47c9f8b8cb9),
    UINT64_C(0x739d9fcd088b9ead), UINT64_C(0x49136017ec40ddb1), UINT64_C(0xe7fc1700229b4705),
    UINT64_C(0x2d320d22823800e9), UINT64_C(0x35f577dd97c40e9d), UINT64_C(0xce3a3efbf07b1461),
    UINT64_C(0xee0b12b556eb6b75), UINT64_C(0xc348830c67c1c619), UINT64_C(0x79400ad1926ba38d),
    UINT64_C(0xce38d51109f0d411), UINT64_C(0x6c66c4d80dc94ce5), UINT64_C(0xa2921075973d8c49),
    UINT64_C(0xe375cda707dccd7d),
};

typedef struct {
    int what;        /* KV_PART_... */
    uint64_t offset; /* in the file */
    uint64_t length; /* trailer included; at least TRAILER */
    bool present;    /* to be read from the mapping */
    /* Out, when it was found right: */
    int kind;
    uint32_t plain_bytes;
} part;

static int note_fault(kv_table *table, kv_table_fault fault) {
    pthread_mutex_lock(&table->lock);
    table->fault = fault;
    pthread_mutex_unlock(&table->lock);
    return KV_DAMAGED;
}

static int note_malformed(kv_table *table, int what, uint64_t offset, uint32_t crc) {
    return note_fault(
        table, (kv_table_fault){
                   .part = what, .malformed = 1, .offset = offset, .expected = crc, .actual = crc});
}

static int note_unreadable(kv_table *table, int what, uint64_t offset, int error) {
    return note_fault(table, (kv_table_fault){.part = what, .error = error, .offset = offset});
}

/* All `size` bytes, or the errno; the file's end is EIO, as the table is known to be longer. */
static int read_fully(int fd, uint8_t *out, size_t size, uint64_t offset) {
    while (size) {
        ssize_t count = pread(fd, out, size, (off_t)offset);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return count ? errno : EIO;
        }
        out += count;
        size -= (size_t)count;
        offset += (uint64_t)count;
    }
    return 0;
}

/* Gives the checksum of a part's bytes and its trailer; 0, or the errno of a failed read. The last
 * piece is cut so that it holds the whole trailer. */
static int part_scan(const kv_table *table, const part *p, uint32_t *crc,
                     uint8_t trailer[TRAILER]) {
    uint8_t buffer[PIECE];
    uint64_t done = 0;
    *crc = part_seed(table->layout.seed, p->offset);
    while (done < p->length) {
        uint64_t left = p->length - done;
        size_t size = (size_t)(left < PIECE ? left : PIECE);
        if (left > PIECE && left < PIECE + TRAILER) {
            size = PIECE - TRAILER;
        }
        const uint8_t *piece = table->map + p->offset + done;
        if (table->layout.fd >= 0 && !p->present) {
            int error = read_fully(table->layout.fd, buffer, size, p->offset + done);
            if (error) {
                return error;
            }
            piece = buffer;
        }
        bool last = size == left;
        *crc = kv_crc32c(*crc, (const char *)piece, last ? size - 4 : size);
        if (last) {
            memcpy(trailer, piece + size - TRAILER, TRAILER);
        }
        done += size;
    }
    return 0;
}

/* Reads a part, which lies within the file, and holds it against its trailer. 0 or KV_DAMAGED. */
static int part_verify(kv_table *table, part *p, uint32_t *crc) {
    uint8_t trailer[TRAILER];
    int error = part_scan(table, p, crc, trailer);
    if (error) {
        return note_unreadable(table, p->what, p->offset, error);
    }
    if (load_u32(trailer + 5) != *crc) {
        return note_fault(table, (kv_table_fault){.part = p->what,
                                                  .offset = p->offset,
                                                  .expected = load_u32(trailer + 5),
                                                  .actual = *crc});
    }
    p->kind = trailer[0];
    p->plain_bytes = load_u32(trailer + 1);
    bool plain = p->kind == KIND_PLAIN && p->plain_bytes == p->length - TRAILER;
    bool compressed = p->what == KV_PART_DATA && p->kind != KIND_PLAIN && p->kind <= KIND_ZSTD &&
                      p->plain_bytes >= BLOCK_HEAD && p->plain_bytes <= BLOCK_MAX;
    return plain || compressed ? 0 : note_malformed(table, p->what, p->offset, *crc);
}

/* ---- the index ---- */

/* Whether the bytes of an index keep to the format; *count: of its separators. Offsets ascend, from
 * the head to the end of data; separators ascend, from the smallest key to the largest. */
static bool index_sound(const kv_table *table, const uint8_t *index, uint64_t size,
                        uint32_t *count) {
    if (size < 4 || !(*count = load_u32(index)) || size > UINT32_MAX) {
        return false;
    }
    uint64_t m = *count;
    uint64_t start = 4 + 8 * (m + 1) + 4 * (m + 1);
    if (start > size) {
        return false;
    }
    const uint8_t *offsets = index + 4;
    separators s = {.base = index, .offsets = offsets + 8 * (m + 1), .count = *count};
    if (load_u64(offsets) != TABLE_HEAD || load_u64(offsets + 8 * m) != table->layout.data_end ||
        load_u32(s.offsets) != start || load_u32(s.offsets + 4 * m) != size) {
        return false;
    }
    const uint8_t *before = NULL;
    size_t before_length = 0;
    for (uint32_t i = 0; i < *count; i++) {
        uint64_t here = load_u64(offsets + (size_t)8 * i);
        uint64_t next = load_u64(offsets + (size_t)8 * i + 8);
        uint64_t key = load_u32(s.offsets + (size_t)4 * i);
        uint64_t key_end = load_u32(s.offsets + (size_t)4 * i + 4);
        if (next <= here || next - here <= TRAILER || next - here > BLOCK_MAX + TRAILER ||
            next > table->layout.data_end || key_end <= key || key_end - key > KEY_MAX ||
            key_end > size) {
            return false;
        }
        if (i && compare_keys(before, before_length, index + key, key_end - key) >= 0) {
            return false;
        }
        before = index + key;
        before_length = key_end - key;
    }
    size_t first_length;
    const uint8_t *first = separator_at(&s, 0, &first_length);
    return compare_keys(table->smallest, table->smallest_length, first, first_length) <= 0 &&
           !compare_keys(before, before_length, table->largest, table->largest_length);
}

static bool within(const kv_table *table, uint64_t offset, uint64_t length, uint64_t least) {
    const kv_table_layout *l = &table->layout;
    return l->data_end >= TABLE_HEAD && offset >= l->data_end && offset <= l->size &&
           length >= least + TRAILER && length <= l->size - offset;
}

static int index_load(kv_table *table) {
    const kv_table_layout *l = &table->layout;
    part p = {.what = KV_PART_INDEX, .offset = l->index_offset, .length = l->index_length};
    uint32_t crc = 0;
    uint32_t count;
    if (!within(table, p.offset, p.length, 4)) {
        return note_malformed(table, p.what, p.offset, 0);
    }
    if (part_verify(table, &p, &crc)) {
        return KV_DAMAGED;
    }
    const uint8_t *index = table->map + p.offset;
    if (!index_sound(table, index, p.length - TRAILER, &count)) {
        return note_malformed(table, p.what, p.offset, crc);
    }
    separators s = {.base = index,
                    .offsets = index + 4 + 8 * ((size_t)count + 1),
                    .count = count,
                    .beside = index + 4};
    atomic_uchar *checked = calloc(count, sizeof *checked);
    if (!checked || separators_prepare(&s)) {
        free(checked);
        return note_unreadable(table, p.what, p.offset, ENOMEM);
    }
    /* Two threads may come here at once; the second one's work is not needed. */
    pthread_mutex_lock(&table->lock);
    bool first = !atomic_load_explicit(&table->index_ready, memory_order_relaxed);
    if (first) {
        table->index = s;
        table->block_offsets = index + 4;
        table->checked = checked;
        atomic_store_explicit(&table->index_ready, true, memory_order_release);
    }
    pthread_mutex_unlock(&table->lock);
    if (!first) {
        separators_release(&s);
        free(checked);
    }
    return 0;
}

int table_prepare_index(kv_table *table) { return index_load(table); }

/* ---- the filter ---- */

int table_prepare_filter(kv_table *table) {
    const kv_table_layout *l = &table->layout;
    part p = {.what = KV_PART_FILTER, .offset = l->filter_offset, .length = l->filter_length};
    uint32_t crc = 0;
    if (!within(table, p.offset, p.length, FILTER_HEAD + FILTER_LINE) || p.offset % FILTER_LINE) {
        return note_malformed(table, p.what, p.offset, 0);
    }
    if (part_verify(table, &p, &crc)) {
        return KV_DAMAGED;
    }
    const uint8_t *filter = table->map + p.offset;
    uint32_t lines = load_u32(filter);
    uint32_t probes = load_u32(filter + 4);
    bool zeros = true;
    for (int i = 8; i < FILTER_HEAD; i++) {
        zeros &= !filter[i];
    }
    if (!lines || !probes || probes > PROBES_MAX || !zeros ||
        p.length - TRAILER != FILTER_HEAD + (uint64_t)FILTER_LINE * lines) {
        return note_malformed(table, p.what, p.offset, crc);
    }
    pthread_mutex_lock(&table->lock);
    if (!atomic_load_explicit(&table->filter_ready, memory_order_relaxed)) {
        table->filter = filter + FILTER_HEAD;
        table->filter_lines = lines;
        table->filter_probes = probes;
        atomic_store_explicit(&table->filter_ready, true, memory_order_release);
    }
    pthread_mutex_unlock(&table->lock);
    return 0;
}

int kv_table_may_contain(kv_table *table, const char *key, size_t key_length, uint64_t hash) {
    if (compare_keys(key, key_length, table->smallest, table->smallest_length) < 0 ||
        compare_keys(key, key_length, table->largest, table->largest_length) > 0) {
        return 0;
    }
    return !table->layout.filter_length || table_need_filter(table) ||
           table_filter_has(table, (uint32_t)hash);
}

/* ---- data blocks ---- */

bool table_block_fits(const kv_table *table, uint32_t index, const block *b) {
    size_t length = table->smallest_length;
    const uint8_t *bound = table->smallest;
    if (index) {
        bound = separator_at(&table->index, index - 1, &length);
    }
    if (block_compare(b, 0, bound, length) < (index ? 1 : 0)) {
        return false;
    }
    bound = separator_at(&table->index, index, &length);
    return block_compare(b, b->count - 1, bound, length) <= 0;
}

void table_malformed_block(kv_table *table, uint32_t index) {
    uint64_t end = table_block_offset(table, index + 1);
    note_malformed(table, KV_PART_DATA, table_block_offset(table, index),
                   load_u32(table->map + end - 4));
}

int kv_table_check_plain(kv_table *table, uint64_t index, const char *plain, size_t size) {
    if (index >= kv_table_blocks(table)) {
        return -EINVAL;
    }
    block b = block_open(plain, size);
    if (!table_block_fits(table, (uint32_t)index, &b)) {
        table_malformed_block(table, (uint32_t)index);
        return KV_DAMAGED;
    }
    return 0;
}

int table_verify_block(kv_table *table, uint32_t index, bool present) {
    uint64_t offset = table_block_offset(table, index);
    part p = {.what = KV_PART_DATA,
              .offset = offset,
              .length = table_block_offset(table, index + 1) - offset,
              .present = present};
    uint32_t crc = 0;
    int state = KV_DAMAGED;
    if (!part_verify(table, &p, &crc)) {
        state = p.kind == KIND_PLAIN ? BLOCK_PLAIN : BLOCK_COMPRESSED;
    }
    if (state == BLOCK_PLAIN) {
        size_t size = (size_t)(p.length - TRAILER);
        block b;
        if (!kv_block_check((const char *)table->map + offset, size) ||
            (b = block_open(table->map + offset, size), !table_block_fits(table, index, &b))) {
            state = note_malformed(table, p.what, offset, crc);
        }
    }
    unsigned char known = state == KV_DAMAGED ? BLOCK_UNCHECKED : (unsigned char)state;
    atomic_store_explicit(&table->checked[index], known, memory_order_release);
    return state;
}

int kv_table_check_block(kv_table *table, uint64_t index) {
    if (table_need_index(table)) {
        return KV_DAMAGED;
    }
    if (index >= table->index.count) {
        return -EINVAL;
    }
    return table_verify_block(table, (uint32_t)index, false) == KV_DAMAGED ? KV_DAMAGED : 0;
}

/* ---- the table ---- */

static uint8_t *copy_key(const char *key, size_t length) {
    uint8_t *copy = malloc(length ? length : 1);
    if (copy && length) {
        memcpy(copy, key, length);
    }
    return copy;
}

kv_table *kv_table_new(const char *map, const kv_table_layout *layout, const char *smallest,
                       size_t smallest_length, const char *largest, size_t largest_length) {
    kv_table *table = calloc(1, sizeof *table);
    if (!table) {
        return NULL;
    }
    pthread_mutex_init(&table->lock, NULL);
    table->map = (const uint8_t *)map;
    table->layout = *layout;
    table->smallest = copy_key(smallest, smallest_length);
    table->smallest_length = smallest_length;
    table->largest = copy_key(largest, largest_length);
    table->largest_length = largest_length;
    if (!table->smallest || !table->largest) {
        kv_table_free(table);
        return NULL;
    }
    table_map_random(table);
    return table;
}

void kv_table_free(kv_table *table) {
    if (!table) {
        return;
    }
    separators_release(&table->index);
    free(table->checked);
    free(table->smallest);
    free(table->largest);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

int kv_table_prepare(kv_table *table) {
    return table_need_index(table) || (table->layout.filter_length && table_need_filter(table))
               ? KV_DAMAGED
               : 0;
}

uint64_t kv_table_blocks(const kv_table *table) {
    return atomic_load_explicit(&table->index_ready, memory_order_acquire) ? table->index.count : 0;
}

void kv_table_block_at(const kv_table *table, uint64_t index, uint64_t *offset, uint64_t *length) {
    *offset = *length = 0;
    if (index < kv_table_blocks(table)) {
        *offset = table_block_offset(table, (uint32_t)index);
        *length = table_block_offset(table, (uint32_t)index + 1) - TRAILER - *offset;
    }
}

void kv_table_fault_get(kv_table *table, kv_table_fault *out) {
    pthread_mutex_lock(&table->lock);
    *out = table->fault;
    pthread_mutex_unlock(&table->lock);
}
