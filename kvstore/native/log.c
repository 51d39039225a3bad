/* The log: its life, the files it goes through, and what can be seen of it from outside. */
#include "core.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

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
        return engine_python_new(config->python_handle, config->python_dsync != 0);
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
#ifdef MADV_DONTFORK
    madvise(log->arena, log->arena_bytes, MADV_DONTFORK); /* the kernel may be writing from it */
#endif
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
    if (config->batches_in_flight) {
        uint32_t batches = config->batches_in_flight;
        log->rounds_max = batches > ROUNDS_MAX ? ROUNDS_MAX : (int)batches;
    }
    log->strategy = log->engine->dsync ? config->sync_strategy : KV_SYNC_FDATASYNC;
    if (log->strategy == KV_SYNC_CALL && !log->engine->here) {
        log->strategy = KV_SYNC_DSYNC;
    }
    log->next_lsn = 1;
    log->tellable = UINT_MAX;
    log->away_ns = UINT64_MAX;
    log->wait_ns = PATIENCE_NS_MAX;
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

int enter(kv_log *log) {
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

void leave(kv_log *log) {
    if (--log->users == 0 && log->closed) {
        pthread_cond_broadcast(&log->idle);
    }
    pthread_mutex_unlock(&log->lock);
}

int usable(const kv_log *log) {
    return log->closed ? KV_E_CLOSED : log->error || log->broken ? KV_E_POISONED : 0;
}

/* For who was waiting when it failed: the cause itself. Later callers hear that the log is
 * poisoned. */
int failed_meanwhile(const kv_log *log) { return log->error ? -log->error : usable(log); }

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
    if (log->appending || (log->attached && !(drained && continues))) {
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
        log->files++;
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
uint64_t kv_log_last_lsn(kv_log *log) {
    uint64_t next = peek(log, &log->next_lsn);
    return next > 0 ? next - 1 : 0;
}
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
    if (log->generation != fork_generation) {
        return KV_SYNC_MEASURE;
    }
    pthread_mutex_lock(&log->lock);
    int strategy = log->strategy;
    pthread_mutex_unlock(&log->lock);
    return strategy;
}

int kv_log_fail(kv_log *log, int error) {
    int status = enter(log);
    if (status == 0) {
        if (log->error == 0) {
            log->error = error;
            log->error_operation = KV_OP_SYNC;
        }
        requeue_failed(log);
        wake_waiters(log);
        tell_eventfd(log);
        leave(log);
    }
    return status;
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
