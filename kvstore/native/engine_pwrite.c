/* The portable engine: pwrite, then fdatasync, or both in one call where the system has RWF_DSYNC.
 * Whoever waits carries the operations out. */
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct {
    engine base;
    int fd;
    op *first, *last; /* begun, not carried out */
} pwrite_engine;

static int pwrite_attach(engine *base, const kv_log_file *file) {
    ((pwrite_engine *)base)->fd = file->fd;
    return 0;
}

static int pwrite_begin(engine *base, op *o) {
    pwrite_engine *e = (pwrite_engine *)base;
    o->next = NULL;
    *(e->first ? &e->last->next : &e->first) = o;
    e->last = o;
    return 0;
}

static int pwrite_kick(engine *base) {
    (void)base;
    return 0;
}

int64_t carry_out(int fd, const op *o) {
    ssize_t result;
    if (o->kind == KV_OP_WRITE) {
        result = pwrite(fd, o->data, o->length, (off_t)o->offset);
    } else if (o->kind == KV_OP_WRITE_DSYNC) {
#ifdef RWF_DSYNC
        struct iovec part = {(void *)(uintptr_t)o->data, o->length};
        result = pwritev2(fd, &part, 1, (off_t)o->offset, RWF_DSYNC);
#else
        errno = EINVAL;
        result = -1;
#endif
    } else {
#if defined(__APPLE__)
        /* fsync there stops at the drive's cache: fcntl(2), F_FULLFSYNC. */
        result = fcntl(fd, F_FULLFSYNC);
        if (result < 0 && (errno == ENOTSUP || errno == EINVAL)) {
            result = fsync(fd); /* a network file system */
        }
#else
        result = fdatasync(fd);
#endif
    }
    return result < 0 ? -errno : result;
}

static int pwrite_wait(engine *base, pthread_mutex_t *lock, bool block, completion *out, int max) {
    (void)block;
    pwrite_engine *e = (pwrite_engine *)base;
    int count = 0;
    while (e->first && count < max) {
        out[count++].op = e->first;
        e->first = e->first->next;
    }
    int fd = e->fd;
    pthread_mutex_unlock(lock);
    for (int i = 0; i < count; i++) {
        out[i].result = carry_out(fd, out[i].op);
    }
    pthread_mutex_lock(lock);
    return count;
}

static void pwrite_stats(engine *base, kv_log_stats *stats) {
    (void)base;
    (void)stats;
}

static void pwrite_close(engine *base) { free(base); }

engine *engine_pwrite_new(void) {
    static const engine_calls calls = {pwrite_attach, pwrite_begin, pwrite_kick, pwrite_wait,
                                       NULL,          pwrite_stats, pwrite_close};
    pwrite_engine *e = calloc(1, sizeof *e);
    if (!e) {
        return NULL;
    }
    e->base.calls = &calls;
    e->base.waits_in_caller = true;
#ifdef RWF_DSYNC
    e->base.dsync = true;
#endif
    return &e->base;
}
