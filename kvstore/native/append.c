/* Appending entries to the log, and waiting until they are written. */
#include "core.h"

#include <errno.h>
#include <string.h>

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
    if (kind != KV_PAD) { /* what fills the block behind a MARK takes nothing from it */
        log->marked = kind == KV_MARK || kind == KV_SEAL;
    }
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
            round_begin(log, false, true, true) < 0) {
            return failed_meanwhile(log);
        }
        await_progress(log, 0, false);
    }
    return 0;
}

/* An entry larger than the free part of the ring goes through it piece by piece; nobody else may
 * frame meanwhile. A failure leaves half an entry, but then the log is poisoned or closed. */
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
    tell_eventfd(log); /* submit began nothing meanwhile */
    return status;
}

/* 0, or why an entry of so many bytes may not be appended now: nothing here waits. */
static int admit(kv_log *log, uint64_t length, int kind) {
    if (length > PAYLOAD_MAX) {
        return -EMSGSIZE;
    }
    int status = usable(log);
    if (status < 0) {
        return status;
    }
    if (!log->attached || log->sealed) {
        return KV_E_FULL;
    }
    if (log->next_lsn > LSN_MAX) {
        return -EOVERFLOW;
    }
    /* What a SEAL takes is kept free, and under O_DIRECT the PAD before and behind it. */
    uint64_t reserve = kind == KV_SEAL ? 0 : log->file.direct ? 3 * BLOCK : 2 * FRAME_HEADER;
    if (log->head + frame_bytes(length) + reserve > log->file.limit) {
        return KV_E_FULL;
    }
    if (log->tickets && kind != KV_SEAL &&
        log->next_lsn - log->taken_lsn > KV_TICKETS_MAX - 2 * ROUNDS_MAX) {
        skip_untaken(log, log->next_lsn);
        if (log->next_lsn - log->taken_lsn > KV_TICKETS_MAX - 2 * ROUNDS_MAX) {
            return KV_E_BUSY;
        }
    }
    return 0;
}

static void queue(kv_log *log, uint64_t length) {
    log->queued_bytes += length;
    log->queued_ops++;
}

int append(kv_log *log, const char *data, uint64_t length, uint32_t crc, int kind) {
    while (log->appending && usable(log) == 0) {
        await_progress(log, 0, false);
    }
    int status = admit(log, length, kind);
    if (status == 0 && frame_bytes(length) <= room(log)) {
        frame_into_arena(log, data, length, crc, kind);
    } else if (status == 0) {
        status = stream(log, data, length, crc, kind);
    }
    if (status == 0) {
        queue(log, length);
    }
    return status;
}

uint32_t payload_crc(const char *data, size_t length, int kind) {
    return kind == KV_CHECKED ? kv_crc32c(0, data, length) : 0;
}

/* ---- waiting ---- */

/* Waits until everything up to file offset `end` has been written, synced or not. Whoever is late
 * to look may find the log in its next file: then all of the old one is durable. */
static int wait_written(kv_log *log, uint64_t end) {
    uint64_t files = log->files;
    while (log->files == files && log->written < end) {
        int status = failed_meanwhile(log);
        if (status < 0) {
            return status;
        }
        if (log->submitted < end && round_possible(log) && !log->appending &&
            round_begin(log, false, false, true) < 0) {
            return failed_meanwhile(log);
        }
        await_progress(log, 0, false);
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

int64_t kv_log_append_relaxed(kv_log *log, const char *data, size_t length, int kind,
                              uint64_t ticket, uint64_t applied_lsn) {
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
            log->taken_lsn = applied_lsn > log->taken_lsn ? applied_lsn : log->taken_lsn;
            skip_untaken(log, lsn);
            tell_first(log); /* after an interrupt nobody may have told them */
        }
        result = (int64_t)(lsn << 1) | (log->taken_lsn + 1 != lsn);
    }
    leave(log);
    return result;
}

