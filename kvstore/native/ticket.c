/* Tickets: which appended entries may be applied, in LSN order. An entry is ready when it and all
 * before it are durable, or were appended as relaxed. */
#include "core.h"

/* Entries without a ticket (PAD, MARK, SEAL) are nobody's to apply. */
void skip_untaken(kv_log *log, uint64_t before) {
    while (log->taken_lsn + 1 < before &&
           log->tickets[(log->taken_lsn + 1) % KV_TICKETS_MAX] == NO_TICKET) {
        log->taken_lsn++;
    }
}

void set_ticket(kv_log *log, uint64_t lsn, uint64_t ticket, bool relaxed) {
    if (log->tickets) {
        log->tickets[lsn % KV_TICKETS_MAX] = ticket;
        log->relaxed[lsn % KV_TICKETS_MAX] = relaxed;
    }
}

size_t kv_log_ready(kv_log *log, uint64_t *pairs, size_t max_pairs) {
    size_t count = 0;
    if (enter(log) < 0) {
        return 0;
    }
    if (log->tickets) {
        skip_untaken(log, log->next_lsn);
        for (uint64_t lsn = log->taken_lsn + 1; count < max_pairs && lsn < log->next_lsn; lsn++) {
            uint64_t slot = lsn % KV_TICKETS_MAX;
            if (lsn > log->durable_lsn && !log->relaxed[slot]) {
                break;
            }
            if (log->tickets[slot] != NO_TICKET) {
                pairs[2 * count] = log->tickets[slot];
                pairs[2 * count + 1] = lsn;
                count++;
            }
        }
    }
    if (count == 0) {
        log->applying = false;
    }
    leave(log);
    return count;
}

void kv_log_taken(kv_log *log, uint64_t lsn) {
    if (enter(log) < 0) {
        return;
    }
    if (lsn > log->taken_lsn && lsn < log->next_lsn) {
        log->taken_lsn = lsn;
    }
    log->applying = false;
    tell_first(log);
    wake_applier(log);
    leave(log);
}
