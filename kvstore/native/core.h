/* What the parts of the log core share. append.c frames entries, commit.c waits for them, submit.c
 * serves callers that do not wait, ticket.c says what may be applied; round.c takes bytes to the
 * device and says when they are durable, engine_*.c carry out single operations; log.c begins and
 * ends it all.
 *
 * Memory. Entries are framed into an arena used as a ring: file offset p lies at arena[(p - origin)
 * mod size], so one number says where a byte is in both. Bytes between `written` and `head` are
 * pinned: their write has not completed.
 *
 *     written <= submitted <= head        (file offsets)
 *
 * Rounds. A round is one trip to the device: at most two writes (the ring wraps) and, when it is to
 * be durable, the sync that covers them. Several may be in flight and finish in any order; the
 * durable watermark moves over them strictly in the order in which they began, and stops for good
 * at the first that failed.
 *
 * Waiting. There is no I/O thread on the threaded path. Of the callers that wait, one (the driver)
 * waits for the device; when completions arrive it wakes one of those whose entries became durable,
 * who wakes the next, and one more to take its own place. Who waits to be applied is woken when
 * that is done (commit.c).
 */
#ifndef KV_CORE_H
#define KV_CORE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwritev2, clock_gettime under -std=c11 */
#endif

#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64 /* off_t, on 32-bit systems; before any header of the system */
#endif

#include "frame.h"

#include <pthread.h>
#include <stdbool.h>

enum { ROUNDS_MAX = 64, OPS_PER_ROUND = 3, COMPLETIONS_MAX = ROUNDS_MAX * OPS_PER_ROUND };
#define PATIENCE_NS_MAX ((uint64_t)50 * 1000 * 1000)
enum { BLOCK = 4096, RETRIES_MAX = 100, TRIALS_EACH = 8 };

struct round;

typedef struct op {
    struct round *round;
    const uint8_t *data;
    uint64_t offset;
    uint64_t length;
    int kind;  /* KV_OP_... */
    bool here; /* the waiting thread carries it out, not the ring */
    int retries;
    struct op *next; /* in an engine's list of operations not begun */
} op;

/* RIDING: the sync of a later round, which has begun, covers this one too. */
typedef enum { WRITING, WRITTEN, RIDING, SYNCING, DONE, FAILED } round_state;

typedef struct round {
    uint64_t start, end;               /* file offsets between which it writes */
    uint64_t lsn;                      /* last entry it makes durable; 0: it only writes */
    uint64_t queued_bytes, queued_ops; /* of the batch that it took along */
    uint64_t queue_start;              /* where that batch began */
    uint64_t began_ns;
    int trial;            /* the sync strategy that this round measures, or 0 */
    int in_flight;        /* operations begun and not completed */
    bool durable;         /* must end with a sync */
    bool needs_fdatasync; /* its writes do not sync themselves */
    bool here;            /* its operations are for the waiting thread */
    round_state state;
    op ops[OPS_PER_ROUND];
} round_t;

typedef struct {
    op *op;
    int64_t result;
} completion;

/* An engine carries out operations. Every call is made with the log's lock held; wait may release
 * it while it waits, and only one thread (the driver) is ever in wait. */
typedef struct engine engine;
typedef struct {
    int (*attach)(engine *, const kv_log_file *file);
    int (*begin)(engine *, op *); /* takes the operation; it may start now or in kick or wait */
    int (*kick)(engine *);        /* hands over what was begun, without waiting; 1: not all of it */
    int (*wait)(engine *, pthread_mutex_t *lock, bool block, completion *out, int max);
    int (*set_eventfd)(engine *, int fd); /* NULL: the log itself writes to it */
    void (*stats)(engine *, kv_log_stats *);
    void (*close)(engine *);
} engine_calls;

struct engine {
    const engine_calls *calls;
    bool waits_in_caller; /* wait does the work itself: submit needs a thread for it */
    bool dsync;           /* can do KV_OP_WRITE_DSYNC */
    bool here;            /* a ring that leaves single operations to the waiting thread */
};

typedef struct waiter {
    uint64_t lsn; /* wake when durable; 0: wake at any progress */
    bool applied; /* wake only when somebody has applied it, or nobody is about to */
    pthread_cond_t cond;
    bool woken;
    struct waiter *next, *previous;
} waiter;

/* The more often it was disappointed, the more rounds go by before it is given again. */
typedef struct {
    unsigned misses, pause;
} trust;

struct kv_log {
    pthread_mutex_t lock;
    engine *engine;
    kv_log_config config;
    unsigned generation; /* of forks, when made */
    pthread_t owner;

    kv_log_file file;
    uint64_t files;      /* attached so far */
    pthread_cond_t idle; /* users became 0 */
    uint8_t *arena;
    uint64_t arena_bytes;
    uint64_t origin, written, submitted, head;

    uint64_t next_lsn, submitted_lsn, durable_lsn;
    bool unsynced_bytes; /* written earlier without a sync: the next sync must cover the file */

    uint64_t queue_start, queued_bytes, queued_ops;

