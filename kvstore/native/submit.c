/* The log for callers that must not wait: submit, reap, and an eventfd in between. */
#include "core.h"

#include <unistd.h>

/* An engine whose wait does the work needs a thread when nobody waits. */
static void *work(void *argument) {
    kv_log *log = argument;
    pthread_mutex_lock(&log->lock);
    while (!log->worker_stop) {
        if (log->round_count > 0 && log->error == 0 && !log->driving) {
            round_drive(log, true);
            wake_successor(log);
            wake_applier(log);
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
        result = round_begin(log, true, false, false) < 0 ? KV_E_POISONED : 0;
    }
    if (result == 0 && log->round_count > 0) {
        if (log->engine->waits_in_caller) {
            result = call_worker(log);
        } else {
            int status = log->engine->calls->kick(log->engine);
            if (status < 0) {
                engine_lost(log, -status);
                tell_eventfd(log);
                result = status;
            } else if (status > 0 || !log->engine->calls->set_eventfd) {
                tell_eventfd(
                    log); /* reap hands the rest over, or asks an engine that cannot tell */
            }
        }
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
        wake_applier(log);
        if (log->round_count > 0 && !log->engine->calls->set_eventfd) {
            tell_eventfd(log);
        }
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
        if (fd >= 0 && log->round_count > 0) {
            /* What completed before anybody listened is told now. */
            uint64_t one = 1;
            ssize_t ignored = write(fd, &one, sizeof one);
            (void)ignored;
        }
        leave(log);
    }
    return status;
}
