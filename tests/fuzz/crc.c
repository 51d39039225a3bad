/* The checksum: hardware and table against bit by bit, at every alignment, in one piece and two. */
#include "fuzz.h"

static uint32_t by_bits(uint32_t crc, const uint8_t *data, size_t size) {
    crc = ~crc;
    for (size_t i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
        }
    }
    return ~crc;
}

void fuzz_crc(bytes input) {
    uint32_t begun_with = input.size >= 4 ? load_u32(input.data) : 0;
    bytes rest = bytes_behind(input, 4);
    uint8_t *copy = exact_copy(rest);
    for (size_t skip = 0; skip < 8 && skip <= rest.size; skip++) {
        const char *data = (const char *)copy + skip;
        size_t size = rest.size - skip;
        uint32_t expected = by_bits(begun_with, (const uint8_t *)data, size);
        CHECK(kv_crc32c(begun_with, data, size) == expected);
        CHECK(kv_crc32c_portable(begun_with, data, size) == expected);
        size_t half = size / 2;
        CHECK(kv_crc32c(kv_crc32c(begun_with, data, half), data + half, size - half) == expected);
    }
    free(copy);
}
