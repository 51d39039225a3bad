/* The C core as Python sees it. build.py gives this file, less its preprocessor lines, to cffi.
 *
 * Python decides, C moves bytes: nothing here names a file, picks a size or knows a format beyond
 * the specification in kvstore/wal/format.py and kvstore/batch.py.
 *
 * Functions return a negative number on failure: -errno, or one of KV_E... below.
 */
#ifndef KV_H
#define KV_H

#include <stddef.h>
#include <stdint.h>

enum {
    KV_E_FULL = -10001,     /* no room below the file's limit; nothing changed */
    KV_E_CLOSED = -10002,   /* after kv_log_close */
    KV_E_POISONED = -10003, /* an earlier write or sync failed; see kv_log_error */
    KV_E_FORKED = -10004,   /* called in a child of the process that made the log */
    KV_E_THREAD = -10005,   /* single_issuer was promised, and this is another thread */
    KV_E_BUSY = -10006      /* too many entries wait for kv_log_taken */
};

/* ---- crc32c.c ---- */

/* CRC-32C of data, continuing from crc (0 to begin). */
uint32_t kv_crc32c(uint32_t crc, const char *data, size_t length);
/* The same by table alone, whatever the processor. */
uint32_t kv_crc32c_portable(uint32_t crc, const char *data, size_t length);
/* "sse4.2", "armv8" or "table": what this processor lets us use. */
const char *kv_crc32c_implementation(void);

/* ---- frame.c: reading log entries ---- */

enum { KV_PLAIN = 1, KV_CHECKED = 2, KV_PAD = 3, KV_MARK = 4, KV_SEAL = 5, KV_IGNORABLE = 0x80 };

/* Why kv_scan stopped. */
enum {
    KV_STOP_ROWS = 0,    /* rows is full; call again */
    KV_STOP_END = 1,     /* fewer bytes than an entry header are left */
    KV_STOP_MORE = 2,    /* a valid header whose payload ends beyond the data: give `need` bytes */
    KV_STOP_HEADER = 3,  /* no valid entry header here */
    KV_STOP_LSN = 4,     /* a valid header, but not of the entry that comes next */
    KV_STOP_PAYLOAD = 5, /* the payload's checksum does not match */
    KV_STOP_KIND = 6     /* a kind this version does not know and may not ignore */
};

enum { KV_ROW = 5 }; /* payload start, payload end, lsn, kind, unsynced */

typedef struct {
    size_t position;       /* in: where to begin; out: where the scan stopped */
    uint64_t lsn;          /* in and out: of the entry expected at position */
    uint64_t user_entries; /* in and out: PLAIN and CHECKED ones seen are added */
    uint64_t need;         /* out, KV_STOP_MORE: bytes from position that the entry takes */
    uint32_t seed;         /* in: CRC-32C of the salt */
    uint32_t expected;     /* out, KV_STOP_PAYLOAD: the checksum in the file */
    uint32_t actual;       /* out, KV_STOP_PAYLOAD: the checksum of the bytes */
    int stop;              /* out */
} kv_scan_state;

/* Validates entries and writes a row of KV_ROW numbers for each, at most max_rows; returns how
 * many. */
size_t kv_scan(kv_scan_state *state, const char *data, size_t size, int64_t *rows, size_t max_rows);

/* The first position >= from, in steps of 8, holding a valid entry header with lsn_min <= lsn <=
 * lsn_max; -1 when there is none. Fills one row (payload end may lie beyond size). */
int64_t kv_find_entry(const char *data, size_t size, size_t from, uint32_t seed, uint64_t lsn_min,
                      uint64_t lsn_max, int64_t *row);

/* Writes the 24 bytes of an entry header. */
void kv_frame_header(char *out, uint32_t seed, uint32_t payload_crc, uint32_t length,
                     uint32_t unsynced, uint64_t lsn, int kind);

/* The number of bytes up to and including the last one that is not zero. */
size_t kv_used_bytes(const char *data, size_t size);

/* ---- batch.c: decoding write batches ---- */

