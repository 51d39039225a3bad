/* Sorted entries in memory, as run.c keeps them and builder.c takes them. */
#ifndef KV_RUN_H
#define KV_RUN_H

#include "table.h"

typedef struct {
    const uint8_t *key; /* the value stands behind it */
    uint32_t key_length;
    int32_t value_length; /* -1: deleted */
    uint32_t hash;
} run_entry;

struct kv_run {
    run_entry *entries; /* as they were added */
    size_t count, room;
    uint32_t *order; /* their numbers in key order; NULL: not sorted yet */
    size_t next;     /* place in order of the next one to be taken */
};

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) ((void)(address))
#endif

/* How many entries ahead memory is asked for: the entry itself, then what it points to. */
enum { AHEAD_ENTRY = 16, AHEAD_BYTES = 8 };

/* The next entry; only while next < count. In key order each lies in cold memory. */
static inline const run_entry *run_peek(const kv_run *run) {
    size_t next = run->next;
    if (run->count - next > AHEAD_ENTRY) {
        PREFETCH(&run->entries[run->order[next + AHEAD_ENTRY]]);
        const uint8_t *key = run->entries[run->order[next + AHEAD_BYTES]].key;
        PREFETCH(key);
        PREFETCH(key + 64);
        PREFETCH(key + 128);
    }
    return &run->entries[run->order[next]];
}

#endif
