/* Rounds: bytes to the device, completions back, the durable watermark.
 *
 * Some facts about the device path, each met by code below:
 *
 * - A write's completion says that the page cache (or the drive's volatile cache) has the bytes.
 *   They are durable when a sync completes that was begun after that.
 * - RWF_DSYNC syncs just the range of its own write; bytes written earlier without it need
 *   fdatasync.
 * - A short write is not an error: the rest is written again, and only then is there a sync. Under
 *   O_DIRECT the rest begins at a block boundary, so some bytes are written twice.
 * - After a failed sync the kernel may drop the dirty pages and report success the next time
 *   (fsyncgate, 2018). So a failure ends the log's life for writing; nothing is synced again.
 * - ECANCELED (the submitting thread ended), and EINTR or EAGAIN of a plain write, say that the
 *   operation did not happen. It is tried again, a bounded number of times. An interrupted sync is
 *   not: on some file systems it has consumed the report of a lost page.
 * - Writing to zero-filled, allocated blocks spares the file system a journal commit for every sync
 *   (250 -> 175 us on ext4), so Python fills files ahead and this code never makes one longer.
 */
#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static round_t *round_at(kv_log *log, int index) {
    return &log->rounds[(log->first_round + index) % ROUNDS_MAX];
}

/* The error is met once, by whoever comes first; later ones are its consequences. */
static void fail(kv_log *log, round_t *round, int error, int operation) {
    round->state = FAILED;
    if (log->error == 0) {
        log->error = error;
        log->error_operation = operation;
    }
}

static void op_begin(kv_log *log, round_t *round, op *o) {
    int status = log->engine->calls->begin(log->engine, o);
    if (status < 0) {
        fail(log, round, -status, o->kind);
        return;
    }
    round->in_flight++;
    log->ops_in_flight++;
    log->stats.ops_submitted++;
    if (o->kind != KV_OP_WRITE) {
        log->stats.syncs++;
    }
}

/* Under O_DIRECT the device takes whole blocks: a PAD entry fills the last one. */
static void pad_to_block(kv_log *log) {
    uint64_t over = (log->head - log->file.base) % BLOCK;
    if (over == 0) {
        return;
    }
    uint64_t gap = BLOCK - over;
    if (gap < FRAME_HEADER) {
        gap += BLOCK;
    }
    frame_into_arena(log, NULL, gap - FRAME_HEADER, 0, KV_PAD);
}

bool round_possible(const kv_log *log) {
    return log->round_count < log->rounds_max && log->error == 0 && !log->broken;
}

/* Whether a round that is begun now has to wait with its sync until those ahead have theirs. Of
 * many in flight one fdatasync covers several, where writes that sync themselves would wait for one
 * another: a ring takes those to one file one by one. It does not know of an fdatasync, nor of what
 * a thread writes; and of two syncs that run together the kernel tells just one of a lost page.
 * Direct writes in a ring have neither trouble. */
static bool sync_waits(kv_log *log) {
    if (log->file.direct && !log->engine->waits_in_caller) {
        return false;
    }
    bool waits = log->round_count > 0 && log->rounds_max > 2;
    for (int i = 0; i < log->round_count; i++) {
        waits = waits || round_at(log, i)->needs_fdatasync || round_at(log, i)->here;
    }
    return waits;
}

/* How a batch of one write becomes durable; `waited_for`: the caller waits, and nothing else is in
 * flight. While undecided, such rounds take turns to try what there is. Others sync themselves:
 * one way to the device and, for an event loop, back. */
static int choose_strategy(kv_log *log, round_t *round, bool waited_for) {
    bool possible = log->engine->dsync && !sync_waits(log);
    int strategy = possible ? log->strategy : KV_SYNC_FDATASYNC;
    if (!waited_for && strategy != KV_SYNC_FDATASYNC) {
        return KV_SYNC_DSYNC;
    }
    if (strategy == KV_SYNC_MEASURE) {
        int choices = log->engine->here ? KV_SYNC_CALL : KV_SYNC_FDATASYNC;
        strategy = 1 + log->trials % choices;
        round->trial = strategy;
    }
    return strategy;
}