enum { KV_PUT = 1, KV_DELETE = 2 };
enum { KV_OP = 3 }; /* key start, key end, value end (-1: deleted); the value follows the key */

/* Decodes the batches in rows first_row.. (rows of other kinds hold none) until `ops` is full, and
 * sets *rows_done to the row to go on with. Returns the number of operations, or -1 - row when the
 * batch of that row is malformed. A batch is never split: when even the first does not fit, returns
 * 0 with *rows_done unchanged. */
int64_t kv_decode_batches(const char *data, const int64_t *rows, size_t first_row, size_t row_count,
                          int64_t *ops, size_t max_ops, size_t *rows_done);

/* ---- log.c: the log ---- */

enum { KV_ENGINE_PWRITE = 1, KV_ENGINE_URING = 2, KV_ENGINE_PYTHON = 3 };
/* How a batch becomes durable. CALL is for a ring: a thread that waits, with nothing else in
 * flight, calls pwritev2 itself, and the ring carries all the rest. */
enum { KV_SYNC_MEASURE = 0, KV_SYNC_DSYNC = 1, KV_SYNC_FDATASYNC = 2, KV_SYNC_CALL = 3 };
enum { KV_OP_WRITE = 1, KV_OP_WRITE_DSYNC = 2, KV_OP_SYNC = 3 };
enum { KV_HISTOGRAM = 32, KV_TICKETS_MAX = 65536 };

typedef struct {
    int engine;
    int sync_strategy;
    int kernel_poll;    /* ask for SQPOLL */
    int single_issuer;  /* promise: only the thread that makes the log ever submits */
    int record_tickets; /* keep tickets for kv_log_ready */
    uint32_t sq_entries;
    uint32_t sq_poll_idle_ms;
    uint32_t max_inflight;
    uint32_t batches_in_flight; /* of submit, at most; 0: max_inflight tells */
    uint64_t arena_bytes;       /* memory for entries not yet written */
    uint64_t batch_bytes;       /* payload bytes at which append_batched flushes */
    uint64_t python_handle;
    int python_dsync; /* takes KV_OP_WRITE_DSYNC */
} kv_log_config;

typedef struct {
    int fd;
    int direct;        /* fd is O_DIRECT: write whole 4096-byte blocks */
    uint32_t seed;     /* CRC-32C of the salt */
    uint64_t base;     /* file offset of log offset 0 */
    uint64_t position; /* file offset of the next entry */
    uint64_t limit;    /* file offset that no entry may cross */
    uint64_t next_lsn;
} kv_log_file;

typedef struct {
    uint64_t ops_submitted, ops_completed, bytes_written, syncs, entries, batches;
    uint64_t cqe_overflows, sq_dropped;
    uint64_t sync_latency_us[32];
} kv_log_stats;

typedef struct kv_log kv_log;

/* `note` receives what was degraded, or why it failed, in words. NULL on failure, *error set. */
kv_log *kv_log_new(const kv_log_config *config, char *note, size_t note_size, int *error);
/* Stops all work, waits for what is in flight, releases everything but the struct; idempotent. */
void kv_log_close(kv_log *log);
void kv_log_free(kv_log *log);

/* Sets the LSN of the first entry, for a log that gets its first file later. Before any attach. */
int kv_log_begin(kv_log *log, uint64_t next_lsn);
/* Goes on in another file. Everything appended so far must be durable. */
int kv_log_attach(kv_log *log, const kv_log_file *file);
/* Raises the limit (the file was made longer). */
int kv_log_extend(kv_log *log, uint64_t limit);
/* Appends a SEAL, unless the log still ends with sealed_lsn, the SEAL that it was opened with;
 * makes all durable, and answers KV_E_FULL until the next attach. */
int kv_log_seal(kv_log *log, uint64_t sealed_lsn);

/* Writes at once what is queued and this entry, unsynced; returns the entry's log offset. */
int64_t kv_log_append(kv_log *log, const char *data, size_t length, int kind);
/* Queues; returns pending payload bytes, this entry's counted. */
int64_t kv_log_append_batched(kv_log *log, const char *data, size_t length, int kind);
/* Queues and waits until durable, sharing the device write with whoever else waits; returns the
 * LSN. */
