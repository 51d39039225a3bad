/* An engine driven from Python, for simulated and faulty file systems. Python sees each operation
 * when somebody waits, and says in which order and with what result they complete. The callbacks
 * run without the log's lock and must not call the log they serve. */
#include "core.h"

#include <stdlib.h>

/* Defined by cffi (extern "Python+C"). */
extern void kv_python_begin(uint64_t handle, uint64_t id, int kind, const char *data,
                            uint64_t length, uint64_t offset);
extern int kv_python_wait(uint64_t handle, int block, uint64_t *ids, int64_t *results, int max);

typedef struct {
    engine base;
    uint64_t handle;
    op *first, *last; /* begun, not shown to Python yet */
} python_engine;

static int python_attach(engine *base, const kv_log_file *file) {
    (void)base;
    (void)file;
    return 0;
}

static int python_begin(engine *base, op *o) {
    python_engine *e = (python_engine *)base;
    o->next = NULL;
    *(e->first ? &e->last->next : &e->first) = o;
    e->last = o;
    return 0;
}

static int python_kick(engine *base) {
    (void)base;
    return 0;
}

static int python_wait(engine *base, pthread_mutex_t *lock, bool block, completion *out, int max) {
    python_engine *e = (python_engine *)base;
    op *begun = e->first;
    e->first = NULL;
    uint64_t ids[COMPLETIONS_MAX];
    int64_t results[COMPLETIONS_MAX];
    pthread_mutex_unlock(lock);
    for (op *o = begun, *next; o; o = next) {
        next = o->next;
        kv_python_begin(e->handle, (uint64_t)(uintptr_t)o, o->kind, (const char *)o->data,
                        o->length, o->offset);
    }
    int count = kv_python_wait(e->handle, block, ids, results, max);
    pthread_mutex_lock(lock);
    for (int i = 0; i < count; i++) {
        out[i].op = (op *)(uintptr_t)ids[i];
        out[i].result = results[i];
    }
    return count;
}

static void python_stats(engine *base, kv_log_stats *stats) {
    (void)base;
    (void)stats;
}

static void python_close(engine *base) { free(base); }

engine *engine_python_new(uint64_t handle, bool dsync) {
    static const engine_calls calls = {python_attach, python_begin, python_kick, python_wait,
                                       NULL,          python_stats, python_close};
    python_engine *e = calloc(1, sizeof *e);
    if (e) {
        e->base.calls = &calls;
        e->base.dsync = dsync;
        e->handle = handle;
    }
    return e ? &e->base : NULL;
}
