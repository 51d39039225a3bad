/* Write batches; the specification is the docstring of kvstore/batch.py. */
#include "frame.h"

#include <errno.h>

enum { KEY_MAX = 65536, SMALL_BATCH = 4096 };

/* One batch; returns its operations, -1 when malformed, -2 when they do not fit. */
static int64_t decode(const uint8_t *data, uint64_t at, uint64_t end, int64_t *ops,
                      size_t max_ops) {
    size_t count = 0;
    while (at < end) {
        if (end - at < OP_HEADER) {
            return -1;
        }
        uint32_t first = load_u32(data + at);
        uint32_t type = first & 0xff;
        uint64_t key_length = first >> 8;
        uint64_t value_length = load_u32(data + at + 4);
        if (!(type == KV_PUT || (type == KV_DELETE && value_length == 0)) || key_length == 0 ||
            key_length > KEY_MAX || end - at - OP_HEADER < key_length + value_length) {
            return -1;
        }
        if (count == max_ops) {
            return -2;
        }
        int64_t *op = ops + count * KV_OP;
        uint64_t key = at + OP_HEADER;
        op[0] = (int64_t)key;
        op[1] = (int64_t)(key + key_length);
        op[2] = type == KV_PUT ? (int64_t)(key + key_length + value_length) : -1;
        at = key + key_length + value_length;
        count++;
    }
    return (int64_t)count;
}

/* A put as a batch of its own; its length, 0 when it is not small. */
static size_t encode_put(uint8_t batch[SMALL_BATCH], const char *key, size_t key_length,
                         const char *value, size_t value_length) {
    if (key_length > SMALL_BATCH - OP_HEADER ||
        value_length > SMALL_BATCH - OP_HEADER - key_length) {
        return 0;
    }
    op_header(batch, KV_PUT, (uint32_t)key_length, (uint32_t)value_length);
    memcpy(batch + OP_HEADER, key, key_length);
    memcpy(batch + OP_HEADER + key_length, value, value_length);
    return OP_HEADER + key_length + value_length;
}

int64_t kv_log_put_relaxed(kv_log *log, const char *key, size_t key_length, const char *value,
                           size_t value_length, uint64_t ticket, uint64_t applied_lsn) {
    uint8_t batch[SMALL_BATCH];
    size_t length = encode_put(batch, key, key_length, value, value_length);
    return length ? kv_log_append_relaxed(log, (const char *)batch, length, KV_CHECKED, ticket,
                                          applied_lsn)
                  : -EMSGSIZE;
}

int64_t kv_log_put_apply(kv_log *log, const char *key, size_t key_length, const char *value,
                         size_t value_length, uint64_t ticket) {
    uint8_t batch[SMALL_BATCH];
    size_t length = encode_put(batch, key, key_length, value, value_length);
    return length ? kv_log_append_apply(log, (const char *)batch, length, ticket) : -EMSGSIZE;
}

int64_t kv_decode_batches(const char *data, const int64_t *rows, size_t first_row, size_t row_count,
                          int64_t *ops, size_t max_ops, size_t *rows_done) {
    size_t count = 0;
    size_t row = first_row;
    *rows_done = row;
    for (; row < row_count; row++) {
        const int64_t *r = rows + row * KV_ROW;
        if (r[3] != KV_CHECKED) {
            continue;
        }
        int64_t got = decode((const uint8_t *)data, (uint64_t)r[0], (uint64_t)r[1],
                             ops + count * KV_OP, max_ops - count);
        if (got == -1) {
            return -1 - (int64_t)row;
        }
        if (got == -2) {
            break;
        }
        count += (size_t)got;
    }
    *rows_done = row;
    return (int64_t)count;
}
