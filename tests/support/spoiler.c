/* Spoils what its own process asks of the files below one directory: the n-th operation of some
 * kinds, once or from then on. Preloaded, compiled and told what to do by spoiler.py.
 *
 * Syncs are counted, and fail when told to; one that succeeds does nothing, since no test here cuts
 * the power. What does not come through libc is not seen: for writes of a ring, a limit on the size
 * of files is set instead of a failure, which the kernel's own writes meet as well.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* pwritev2, O_PATH, RWF_DSYNC */
#endif

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* An offset is one argument of a system call only where it fits into a register. */
_Static_assert(sizeof(long) == 8 && sizeof(off_t) == 8, "made for 64 bits");

/* In the order of KINDS in spoiler.py. */
enum { WRITE, SYNC_WRITE, SYNC, SYNC_DIRECTORY, RENAME, UNLINK, TRUNCATE, PREALLOCATE, OPEN, READ };

/* How much of a write or read is done; in the order of KEEPS in spoiler.py. */
enum { KEEP_NONE, KEEP_ONE, KEEP_HALF, KEEP_ALL_BUT_ONE };

static char directory[1024];
static size_t directory_length;
static unsigned spoiled_kinds;
static int error_number, kept;
static int64_t size_limit;
static bool for_ever;
static atomic_int_fast64_t fail_at, count, failures;

void kvstore_spoil(const char *below, unsigned kinds, int64_t at, int forever, int error, int keep,
                   int64_t limit);
void kvstore_heal(void);
int64_t kvstore_spoil_count(void);
int64_t kvstore_spoil_failures(void);

static void limit_size(rlim_t limit) {
    struct rlimit both = {limit, RLIM_INFINITY};
    setrlimit(RLIMIT_FSIZE, &both);
}

/* While no other thread touches files there. Counting begins anew; at < 0: nothing fails. */
void kvstore_spoil(const char *below, unsigned kinds, int64_t at, int forever, int error, int keep,
                   int64_t limit) {
    directory_length = strlen(below);
    if (directory_length >= sizeof directory) {
        directory_length = 0;
    }
    memcpy(directory, below, directory_length);
    spoiled_kinds = kinds;
    for_ever = forever;
    error_number = error;
    kept = keep;
    size_limit = limit;
    atomic_store(&count, 0);
    atomic_store(&failures, 0);
    atomic_store(&fail_at, at);
}

void kvstore_heal(void) {
    atomic_store(&fail_at, -1);
    if (size_limit) {
        limit_size(RLIM_INFINITY);
    }
}

int64_t kvstore_spoil_count(void) { return atomic_load(&count); }

int64_t kvstore_spoil_failures(void) { return atomic_load(&failures); }

/* Whether this operation is to fail. */
static bool hit(int kind) {
    if (!(spoiled_kinds >> kind & 1)) {
        return false;
    }
    int64_t at = atomic_load(&fail_at), index = atomic_fetch_add(&count, 1);
    if (at < 0 || index < at) {
        return false;
    }
    if (size_limit) { /* the operation itself goes on, and may meet the limit */
        if (index == at) {
            limit_size((rlim_t)size_limit);
            atomic_fetch_add(&failures, 1);
        } else if (!for_ever) {
            limit_size(RLIM_INFINITY);
        }
        return false;
    }
    if (index > at && !for_ever) {
        return false;
    }
    atomic_fetch_add(&failures, 1);
    return true;
}

static bool is_below(const char *path) {
    return directory_length && strncmp(path, directory, directory_length) == 0;
}

static bool path_fails(int kind, const char *path) {
    int before = errno;
    bool fails = is_below(path) && hit(kind);
    errno = fails && error_number ? error_number : before;
    return fails && error_number;
}

static bool is_ours(int fd) {
    char link[40], path[sizeof directory];
    if (!directory_length) {
        return false;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int before = errno;
    ssize_t length = syscall(SYS_readlink, link, path, sizeof path - 1);
    errno = before;
    if (length < 0) {
        return false;
    }
    path[length] = 0;
    return is_below(path);
}

/* The length that is left to do; -1 with errno set when the operation fails. */
static ssize_t left(int kind, int fd, size_t length) {
    if (!is_ours(fd) || !hit(kind)) {
        return (ssize_t)length;
    }
    if (error_number) {
        errno = error_number;
        return -1;
    }
    switch (kept) {
    case KEEP_NONE:
        return 0;
    case KEEP_ONE:
        return length ? 1 : 0;
    case KEEP_HALF:
        return (ssize_t)(length - length / 2);
    default:
        return length > 1 ? (ssize_t)length - 1 : (ssize_t)length;
    }
}

static int do_sync(int fd, long call) {
    if (!is_ours(fd)) {
        return (int)syscall(call, fd);
    }
    struct stat what;
    int kind = fstat(fd, &what) == 0 && S_ISDIR(what.st_mode) ? SYNC_DIRECTORY : SYNC;
    if (hit(kind) && error_number) {
        errno = error_number;
        return -1;
    }
    return 0;
}

int fsync(int fd) { return do_sync(fd, SYS_fsync); }

int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    ssize_t size = left(WRITE, fd, length);
    return size <= 0 && length ? size : syscall(SYS_pwrite64, fd, data, (size_t)size, offset);
}

/* As kvstore calls it: of one part. */
ssize_t pwritev2(int fd, const struct iovec *parts, int parts_count, off_t offset, int flags) {
    if (parts_count != 1 || !is_ours(fd)) {
        return syscall(SYS_pwritev2, fd, parts, parts_count, offset, 0L, flags);
    }
    ssize_t size = left(SYNC_WRITE, fd, parts->iov_len);
    struct iovec part = {parts->iov_base, (size_t)size};
    return size <= 0 ? size : syscall(SYS_pwritev2, fd, &part, 1, offset, 0L, flags & ~RWF_DSYNC);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    ssize_t size = left(READ, fd, length);
    return size < 0 ? size : syscall(SYS_pread64, fd, data, (size_t)size, offset);
}

int ftruncate(int fd, off_t size) {
    if (is_ours(fd) && hit(TRUNCATE) && error_number) {
        errno = error_number;
        return -1;
    }
    return (int)syscall(SYS_ftruncate, fd, size);
}

/* Tells by its result, not by errno. */
int posix_fallocate(int fd, off_t offset, off_t size) {
    if (is_ours(fd) && hit(PREALLOCATE) && error_number) {
        return error_number;
    }
    return syscall(SYS_fallocate, fd, 0, offset, size) ? errno : 0;
}

int rename(const char *old, const char *new) {
    return path_fails(RENAME, new) ? -1
                                   : (int)syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0);
}

int unlink(const char *path) {
    return path_fails(UNLINK, path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static int do_open(const char *path, int flags, mode_t mode) {
    bool counts = !(flags & (O_DIRECTORY | O_PATH));
    return counts && path_fails(OPEN, path) ? -1
                                            : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static mode_t mode_of(int flags, va_list more) {
    return flags & (O_CREAT | __O_TMPFILE) ? (mode_t)va_arg(more, unsigned) : 0;
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return do_open(path, flags, mode);
}

#ifdef __GLIBC__ /* elsewhere these names are macros */
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return do_open(path, flags, mode);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return pwrite(fd, data, length, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int parts_count, off64_t offset, int flags) {
    return pwritev2(fd, parts, parts_count, offset, flags);
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    return pread(fd, data, length, offset);
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    return posix_fallocate(fd, offset, size);
}
#endif
