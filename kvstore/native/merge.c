/* Entries of a view in key order: a tree of losers over the runs that overlap the range.
 *
 * Each source stands at one entry of its run. The tree's node above two subtrees keeps the source
 * that lost between them, and the winner of all stands apart; when it has moved on, it is played
 * against the losers on its way up, one comparison for each doubling of the sources. Most are
 * decided by the 8 bytes behind what all keys of the merge share, which the tree keeps.
 *
 * Versions. Of equal keys that of the newer run wins, and the loser is marked as shadowed. Whoever
 * wins before it does holds the same key, so a winner with the mark is an older version, and nobody
 * need remember the key that went before.
 *
 * Stopping. Moving to another block may need a read that fails, or bytes that the caller must
 * decompress. So a source that left its block is loaded at the beginning of the next step (settle),
 * which may be tried again.
 */
#include "source.h"

#include <errno.h>
#include <stdlib.h>

enum { LOOKED_AT_LEAST = 1024, LOOKED_AT_EACH = 4 };
enum { SCANNED_RUNS = 16 }; /* by kv_view_scan, on the stack: 5 KB */

static int compare_pieces(const uint8_t *a, size_t a_length, const uint8_t *a_rest,
                          size_t a_rest_length, const uint8_t *b, size_t b_length,
                          const uint8_t *b_rest, size_t b_rest_length) {
    int order = memcmp(a, b, a_length); /* a_length <= b_length */
    if (order) {
        return order;
    }
    size_t open = b_length - a_length;
    size_t shared = a_rest_length < open ? a_rest_length : open;
    order = memcmp(a_rest, b + a_length, shared);
    if (order || shared < open) {
        return order ? order : -1;
    }
    return compare_keys(a_rest + shared, a_rest_length - shared, b_rest, b_rest_length);
}

static int compare_sources(const source *a, const source *b) {
    const block *x = &a->plain;
    const block *y = &b->plain;
    if (x->prefix_length <= y->prefix_length) {
        return compare_pieces(x->prefix, x->prefix_length, a->suffix, a->suffix_length, y->prefix,
                              y->prefix_length, b->suffix, b->suffix_length);
    }
    return -compare_pieces(y->prefix, y->prefix_length, b->suffix, b->suffix_length, x->prefix,
                           x->prefix_length, a->suffix, a->suffix_length);
}

/* Whether a comes before b, when their ranks are equal. */
static bool comes_first(const kv_merge *m, player a, player b) {
    source *x = &m->sources[a.source];
    source *y = &m->sources[b.source];
    if (x->done || y->done) {
        return !x->done;
    }
    int order = compare_sources(x, y);
    if (order) {
        return m->reverse ? order > 0 : order < 0;
    }
    bool newer = a.source < b.source;
    (newer ? y : x)->shadowed = true;
    return newer;
}

/* The winner has moved: plays it against the losers on its way up. */
static inline void replay(kv_merge *m) {
    player p = {m->sources[m->winner.source].rank, m->winner.source};
    for (uint64_t node = (m->count + p.source) / 2; node; node /= 2) {
        player other = m->losers[node];
        bool lost = other.rank < p.rank;
        if (other.rank == p.rank) {
            lost = comes_first(m, other, p);
        }
        /* An exchange without a branch: which of two sources wins is hard to predict. */
        uint64_t swap = 0 - (uint64_t)lost;
        uint64_t rank = (p.rank ^ other.rank) & swap;
        uint64_t index = (p.source ^ other.source) & swap;
        m->losers[node] = (player){other.rank ^ rank, other.source ^ index};
        p = (player){p.rank ^ rank, p.source ^ index};
    }
    m->winner = p;
}

/* Plays all that is at and below a node; gives who won. */
static player play(kv_merge *m, uint64_t node) {
    if (node >= m->count) {
        return (player){m->sources[node - m->count].rank, node - m->count};
    }
    player a = play(m, 2 * node);
    player b = play(m, 2 * node + 1);
    bool first = a.rank != b.rank ? a.rank < b.rank : comes_first(m, a, b);
    m->losers[node] = first ? b : a;
    return first ? a : b;
}

/* Whether the table's last fault is only that there was no memory: that may be tried again. */
static bool lacked_memory(kv_table *table) {
    kv_table_fault fault;
    kv_table_fault_get(table, &fault);
    return fault.error == ENOMEM;
}

static int stop(kv_merge *m, const source *s, int status) {
    m->slot = s->slot;
    m->block = s->index;
    m->damaged = status == KV_DAMAGED && !lacked_memory(m->view->tables[s->slot]);
    return status;
}

/* Loads what is to be loaded. 0 when the winner stands at an entry, else why there is none. */
static int settle(kv_merge *m) {
    if (m->damaged) {
        return KV_DAMAGED;
    }
    while (m->loaded < m->count) {
        source *s = &m->sources[m->loaded];
        int status = source_load(m, s);
        if (status) {
            return stop(m, s, status);
        }
        if (++m->loaded == m->count) {
            m->winner = play(m, 1);
        }
    }
    if (m->moved) {
        source *s = &m->sources[m->winner.source];
        int status = source_load(m, s);
        if (status) {
            return stop(m, s, status);
        }
        m->moved = false;
        replay(m);
    }
    return !m->count || m->sources[m->winner.source].done ? KV_END : 0;
}

