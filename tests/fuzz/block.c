/* One plain block: its check, every row, every key. */
#include "fuzz.h"

enum { ROWS = 5 };

static void check_entry(const block *b, const char *data, uint32_t i, const uint64_t *row) {
    kv_entry e;
    block_entry(b, i, &e);
    CHECK(row[0] <= row[1] && row[1] <= row[2] && row[2] <= b->size);
    touch(e.value, e.value_length);
    size_t length = e.prefix_length + e.suffix_length;
    uint8_t *key = checked_malloc(length);
    memcpy(key, e.prefix, e.prefix_length);
    memcpy(key + e.prefix_length, e.suffix, e.suffix_length);
    uint64_t out[2] = {0, 0};
    int status = kv_block_find(data, b->size, (const char *)key, length, e.hash, out);
    CHECK(status == (e.deleted ? KV_DELETED : KV_FOUND));
    CHECK(out[0] == row[1] && out[1] == row[2] - row[1]);
    CHECK(block_compare(b, i, key, length) == 0);
    CHECK(block_lower_bound(b, key, length) == i);
    /* Keys beside it: cut, and of another end. */
    kv_block_find(data, b->size, (const char *)key, length - 1, e.hash, out);
    CHECK(block_lower_bound(b, key, length - 1) <= i);
    key[length - 1] ^= 1;
    kv_block_find(data, b->size, (const char *)key, length, e.hash, out);
    block_lower_bound(b, key, length);
    free(key);
}

void fuzz_block(bytes input) {
    uint8_t *copy = exact_copy(input);
    const char *data = (const char *)copy;
    if (kv_block_check(data, input.size)) {
        block b = block_open(data, input.size);
        uint64_t prefix[2];
        for (size_t first = 0; first < b.count; first += ROWS) {
            uint64_t *rows = checked_malloc(ROWS * KV_BLOCK_ROW * sizeof *rows);
            size_t count =
                kv_block_rows(data, input.size, first, rows, ROWS, &prefix[0], &prefix[1]);
            CHECK(count == b.count && prefix[0] + prefix[1] <= input.size);
            for (size_t i = first; i < count && i < first + ROWS; i++) {
                check_entry(&b, data, (uint32_t)i, rows + (i - first) * KV_BLOCK_ROW);
            }
            free(rows);
        }
    }
    free(copy);
}
