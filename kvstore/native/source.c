/* One run as a merge walks over it: from table to table, from block to block, within the bounds. */
#include "source.h"

enum { FETCH_MAX = 4608 };
enum { WALKED_MIN = 2, AHEAD_MIN = 128 << 10, AHEAD_MAX = 512 << 10 };

static bool below_upper(const kv_merge *m, const uint8_t *key, size_t length) {
    return !m->upper || compare_keys(key, length, m->upper, m->upper_length) < 0;
}

static bool from_lower(const kv_merge *m, const uint8_t *key, size_t length) {
    return !m->lower || compare_keys(key, length, m->lower, m->lower_length) >= 0;
}

/* Whether the table the source has come to, or in reverse the one before, overlaps the range; it is
 * in that table afterwards. */
static bool settle_table(const kv_merge *m, source *s) {
    const kv_table *table = m->view->tables[s->slot];
    bool is_below = below_upper(m, table->smallest, table->smallest_length);
    if (!is_below && m->reverse && s->slot > s->run->first) {
        table = m->view->tables[--s->slot];
        is_below = below_upper(m, table->smallest, table->smallest_length);
    }
    return is_below && from_lower(m, table->largest, table->largest_length);
}

bool source_place(const kv_merge *m, source *s) {
    const view_run *run = s->run;
    uint32_t found = m->reverse ? run->largest.count - 1 : 0;
    const uint8_t *bound = m->reverse ? m->upper : m->lower;
    if (bound) {
        size_t length = m->reverse ? m->upper_length : m->lower_length;
        found = separators_find(&run->largest, bound, length);
    }
    if (found == run->largest.count && !m->reverse) {
        return false;
    }
    found -= found == run->largest.count;
    s->slot = run->first + found;
    return settle_table(m, s);
}

/* Has the lines of a block fetched, as many as an ordinary one has: the search for where to begin
 * goes back and forth in it, and then all of them are read. */
static void fetch_block(const kv_table *table, uint32_t index) {
    uint64_t start = table_block_offset(table, index);
    uint64_t end = table_block_offset(table, index + 1);
    end = end - start < FETCH_MAX ? end : start + FETCH_MAX;
    for (uint64_t at = start; at < end; at += 64) {
        __builtin_prefetch(table->map + at);
    }
}

/* Has the block behind this one fetched, unless the caller is likely to be content with this. */
static void fetch_next(const kv_merge *m, const source *s) {
    const kv_table *table = m->view->tables[s->slot];
    bool is_last = m->reverse ? !s->index : s->index + 1 == table->index.count;
    if (!is_last && s->end - s->begin < m->wanted) {
        fetch_block(table, m->reverse ? s->index - 1 : s->index + 1);
    }
}

/* Reads ahead for a walk, each time twice as much, beginning with its third block: most scans end
 * before. An event loop's does without: what it meets that is not in memory it leaves to a thread.
 */
static void read_ahead(const kv_merge *m, source *s, const kv_table *table) {
    if (m->only_resident || s->walked < WALKED_MIN) {
        s->walked += !m->only_resident;
        return;
    }
    uint64_t start = table_block_offset(table, s->index);
    uint64_t end = table_block_offset(table, s->index + 1);
    uint64_t margin = s->ahead_bytes < AHEAD_MAX ? s->ahead_bytes / 4 : AHEAD_MAX;
    if (s->ahead_bytes && (m->reverse ? s->ahead + margin <= start : end + margin <= s->ahead)) {
        return;
    }
    if (!s->ahead_bytes || (m->reverse ? s->ahead > end : s->ahead < start)) {
        s->ahead = m->reverse ? end : start;
    }
    s->ahead_bytes = s->ahead_bytes ? s->ahead_bytes : AHEAD_MIN;
    uint64_t first = table_block_offset(table, 0);
    uint64_t last = table_block_offset(table, table->index.count);
    uint64_t room = m->reverse ? s->ahead - first : last - s->ahead;
    uint64_t length = s->ahead_bytes < room ? s->ahead_bytes : room;
    if (m->reverse) {
        s->ahead -= length;
        table_read_ahead(table, s->ahead, length);
    } else {
        table_read_ahead(table, s->ahead, length);
        s->ahead += length;
    }
    s->ahead_bytes = s->ahead_bytes < AHEAD_MAX ? 2 * s->ahead_bytes : AHEAD_MAX;
}

/* For a scan that ends with this call, from its second block on: has all blocks that it will likely
 * come to looked at in one go. Those that are in memory need not be read one by one to be checked
 * (table_present); else they are read ahead, no more than those. */
static void look_ahead(const kv_merge *m, source *s, const kv_table *table) {
    uint64_t start = table_block_offset(table, s->index);
    uint64_t end = table_block_offset(table, s->index + 1);
    if (!s->walked) {
        s->walked = 1;
        return;
    }
    s->passed += s->end - s->begin;
    if (m->only_resident || (s->from <= start && end <= s->to)) {
        return;
    }
    uint64_t left = s->passed < m->wanted ? m->wanted - s->passed : 1;
    uint64_t length = left < AHEAD_MAX ? left * (s->plain.size / s->plain.count + 1) : AHEAD_MAX;
    length = length < AHEAD_MAX ? length : AHEAD_MAX;
    length = length > end - start ? length : end - start;
    uint64_t first = table_block_offset(table, 0);
    uint64_t last = table_block_offset(table, table->index.count);
    if (m->reverse) {
        s->to = end;
        s->from = end - first < length ? first : end - length;
    } else {
        s->from = start;
        s->to = last - start < length ? last : start + length;
    }
    s->present = table_present(table, s->from, s->to - s->from);
    if (!s->present) {
        table_read_ahead(table, s->from, s->to - s->from);
    }
}