    round_t rounds[ROUNDS_MAX]; /* a FIFO */
    int first_round, round_count, rounds_max;
    int ops_in_flight;
    int users; /* threads inside a call that may wait */

    bool driving, appending, sealed, closed, attached, broken;
    bool marked; /* the last entry framed is a MARK or a SEAL */
    int error, error_operation;

    waiter *waiters_first, *waiters_last; /* by LSN */

    int strategy; /* KV_SYNC_... in force */
    int trials;
    uint64_t trial_ns[KV_SYNC_CALL + 1][TRIALS_EACH];

    /* Gathering: threads that have just been told are likely to come again. */
    uint64_t gather_ops, gather_until_ns; /* a round waits until so many are queued, or so long */
    uint64_t sync_ns;                     /* what a durable round took lately */
    waiter *gatherer; /* sees to it that the round begins in time; NULL once it has begun */
    trust in_coming;  /* in those who were told, to come again soon */

    /* Telling: see commit.c. */
    unsigned tellable; /* so many of those whose entry is applied may be woken now */
    uint64_t
        away_ns; /* the shortest time after which one who was told has come again, of a round */
    uint64_t told_ns; /* when the last one was */
    uint64_t wait_ns; /* what they waited lately */
    trust in_passing_on;

    uint64_t taken_lsn;
    bool applying; /* a caller of kv_log_append_apply has been told to, and has so long for it */
    uint64_t applying_until_ns;
    uint64_t *tickets; /* by lsn % KV_TICKETS_MAX; ~0 = none */
    bool *relaxed;

    int eventfd;
    bool worker_running, worker_stop;
    pthread_t worker;
    pthread_cond_t worker_wake;

    kv_log_stats stats;
};

/* engine_*.c */
engine *engine_pwrite_new(void);
/* One operation by plain system calls; what it wrote, 0 for a sync, or -errno. */
int64_t carry_out(int fd, const op *o);
engine *engine_python_new(uint64_t handle, bool dsync);
engine *engine_uring_new(const kv_log_config *config, uint8_t *arena, uint64_t arena_bytes,
                         char *note, size_t note_size, int *error);

/* round.c */
uint64_t clock_ns(void);
bool round_possible(const kv_log *log);
/* Begins a round that ends at head; durable or only written. `partial`: an entry is still being
 * framed. `caller_waits`: in this thread, for the device. */
int round_begin(kv_log *log, bool durable, bool partial, bool caller_waits);
/* Takes completions once, waiting for the first when `block`. Only when !log->driving. */
void round_drive(kv_log *log, bool block);
/* Tells an event loop to look again: reap, and submit what could not be begun before. */
void tell_eventfd(kv_log *log);
/* The engine itself is gone: what is in flight will never be answered. */
void engine_lost(kv_log *log, int error);
/* Puts what never became durable back in the queue. */
void requeue_failed(kv_log *log);
/* Wakes those whose entry is durable or will never be, and those who wait for any progress. */
void wake_waiters(kv_log *log);
/* Wakes one who still waits, to drive or to begin the next round: for a driver that leaves. */
void wake_successor(kv_log *log);
/* Gives the lock up until progress is made: drives, or waits for who drives. The caller waits for
 * lsn (0: for anything), to be `applied` or just durable, and looks again. */
void await_progress(kv_log *log, uint64_t lsn, bool applied);
/* Waits in the list, without driving, until woken: true; or until deadline_ns: false. 0: without
 * end, but who waits to be applied, as long as his patience lasts. */
bool wait_in_list(kv_log *log, waiter *me, uint64_t deadline_ns);
/* Wakes the first one who waits for nothing any more; whoever is woken does the same. */
void wake_next(kv_log *log);
/* Wakes one whose entry is durable and that nobody is about to apply. */
void wake_applier(kv_log *log);

/* log.c */
/* Takes the lock and says whether the log may be used; on success pairs with leave(). */
int enter(kv_log *log);
void leave(kv_log *log);
/* 0, or why nothing more may be written. */
int usable(const kv_log *log);
/* The same for who was waiting when it failed: the cause itself. */
int failed_meanwhile(const kv_log *log);

/* commit.c */
/* Waits until entry lsn is durable; 0, or why it will never be. */
int wait_durable(kv_log *log, uint64_t lsn);
/* After a durable round: how many are to be waited for before the next. */
void plan_gathering(kv_log *log);
/* More is applied: the first of those who wait for that are told. */
void tell_first(kv_log *log);
/* One who waited so long for that knows it now; when not by another, the rest are to be told. */
void was_told(kv_log *log, bool by_another, uint64_t waited_ns);
/* How long one who waits for that waits before he looks again by himself. */
uint64_t patience_ns(const kv_log *log);

/* append.c */
/* Frames one entry at the end of the queue, with the lock held. */
int append(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind);
uint32_t payload_crc(const char *data, size_t length, int kind);
void frame_into_arena(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind);

/* ticket.c */
#define NO_TICKET UINT64_MAX
void set_ticket(kv_log *log, uint64_t lsn, uint64_t ticket, bool relaxed);
/* Passes over what nobody applies, up to `before`. */
void skip_untaken(kv_log *log, uint64_t before);

#endif
