/* The io_uring engine, through liburing.
 *
 * - One registered buffer (the arena) and one registered file: the kernel pins and looks up once.
 * - COOP_TASKRUN (Linux 5.19) spares the interrupt that would run completions in the submitter; who
 *   submits on this path waits in the kernel anyway. SINGLE_ISSUER (6.0) is for a log that one
 *   thread promised to use alone. SQPOLL is had when asked for. What the kernel refuses is done
 *   without.
 * - A buffered write or a sync goes to a worker thread of the kernel and back: two switches that a
 *   thread that waits saves by calling pwritev2 itself (one client, 100 B: 1.1 to 1.6 times the
 *   bare call through the ring, 1.00 to 1.04 so). Which is faster is measured, in round.c; a
 *   polled ring (SQPOLL) is always used.
 * - The kernel cancels what a thread had submitted when that thread ends (ECANCELED); round.c tries
 *   again. A fork does not inherit the ring's memory (liburing maps it so); core calls refuse there
 *   before they touch it.
 */
#include "core.h"

int kv_has_uring(void) {
#ifdef KV_HAVE_URING
    return 1;
#else
    return 0;
#endif
}

#include <errno.h>
#include <stdio.h>

#ifndef KV_HAVE_URING

engine *engine_uring_new(const kv_log_config *config, uint8_t *arena, uint64_t arena_bytes,
                         char *note, size_t note_size, int *error) {
    (void)config;
    (void)arena;
    (void)arena_bytes;
    snprintf(note, note_size, "kvstore was built without liburing");
    *error = ENOSYS;
    return NULL;
}

#else

#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#ifndef IORING_SETUP_COOP_TASKRUN
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#endif
#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif

/* Rounds hold few operations; a ring of this size carries several batches in flight. */
enum { SQ_ENTRIES_LEAST = 8 };

typedef struct {
    engine base;
    struct io_uring ring;
    int fd;
    bool direct, fixed_buffer, file_registered, fixed_file, eventfd_registered;
    op *first_here, *last_here; /* begun, for the thread that waits */
} uring_engine;

static void add_note(char *note, size_t size, const char *text, int error) {
    size_t used = strlen(note);
    if (used < size) {
        snprintf(note + used, size - used, "%s%s (%s)", used ? "; " : "", text, strerror(error));
    }
}

static int uring_attach(engine *base, const kv_log_file *file) {
    uring_engine *e = (uring_engine *)base;
    int fd = file->fd;
    e->fd = fd;
    e->direct = file->direct;
    if (e->file_registered) {
        e->fixed_file = io_uring_register_files_update(&e->ring, 0, &fd, 1) == 1;
    } else {
        e->fixed_file = e->file_registered = io_uring_register_files(&e->ring, &fd, 1) == 0;
    }
    return 0;
}

static int prepare(uring_engine *e, op *o) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&e->ring);
    if (!sqe) {
        io_uring_submit(&e->ring);
        if (e->ring.flags & IORING_SETUP_SQPOLL) {
            io_uring_sqring_wait(
                &e->ring); /* the kernel's thread takes entries when it gets to it */
        }
        sqe = io_uring_get_sqe(&e->ring);
    }
    if (!sqe) {
        return -EBUSY;
    }
    int fd = e->fixed_file ? 0 : e->fd;
    if (o->kind == KV_OP_SYNC) {
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    } else if (e->fixed_buffer) {
        io_uring_prep_write_fixed(sqe, fd, o->data, (unsigned)o->length, o->offset, 0);
    } else {
        io_uring_prep_write(sqe, fd, o->data, (unsigned)o->length, o->offset);
    }
    if (o->kind == KV_OP_WRITE_DSYNC) {
        sqe->rw_flags = RWF_DSYNC;
        /* File systems with buffered writes that do not block (XFS, btrfs; Linux 6.0) would write
         * and sync within the submission, which an event loop must not wait for. */
        sqe->flags |= e->direct ? 0 : IOSQE_ASYNC;
    }
    if (e->fixed_file) {
        sqe->flags |= IOSQE_FIXED_FILE;
    }
    io_uring_sqe_set_data(sqe, o);
    return 0;
}

static int uring_begin(engine *base, op *o) {
    uring_engine *e = (uring_engine *)base;
    if (!o->here) {
        return prepare(e, o);
    }
    o->next = NULL;
    *(e->first_here ? &e->last_here->next : &e->first_here) = o;
    e->last_here = o;
    return 0;
}

static int uring_kick(engine *base) {
    uring_engine *e = (uring_engine *)base;
    while (io_uring_sq_ready(&e->ring) > 0) {
        int status = io_uring_submit(&e->ring);
        if (status >= 0 || status == -EAGAIN || status == -EBUSY) {
            /* What the kernel did not take stays queued. (A polling thread takes it later.) */
            return e->base.here && io_uring_sq_ready(&e->ring) > 0;
        }
        if (status != -EINTR) {
            return status;
        }
    }
    return 0;
}

/* Operations that were begun for the thread that waits. One that may not wait (an event loop) gives
 * them to the ring instead. */
static int carry_out_here(uring_engine *e, pthread_mutex_t *lock, bool block, completion *out) {
    op *o = e->first_here;
    int count = 0, status = 0;
    e->first_here = NULL;
    if (!block) {
        for (; o && status == 0; o = o->next) {
            status = prepare(e, o);
        }
        return status < 0 ? status : uring_kick(&e->base);
    }
    int fd = e->fd;
    pthread_mutex_unlock(lock);
    for (; o; o = o->next) {
        out[count].op = o;
        out[count++].result = carry_out(fd, o);
    }
    pthread_mutex_lock(lock);
    return count;
}

