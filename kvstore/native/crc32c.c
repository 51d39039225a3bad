/* CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected: 0x82F63B78), as in RFC 3720 appendix B.4.
 *
 * The instruction is picked once, when the library is loaded. Three interleaved streams would hide
 * the instruction's latency of 3 cycles on long inputs; entries are short and a plain loop already
 * runs at about 8 bytes in 3 cycles, far above any device.
 */
#include "kv.h"

#include <string.h>

static uint32_t table[8][256];

static uint32_t crc_table(uint32_t crc, const uint8_t *data, size_t length) {
    while (length >= 8) {
        uint32_t low = crc ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                              (uint32_t)data[3] << 24);
        crc = table[7][low & 0xff] ^ table[6][(low >> 8) & 0xff] ^ table[5][(low >> 16) & 0xff] ^
              table[4][low >> 24] ^ table[3][data[4]] ^ table[2][data[5]] ^ table[1][data[6]] ^
              table[0][data[7]];
        data += 8;
        length -= 8;
    }
    while (length--) {
        crc = (crc >> 8) ^ table[0][(crc ^ *data++) & 0xff];
    }
    return crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *data,
                                                            size_t length) {
    uint64_t wide = crc;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = _mm_crc32_u64(wide, word);
        data += 8;
        length -= 8;
    }
    crc = (uint32_t)wide;
    while (length--) {
        crc = _mm_crc32_u8(crc, *data++);
    }
    return crc;
}
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ &&                         \
    (!defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_CRC32))
#define HAVE_ARMV8 /* clang before 16 declares the instructions only with -march=...+crc */
#include <arm_acle.h>
#if defined(__linux__)
#include <sys/auxv.h>
#ifndef HWCAP_CRC32
#define HWCAP_CRC32 (1 << 7)
#endif
#endif

__attribute__((target("+crc"))) static uint32_t crc_armv8(uint32_t crc, const uint8_t *data,
                                                          size_t length) {
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        crc = __crc32cd(crc, word);
        data += 8;
        length -= 8;
    }
    while (length--) {
        crc = __crc32cb(crc, *data++);
    }
    return crc;
}
#endif

static uint32_t (*update)(uint32_t, const uint8_t *, size_t) = crc_table;
static const char *implementation = "table";

__attribute__((constructor)) static void choose(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++) {
            crc = crc & 1 ? (crc >> 1) ^ 0x82F63B78u : crc >> 1;
        }
        table[0][byte] = crc;
    }
    for (int slice = 1; slice < 8; slice++) {
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = table[slice - 1][byte];
            table[slice][byte] = (before >> 8) ^ table[0][before & 0xff];
        }
    }
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("sse4.2")) {
        update = crc_sse42;
        implementation = "sse4.2";
    }
#elif defined(HAVE_ARMV8)
#if defined(__linux__)
    int present = (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
    int present = 1; /* every 64-bit Apple processor has it */
#endif
    if (present) {
        update = crc_armv8;
        implementation = "armv8";
    }
#endif
}

uint32_t kv_crc32c(uint32_t crc, const char *data, size_t length) {
    return ~update(~crc, (const uint8_t *)data, length);
}

/* The table is what other processors run; tests hold it against the same oracle. */
uint32_t kv_crc32c_portable(uint32_t crc, const char *data, size_t length) {
    return ~crc_table(~crc, (const uint8_t *)data, length);
}

const char *kv_crc32c_implementation(void) { return implementation; }
