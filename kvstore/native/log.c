/* The log: appending entries, waiting until they are durable, saying in LSN order which may be
 * applied. */
#include "core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define NO_TICKET UINT64_MAX

static unsigned fork_generation;

static void after_fork_in_child(void) { fork_generation++; }

__attribute__((constructor)) static void watch_forks(void) {
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* ---- life ---- */

static engine *make_engine(const kv_log_config *config, kv_log *log, char *note, size_t note_size,
                           int *error) {
    switch (config->engine) {
    case KV_ENGINE_PWRITE:
        return engine_pwrite_new();
    case KV_ENGINE_PYTHON:
        return engine_python_new(config->python_handle);
    case KV_ENGINE_URING:
        return engine_uring_new(config, log->arena, log->arena_bytes, note, note_size, error);
    default:
        *error = EINVAL;
        return NULL;
    }
}

kv_log *kv_log_new(const kv_log_config *config, char *note, size_t note_size, int *error) {
    *error = ENOMEM;
    kv_log *log = calloc(1, sizeof *log);
    if (!log) {
        return NULL;
    }
    log->config = *config;
    /* Room for one PAD beside a full block, however small the buffers are. */
    log->arena_bytes = config->arena_bytes < 4 * BLOCK ? 4 * BLOCK : config->arena_bytes;
    log->arena_bytes = (log->arena_bytes + BLOCK - 1) / BLOCK * BLOCK;
    log->arena =
        mmap(NULL, log->arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (log->arena == MAP_FAILED) {
        free(log);
        return NULL;
    }
    if (config->record_tickets) {
        log->tickets = malloc(KV_TICKETS_MAX * sizeof *log->tickets);
        log->relaxed = malloc(KV_TICKETS_MAX * sizeof *log->relaxed);
    }
    bool memory = !config->record_tickets || (log->tickets && log->relaxed);
    log->engine = memory ? make_engine(config, log, note, note_size, error) : NULL;
    if (!log->engine) {
        munmap(log->arena, log->arena_bytes);
        free(log->tickets);
        free(log->relaxed);
        free(log);
        return NULL;
    }
    uint32_t least =
        config->max_inflight < config->sq_entries ? config->max_inflight : config->sq_entries;
    uint32_t rounds = least / OPS_PER_ROUND;
    log->rounds_max = rounds < 1 ? 1 : rounds > ROUNDS_MAX ? ROUNDS_MAX : (int)rounds;
    log->strategy = config->sync_strategy;
    log->next_lsn = 1;
    log->generation = fork_generation;
    log->owner = pthread_self();
    log->eventfd = -1;
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->idle, NULL);
    pthread_cond_init(&log->worker_wake, NULL);
    *error = 0;
    return log;
}

void kv_log_close(kv_log *log) {
    if (log->generation != fork_generation) {
        return; /* the parent's: its ring, its thread, perhaps its lock held */
    }
    pthread_mutex_lock(&log->lock);
    bool first = !log->closed;
    log->closed = true;
    wake_waiters(log);
    while (log->users > 0) {
        pthread_cond_wait(&log->idle, &log->lock);
    }
    if (!first) {
        pthread_mutex_unlock(&log->lock);
        return;
    }
    if (log->worker_running) {
        log->worker_stop = true;
        pthread_cond_signal(&log->worker_wake);
        pthread_mutex_unlock(&log->lock);
        pthread_join(log->worker, NULL);
        pthread_mutex_lock(&log->lock);
    }
    /* The kernel still reads the arena until every operation is answered. */
    while (log->ops_in_flight > 0 && !log->broken) {
        round_drive(log, true);
    }
    log->engine->calls->stats(log->engine, &log->stats);
    log->engine->calls->close(log->engine);
    log->engine = NULL;
    if (!log->broken) {
        munmap(log->arena, log->arena_bytes);
    }
    free(log->tickets);
    free(log->relaxed);
    log->tickets = NULL;
    log->relaxed = NULL;
    pthread_mutex_unlock(&log->lock);
}

void kv_log_free(kv_log *log) {
    if (log->generation != fork_generation) {
        return;
    }
    kv_log_close(log);
    pthread_mutex_destroy(&log->lock);
    pthread_cond_destroy(&log->idle);
    pthread_cond_destroy(&log->worker_wake);
    free(log);
}

/* Takes the lock and says whether the log may be used; on success pairs with leave(). */
static int enter(kv_log *log) {
    if (log->generation != fork_generation) {
        return KV_E_FORKED;
    }
    if (log->config.single_issuer && !pthread_equal(log->owner, pthread_self())) {
        return KV_E_THREAD;
    }
    pthread_mutex_lock(&log->lock);
    if (log->closed) {
        pthread_mutex_unlock(&log->lock);
        return KV_E_CLOSED;
    }
    log->users++;
    return 0;
}

static void leave(kv_log *log) {
    if (--log->users == 0 && log->closed) {
        pthread_cond_broadcast(&log->idle);
    }
    pthread_mutex_unlock(&log->lock);
}

static int usable(const kv_log *log) {
    return log->closed ? KV_E_CLOSED : log->error || log->broken ? KV_E_POISONED : 0;
}

/* For who was waiting when it failed: the cause itself. Later callers hear that the log is
 * poisoned. */
static int failed_meanwhile(const kv_log *log) { return log->error ? -log->error : usable(log); }

static void begin_at(kv_log *log, uint64_t next_lsn) {
    log->next_lsn = next_lsn;
    log->submitted_lsn = log->durable_lsn = log->taken_lsn = next_lsn - 1;
}

int kv_log_begin(kv_log *log, uint64_t next_lsn) {
    int status = enter(log);
    if (status == 0) {
        status = log->attached ? -EBUSY : 0;
        if (status == 0) {
            begin_at(log, next_lsn);
        }
        leave(log);
    }
    return status;
}

int kv_log_attach(kv_log *log, const kv_log_file *file) {
    int status = enter(log);
    if (status < 0) {
        return status;
    }
    bool drained = log->round_count == 0 && log->durable_lsn + 1 == log->next_lsn;
    bool continues = file->next_lsn == log->next_lsn;
    if (log->attached && !(drained && continues)) {
        status = -EBUSY;
    } else if (file->direct && (file->position - file->base) % BLOCK != 0) {
        status = -EINVAL;
    } else {
        status = log->engine->calls->attach(log->engine, file);
    }
    if (status == 0) {
        if (!log->attached) {
            begin_at(log, file->next_lsn);
        }
        log->attached = true;
        log->sealed = false;
        log->marked = true; /* nothing here yet that wants a witness */
        log->unsynced_bytes = false;
        log->file = *file;
        log->origin = log->written = log->submitted = log->head = file->position;
        log->queue_start = file->position;
    }
    leave(log);
    return status;
}

int kv_log_extend(kv_log *log, uint64_t limit) {
    int status = enter(log);
    if (status == 0) {
        log->file.limit = limit > log->file.limit ? limit : log->file.limit;
        leave(log);
    }
    return status;
}

/* ---- framing ---- */

static uint64_t room(const kv_log *log) {
    uint64_t reserve = log->file.direct ? 2 * BLOCK : 0; /* for a PAD */
    uint64_t used = log->head - log->written + reserve;
    return used < log->arena_bytes ? log->arena_bytes - used : 0;
}

/* Copies (data NULL: zeros) to the head of the ring. The caller has made room. */
static void put(kv_log *log, const void *data, uint64_t length) {
    uint64_t at = (log->head - log->origin) % log->arena_bytes;
    uint64_t first = length < log->arena_bytes - at ? length : log->arena_bytes - at;
    if (data) {
        memcpy(log->arena + at, data, first);
        memcpy(log->arena, (const uint8_t *)data + first, length - first);
    } else {
        memset(log->arena + at, 0, first);
        memset(log->arena, 0, length - first);
    }
    log->head += length;
}

static void put_header(kv_log *log, uint64_t length, uint32_t crc, int kind) {
    uint8_t header[FRAME_HEADER];
    uint64_t unsynced = log->next_lsn - 1 - log->durable_lsn;
    frame_header(header, log->file.seed, crc, (uint32_t)length,
                 unsynced < UNSYNCED_NO_CLAIM ? (uint32_t)unsynced : UNSYNCED_NO_CLAIM,
                 log->next_lsn, kind);
    put(log, header, sizeof header);
}

static void entry_done(kv_log *log, uint64_t length, int kind) {
    put(log, NULL, frame_bytes(length) - FRAME_HEADER - length);
    if (log->tickets) {
        log->tickets[log->next_lsn % KV_TICKETS_MAX] = NO_TICKET;
        log->relaxed[log->next_lsn % KV_TICKETS_MAX] = true;
    }
    log->next_lsn++;
    log->stats.entries++;
    log->marked = kind == KV_MARK || kind == KV_SEAL;
}

void frame_into_arena(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind) {
    put_header(log, length, crc, kind);
    put(log, data, length);
    entry_done(log, length, kind);
}

/* Waits until the ring has room, writing what is in it without a sync. */
static int make_room(kv_log *log, uint64_t bytes) {
    while (room(log) < bytes) {
        int status = failed_meanwhile(log);
        if (status < 0) {
            return status;
        }
        if (log->submitted < log->head && round_possible(log) && log->ops_in_flight == 0 &&
            round_begin(log, false, true) < 0) {
            return failed_meanwhile(log);
        }
        await_progress(log, 0);
    }
    return 0;
}

/* An entry larger than the free part of the ring goes through it piece by piece; nobody else may
 * frame meanwhile. A failure leaves half an entry, but then the log is poisoned or closed for good.
 */
static int stream(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind) {
    log->appending = true;
    int status = make_room(log, FRAME_HEADER);
    if (status == 0) {
        put_header(log, length, crc, kind);
    }
    for (uint64_t done = 0; status == 0 && done < length;) {
        status = make_room(log, 1);
        if (status == 0) {
            uint64_t left = length - done;
            uint64_t piece = left < room(log) ? left : room(log);
            put(log, data + done, piece);
            done += piece;
        }
    }
    if (status == 0 && (status = make_room(log, FRAME_ALIGN)) == 0) {
        entry_done(log, length, kind);
    }
    log->appending = false;
    wake_waiters(log);
    wake_successor(log);
    return status;
}

/* Frames one entry at the end of the queue, with the lock held. */
static int append(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind) {
    int status;
    if (length > PAYLOAD_MAX) {
        return -EMSGSIZE;
    }
    while ((status = usable(log)) == 0 && log->appending) {
        await_progress(log, 0);
    }
    if (status < 0) {
        return status;
    }
    if (!log->attached || log->sealed) {
        return KV_E_FULL;
    }
    /* What a SEAL takes is kept free, and under O_DIRECT the PAD before and behind it. */
    uint64_t reserve = kind == KV_SEAL ? 0 : log->file.direct ? 3 * BLOCK : 2 * FRAME_HEADER;
    if (log->head + frame_bytes(length) + reserve > log->file.limit) {
        return KV_E_FULL;
    }
    if (log->tickets && log->next_lsn - log->taken_lsn > KV_TICKETS_MAX - 2 * ROUNDS_MAX) {
        return KV_E_BUSY;
    }
    if (frame_bytes(length) <= room(log)) {
        frame_into_arena(log, data, length, crc, kind);
    } else if ((status = stream(log, data, length, crc, kind)) < 0) {
        return status;
    }
    log->queued_bytes += length;
    log->queued_ops++;
    return 0;
}

static uint32_t payload_crc(const char *data, size_t length, int kind) {
    return kind == KV_CHECKED ? kv_crc32c(0, data, length) : 0;
}

/* ---- waiting ---- */

static int wait_durable(kv_log *log, uint64_t lsn) {
    while (log->durable_lsn < lsn) {
        int status = failed_meanwhile(log);
        if (status < 0) {
            return status;
        }
        /* One round at a time while threads wait: the entries of those who come meanwhile share the
         * next one. */
        if (lsn > log->submitted_lsn && log->round_count == 0 && !log->appending &&
            round_begin(log, true, false) < 0) {
            return failed_meanwhile(log);
        }
        await_progress(log, lsn);
    }
    return 0;
}

/* Waits until everything up to file offset `end` has been written, synced or not. */
static int wait_written(kv_log *log, uint64_t end) {
    while (log->written < end) {
        int status = failed_meanwhile(log);
        if (status < 0) {
            return status;
        }
        if (log->submitted < end && round_possible(log) && !log->appending &&
            round_begin(log, false, false) < 0) {
            return failed_meanwhile(log);
        }
        await_progress(log, 0);
    }
    return 0;
}

/* ---- calls ---- */

int64_t kv_log_append(kv_log *log, const char *data, size_t length, int kind) {
    uint32_t crc = payload_crc(data, length, kind);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = append(log, data, length, crc, kind);
    if (result == 0) {
        uint64_t end = log->head;
        int64_t offset = (int64_t)(end - frame_bytes(length) - log->file.base);
        result = wait_written(log, end);
        result = result == 0 ? offset : result;
    }
    leave(log);
    return result;
}

int64_t kv_log_append_batched(kv_log *log, const char *data, size_t length, int kind) {
    uint32_t crc = payload_crc(data, length, kind);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = append(log, data, length, crc, kind);
    if (result == 0) {
        uint64_t pending = log->queued_bytes;
        result = pending >= log->config.batch_bytes ? wait_durable(log, log->next_lsn - 1) : 0;
        result = result == 0 ? (int64_t)pending : result;
    }
    leave(log);
    return result;
}

/* Entries without a ticket (PAD, MARK, SEAL) are nobody's to apply. */
static void skip_untaken(kv_log *log, uint64_t before) {
    while (log->taken_lsn + 1 < before &&
           log->tickets[(log->taken_lsn + 1) % KV_TICKETS_MAX] == NO_TICKET) {
        log->taken_lsn++;
    }
}

static void set_ticket(kv_log *log, uint64_t lsn, uint64_t ticket, bool relaxed) {
    if (log->tickets) {
        log->tickets[lsn % KV_TICKETS_MAX] = ticket;
        log->relaxed[lsn % KV_TICKETS_MAX] = relaxed;
    }
}

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

int64_t kv_log_append_relaxed(kv_log *log, const char *data, size_t length, int kind,
                              uint64_t ticket) {
    uint32_t crc = payload_crc(data, length, kind);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = append(log, data, length, crc, kind);
    if (result == 0) {
        uint64_t lsn = log->next_lsn - 1;
        set_ticket(log, lsn, ticket, true);
        if (log->tickets) {
            skip_untaken(log, lsn);
        }
        bool next = log->taken_lsn + 1 == lsn;
        log->taken_lsn += next;
        result = (int64_t)(lsn << 1) | !next;
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

int kv_log_seal(kv_log *log) {
    int status = enter(log);
    if (status == 0) {
        if (!log->sealed) {
            status = append(log, NULL, 0, 0, KV_SEAL);
            log->queued_ops -= status == 0; /* not an entry of the caller's */
        }
        if (status == 0) {
            log->sealed = true;
            status = wait_durable(log, log->next_lsn - 1);
        }
        leave(log);
    }
    return status;
}

int kv_log_mark(kv_log *log) {
    int status = enter(log);
    if (status < 0) {
        return status;
    }
    bool wanted = !log->marked && log->durable_lsn + 1 == log->next_lsn && log->round_count == 0;
    if (wanted && (status = append(log, NULL, 0, 0, KV_MARK)) == 0) {
        log->queued_ops--;
        status = wait_written(log, log->head);
        status = status == 0 ? 1 : status;
    }
    status = status == KV_E_FULL ? 0 : status; /* the SEAL that follows is as good a witness */
    leave(log);
    return status;
}

/* ---- without waiting: submit and reap ---- */

/* An engine whose wait does the work needs a thread when nobody waits. */
static void *work(void *argument) {
    kv_log *log = argument;
    pthread_mutex_lock(&log->lock);
    while (!log->worker_stop) {
        if (log->round_count > 0 && log->error == 0 && !log->driving) {
            round_drive(log, true);
            wake_successor(log);
        } else {
            pthread_cond_wait(&log->worker_wake, &log->lock);
        }
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

static int call_worker(kv_log *log) {
    if (!log->worker_running) {
        int error = pthread_create(&log->worker, NULL, work, log);
        if (error) {
            return -error;
        }
        log->worker_running = true;
    }
    pthread_cond_signal(&log->worker_wake);
    return 0;
}

int64_t kv_log_submit(kv_log *log) {
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = usable(log);
    if (result == 0 && log->submitted_lsn + 1 < log->next_lsn && round_possible(log) &&
        !log->appending) {
        result = round_begin(log, true, false) < 0 ? KV_E_POISONED : 0;
    }
    if (result == 0 && log->round_count > 0) {
        int status =
            log->engine->waits_in_caller ? call_worker(log) : log->engine->calls->kick(log->engine);
        result = status < 0 ? status : 0;
    }
    result = result == 0 ? (int64_t)log->submitted_lsn : result;
    leave(log);
    return result;
}

int64_t kv_log_reap(kv_log *log) {
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    if (log->round_count > 0 && !log->driving && !log->engine->waits_in_caller && !log->broken) {
        round_drive(log, false);
        wake_successor(log);
    }
    result = usable(log);
    result = result == 0 ? (int64_t)log->durable_lsn : result;
    leave(log);
    return result;
}

int kv_log_set_eventfd(kv_log *log, int fd) {
    int status = enter(log);
    if (status == 0) {
        log->eventfd = fd;
        if (log->engine->calls->set_eventfd) {
            status = log->engine->calls->set_eventfd(log->engine, fd);
        }
        leave(log);
    }
    return status;
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
    leave(log);
}

/* ---- looking ---- */

/* These answer after close too, so they take the lock without enter(). */
static uint64_t peek(kv_log *log, const uint64_t *field) {
    if (log->generation != fork_generation) {
        return 0;
    }
    pthread_mutex_lock(&log->lock);
    uint64_t value = *field;
    pthread_mutex_unlock(&log->lock);
    return value;
}

uint64_t kv_log_pending_bytes(kv_log *log) { return peek(log, &log->queued_bytes); }
uint64_t kv_log_pending_ops(kv_log *log) { return peek(log, &log->queued_ops); }
uint64_t kv_log_end(kv_log *log) { return peek(log, &log->head); }
uint64_t kv_log_last_lsn(kv_log *log) { return peek(log, &log->next_lsn) - 1; }
uint64_t kv_log_durable_lsn(kv_log *log) { return peek(log, &log->durable_lsn); }

uint64_t kv_log_size(kv_log *log) {
    if (log->generation != fork_generation) {
        return 0;
    }
    pthread_mutex_lock(&log->lock);
    uint64_t end = log->queued_ops > 0 ? log->queue_start : log->head;
    uint64_t size = end - log->file.base;
    pthread_mutex_unlock(&log->lock);
    return size;
}

int kv_log_sync_strategy(kv_log *log) {
    return log->engine && !log->engine->dsync ? KV_SYNC_FDATASYNC : log->strategy;
}

int kv_log_error(kv_log *log, int *operation) {
    if (log->generation != fork_generation) {
        return 0;
    }
    pthread_mutex_lock(&log->lock);
    int error = log->error;
    *operation = log->error_operation;
    pthread_mutex_unlock(&log->lock);
    return error;
}

void kv_log_stats_get(kv_log *log, kv_log_stats *out) {
    memset(out, 0, sizeof *out);
    if (log->generation != fork_generation) {
        return;
    }
    pthread_mutex_lock(&log->lock);
    if (log->engine) {
        log->engine->calls->stats(log->engine, &log->stats);
    }
    *out = log->stats;
    pthread_mutex_unlock(&log->lock);
}
