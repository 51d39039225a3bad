/* Counts what a process asks the kernel to make durable; preloaded, compiled by sync_counter.py.
 *
 * Each function does the system call itself, and counts when it succeeded. What does not come
 * through these functions of libc is not seen: io_uring, and inline system calls.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwritev2, sync_file_range */
#endif

#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* An offset is one argument of a system call only where it fits into a register. */
_Static_assert(sizeof(long) == 8 && sizeof(off_t) == 8, "made for 64 bits");

enum { FSYNC, FDATASYNC, MSYNC, SYNC_WRITE, SYNC_FILE_RANGE, KINDS };

static _Atomic int64_t counts[KINDS];

int64_t kvstore_bench_syncs(int kind);

/* How often that has been done since the process began; -1 for an unknown kind. */
int64_t kvstore_bench_syncs(int kind) {
    return kind >= 0 && kind < KINDS ? atomic_load(&counts[kind]) : -1;
}

static long counted(int kind, long result) {
    if (result >= 0) {
        atomic_fetch_add_explicit(&counts[kind], 1, memory_order_relaxed);
    }
    return result;
}

/* O_SYNC contains O_DSYNC. Asked each time, for a descriptor may be a copy of another: 0.1 us. */
static long counted_write(int fd, long result) {
    if (result >= 0) {
        int flags = fcntl(fd, F_GETFL);
        return flags >= 0 && (flags & O_DSYNC) ? counted(SYNC_WRITE, result) : result;
    }
    return result;
}

int fsync(int fd) { return (int)counted(FSYNC, syscall(SYS_fsync, fd)); }

int fdatasync(int fd) { return (int)counted(FDATASYNC, syscall(SYS_fdatasync, fd)); }

int msync(void *address, size_t length, int flags) {
    long result = syscall(SYS_msync, address, length, flags);
    return (int)(flags & MS_SYNC ? counted(MSYNC, result) : result);
}

int sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags) {
    return (int)counted(SYNC_FILE_RANGE, syscall(SYS_sync_file_range, fd, offset, bytes, flags));
}

ssize_t write(int fd, const void *data, size_t length) {
    return counted_write(fd, syscall(SYS_write, fd, data, length));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return counted_write(fd, syscall(SYS_writev, fd, parts, count));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return counted_write(fd, syscall(SYS_pwrite64, fd, data, length, offset));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return counted_write(fd, syscall(SYS_pwritev, fd, parts, count, offset, 0L));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    long result = syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
    /* RWF_SYNC does not contain RWF_DSYNC. */
    return flags & (RWF_DSYNC | RWF_SYNC) ? counted(SYNC_WRITE, result) : counted_write(fd, result);
}

#ifdef __GLIBC__ /* elsewhere these names are macros */
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return pwrite(fd, data, length, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(fd, parts, count, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}
#endif
