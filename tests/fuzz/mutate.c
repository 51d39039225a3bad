/* Stands in for libFuzzer where the compiler has none: replays a corpus, then changes its inputs at
 * random, without looking at coverage. The same arguments:
 *
 *     harness TARGET [-runs=N] [-seed=N] [-max_len=N] [-artifact_prefix=P] FILE|DIRECTORY...
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INPUTS_MAX = 4096, SECONDS_MAX = 10, CHANGES_MAX = 4 };

static bytes corpus[INPUTS_MAX];
static size_t corpus_count;
static uint64_t state = 1;
static bytes running;
static const char *artifact_prefix = "./";

/* Of the sanitizers' runtime. */
void __sanitizer_set_death_callback(void (*callback)(void));
const char *__asan_default_options(void);

/* An abort of CHECK is to be told like any other finding. */
const char *__asan_default_options(void) { return "handle_abort=1:allocator_may_return_null=1"; }

static void save(void) {
    char name[4096];
    snprintf(name, sizeof name, "%scrash-%016llx", artifact_prefix, (unsigned long long)state);
    FILE *file = fopen(name, "wb");
    if (file) {
        fwrite(running.data, 1, running.size, file);
        fclose(file);
        fprintf(stderr, "the input was saved as %s\n", name);
    }
}

static void too_slow(int number) {
    (void)number;
    fprintf(stderr, "one input took more than %d s\n", SECONDS_MAX);
    save();
    _exit(70);
}

static uint64_t next(void) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(0x2545f4914f6cdd1d);
}

static size_t below(size_t bound) { return bound ? (size_t)(next() >> 16) % bound : 0; }

static void add(const char *path) {
    struct stat about;
    if (corpus_count == INPUTS_MAX || stat(path, &about)) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(2);
    }
    if (S_ISDIR(about.st_mode)) {
        struct dirent **names;
        int count = scandir(path, &names, NULL, alphasort);
        for (int i = 0; i < count; i++) {
            char inner[4096];
            snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
            if (names[i]->d_name[0] != '.') {
                add(inner);
            }
            free(names[i]);
        }
        free(names);
        return;
    }
    FILE *file = fopen(path, "rb");
    uint8_t *data = checked_malloc((size_t)about.st_size);
    CHECK(file && fread(data, 1, (size_t)about.st_size, file) == (size_t)about.st_size);
    fclose(file);
    corpus[corpus_count++] = (bytes){data, (size_t)about.st_size};
}

/* One change in place, or of the length. */
static size_t change(uint8_t *data, size_t size, size_t max_size) {
    static const uint64_t edges[] = {0,     1,     7,          8,          23,         24,
                                     64,    127,   128,        255,        32767,      32768,
                                     65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, UINT64_MAX};
    size_t at = below(size), length = 1 + below(8);
    uint64_t edge = edges[below(sizeof edges / sizeof edges[0])];
    switch (size ? below(8) : 6) {
    case 0:
        data[at] ^= (uint8_t)(1u << below(8));
        return size;
    case 1:
        data[at] = (uint8_t)next();
        return size;
    case 2: /* a small step of a byte */
        data[at] = (uint8_t)(data[at] + 1 + below(16) - 8);
        return size;
    case 3: /* a number of 1 to 8 bytes */
        for (size_t i = 0; i < length && at + i < size; i++) {
            data[at + i] = (uint8_t)(edge >> (8 * i));
        }
        return size;
    case 4: /* a piece of the same from elsewhere */
        length = 1 + below(size - at);
        memmove(data + at, data + below(size - length + 1), length);
        return size;
    case 5: /* less */
        length = 1 + below(size - at < 64 ? size - at : 64);
        memmove(data + at, data + at + length, size - at - length);
        return size - length;
    case 6: { /* more */
        length = 1 + below(64);
        length = length < max_size - size ? length : max_size - size;
        memmove(data + at + length, data + at, size - at);
        for (size_t i = 0; i < length; i++) {
            data[at + i] = (uint8_t)next();
        }
        return size + length;
    }
    default: { /* a piece of another input */
        bytes other = corpus_count ? corpus[below(corpus_count)] : (bytes){data, 0};
        size_t from = below(other.size);
        length = other.size - from < size - at ? other.size - from : size - at;
        length = below(length + 1);
        memmove(data + at, other.data + from, length);
        return size;
    }
    }
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) {
    for (size_t changes = 1 + below(CHANGES_MAX); changes; changes--) {
        size = change(data, size, max_size);
    }
    return size;
}

static void run(bytes input) {
    running = input;
    alarm(SECONDS_MAX);
    LLVMFuzzerTestOneInput(input.data, input.size);
}

static const char *value_of(const char *argument, const char *name) {
    size_t length = strlen(name);
    return strncmp(argument, name, length) ? NULL : argument + length;
}

int main(int argc, char **argv) {
    uint64_t runs = 0, done = 0;
    size_t max_size = 4096;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        const char *value;
        if ((value = value_of(argv[i], "-runs="))) {
            runs = strtoull(value, NULL, 10);
        } else if ((value = value_of(argv[i], "-seed="))) {
            state = strtoull(value, NULL, 10) * 2 + 1;
        } else if ((value = value_of(argv[i], "-max_len="))) {
            max_size = strtoull(value, NULL, 10);
        } else if ((value = value_of(argv[i], "-artifact_prefix="))) {
            artifact_prefix = value;
        } else if (argv[i][0] != '-') {
            add(argv[i]);
        }
    }
    __sanitizer_set_death_callback(save);
    signal(SIGALRM, too_slow);
    for (; done < corpus_count; done++) {
        run(corpus[done]);
    }
    uint8_t *data = checked_malloc(max_size);
    while (done < runs) {
        bytes chosen = corpus_count ? corpus[below(corpus_count)] : (bytes){data, 0};
        size_t size = chosen.size < max_size ? chosen.size : max_size;
        memmove(data, chosen.data, size);
        size = LLVMFuzzerCustomMutator(data, size, max_size, (unsigned)next());
        run((bytes){data, size});
        done++;
    }
    free(data);
    fprintf(stderr, "Done %llu runs\n", (unsigned long long)done);
    return 0;
}