static int uring_wait(engine *base, pthread_mutex_t *lock, bool block, completion *out, int max) {
    uring_engine *e = (uring_engine *)base;
    struct io_uring_cqe *cqe;
    int count = 0;
    if (e->first_here) {
        count = carry_out_here(e, lock, block, out);
        if (count < 0) {
            return count;
        }
    }
    if (block && count == 0) {
        pthread_mutex_unlock(lock);
        /* Bounded, so that entries the kernel had no memory to take are handed over again. Before
         * Linux 5.11 the bound would itself be a submission, and others may be submitting now. */
        struct __kernel_timespec second = {.tv_sec = 1};
        int status = e->ring.features & IORING_FEAT_EXT_ARG
                         ? io_uring_wait_cqe_timeout(&e->ring, &cqe, &second)
                         : io_uring_wait_cqe(&e->ring, &cqe);
        pthread_mutex_lock(lock);
        if (status < 0 && status != -EINTR && status != -ETIME && status != -EAGAIN) {
            return status;
        }
    }
    while (count < max && io_uring_peek_cqe(&e->ring, &cqe) == 0) {
        out[count].op = io_uring_cqe_get_data(cqe);
        out[count].result = cqe->res;
        io_uring_cqe_seen(&e->ring, cqe);
        count++;
    }
    return count;
}

static int uring_set_eventfd(engine *base, int fd) {
    uring_engine *e = (uring_engine *)base;
    if (e->eventfd_registered) {
        io_uring_unregister_eventfd(&e->ring);
        e->eventfd_registered = false;
    }
    int status = fd >= 0 ? io_uring_register_eventfd(&e->ring, fd) : 0;
    e->eventfd_registered = fd >= 0 && status == 0;
    return status;
}

static void uring_stats(engine *base, kv_log_stats *stats) {
    uring_engine *e = (uring_engine *)base;
    stats->cqe_overflows = *e->ring.cq.koverflow;
    stats->sq_dropped = *e->ring.sq.kdropped;
}

static void uring_close(engine *base) {
    uring_engine *e = (uring_engine *)base;
    if (e->file_registered) {
        /* Now: the ring itself is taken down some time after its end, and would keep the file. */
        io_uring_unregister_files(&e->ring);
    }
    io_uring_queue_exit(&e->ring);
    free(e);
}

static int open_ring(uring_engine *e, unsigned entries, unsigned flags, unsigned idle_ms) {
    struct io_uring_params params = {.flags = IORING_SETUP_CLAMP | flags,
                                     .sq_thread_idle = idle_ms};
    return io_uring_queue_init_params(entries, &e->ring, &params);
}

/* As asked for, or what the kernel and the locked-memory limit (RLIMIT_MEMLOCK) allow. */
static int setup_ring(uring_engine *e, const kv_log_config *config, char *note, size_t note_size) {
    unsigned entries = config->sq_entries;
    unsigned single = config->single_issuer ? IORING_SETUP_SINGLE_ISSUER : 0;
    int status;
    if (config->kernel_poll) {
        status = open_ring(e, entries, IORING_SETUP_SQPOLL, config->sq_poll_idle_ms);
        if (status == 0) {
            return 0;
        }
        add_note(note, note_size, "no SQPOLL", -status);
    }
    status = open_ring(e, entries, IORING_SETUP_COOP_TASKRUN | single, 0);
    if (status == -EINVAL) {
        add_note(note, note_size, "no COOP_TASKRUN or SINGLE_ISSUER", -status);
        status = open_ring(e, entries, 0, 0);
    }
    while (status == -ENOMEM && entries > SQ_ENTRIES_LEAST) {
        entries = entries / 2 < SQ_ENTRIES_LEAST ? SQ_ENTRIES_LEAST : entries / 2;
        status = open_ring(e, entries, 0, 0);
        if (status == 0) {
            add_note(note, note_size, "a smaller ring than asked for", ENOMEM);
        }
    }
    return status;
}

static bool opcodes_present(struct io_uring *ring) {
    static const int wanted[] = {IORING_OP_WRITE, IORING_OP_WRITE_FIXED, IORING_OP_FSYNC};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool all = probe != NULL;
    for (size_t i = 0; all && i < sizeof wanted / sizeof *wanted; i++) {
        all = io_uring_opcode_supported(probe, wanted[i]);
    }
    io_uring_free_probe(probe);
    return all;
}

engine *engine_uring_new(const kv_log_config *config, uint8_t *arena, uint64_t arena_bytes,
                         char *note, size_t note_size, int *error) {
    static const engine_calls calls = {uring_attach,      uring_begin, uring_kick, uring_wait,
                                       uring_set_eventfd, uring_stats, uring_close};
    uring_engine *e = calloc(1, sizeof *e);
    if (!e) {
        return NULL;
    }
    int status = setup_ring(e, config, note, note_size);
    if (status < 0) {
        add_note(note, note_size, "the kernel refuses a ring", -status);
        *error = -status;
        free(e);
        return NULL;
    }
    if (!opcodes_present(&e->ring)) {
        add_note(note, note_size, "the kernel's ring cannot write and sync files", ENOSYS);
        *error = ENOSYS;
        uring_close(&e->base);
        return NULL;
    }
    struct iovec all = {arena, arena_bytes};
    status = io_uring_register_buffers(&e->ring, &all, 1);
    e->fixed_buffer = status == 0;
    if (status < 0) {
        add_note(note, note_size, "buffers not registered", -status);
    }
    e->base.calls = &calls;
    e->base.dsync = true;
    e->base.here = !(e->ring.flags & IORING_SETUP_SQPOLL);
    return &e->base;
}

#endif