/* Moves the winner on by an entry. */
static inline void advance(kv_merge *m) {
    source *s = &m->sources[m->winner.source];
    if (m->reverse ? s->at == s->begin : s->at + 1 == s->end) {
        source_leave_block(m, s);
        m->moved = true;
        return;
    }
    s->at = m->reverse ? s->at - 1 : s->at + 1;
    source_stand(m, s);
    replay(m);
}

/* Where the value of the entry ends that the source stands at. */
static inline const uint8_t *value_end(const source *s) {
    const block *b = &s->plain;
    return b->start + (s->at + 1 < b->count ? block_key_at(b, s->at + 1) : b->size);
}

static void pass_shadowed(kv_merge *m, const source *s) {
    m->shadowed++;
    m->shadowed_bytes += s->plain.prefix_length + (size_t)(value_end(s) - s->suffix);
}

static void fill_stop(const kv_merge *m, int status, kv_chunk *chunk) {
    if (status == KV_DAMAGED || status == KV_NEED_BLOCK) {
        chunk->slot = m->slot;
        chunk->block = m->block;
    }
}

/* ---- what callers use ---- */

int kv_merge_peek(kv_merge *m, kv_entry *out, kv_chunk *chunk) {
    int status;
    m->wanted = SIZE_MAX;
    while (!(status = settle(m))) {
        const source *s = &m->sources[m->winner.source];
        if (!s->shadowed) {
            block_entry(&s->plain, s->at, out);
            return 0;
        }
        pass_shadowed(m, s);
        advance(m);
    }
    fill_stop(m, status, chunk);
    return status;
}

void kv_merge_advance(kv_merge *m) { advance(m); }

uint64_t kv_merge_shadowed(const kv_merge *m, uint64_t *bytes) {
    *bytes = m->shadowed_bytes;
    return m->shadowed;
}

/* Goes on to the next live entry and looks at no more than *looks entries for it. 0 when the winner
 * stands at one, else why not. */
static inline int next_live(kv_merge *m, uint64_t *looks) {
    for (;;) {
        int status = settle(m);
        if (status) {
            return status;
        }
        const source *s = &m->sources[m->winner.source];
        if (!s->shadowed && !s->deleted) {
            return 0;
        }
        if (!*looks) {
            return KV_MORE;
        }
        --*looks;
        if (s->shadowed) {
            pass_shadowed(m, s);
        }
        advance(m);
    }
}

/* Writes the winner's key and value; false when there is no room. */
static inline bool write_entry(const source *s, char *out, size_t room, uint32_t *lengths) {
    size_t prefix = s->plain.prefix_length;
    size_t rest = (size_t)(value_end(s) - s->suffix);
    if (rest > room || prefix > room - rest) {
        return false;
    }
    memcpy(out, s->plain.prefix, prefix);
    memcpy(out + prefix, s->suffix, rest);
    lengths[0] = (uint32_t)(prefix + s->suffix_length);
    lengths[1] = (uint32_t)(rest - s->suffix_length);
    return true;
}

int kv_merge_read(kv_merge *m, char *out, size_t out_size, uint32_t *lengths, size_t max_entries,
                  kv_chunk *chunk) {
    uint64_t looks = LOOKED_AT_EACH * (uint64_t)max_entries + LOOKED_AT_LEAST - max_entries;
    size_t count = 0;
    size_t used = 0;
    uint32_t differ[2] = {0, 0};
    int status = KV_FULL;
    *chunk = (kv_chunk){.key_length = -1, .value_length = -1};
    m->wanted = max_entries;
    while (count < max_entries && !(status = next_live(m, &looks))) {
        const source *s = &m->sources[m->winner.source];
        uint32_t *here = lengths + 2 * count;
        if (!write_entry(s, out + used, out_size - used, here)) {
            chunk->need = s->plain.prefix_length + (size_t)(value_end(s) - s->suffix);
            status = count ? KV_FULL : KV_NEED_ROOM;
            break;
        }
        differ[0] |= here[0] ^ lengths[0];
        differ[1] |= here[1] ^ lengths[1];
        used += (size_t)here[0] + here[1];
        count++;
        advance(m);
        status = KV_FULL;
    }
    chunk->count = count;
    chunk->bytes = used;
    if (count) {
        chunk->key_length = differ[0] ? -1 : (int64_t)lengths[0];
        chunk->value_length = differ[1] ? -1 : (int64_t)lengths[1];
    }
    fill_stop(m, status, chunk);
    return status;
}