int64_t kv_log_try_append(kv_log *log, const char *data, size_t length, uint64_t ticket,
                          int relaxed) {
    uint32_t crc = payload_crc(data, length, KV_CHECKED);
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = admit(log, length, KV_CHECKED);
    if (result == 0 && frame_bytes(length) + 2 * BLOCK > log->arena_bytes) {
        result = -EMSGSIZE;
    } else if (result == 0 && (log->appending || frame_bytes(length) > room(log))) {
        result = -EAGAIN;
    } else if (result == 0) {
        frame_into_arena(log, data, length, crc, KV_CHECKED);
        queue(log, length);
        result = (int64_t)log->next_lsn - 1;
        set_ticket(log, (uint64_t)result, ticket, relaxed);
    }
    leave(log);
    return result == KV_E_BUSY ? -EAGAIN : result;
}

/* One put, or delete (value_length -1), framed from its parts. */
static void frame_put(kv_log *log, const char *key, uint32_t key_length, const char *value,
                      int32_t value_length) {
    uint8_t head[OP_HEADER];
    uint32_t size = value_length < 0 ? 0 : (uint32_t)value_length;
    op_header(head, value_length < 0 ? KV_DELETE : KV_PUT, key_length, size);
    uint32_t crc = kv_crc32c(0, (const char *)head, OP_HEADER);
    crc = kv_crc32c(kv_crc32c(crc, key, key_length), value, size);
    uint64_t length = (uint64_t)OP_HEADER + key_length + size;
    put_header(log, length, crc, KV_CHECKED);
    put(log, head, OP_HEADER);
    put(log, key, key_length);
    put(log, value, size);
    entry_done(log, length, KV_CHECKED);
    queue(log, length);
}

int64_t kv_log_try_puts(kv_log *log, size_t count, const char *keys, const uint32_t *key_lengths,
                        const char *values, const int32_t *value_lengths, uint64_t ticket) {
    uint64_t framed = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t value = value_lengths[i] < 0 ? 0 : (uint64_t)value_lengths[i];
        framed += frame_bytes(OP_HEADER + key_lengths[i] + value);
    }
    int64_t result = enter(log);
    if (result < 0) {
        return result;
    }
    result = framed ? admit(log, framed - FRAME_HEADER, KV_CHECKED) : -EINVAL;
    bool tickets = log->next_lsn + count - log->taken_lsn < KV_TICKETS_MAX - 2 * ROUNDS_MAX;
    if (result == 0 && (log->appending || framed > room(log) || !tickets)) {
        result = -EAGAIN;
    }
    for (size_t i = 0; result == 0 && i < count; i++) {
        frame_put(log, keys, key_lengths[i], values, value_lengths[i]);
        keys += key_lengths[i];
        values += value_lengths[i] < 0 ? 0 : value_lengths[i];
    }
    if (result == 0) {
        result = (int64_t)log->next_lsn - 1;
        set_ticket(log, (uint64_t)result, ticket, false);
    }
    leave(log);
    return result == KV_E_BUSY ? -EAGAIN : result;
}

int kv_log_seal(kv_log *log, uint64_t sealed_lsn) {
    int status = enter(log);
    if (status < 0) {
        return status;
    }
    status = usable(log);
    /* First what is queued, so that the SEAL vouches for it. */
    while (status == 0 && !log->sealed &&
           (log->appending || log->durable_lsn + 1 < log->next_lsn)) {
        if (log->durable_lsn + 1 < log->next_lsn) {
            status = wait_durable(log, log->next_lsn - 1);
        } else {
            await_progress(log, 0, false);
            status = failed_meanwhile(log);
        }
    }
    if (status == 0 && !log->sealed) {
        if (sealed_lsn == 0 || sealed_lsn + 1 != log->next_lsn) {
            status = append(log, NULL, 0, 0, KV_SEAL);
            log->queued_ops -= status == 0; /* not an entry of the caller's */
        }
        log->sealed = status == 0;
    }
    status = status == 0 ? wait_durable(log, log->next_lsn - 1) : status;
    leave(log);
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
