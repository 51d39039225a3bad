/* Waiting until entries are durable, and applied.
 *
 * Some facts about many threads that each write and wait, on few cores and under one GIL:
 *
 * - Who is told comes again soon. The first one back would begin a round with its entry alone, and
 *   the others would wait for two: 4 threads get half of what they could. So a round waits for as
 *   many as have just been told, while that takes less than the device would. When twice as many
 *   are queued already, it begins at once: then Python is what they wait for, and the device works
 *   meanwhile.
 * - Threads that are woken all at once fight for the GIL, which costs each of them another sleep,
 *   and each sleep an interrupt of the other core. So where threads come again within AWAY_NS_MAX a
 *   few are told, in the order of the log, and each that comes has the next one told: 1.2 times the
 *   puts of 64 threads on two cores. Elsewhere (they have other things to do) each that is told
 *   tells the next at once. Who is not told although nobody comes any more looks by himself, after
 *   PATIENCE times as long as waiting took lately.
 * - Of a round one thread applies all (kv_log_append_apply says which); the others sleep until it
 *   has, and come back with nothing left to do. Should that thread never come to it (a signal
 *   handler has raised), another does after PATIENCE_NS_MAX.
 */
#include "core.h"

#include <errno.h>
#include <limits.h>

#define GATHER_NS_MAX ((uint64_t)500 * 1000)
#define AWAY_NS_MAX ((uint64_t)100 * 1000)
#define PATIENCE_NS_MIN ((uint64_t)1000 * 1000)
enum { PAUSE_SHIFT_MAX = 6, TOLD_AT_ONCE = 3, PATIENCE = 4 };

static bool trusted(trust *in) {
    bool again = in->pause == 0;
    in->pause -= !again;
    return again;
}

static void disappoint(trust *in) {
    in->misses += in->misses < PAUSE_SHIFT_MAX;
    in->pause = 1U << in->misses;
}

/* ---- telling ---- */

uint64_t patience_ns(const kv_log *log) {
    uint64_t ns = PATIENCE_NS_MIN + PATIENCE * log->wait_ns;
    return ns < PATIENCE_NS_MAX ? ns : PATIENCE_NS_MAX;
}

void tell_first(kv_log *log) {
    bool few = log->away_ns < AWAY_NS_MAX && trusted(&log->in_passing_on);
    log->away_ns = UINT64_MAX;
    log->tellable = few ? TOLD_AT_ONCE : UINT_MAX;
    wake_next(log);
}

static void tell_late(kv_log *log) {
    if (clock_ns() - log->told_ns > PATIENCE_NS_MIN) { /* else others are being told meanwhile */
        log->tellable = UINT_MAX;
        disappoint(&log->in_passing_on);
    }
}

void was_told(kv_log *log, bool by_another, uint64_t waited_ns) {
    if (!by_another) {
        tell_late(log);
    } else if (log->tellable <= TOLD_AT_ONCE) {
        log->wait_ns = (7 * log->wait_ns + waited_ns) / 8;
    }
}

/* When this thread was told. */
static __thread uint64_t left_ns;

/* A thread has come, perhaps one that was told. */
static void tell_another(kv_log *log) {
    uint64_t away_ns = clock_ns() - left_ns;
    log->away_ns = away_ns < log->away_ns ? away_ns : log->away_ns;
    if (log->tellable == 0) {
        tell_late(log);
    }
    if (log->tellable == 0) {
        log->in_passing_on.misses = 0;
    }
    log->tellable += log->tellable < TOLD_AT_ONCE;
    wake_next(log);
}

/* ---- gathering ---- */

void plan_gathering(kv_log *log) {
    uint64_t told = 1; /* the driver */
    for (const waiter *w = log->waiters_first; w && w->lsn <= log->durable_lsn; w = w->next) {
        told += w->lsn > 0;
    }
    log->gather_ops = 0;
    if (told == 1 || log->queued_ops >= 2 * told || !trusted(&log->in_coming)) {
        return;
    }
    uint64_t ns = log->sync_ns < GATHER_NS_MAX ? log->sync_ns : GATHER_NS_MAX;
    log->gather_ops = log->queued_ops + told;
    log->gather_until_ns = clock_ns() + ns;
}

static bool still_gathering(const kv_log *log) {
    return log->queued_ops < log->gather_ops && log->round_count == 0 &&
           clock_ns() < log->gather_until_ns;
}