int kv_merge_count(kv_merge *m, size_t max_entries, uint64_t *count, kv_chunk *chunk) {
    uint64_t looks = LOOKED_AT_EACH * (uint64_t)max_entries + LOOKED_AT_LEAST - max_entries;
    int status = KV_MORE;
    *chunk = (kv_chunk){.key_length = -1, .value_length = -1};
    m->wanted = max_entries;
    while (chunk->count < max_entries && !(status = next_live(m, &looks))) {
        chunk->count++;
        advance(m);
        status = KV_MORE;
    }
    *count += chunk->count;
    fill_stop(m, status, chunk);
    return status;
}

void kv_merge_only_resident(kv_merge *m, int only_resident) { m->only_resident = only_resident; }

int kv_merge_feed(kv_merge *m, uint32_t slot, uint64_t index, const char *plain, size_t size) {
    for (uint32_t i = 0; i < m->count; i++) {
        source *s = &m->sources[i];
        if (!s->done && s->slot == slot && s->entered && s->index == index) {
            s->fed = plain;
            s->fed_size = size;
            s->fed_slot = slot;
            s->fed_index = s->index;
            return 0;
        }
    }
    return -EINVAL;
}

/* ---- beginning and end ---- */

/* How many bytes all keys between the bounds share, of those that the sources hold. */
static size_t shared_bytes(const kv_merge *m) {
    const uint8_t *low = m->lower;
    const uint8_t *high = m->upper;
    size_t low_length = m->lower_length;
    size_t high_length = m->upper_length;
    const kv_table *least = NULL;
    const kv_table *most = NULL;
    for (uint32_t i = 0; i < m->count; i++) {
        const kv_table *first = m->view->tables[m->sources[i].run->first];
        const kv_table *last = m->view->tables[m->sources[i].run->end - 1];
        if (!least || compare_keys(first->smallest, first->smallest_length, least->smallest,
                                   least->smallest_length) < 0) {
            least = first;
        }
        if (!most || compare_keys(last->largest, last->largest_length, most->largest,
                                  most->largest_length) > 0) {
            most = last;
        }
    }
    if (!least) {
        return 0;
    }
    if (!low || compare_keys(least->smallest, least->smallest_length, low, low_length) > 0) {
        low = least->smallest;
        low_length = least->smallest_length;
    }
    if (!high || compare_keys(most->largest, most->largest_length, high, high_length) < 0) {
        high = most->largest;
        high_length = most->largest_length;
    }
    return common_prefix(low, low_length, high, high_length);
}

/* Begins a merge whose view, direction, bounds and room for all runs are set: finds the runs that
 * overlap the range. Nothing is read yet. */
static void place_sources(kv_merge *m) {
    bool some = !m->lower || !m->upper ||
                compare_keys(m->lower, m->lower_length, m->upper, m->upper_length) < 0;
    for (size_t i = 0; some && i < m->view->run_count; i++) {
        source *s = &m->sources[m->count];
        *s = (source){.run = &m->view->runs[i]};
        m->count += source_place(m, s);
    }
    m->common = shared_bytes(m);
}

/* A copy of the bound at *to, which moves on behind it; NULL for NULL. */
static const uint8_t *copy_bound(const char *key, size_t length, uint8_t **to) {
    uint8_t *copy = *to;
    if (key && length) {
        memcpy(copy, key, length);
    }
    *to += length;
    return key ? copy : NULL;
}

kv_merge *kv_merge_new(kv_view *view, const char *lower, size_t lower_length, const char *upper,
                       size_t upper_length, int reverse) {
    /* One piece of memory: it is made for every scan. */
    size_t runs = view->run_count + 1;
    size_t each = sizeof(source) + sizeof(player);
    kv_merge *m = malloc(sizeof *m + runs * each + lower_length + upper_length);
    if (!m) {
        return NULL;
    }
    *m = (kv_merge){.view = view,
                    .reverse = reverse,
                    .lower_length = lower_length,
                    .upper_length = upper_length};
    m->sources = (source *)(m + 1);
    m->losers = (player *)(m->sources + runs);
    uint8_t *bounds = (uint8_t *)(m->losers + runs);
    m->lower = copy_bound(lower, lower_length, &bounds);
    m->upper = copy_bound(upper, upper_length, &bounds);
    place_sources(m);
    return m;
}

void kv_merge_free(kv_merge *m) { free(m); }

int kv_view_scan(kv_view *view, const char *lower, size_t lower_length, const char *upper,
                 size_t upper_length, int reverse, int only_resident, char *out, size_t out_size,
                 uint32_t *lengths, size_t max_entries, kv_chunk *chunk) {
    source sources[SCANNED_RUNS];
    player losers[SCANNED_RUNS];
    if (view->run_count > SCANNED_RUNS) {
        *chunk = (kv_chunk){.key_length = -1, .value_length = -1};
        return KV_MORE;
    }
    kv_merge m = {.view = view,
                  .reverse = reverse,
                  .only_resident = only_resident,
                  .once = true,
                  .sources = sources,
                  .losers = losers,
                  .lower = (const uint8_t *)lower,
                  .upper = (const uint8_t *)upper,
                  .lower_length = lower_length,
                  .upper_length = upper_length};
    place_sources(&m);
    return kv_merge_read(&m, out, out_size, lengths, max_entries, chunk);
}
