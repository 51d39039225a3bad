/* The frame of a log entry; the specification is the docstring of kvstore/wal/format.py. */
#ifndef KV_FRAME_H
#define KV_FRAME_H

#include "kv.h"

#include <string.h>

enum { FRAME_HEADER = 24, FRAME_ALIGN = 8 };
#define PAYLOAD_MAX ((uint64_t)1 << 30)
#define LSN_MAX (((uint64_t)1 << 56) - 1)
#define UNSYNCED_NO_CLAIM UINT32_MAX

static inline uint64_t frame_bytes(uint64_t payload_length) {
    return (FRAME_HEADER + payload_length + FRAME_ALIGN - 1) & ~(uint64_t)(FRAME_ALIGN - 1);
}

static inline void store_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (8 * i));
    }
}

static inline uint32_t load_u32(const uint8_t *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t load_u64(const uint8_t *at) {
    return (uint64_t)load_u32(at) | (uint64_t)load_u32(at + 4) << 32;
}

/* Compilers turn the byte-wise stores above into single ones on little-endian machines. */
static inline void frame_header(uint8_t header[FRAME_HEADER], uint32_t seed, uint32_t payload_crc,
                                uint32_t length, uint32_t unsynced, uint64_t lsn, int kind) {
    store_u32(header + 4, payload_crc);
    store_u32(header + 8, length);
    store_u32(header + 12, unsynced);
    store_u32(header + 16, (uint32_t)lsn);
    store_u32(header + 20, (uint32_t)(lsn >> 32) | (uint32_t)kind << 24);
    store_u32(header, kv_crc32c(seed, (const char *)header + 4, FRAME_HEADER - 4));
}

enum { OP_HEADER = 8 };

/* Of one operation in a write batch; the specification is the docstring of kvstore/batch.py. */
static inline void op_header(uint8_t header[OP_HEADER], int type, uint32_t key_length,
                             uint32_t value_length) {
    store_u32(header, (uint32_t)type | key_length << 8);
    store_u32(header + 4, value_length);
}

#endif
