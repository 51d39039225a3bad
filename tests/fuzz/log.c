/* Log entries: the scan in portions of rows and of bytes, the search behind damage, and the batches
 * in what was found. The input is a squeezed log file: squeezed.py. */
#include "fuzz.h"

enum { REPAIR = 1, DENSE = 2, FIELDS = 88, ROWS = 7, OPS = 16 };

static void repair(uint8_t *data, size_t size, uint32_t seed, uint64_t lsn, bool dense) {
    for (size_t at = 0; at < size && size - at >= FRAME_HEADER; lsn++) {
        uint64_t length = load_u32(data + at + 8);
        uint8_t *payload = data + at + FRAME_HEADER;
        if (load_u32(data + at)) {
            if (dense) {
                uint64_t kind = (uint64_t)data[at + 23] << 56;
                store_u64(data + at + 16, (lsn & LSN_MAX) | kind);
            }
            if (load_u32(data + at + 4) && data[at + 23] == KV_CHECKED &&
                length <= size - at - FRAME_HEADER) {
                store_u32(data + at + 4, kv_crc32c(0, (const char *)payload, (size_t)length));
            }
            store_u32(data + at, kv_crc32c(seed, (const char *)data + at + 4, FRAME_HEADER - 4));
        }
        at += (size_t)frame_bytes(length);
    }
}

static void check_rows(const int64_t *rows, size_t count, size_t size, uint64_t lsn) {
    int64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t *row = rows + i * KV_ROW;
        CHECK(row[0] >= end + FRAME_HEADER && row[1] >= row[0] && row[1] <= (int64_t)size);
        CHECK(row[0] % FRAME_ALIGN == 0 && row[2] == (int64_t)(lsn + i));
        end = row[1];
    }
}

static void decode_all(const uint8_t *data, size_t size, const int64_t *rows, size_t count) {
    size_t row = 0;
    while (row < count) {
        size_t room = OPS, done;
        int64_t got = 0;
        int64_t *ops = NULL;
        for (;; room *= 8) {
            ops = checked_malloc(room * KV_OP * sizeof *ops);
            got = kv_decode_batches((const char *)data, rows, row, count, ops, room, &done);
            if (got || done > row) {
                break;
            }
            free(ops);
            CHECK(room <= 8 * size + OPS);
        }
        for (int64_t i = 0; i < got; i++) {
            const int64_t *op = ops + i * KV_OP;
            CHECK(op[0] < op[1] && op[1] <= (int64_t)size && op[2] <= (int64_t)size);
            CHECK(op[2] == -1 || op[2] >= op[1]);
        }
        free(ops);
        row = got < 0 ? (size_t)-got : done;
    }
}

static uint64_t scan(const uint8_t *data, size_t size, uint32_t seed, uint64_t *lsn) {
    kv_scan_state state = {.seed = seed, .lsn = *lsn, .stop = KV_STOP_ROWS};
    while (state.stop == KV_STOP_ROWS) {
        int64_t *rows = checked_malloc(ROWS * KV_ROW * sizeof *rows);
        uint64_t first = state.lsn;
        size_t count = kv_scan(&state, (const char *)data, size, rows, ROWS);
        CHECK(count <= ROWS && state.lsn == first + count && state.position <= size);
        check_rows(rows, count, size, first);
        decode_all(data, size, rows, count);
        free(rows);
    }
    CHECK(state.stop != KV_STOP_MORE || state.need > size - state.position);
    *lsn = state.lsn;
    return state.position;
}

void fuzz_log(bytes input) {
    uint8_t fields[FIELDS] = {0};
    uint8_t flags = input.size ? input.data[0] : 0;
    bytes rest = bytes_behind(input, 1);
    memcpy(fields, rest.data, rest.size < FIELDS ? rest.size : FIELDS);
    rest = bytes_behind(rest, FIELDS);
    uint64_t base = load_u64(fields + 40) & LSN_MAX;
    uint32_t seed = kv_crc32c(0, (const char *)fields + 48, 16);
    uint8_t *data = exact_copy(rest);
    if (flags & REPAIR) {
        repair(data, rest.size, seed, base, flags & DENSE);
    }
    uint64_t lsn = base;
    uint64_t end = scan(data, rest.size, seed, &lsn);
    size_t used = kv_used_bytes((const char *)data, rest.size);
    CHECK(used <= rest.size && (!used || data[used - 1]));
    int64_t row[KV_ROW];
    for (size_t at = (size_t)end, before = at; at <= rest.size; before = at) {
        int64_t found = kv_find_entry((const char *)data, rest.size, at, seed, lsn, lsn + 64, row);
        if (found < 0) {
            break;
        }
        CHECK(found >= (int64_t)before && found % FRAME_ALIGN == 0);
        CHECK((uint64_t)found + FRAME_HEADER <= rest.size && row[0] == found + FRAME_HEADER);
        at = (size_t)found + FRAME_ALIGN;
    }
    /* A chunk of a file ends anywhere: what is read of it is the same. */
    for (size_t cut = 1; cut <= rest.size && cut <= 64; cut *= 2) {
        uint8_t *piece = exact_copy((bytes){data, rest.size - cut});
        uint64_t cut_lsn = base;
        uint64_t cut_end = scan(piece, rest.size - cut, seed, &cut_lsn);
        CHECK(cut_end <= end && cut_lsn <= lsn);
        free(piece);
    }
    free(data);
}