static int compare_ns(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void finish_trial(kv_log *log, const round_t *round) {
    int choices = log->engine->here ? KV_SYNC_CALL : KV_SYNC_FDATASYNC;
    if (round->trial == 0 || log->strategy != KV_SYNC_MEASURE) {
        return;
    }
    log->trial_ns[round->trial][log->trials / choices] = clock_ns() - round->began_ns;
    if (++log->trials < choices * TRIALS_EACH) {
        return;
    }
    /* By the median; another way than the first has to be faster by more than the noise. */
    uint64_t best = 0;
    for (int s = KV_SYNC_DSYNC; s <= choices; s++) {
        qsort(log->trial_ns[s], TRIALS_EACH, sizeof log->trial_ns[s][0], compare_ns);
        uint64_t median = log->trial_ns[s][TRIALS_EACH / 2];
        if (best == 0 || median < best - best / 32) {
            best = median;
            log->strategy = s;
        }
    }
}

static bool advance(kv_log *log);

int round_begin(kv_log *log, bool durable, bool partial, bool caller_waits) {
    if (log->file.direct && !partial) {
        pad_to_block(log);
    }
    uint64_t end = log->head;
    if (log->file.direct && partial) {
        end -= (end - log->file.base) % BLOCK;
    }
    round_t *round = round_at(log, log->round_count);
    memset(round, 0, sizeof *round);
    round->start = log->submitted;
    round->end = end;
    round->durable = durable;
    log->gatherer = NULL;
    round->began_ns = clock_ns();
    round->state = WRITING;

    uint64_t length = end - log->submitted;
    uint64_t at = (log->submitted - log->origin) % log->arena_bytes;
    uint64_t first = length < log->arena_bytes - at ? length : log->arena_bytes - at;
    bool waited_for = caller_waits && log->round_count == 0;
    int strategy = log->strategy;
    bool dsync = false;
    if (durable && length > 0 && first == length && !log->unsynced_bytes) {
        strategy = choose_strategy(log, round, waited_for);
        dsync = strategy != KV_SYNC_FDATASYNC;
    }
    round->here = waited_for && strategy == KV_SYNC_CALL;
    round->needs_fdatasync = durable && !dsync;
    log->unsynced_bytes = !durable && (log->unsynced_bytes || length > 0);

    if (!partial) {
        /* The batch leaves the queue; requeue_failed puts it back if it does not arrive. */
        round->queued_bytes = log->queued_bytes;
        round->queued_ops = log->queued_ops;
        round->queue_start = log->queue_start;
        log->queued_bytes = log->queued_ops = 0;
        log->queue_start = end;
    }
    if (durable) {
        round->lsn = log->next_lsn - 1;
        log->submitted_lsn = round->lsn;
    }
    log->round_count++;

    uint64_t parts[2][2] = {{at, first}, {0, length - first}};
    for (int i = 0; i < 2 && parts[i][1] > 0 && round->state != FAILED; i++) {
        op *o = &round->ops[i];
        o->round = round;
        o->kind = dsync ? KV_OP_WRITE_DSYNC : KV_OP_WRITE;
        o->here = round->here;
        o->data = log->arena + parts[i][0];
        o->offset = log->submitted + (i == 0 ? 0 : first);
        o->length = parts[i][1];
        op_begin(log, round, o);
    }
    log->submitted = end;
    if (round->state != FAILED && length == 0) {
        round->state = WRITTEN;
        advance(log); /* there is no completion to wait for before its sync */
    }
    if (round->state == FAILED) {
        requeue_failed(log);
        wake_waiters(log);
        tell_eventfd(log);
        return -log->error;
    }
    return 0;
}

/* The rest of a short write, or all of one that did not happen; false after too many tries. */
static bool op_again(kv_log *log, round_t *round, op *o, uint64_t done) {
    if (log->file.direct) {
        done -= done % BLOCK;
    }
    if (done == 0 && ++o->retries > RETRIES_MAX) {
        return false;
    }
    o->data += done;
    o->offset += done;
    o->length -= done;
    op_begin(log, round, o);
    return true;
}

/* A sync that was interrupted may already have consumed the report of a lost page. */
static bool did_not_happen(const op *o, int64_t result) {
    return result == -ECANCELED ||
           (o->kind == KV_OP_WRITE && (result == -EINTR || result == -EAGAIN));
}

static void op_complete(kv_log *log, op *o, int64_t result) {
    round_t *round = o->round;
    round->in_flight--;
    log->ops_in_flight--;
    log->stats.ops_completed++;
    if (round->state == FAILED) {
        return;
    }
    bool refused = result == -EOPNOTSUPP || result == -EINVAL || result == -ENOSYS;
    if (refused && o->kind == KV_OP_WRITE_DSYNC) {
        /* This file system has no RWF_DSYNC (gVisor's, say): never again. Nothing was written. */
        log->engine->dsync = false;
        log->strategy = KV_SYNC_FDATASYNC;
        round->trial = 0;
        round->needs_fdatasync = true;
        o->kind = KV_OP_WRITE;
        op_begin(log, round, o);
    } else if (did_not_happen(o, result)) {
        if (!op_again(log, round, o, 0)) {
            fail(log, round, (int)-result, o->kind);
        }
    } else if (result < 0) {
        fail(log, round, (int)-result, o->kind);
    } else if (o->kind == KV_OP_SYNC) {
        for (int i = 0; i < log->round_count; i++) {
            if (round_at(log, i)->state == RIDING) {
                round_at(log, i)->state = DONE;
            }
        }
        round->state = DONE;
    } else {
        uint64_t done = (uint64_t)result;
        log->stats.bytes_written += done;
        if (done < o->length && !op_again(log, round, o, done)) {
            fail(log, round, EIO, o->kind); /* it writes nothing and names no reason */
        }
    }
    if (round->state == WRITING && round->in_flight == 0) {
        round->state = WRITTEN;
    }
}

static void record_durable(kv_log *log, const round_t *round) {
    log->durable_lsn = round->lsn;
    log->stats.batches++;
    uint64_t ns = clock_ns() - round->began_ns;
    log->sync_ns = log->sync_ns ? (7 * log->sync_ns + ns) / 8 : ns;
    uint64_t us = ns / 1000;
    int bucket = us == 0 ? 0 : 64 - __builtin_clzll(us);
    log->stats.sync_latency_us[bucket < KV_HISTOGRAM ? bucket : KV_HISTOGRAM - 1]++;
    finish_trial(log, round);
}

/* What never became durable is put back in the queue, so that nobody is told it had left. */
void requeue_failed(kv_log *log) {
    for (int i = log->round_count - 1; i >= 0; i--) {
        round_t *round = round_at(log, i);
        if (round->queued_ops > 0) {
            log->queue_start = round->queue_start;
        }
        log->queued_bytes += round->queued_bytes;
        log->queued_ops += round->queued_ops;
        round->queued_bytes = round->queued_ops = 0;
    }
}

/* Begins the sync that the last round whose writes are done needs; earlier ones ride on it. One at
 * a time: those that come meanwhile share the next. */
static void begin_sync(kv_log *log) {
    round_t *last = NULL;
    for (int i = 0; i < log->round_count; i++) {
        round_t *round = round_at(log, i);
        if (round->state == WRITING) {
            break;
        }
        if (round->state == SYNCING) {
            return;
        }
        if (round->state == WRITTEN && round->needs_fdatasync) {
            last = round;
        }
    }
    for (int i = 0; last && round_at(log, i) != last; i++) {
        round_t *round = round_at(log, i);
        round->state = round->state == WRITTEN ? RIDING : round->state;
    }
    if (last) {
        op *o = &last->ops[2];
        o->round = last;
        o->kind = KV_OP_SYNC;
        o->here = last->here;
        last->state = SYNCING;
        op_begin(log, last, o);
    }
}

/* After completions: takes note of what is written, begins the sync that is due, and retires
 * finished rounds from the front; whether there was one. */
static bool advance(kv_log *log) {
    bool retired = false;
    for (int i = 0; i < log->round_count && log->error == 0; i++) {
        round_t *round = round_at(log, i);
        if (round->state == WRITING) {
            break;
        }
        log->written = round->end > log->written ? round->end : log->written;
        if (round->state == WRITTEN && !round->needs_fdatasync) {
            round->state = DONE;
        }
    }
    if (log->error == 0) {
        begin_sync(log);
    }
    /* Once anything failed, no success counts: of two syncs that run together the kernel tells just
     * one that a page was lost. */
    while (log->error == 0 && log->round_count > 0 && round_at(log, 0)->state == DONE) {
        round_t *round = round_at(log, 0);
        if (round->durable) {
            record_durable(log, round);
        }
        log->first_round = (log->first_round + 1) % ROUNDS_MAX;
        log->round_count--;
        retired = true;
    }
    if (log->error) {
        requeue_failed(log);
    }
    return retired;
}

void tell_eventfd(kv_log *log) {
    if (log->eventfd >= 0) {
        uint64_t one = 1;
        ssize_t ignored = write(log->eventfd, &one, sizeof one);
        (void)ignored; /* a full counter is as good as one more */
    }
}

void engine_lost(kv_log *log, int error) {
    log->broken = true;
    if (log->error == 0) {
        log->error = error;
        log->error_operation = KV_OP_WRITE;
    }
    requeue_failed(log);
    wake_waiters(log);
}

void round_drive(kv_log *log, bool block) {
    completion done[COMPLETIONS_MAX];
    uint64_t durable_before = log->durable_lsn;
    bool retired = advance(log);
    int status = log->engine->calls->kick(log->engine);
    if (status >= 0 && log->ops_in_flight > 0) {
        log->driving = true;
        status = log->engine->calls->wait(log->engine, &log->lock, block, done, COMPLETIONS_MAX);
        log->driving = false;
    }
    for (int i = 0; i < status; i++) {
        op_complete(log, done[i].op, done[i].result);
    }
    if (status < 0) {
        engine_lost(log, -status);
    }
    retired = advance(log) || retired;
    if (log->ops_in_flight > 0 && !log->broken) {
        status = log->engine->calls->kick(log->engine);
        if (status < 0) {
            engine_lost(log, -status);
        } else if (status > 0) {
            tell_eventfd(log); /* an event loop has to try again */
        }
    }
    /* A caller of reap knows; somebody in its event loop may not, when another thread drove. A
     * round that only wrote (of a MARK) matters too: there was no room for one of the loop's. */
    if (block && (retired || log->error)) {
        tell_eventfd(log);
    }
    if (block && log->durable_lsn != durable_before) {
        plan_gathering(log);
    }
    wake_waiters(log);
}

/* In the order of the log, so that nobody looks at all of a thousand; mostly this is the end. */
static void link_waiter(kv_log *log, waiter *me) {
    me->previous = log->waiters_last;
    while (me->previous && me->previous->lsn > me->lsn) {
        me->previous = me->previous->previous;
    }
    me->next = me->previous ? me->previous->next : log->waiters_first;
    *(me->previous ? &me->previous->next : &log->waiters_first) = me;
    *(me->next ? &me->next->previous : &log->waiters_last) = me;
}

static void unlink_waiter(kv_log *log, waiter *w) {
    *(w->previous ? &w->previous->next : &log->waiters_first) = w->next;
    *(w->next ? &w->next->previous : &log->waiters_last) = w->previous;
    w->woken = true;
    pthread_cond_signal(&w->cond);
}

static bool satisfied(const kv_log *log, const waiter *w) {
    return w->lsn && w->lsn <= (w->applied ? log->taken_lsn : log->durable_lsn);
}

void wake_next(kv_log *log) {
    for (waiter *w = log->waiters_first; w && w->lsn <= log->durable_lsn; w = w->next) {
        if (satisfied(log, w) && !(w->applied && log->tellable == 0)) {
            if (w->applied) {
                log->tellable--;
                log->told_ns = clock_ns();
            }
            unlink_waiter(log, w);
            return;
        }
    }
}

void wake_applier(kv_log *log) {
    waiter *w = log->waiters_first;
    while (w && w->lsn <= log->durable_lsn && !(w->applied && w->lsn > log->taken_lsn)) {
        w = w->next;
    }
    if (w && w->lsn <= log->durable_lsn && !log->applying) {
        unlink_waiter(log, w);
    }
}

void wake_waiters(kv_log *log) {
    waiter *w;
    while ((w = log->waiters_first) && (w->lsn == 0 || log->error || log->closed)) {
        unlink_waiter(log, w);
    }
    wake_next(log);
}

void wake_successor(kv_log *log) {
    waiter *w = log->waiters_first;
    while (w && w->lsn && w->lsn <= log->durable_lsn) {
        w = w->next; /* has nothing to drive for */
    }
    if (w && !log->driving) {
        unlink_waiter(log, w);
    }
    if (log->worker_running) {
        pthread_cond_signal(&log->worker_wake);
    }
}

/* As conditions count time: monotonic, where they can be told so. */
static struct timespec condition_time(uint64_t deadline_ns) {
#ifdef __APPLE__
    struct timespec until;
    uint64_t now = clock_ns();
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + (deadline_ns > now ? deadline_ns - now : 0);
    until.tv_sec += (time_t)(ns / 1000000000u);
    until.tv_nsec = (long)(ns % 1000000000u);
    return until;
#else
    return (struct timespec){.tv_sec = (time_t)(deadline_ns / 1000000000u),
                             .tv_nsec = (long)(deadline_ns % 1000000000u)};
#endif
}

static void condition_init(pthread_cond_t *cond) {
#ifdef __APPLE__
    pthread_cond_init(cond, NULL);
#else
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
#endif
}

bool wait_in_list(kv_log *log, waiter *me, uint64_t deadline_ns) {
    uint64_t began_ns = clock_ns();
    if (me->applied && deadline_ns == 0) {
        deadline_ns = began_ns + patience_ns(log); /* who is to apply, or to tell, may never come */
    }
    struct timespec until = condition_time(deadline_ns);
    condition_init(&me->cond);
    link_waiter(log, me);
    bool in_time = true;
    while (!me->woken && in_time) {
        in_time = deadline_ns ? pthread_cond_timedwait(&me->cond, &log->lock, &until) != ETIMEDOUT
                              : !pthread_cond_wait(&me->cond, &log->lock);
    }
    bool woken = me->woken;
    if (!woken) {
        unlink_waiter(log, me);
    }
    if (me->applied && satisfied(log, me)) {
        was_told(log, woken, clock_ns() - began_ns);
    }
    pthread_cond_destroy(&me->cond);
    wake_next(log);
    return woken;
}

void await_progress(kv_log *log, uint64_t lsn, bool applied) {
    bool work = log->round_count > 0 && (log->ops_in_flight > 0 || log->error == 0);
    if (work && !log->driving && !log->broken) {
        round_drive(log, true);
        if (lsn <= log->durable_lsn) {
            wake_successor(log);
        }
        if (lsn > log->durable_lsn || !applied) {
            wake_applier(log); /* else the caller is going to apply */
        }
        return;
    }
    waiter me = {.lsn = lsn, .applied = applied};
    wait_in_list(log, &me, 0);
}
