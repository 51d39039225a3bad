/* A merge and its sources, as merge.c and source.c share them. */
#ifndef KV_SOURCE_H
#define KV_SOURCE_H

#include "table.h"

/* What is fetched ahead: the next block, when one is begun (source.c); and what the
 * source will come to a few entries later. The processor's own prefetching stops at each page and
 * is not made for so many streams: without this, merging 6 runs that are not in the cache takes 31
 * to 48 ns an entry, with it 28 to 31. */
enum { BYTES_AHEAD = 512 };

typedef struct {
    uint64_t rank;   /* orders the entry it stands at: the head of its key, or its complement */
    uint64_t source; /* index */
} player;

typedef struct {
    /* The entry it stands at: number `at` of the block, of which begin..end lie in the range. */
    uint64_t rank; /* of all ones when it is done */
    const uint8_t *suffix;
    size_t suffix_length;
    uint32_t at, begin, end;
    bool deleted;
    bool shadowed; /* an older version of a key that has won, or will before this one */
    bool done;     /* nothing is left */
    bool last;     /* nothing behind this block lies in the range */
    bool entered;  /* index says which block of the table is next, or this one */
    uint32_t slot, index;
    uint32_t walked;      /* blocks so far, up to WALKED_MIN */
    uint64_t ahead;       /* up to there, or in reverse from there on, it was read ahead */
    uint64_t ahead_bytes; /* at a time; 0: nothing in this table yet */
    uint64_t passed;      /* entries of blocks that it has left, when m->once */
    uint64_t from, to;    /* of this table, what look_ahead has looked at, and that it is present */
    bool present;
    block plain;
    uint64_t lead;        /* what the block's prefix gives to the head of every key... */
    uint32_t lead_bytes;  /* ...and how many bytes that is */
    size_t suffix_common; /* bytes of each suffix that belong to what all keys share */
    const view_run *run;
    const char *fed; /* plain bytes of block fed_index of fed_slot */
    size_t fed_size;
    uint32_t fed_slot, fed_index;
} source;

struct kv_merge {
    kv_view *view;
    bool reverse;
    bool moved;   /* the winner has left its block */
    bool damaged; /* for good */
    bool only_resident;
    bool refused;  /* only_resident has met an index that was not in memory */
    bool once;     /* no more than that will be read */
    size_t wanted; /* entries by the caller of now, at most */
    source *sources;
    player *losers; /* of nodes 1..count - 1; the leaf of source i is node count + i */
    player winner;
    uint32_t count, loaded;       /* sources, and how many of them have loaded their first block */
    const uint8_t *lower, *upper; /* NULL: no bound */
    size_t lower_length, upper_length;
    size_t common; /* bytes that all keys of the range share */
    uint32_t slot; /* where it stopped for KV_DAMAGED or KV_NEED_BLOCK */
    uint32_t block;
    uint64_t shadowed, shadowed_bytes;
};

/* Puts the source to the first table of its run that overlaps the range, if any does. */
bool source_place(const kv_merge *m, source *s);
/* Goes on until the source stands at an entry of the range, or is done. 0, KV_NEED_BLOCK,
 * KV_NOT_RESIDENT or KV_DAMAGED, and then it may be called again. */
int source_load(kv_merge *m, source *s);
/* The source is through with its block; source_load makes it stand again. */
void source_leave_block(const kv_merge *m, source *s);

/* The head of the key whose suffix this is. Eight bytes are read at once where the block has them;
 * those that are not the key's are masked. */
static inline uint64_t source_head(const source *s, const uint8_t *suffix, size_t length) {
    size_t skip = s->suffix_common;
    if (s->lead_bytes == 8 || length <= skip) {
        return s->lead;
    }
    suffix += skip;
    length -= skip;
    uint64_t head;
    if ((size_t)(s->plain.start + s->plain.size - suffix) >= 8) {
        head = __builtin_bswap64(load_u64(suffix));
        head &= length < 8 ? ~(UINT64_MAX >> (8 * length)) : UINT64_MAX;
    } else {
        head = load_head(suffix, length);
    }
    return s->lead | head >> (8 * s->lead_bytes);
}

/* Reads the entry that the source has come to. */
static inline void source_stand(const kv_merge *m, source *s) {
    size_t key = block_key_at(&s->plain, s->at);
    s->suffix = s->plain.start + key;
    s->suffix_length = block_value_at(&s->plain, s->at, &s->deleted) - key;
    s->shadowed = false;
    __builtin_prefetch(s->suffix + (m->reverse ? -BYTES_AHEAD : BYTES_AHEAD));
    __builtin_prefetch(s->suffix + (m->reverse ? -BYTES_AHEAD : BYTES_AHEAD) + 64);
    uint64_t head = source_head(s, s->suffix, s->suffix_length);
    s->rank = m->reverse ? ~head : head;
}

#endif
