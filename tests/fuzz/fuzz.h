/* The C kernels as libFuzzer's targets, without Python.
 *
 * Each target takes the same inputs as the Python one of its name, and copies what a kernel may
 * read into memory of just that size, so that the sanitizers see a byte too many. What must hold of
 * the answers is checked, too. targets.c has the list; mutate.c stands in for libFuzzer where that
 * is not here.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "table.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef struct {
    const uint8_t *data;
    size_t size;
} bytes;

/* All but the first `skip` bytes, fewer when there are fewer. */
static inline bytes bytes_behind(bytes b, size_t skip) {
    skip = skip < b.size ? skip : b.size;
    return (bytes){b.data + skip, b.size - skip};
}

static inline void *checked_malloc(size_t size) {
    void *memory = malloc(size ? size : 1);
    CHECK(memory);
    return memory;
}

/* A copy behind whose end nothing may be read. */
static inline uint8_t *exact_copy(bytes b) {
    uint8_t *copy = checked_malloc(b.size);
    memcpy(copy, b.data, b.size);
    return copy;
}

/* Reads every byte, for the sanitizers to see. */
static inline void touch(const void *data, size_t size) {
    volatile uint32_t sink = kv_crc32c(0, data, size);
    (void)sink;
}

void fuzz_log(bytes input);
void fuzz_batch(bytes input);
void fuzz_block(bytes input);
void fuzz_table(bytes input);
void fuzz_crc(bytes input);

/* What libFuzzer calls, and what it gives. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

#endif