/* Waits for others to come, or until one of them has begun the round. */
static void gather(kv_log *log, uint64_t lsn, bool applied) {
    waiter me = {.lsn = lsn, .applied = applied};
    if (log->gatherer) {
        /* Should that one be late. */
        wait_in_list(log, &me, applied ? 0 : log->gather_until_ns + GATHER_NS_MAX);
        return;
    }
    log->gatherer = &me;
    wait_in_list(log, &me, log->gather_until_ns);
    if (log->gatherer == &me) {
        log->gatherer = NULL;
    }
    if (log->submitted_lsn >= lsn) {
        log->in_coming.misses = 0;
        return;
    }
    log->gather_ops = 0;
    disappoint(&log->in_coming); /* they did not come, or not in time */
}

/* ---- waiting ---- */

/* Brings entry lsn nearer to the disk: begins a round if that is due, and waits for progress. 0, or
 * why it will never be durable. */
static int wait_a_round(kv_log *log, uint64_t lsn, bool applied) {
    int status = failed_meanwhile(log);
    if (status < 0) {
        return status;
    }
    /* One round at a time while threads wait: the entries of those who come meanwhile share the
     * next one. (Two at a time took 1.3 times as long with 16 threads.) */
    if (lsn > log->submitted_lsn && log->round_count == 0 && !log->appending) {
        if (still_gathering(log)) {
            gather(log, lsn, applied);
            return 0;
        }
        if (round_begin(log, true, false, true) < 0) {
            return failed_meanwhile(log);
        }
    }
    await_progress(log, lsn, applied);
    return 0;
}

int wait_durable(kv_log *log, uint64_t lsn) {
    int status = 0;
    while (status == 0 && log->durable_lsn < lsn) {
        status = wait_a_round(log, lsn, false);
    }
    return status;
}

/* Until entry lsn is applied, or the caller's to apply: 0 or 1; negative: it failed. */
static int wait_applied(kv_log *log, uint64_t lsn) {
    int status = 0;
    while (status == 0 && log->taken_lsn < lsn) {
        if (log->durable_lsn < lsn) {
            status = wait_a_round(log, lsn, true);
            continue;
        }
        if (!log->applying || log->closed || clock_ns() > log->applying_until_ns) {
            log->applying = true;
            log->applying_until_ns = clock_ns() + PATIENCE_NS_MAX;
            return 1;
        }
        waiter me = {.lsn = lsn, .applied = true};
        wait_in_list(log, &me, 0);
    }
    return status;
}

/* ---- calls ---- */

int64_t kv_log_append_commit(kv_log *log, const char *data, size_t length, int kind,
                             uint64_t ticket) {
    uint32_t crc = payload_crc(data, length, kind);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = append(log, data, length, crc, kind);
    if (result == 0) {
        uint64_t lsn = log->next_lsn - 1;
        set_ticket(log, lsn, ticket, false);
        result = wait_durable(log, lsn);
        result = result == 0 ? (int64_t)lsn : result;
    }
    leave(log);
    return result;
}

int64_t kv_log_append_apply(kv_log *log, const char *data, size_t length, uint64_t ticket) {
    uint32_t crc = payload_crc(data, length, KV_CHECKED);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = log->tickets ? append(log, data, length, crc, KV_CHECKED) : -EINVAL;
    if (result == 0) {
        uint64_t lsn = log->next_lsn - 1;
        set_ticket(log, lsn, ticket, false);
        tell_another(log);
        int mine = wait_applied(log, lsn);
        result = mine < 0 ? mine : (int64_t)(lsn << 1) | mine;
        left_ns = clock_ns();
    }
    leave(log);
    return result;
}

int kv_log_flush(kv_log *log) {
    int status = enter(log);
    if (status == 0) {
        status = usable(log);
        status = status == 0 ? wait_durable(log, log->next_lsn - 1) : status;
        leave(log);
    }
    return status;
}

int kv_log_commit(kv_log *log, uint64_t lsn) {
    int status = enter(log);
    if (status == 0) {
        status = lsn >= log->next_lsn ? -EINVAL : lsn <= log->durable_lsn ? 0 : usable(log);
        status = status == 0 ? wait_durable(log, lsn) : status;
        leave(log);
    }
    return status;
}
