/* A write batch: the payload of one entry, decoded with little room and with enough. */
#include "fuzz.h"

void fuzz_batch(bytes input) {
    uint8_t *data = exact_copy(input);
    /* A row of another kind before it and behind it: those hold no batch. */
    int64_t size = (int64_t)input.size;
    int64_t rows[3 * KV_ROW] = {0,          size, 1, KV_PLAIN, 0, 0,       size, 2,
                                KV_CHECKED, 0,    0, 0,        3, KV_MARK, 0};
    int64_t counts[3] = {0, 0, 0};
    size_t rooms[3] = {0, 3, input.size / (OP_HEADER + 1) + 1};
    for (int i = 0; i < 3; i++) {
        size_t done = 99;
        int64_t *ops = checked_malloc(rooms[i] * KV_OP * sizeof *ops);
        counts[i] = kv_decode_batches((const char *)data, rows, 0, 3, ops, rooms[i], &done);
        CHECK(counts[i] <= (int64_t)rooms[i] && (counts[i] >= 0 || counts[i] == -2));
        CHECK(done <= 3);
        int64_t end = 0;
        for (int64_t j = 0; j < counts[i]; j++) {
            const int64_t *op = ops + j * KV_OP;
            CHECK(op[0] == end + OP_HEADER && op[1] > op[0] && op[1] - op[0] <= KEY_MAX);
            CHECK(op[2] == -1 || op[2] >= op[1]);
            end = op[2] < 0 ? op[1] : op[2];
            CHECK(end <= size);
        }
        CHECK(counts[i] <= 0 || end == size);
        free(ops);
    }
    /* What fits in less, reads the same with more. */
    CHECK(counts[1] <= 0 || counts[1] == counts[2]);
    free(data);
}
