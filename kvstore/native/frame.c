/* Reading log entries: validation in order, and the search for entries behind a damaged place. */
#include "frame.h"

typedef struct {
    uint32_t payload_crc, length, unsynced;
    uint64_t lsn;
    int kind;
} entry;

static int header_valid(const uint8_t *at, uint32_t seed) {
    return load_u32(at) == kv_crc32c(seed, (const char *)at + 4, FRAME_HEADER - 4) &&
           load_u32(at + 8) <= PAYLOAD_MAX;
}

static entry header_fields(const uint8_t *at) {
    uint64_t last = load_u64(at + 16);
    entry e = {load_u32(at + 4), load_u32(at + 8), load_u32(at + 12), last & LSN_MAX,
               (int)(last >> 56)};
    return e;
}

static void write_row(int64_t *row, size_t position, entry e) {
    row[0] = (int64_t)(position + FRAME_HEADER);
    row[1] = (int64_t)(position + FRAME_HEADER + e.length);
    row[2] = (int64_t)e.lsn;
    row[3] = e.kind;
    row[4] = (int64_t)e.unsynced;
}

static int kind_known(int kind) {
    return (kind >= KV_PLAIN && kind <= KV_SEAL) || kind >= KV_IGNORABLE;
}

size_t kv_scan(kv_scan_state *state, const char *data, size_t size, int64_t *rows,
               size_t max_rows) {
    const uint8_t *bytes = (const uint8_t *)data;
    size_t count = 0;
    for (;;) {
        size_t at = state->position;
        if (count == max_rows) {
            state->stop = KV_STOP_ROWS;
            break;
        }
        if (at > size || size - at < FRAME_HEADER) {
            state->stop = KV_STOP_END;
            break;
        }
        if (!header_valid(bytes + at, state->seed)) {
            state->stop = KV_STOP_HEADER;
            break;
        }
        entry e = header_fields(bytes + at);
        uint64_t whole = frame_bytes(e.length);
        if (e.lsn != state->lsn) {
            state->stop = KV_STOP_LSN;
            break;
        }
        if (!kind_known(e.kind)) {
            state->stop = KV_STOP_KIND;
            break;
        }
        if (whole > size - at) {
            state->stop = KV_STOP_MORE;
            state->need = whole;
            break;
        }
        if (e.kind == KV_CHECKED) {
            state->actual = kv_crc32c(0, data + at + FRAME_HEADER, e.length);
            state->expected = e.payload_crc;
            if (state->actual != state->expected) {
                state->stop = KV_STOP_PAYLOAD;
                break;
            }
        }
        write_row(rows + count * KV_ROW, at, e);
        count++;
        state->user_entries += e.kind == KV_PLAIN || e.kind == KV_CHECKED;
        state->position += whole;
        state->lsn++;
    }
    return count;
}

int64_t kv_find_entry(const char *data, size_t size, size_t from, uint32_t seed, uint64_t lsn_min,
                      uint64_t lsn_max, int64_t *row) {
    const uint8_t *bytes = (const uint8_t *)data;
    size_t at = (from + FRAME_ALIGN - 1) & ~(size_t)(FRAME_ALIGN - 1);
    for (; at <= size && size - at >= FRAME_HEADER; at += FRAME_ALIGN) {
        /* The cheap conditions first: most places fail them, and a CRC is dear. */
        uint64_t lsn = load_u64(bytes + at + 16) & LSN_MAX;
        if (lsn < lsn_min || lsn > lsn_max || !header_valid(bytes + at, seed)) {
            continue;
        }
        entry e = header_fields(bytes + at);
        write_row(row, at, e);
        return (int64_t)at;
    }
    return -1;
}

void kv_frame_header(char *out, uint32_t seed, uint32_t payload_crc, uint32_t length,
                     uint32_t unsynced, uint64_t lsn, int kind) {
    frame_header((uint8_t *)out, seed, payload_crc, length, unsynced, lsn, kind);
}

size_t kv_used_bytes(const char *data, size_t size) {
    static const char zeros[4096];
    while (size >= sizeof zeros && memcmp(data + size - sizeof zeros, zeros, sizeof zeros) == 0) {
        size -= sizeof zeros;
    }
    while (size > 0 && data[size - 1] == 0) {
        size--;
    }
    return size;
}
