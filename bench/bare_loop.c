/* What kvstore is compared with: bytes that are ready, a file that is ready, and nothing else.
 *
 * Batch i goes to offset first + i * size, made durable before the next of the same thread. With
 * several threads, thread t writes batches t, t + threads, ... so the bytes lie where one log would
 * put them. Compiled at run time by bench/bare.py, which also says what is in a batch.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwritev2 */
#endif

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { DSYNC = 1, FDATASYNC = 2, THREADS_MAX = 64 };

typedef struct {
    int fd, strategy, threads;
    const char *batch;
    size_t size;
    int64_t first, count;
    int64_t *latency_ns;
    pthread_mutex_t *gate; /* held until every thread exists */
} work;

typedef struct {
    const work *work;
    int64_t index, began_ns, ended_ns;
    int error;
} worker;

static int64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int write_durably(const work *w, int64_t offset) {
    ssize_t done;
    if (w->strategy == DSYNC) {
#ifdef RWF_DSYNC
        struct iovec all = {(void *)(uintptr_t)w->batch, w->size};
        done = pwritev2(w->fd, &all, 1, (off_t)offset, RWF_DSYNC);
#else
        return ENOTSUP;
#endif
    } else {
        done = pwrite(w->fd, w->batch, w->size, (off_t)offset);
    }
    if (done != (ssize_t)w->size) {
        return done < 0 ? errno : EIO;
    }
    if (w->strategy == DSYNC) {
        return 0;
    }
#ifdef __APPLE__
    return fcntl(w->fd, F_FULLFSYNC) < 0 ? errno : 0;
#else
    return fdatasync(w->fd) < 0 ? errno : 0;
#endif
}

static void *run(void *argument) {
    worker *me = argument;
    const work *w = me->work;
    pthread_mutex_lock(w->gate);
    pthread_mutex_unlock(w->gate);
    me->began_ns = me->ended_ns = clock_ns();
    for (int64_t i = me->index; i < w->count && me->error == 0; i += w->threads) {
        int64_t began = me->ended_ns;
        me->error = write_durably(w, w->first + i * (int64_t)w->size);
        me->ended_ns = clock_ns();
        w->latency_ns[i] = me->ended_ns - began;
    }
    return NULL;
}

/* Writes `count` batches and fills latency_ns[count]. Returns the nanoseconds from the first
 * thread's start to the last one's end, the making of threads not included, or -errno. */
int64_t bare_run(int fd, const char *batch, size_t size, int64_t first, int64_t count, int threads,
                 int strategy, int64_t *latency_ns) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t handles[THREADS_MAX];
    worker workers[THREADS_MAX] = {{0}};
    if (threads < 1 || threads > THREADS_MAX) {
        return -EINVAL;
    }
    work all = {fd, strategy, threads, batch, size, first, count, latency_ns, &gate};
    for (int t = 0; t < threads; t++) {
        workers[t].work = &all;
        workers[t].index = t;
    }
    if (threads == 1) {
        run(&workers[0]);
    } else {
        int made = 0;
        pthread_mutex_lock(&gate);
        while (made < threads && pthread_create(&handles[made], NULL, run, &workers[made]) == 0) {
            made++;
        }
        pthread_mutex_unlock(&gate);
        for (int t = 0; t < made; t++) {
            pthread_join(handles[t], NULL);
        }
        if (made < threads) {
            return -EAGAIN;
        }
    }
    int64_t began = workers[0].began_ns, ended = workers[0].ended_ns;
    for (int t = 0; t < threads; t++) {
        if (workers[t].error) {
            return -workers[t].error;
        }
        began = workers[t].began_ns < began ? workers[t].began_ns : began;
        ended = workers[t].ended_ns > ended ? workers[t].ended_ns : ended;
    }
    return ended - began;
}

/* Whether the system can write and sync in one call. */
int bare_has_dsync(void) {
#ifdef RWF_DSYNC
    return 1;
#else
    return 0;
#endif
}

/* Calls append(log, data, length, kind) `count` times; the nanoseconds that took, or its error. */
int64_t append_loop(uintptr_t append, uintptr_t log, const char *data, size_t length, int kind,
                    int64_t count) {
    int64_t (*call)(void *, const char *, size_t, int) =
        (int64_t (*)(void *, const char *, size_t, int))append;
    int64_t began = clock_ns();
    for (int64_t i = 0; i < count; i++) {
        int64_t result = call((void *)log, data, length, kind);
        if (result < 0) {
            return result;
        }
    }
    return clock_ns() - began;
}