/* Sets which block of its table is the first in the range. 0, KV_NOT_RESIDENT or KV_DAMAGED. */
static int enter_table(kv_merge *m, source *s) {
    kv_table *table = m->view->tables[s->slot];
    s->index = 0;
    if (m->only_resident && !table_index_resident(table)) {
        m->refused = true;
        return KV_NOT_RESIDENT;
    }
    if (table_need_index(table)) {
        return KV_DAMAGED;
    }
    if (m->refused) { /* whoever is refused comes back with time; and the index is needed whole */
        m->refused = false;
        table_read_ahead(table, table->layout.index_offset, table->layout.index_length);
    }
    const uint8_t *bound = m->reverse ? m->upper : m->lower;
    uint32_t last = table->index.count - 1;
    s->index = m->reverse ? last : 0;
    if (bound) {
        size_t length = m->reverse ? m->upper_length : m->lower_length;
        uint32_t found = separators_find(&table->index, bound, length);
        s->index = found < last ? found : last;
    }
    s->entered = true;
    s->ahead_bytes = 0;
    s->from = s->to = 0;
    s->present = false;
    fetch_block(table, s->index);
    return 0;
}

void source_leave_block(const kv_merge *m, source *s) {
    uint32_t blocks = m->view->tables[s->slot]->index.count;
    if (s->last) {
        s->done = true;
    } else if (m->reverse ? s->index > 0 : s->index + 1 < blocks) {
        s->index = m->reverse ? s->index - 1 : s->index + 1;
    } else if (m->reverse ? s->slot > s->run->first : s->slot + 1 < s->run->end) {
        s->slot = m->reverse ? s->slot - 1 : s->slot + 1;
        s->entered = false;
        s->done = !settle_table(m, s);
    } else {
        s->done = true;
    }
}

/* Which entries of the block lie in the range, and whether any may behind it. */
static void clip_block(const kv_merge *m, source *s) {
    const kv_table *table = m->view->tables[s->slot];
    size_t length = table->smallest_length;
    const uint8_t *before = table->smallest;
    if (s->index) {
        before = separator_at(&table->index, s->index - 1, &length);
    }
    bool cut_low = !from_lower(m, before, length);
    const uint8_t *separator = separator_at(&table->index, s->index, &length);
    bool cut_high = !below_upper(m, separator, length);
    s->begin = cut_low ? block_lower_bound(&s->plain, m->lower, m->lower_length) : 0;
    s->end = cut_high ? block_lower_bound(&s->plain, m->upper, m->upper_length) : s->plain.count;
    s->last = m->reverse ? cut_low : cut_high;
}

/* Prepares for the heads of the block's keys: what its prefix gives to them. */
static void take_lead(const kv_merge *m, source *s) {
    size_t prefix = s->plain.prefix_length;
    size_t bytes = prefix > m->common ? prefix - m->common : 0;
    s->lead = bytes ? load_head(s->plain.prefix + m->common, bytes) : 0;
    s->lead_bytes = (uint32_t)(bytes < 8 ? bytes : 8);
    s->suffix_common = prefix < m->common ? m->common - prefix : 0;
}

/* Gets at the bytes of the source's block. 0, KV_NEED_BLOCK, KV_NOT_RESIDENT or KV_DAMAGED. */
static int open_block(const kv_merge *m, source *s) {
    kv_table *table = m->view->tables[s->slot];
    if (m->only_resident && !table_block_resident(table, s->index)) {
        return KV_NOT_RESIDENT;
    }
    if (m->once) {
        look_ahead(m, s, table);
    } else {
        read_ahead(m, s, table);
    }
    bool present = s->present && s->from <= table_block_offset(table, s->index) &&
                   table_block_offset(table, s->index + 1) <= s->to;
    int state = view_need_block(m->view, table, s->index, present);
    if (state == BLOCK_PLAIN) {
        s->plain = table_block(table, s->index);
        return 0;
    }
    if (state != BLOCK_COMPRESSED) {
        return KV_DAMAGED;
    }
    if (!s->fed || s->fed_slot != s->slot || s->fed_index != s->index) {
        return KV_NEED_BLOCK;
    }
    s->plain = block_open(s->fed, s->fed_size);
    if (!table_block_fits(table, s->index, &s->plain)) {
        table_malformed_block(table, s->index);
        return KV_DAMAGED;
    }
    return 0;
}

int source_load(kv_merge *m, source *s) {
    while (!s->done) {
        int status = s->entered ? 0 : enter_table(m, s);
        if (!status) {
            status = open_block(m, s);
        }
        if (status) {
            return status;
        }
        clip_block(m, s);
        if (s->begin < s->end) {
            fetch_next(m, s);
            take_lead(m, s);
            s->at = m->reverse ? s->end - 1 : s->begin;
            source_stand(m, s);
            return 0;
        }
        source_leave_block(m, s);
    }
    s->rank = UINT64_MAX;
    return 0;
}
