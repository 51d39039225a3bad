/* Which target runs: the program's first argument. */
#include "fuzz.h"

static const struct {
    const char *name;
    void (*run)(bytes);
    bool sections;
} targets[] = {
    {"c-log", fuzz_log, false},    {"c-batch", fuzz_batch, false}, {"c-block", fuzz_block, false},
    {"c-table", fuzz_table, true}, {"c-crc", fuzz_crc, false},
};
enum { TARGETS = sizeof targets / sizeof targets[0] };
static size_t chosen;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    for (chosen = 0; chosen < TARGETS; chosen++) {
        if (*argc > 1 && !strcmp((*argv)[1], targets[chosen].name)) {
            (*argv)[1] = (*argv)[0];
            ++*argv;
            --*argc;
            return 0;
        }
    }
    fprintf(stderr, "the first argument has to be a target: c-log, c-batch...\n");
    exit(2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    targets[chosen].run((bytes){data, size});
    return 0;
}

/* batch.c encodes, too, which no decoder calls. */
int64_t kv_log_append_relaxed(kv_log *log, const char *data, size_t length, int kind,
                              uint64_t ticket, uint64_t applied_lsn) {
    (void)log, (void)data, (void)length, (void)kind, (void)ticket, (void)applied_lsn;
    abort();
}

int64_t kv_log_append_apply(kv_log *log, const char *data, size_t length, uint64_t ticket) {
    (void)log, (void)data, (void)length, (void)ticket;
    abort();
}

/* Of inputs made of sections (tag u8, length u16, bytes) one section is changed, and its length
 * made right: else all that stands behind an inserted byte would be read as something else. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    if (!targets[chosen].sections || seed % 4 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    size_t starts[64], count = 0, at = 0;
    while (at + 3 <= size && count < 64) {
        starts[count++] = at;
        at += 3 + (size_t)load_u16(data + at + 1);
    }
    if (!count) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    size_t start = starts[seed / 4 % count] + 3;
    size_t length = load_u16(data + start - 2);
    length = length < size - start ? length : size - start;
    size_t rest = size - start - length;
    size_t room = max_size > size ? length + (max_size - size) : length;
    room = room < UINT16_MAX ? room : UINT16_MAX;
    if (!room) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    uint8_t *section = checked_malloc(room);
    memcpy(section, data + start, length);
    size_t changed = LLVMFuzzerMutate(section, length, room);
    memmove(data + start + changed, data + start + length, rest);
    memcpy(data + start, section, changed);
    store_u16(data + start - 2, (uint32_t)changed);
    free(section);
    return start + changed + rest;
}