int64_t kv_log_append_commit(kv_log *log, const char *data, size_t length, int kind,
                             uint64_t ticket);
/* Queues a checked entry and waits until it is durable, and applied: returns LSN * 2; or + 1 when
 * the caller has to look after what kv_log_ready gives, which others wait for. */
int64_t kv_log_append_apply(kv_log *log, const char *data, size_t length, uint64_t ticket);
/* The same for a batch that is one small put; -EMSGSIZE when it is not small. */
int64_t kv_log_put_apply(kv_log *log, const char *key, size_t key_length, const char *value,
                         size_t value_length, uint64_t ticket);
/* Queues; returns LSN * 2, + 1 when an entry before it is still to be applied. applied_lsn: what
 * the caller has applied, as if told to kv_log_taken. */
int64_t kv_log_append_relaxed(kv_log *log, const char *data, size_t length, int kind,
                              uint64_t ticket, uint64_t applied_lsn);
/* The same for a batch that is one small put; -EMSGSIZE when it is not small. */
int64_t kv_log_put_relaxed(kv_log *log, const char *key, size_t key_length, const char *value,
                           size_t value_length, uint64_t ticket, uint64_t applied_lsn);
/* Queues a checked entry if that can be done without waiting; returns the LSN. -EAGAIN: when
 * something has completed, try again. -EMSGSIZE: too large for that, and KV_E_FULL: for a way that
 * waits. `relaxed` as for kv_log_append_relaxed. */
int64_t kv_log_try_append(kv_log *log, const char *data, size_t length, uint64_t ticket,
                          int relaxed);
/* The same for many batches of one put or delete each, all of them or none: their keys one after
 * the other, and their values, with the lengths (value length -1: a delete). The ticket is that of
 * the last one, and stands for all. */
int64_t kv_log_try_puts(kv_log *log, size_t count, const char *keys, const uint32_t *key_lengths,
                        const char *values, const int32_t *value_lengths, uint64_t ticket);
/* Queues a MARK when something durable has no later witness; returns 1 if it did, else 0. */
int kv_log_mark(kv_log *log);

int kv_log_flush(kv_log *log);                /* everything appended so far becomes durable */
int kv_log_commit(kv_log *log, uint64_t lsn); /* waits until lsn is durable */
int64_t kv_log_submit(kv_log *log);           /* begins a batch, waits for nothing; its last LSN */
int64_t kv_log_reap(kv_log *log);            /* takes completions, waits for nothing; durable LSN */
int kv_log_set_eventfd(kv_log *log, int fd); /* told of completions; -1: nobody */

/* Entries with a ticket whose turn to be applied has come, in LSN order: (ticket, lsn) pairs. They
 * come again until kv_log_taken names an LSN at or behind them. */
size_t kv_log_ready(kv_log *log, uint64_t *pairs, size_t max_pairs);
void kv_log_taken(kv_log *log, uint64_t lsn);

uint64_t kv_log_pending_bytes(kv_log *log);
uint64_t kv_log_pending_ops(kv_log *log);
uint64_t kv_log_size(kv_log *log); /* log offset behind the last entry that is not queued */
uint64_t kv_log_end(kv_log *log);  /* file offset behind the last entry framed */
uint64_t kv_log_last_lsn(kv_log *log);
uint64_t kv_log_durable_lsn(kv_log *log);
int kv_log_sync_strategy(kv_log *log); /* KV_SYNC_MEASURE while undecided */
/* The caller's own sync of the log's file failed, which ends the log's life for writing too. */
int kv_log_fail(kv_log *log, int error);
int kv_log_error(kv_log *log, int *operation); /* first errno (0: none) and the KV_OP that met it */
void kv_log_stats_get(kv_log *log, kv_log_stats *out);

/* 1 when the extension was built with liburing. */
int kv_has_uring(void);

#endif
