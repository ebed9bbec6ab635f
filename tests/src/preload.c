/* Stands between the broker and the disk (LD_PRELOAD): records what is written and synced below one folder, makes syncs and
 * writes fail, fakes the free space, moves the wall clock, and kills the process. What it does is told by a file that a test maps too, so that
 * a test can change its mind while the broker runs. `preload.rs` is the other end; files elsewhere are left alone.
 *
 *   PRELOAD_DIR      the folder, absolute
 *   PRELOAD_CONTROL  the file of `struct control`
 *   PRELOAD_RECORD   where to append what happens; without it nothing is recorded
 *
 * Only what Rust's std and sled call is caught. The harness compares what was recorded with what is on the disk after every
 * run, so a call that is missing here is found out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Words of 8 bytes, native order; preload.rs names them by their place. */
struct control {
    _Atomic int64_t processes;       /* 0: how many have loaded this */
    _Atomic int64_t next_file;       /* 1: gives every open file a number of its own */
    _Atomic int64_t syncs;           /* 2: fsync and fdatasync that began */
    _Atomic int64_t fail_from;       /* 3: those counted from here on fail with EIO … */
    _Atomic int64_t fail_until;      /* 4: … up to here, this one not */
    _Atomic int64_t failed_syncs;    /* 5 */
    _Atomic int64_t sync_delay_ms;   /* 6: every sync takes so much longer */
    _Atomic int64_t room;            /* 7: how many bytes may still be written; negative: no bound */
    _Atomic int64_t room_is_for_all; /* 8: 0: only bytes that make a file longer take room; 1: all do */
    _Atomic int64_t refused_writes;  /* 9: with ENOSPC */
    _Atomic int64_t free_bytes;      /* 10: what statvfs and its kin say; negative: the truth */
    _Atomic int64_t free_asked;      /* 11: how often they were called */
    _Atomic int64_t clock_shift_ms;  /* 12: added to CLOCK_REALTIME */
    _Atomic int64_t clock_asked;     /* 13: how often it was read */
    _Atomic int64_t kill_in;         /* 14: the process is killed at this moment, counted before and after each rename; 0: never */
    _Atomic int64_t fail_opens;      /* 15: whatever is opened fails with this error; 0: nothing does */
    _Atomic int64_t refused_opens;   /* 16: how often */
};

/* One event of the record; `len` bytes follow: a path within the folder, two with a NUL between, or data. */
struct event {
    uint32_t kind;
    int32_t error; /* of SYNCED: errno, or 0 */
    uint64_t file; /* the number its open was given */
    uint64_t at;   /* offset, length, or the number of the sync */
    uint64_t len;
};
enum { OPEN = 1, CREATE, TRUNCATE, WRITE, RENAME, UNLINK, MKDIR, SYNC, SYNCED };

static struct control no_control = {.room = -1, .free_bytes = -1}, *control = &no_control;
static char folder[PATH_MAX];
static size_t folder_len;
static int record_fd = -1;
/* Held over a call and its event, so that the record has the order in which things happened. */
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

#define MAX_FDS 65536
static struct open_file {
    uint64_t file; /* 0: not ours */
    dev_t dev;
    ino_t ino;
    int owed_error; /* a sync of the same file failed through another handle: like Linux, tell every handle once */
    char path[512]; /* within the folder, as it was opened */
} *files;

/* What is called in the end: result, name, name in the C library, arguments. */
#define REAL_CALLS(X)                                        \
    X(int, open, "open64", const char *, int, ...)           \
    X(int, openat, "openat64", int, const char *, int, ...)  \
    X(int, close, "close", int)                              \
    X(ssize_t, write, "write", int, const void *, size_t)    \
    X(ssize_t, writev, "writev", int, const struct iovec *, int) \
    X(ssize_t, pwrite, "pwrite64", int, const void *, size_t, off_t) \
    X(int, ftruncate, "ftruncate64", int, off_t)             \
    X(int, rename, "rename", const char *, const char *)     \
    X(int, unlink, "unlink", const char *)                   \
    X(int, unlinkat, "unlinkat", int, const char *, int)     \
    X(int, rmdir, "rmdir", const char *)                     \
    X(int, mkdir, "mkdir", const char *, mode_t)             \
    X(int, fsync, "fsync", int)                              \
    X(int, fdatasync, "fdatasync", int)                      \
    X(int, clock_gettime, "clock_gettime", clockid_t, struct timespec *)
#define DECLARE(result, name, libc, ...) static result (*real_##name)(__VA_ARGS__);
REAL_CALLS(DECLARE)
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void give_up(const char *what) {
    fprintf(stderr, "preload: %s: %s\n", what, strerror(errno));
    abort();
}
static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) give_up(name);
    return found;
}

static void start(void) {
#define FIND(result, name, libc, ...) real_##name = find(libc);
    REAL_CALLS(FIND)

    const char *dir = getenv("PRELOAD_DIR"), *control_path = getenv("PRELOAD_CONTROL"), *record = getenv("PRELOAD_RECORD");
    if (!dir || !control_path) return;
    files = mmap(NULL, MAX_FDS * sizeof *files, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (files == MAP_FAILED) give_up("mmap");
    int fd = real_open(control_path, O_RDWR | O_CLOEXEC);
    if (fd < 0) give_up(control_path);
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) give_up(control_path);
    real_close(fd);
    control = map;
    if (record && (record_fd = real_open(record, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644)) < 0) give_up(record);
    folder_len = strlen(dir);
    if (folder_len >= sizeof folder) give_up("PRELOAD_DIR");
    memcpy(folder, dir, folder_len + 1);
    atomic_fetch_add(&control->processes, 1);
}

__attribute__((constructor)) static void begin(void) { pthread_once(&once, start); }

/* The path within the folder (empty: the folder itself), or NULL. */
static const char *ours(const char *path) {
    pthread_once(&once, start);
    if (!folder_len || !path || strncmp(path, folder, folder_len)) return NULL;
    if (path[folder_len] == '/') return path + folder_len + 1;
    return path[folder_len] ? NULL : path + folder_len;
}
static struct open_file *open_file(int fd) {
    pthread_once(&once, start);
    return files && fd >= 0 && fd < MAX_FDS && files[fd].file ? &files[fd] : NULL;
}

static void say_all(uint32_t kind, int error, uint64_t file, uint64_t at, const struct iovec *parts, int count, size_t len) {
    if (record_fd < 0) return;
    struct event event = {kind, error, file, at, len};
    struct iovec all[IOV_MAX];
    int n = 0;
    all[n++] = (struct iovec){&event, sizeof event};
    for (int i = 0; i < count && len > 0 && n < IOV_MAX; i++) {
        size_t part = parts[i].iov_len < len ? parts[i].iov_len : len;
        all[n++] = (struct iovec){parts[i].iov_base, part};
        len -= part;
    }
    if (real_writev(record_fd, all, n) != (ssize_t)(sizeof event + event.len)) give_up("the record");
}

static void say(uint32_t kind, int error, uint64_t file, uint64_t at, const void *data, size_t len) {
    struct iovec part = {(void *)data, len};
    say_all(kind, error, file, at, &part, 1, len);
}

/* ---- files ---- */

static int opened(int fd, const char *path, int flags, int existed) {
    struct stat stat;
    if (fd < 0) return fd;
    if (fd >= MAX_FDS || fstat(fd, &stat)) give_up(path);
    struct open_file *file = &files[fd];
    file->file = (uint64_t)atomic_fetch_add(&control->next_file, 1) + 1;
    file->dev = stat.st_dev;
    file->ino = stat.st_ino;
    file->owed_error = 0;
    if (strlen(path) >= sizeof file->path) give_up(path);
    strcpy(file->path, path);
    say(existed ? OPEN : CREATE, 0, file->file, 0, path, strlen(path));
    if (existed && (flags & O_TRUNC)) say(TRUNCATE, 0, file->file, 0, NULL, 0);
    return fd;
}

static int open_ours(int dir, const char *whole, const char *path, int flags, mode_t mode) {
    struct stat stat;
    int error = (int)atomic_load(&control->fail_opens);
    if (error) {
        atomic_fetch_add(&control->refused_opens, 1);
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&order);
    int existed = !(flags & O_CREAT) || !fstatat(dir, whole, &stat, 0);
    int fd = opened(real_openat(dir, whole, flags, mode), path, flags, existed);
    pthread_mutex_unlock(&order);
    return fd;
}

#define MODE(flags, mode)                          \
    mode_t mode = 0;                               \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {       \
        va_list list;                              \
        va_start(list, flags);                     \
        mode = (mode_t)va_arg(list, unsigned int); \
        va_end(list);                              \
    }

static int any_open(const char *path, int flags, mode_t mode) {
    const char *within = ours(path);
    return within ? open_ours(AT_FDCWD, path, within, flags, mode) : real_open(path, flags, mode);
}
static int any_openat(int dir, const char *path, int flags, mode_t mode) {
    const char *within = ours(path);
    struct open_file *parent = path[0] == '/' ? NULL : open_file(dir);
    char joined[PATH_MAX];
    if (parent) {
        snprintf(joined, sizeof joined, "%s%s%s", parent->path, parent->path[0] ? "/" : "", path);
        within = joined;
    }
    return within ? open_ours(dir, path, within, flags, mode) : real_openat(dir, path, flags, mode);
}

int open(const char *path, int flags, ...) { MODE(flags, mode) return any_open(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return any_open(path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags, mode) return any_openat(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags, mode) return any_openat(dir, path, flags, mode); }

int close(int fd) {
    struct open_file *file = open_file(fd);
    if (!file) return real_close(fd);
    pthread_mutex_lock(&order);
    file->file = 0;
    int result = real_close(fd);
    pthread_mutex_unlock(&order);
    return result;
}

/* How many of `len` bytes at `at` find room; like a disk that runs full, a part may. Takes the room. */
static size_t take_room(int fd, off_t at, size_t len) {
    struct stat stat;
    int64_t room = atomic_load(&control->room);
    if (room < 0 || len == 0) return len;
    int64_t growth = (int64_t)len;
    if (!atomic_load(&control->room_is_for_all)) {
        if (fstat(fd, &stat)) give_up("fstat");
        growth = at + (off_t)len - (stat.st_size > at ? stat.st_size : at);
    }
    if (growth <= 0) return len;
    int64_t taken = growth < room ? growth : room;
    atomic_fetch_sub(&control->room, taken);
    if (growth > taken) atomic_fetch_add(&control->refused_writes, 1);
    return len - (size_t)(growth - taken);
}

static ssize_t write_ours(int fd, struct open_file *file, const struct iovec *parts, int count, off_t at) {
    size_t len = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    int in_place = at < 0; /* by the handle's own position */
    pthread_mutex_lock(&order);
    if (in_place) at = lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    size_t fits = take_room(fd, at, len);
    ssize_t result;
    if (fits == 0 && len > 0) {
        errno = ENOSPC;
        result = -1;
    } else if (fits < len || count == 1) {
        /* A part: of the first buffer only, which is a short write like any other. */
        size_t first = parts[0].iov_len < fits ? parts[0].iov_len : fits;
        result = in_place ? real_write(fd, parts[0].iov_base, first) : real_pwrite(fd, parts[0].iov_base, first, at);
    } else result = real_writev(fd, parts, count);
    int error = errno;
    if (result > 0) say_all(WRITE, 0, file->file, (uint64_t)at, parts, count, (size_t)result);
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

ssize_t write(int fd, const void *data, size_t len) {
    struct open_file *file = open_file(fd);
    struct iovec part = {(void *)data, len};
    return file ? write_ours(fd, file, &part, 1, -1) : real_write(fd, data, len);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct open_file *file = open_file(fd);
    return file && count > 0 ? write_ours(fd, file, parts, count, -1) : real_writev(fd, parts, count);
}
static ssize_t any_pwrite(int fd, const void *data, size_t len, off_t at) {
    struct open_file *file = open_file(fd);
    struct iovec part = {(void *)data, len};
    return file ? write_ours(fd, file, &part, 1, at) : real_pwrite(fd, data, len, at);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) { return any_pwrite(fd, data, len, at); }
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return any_pwrite(fd, data, len, at); }

static int any_ftruncate(int fd, off_t len) {
    struct open_file *file = open_file(fd);
    if (!file) return real_ftruncate(fd, len);
    pthread_mutex_lock(&order);
    int result = real_ftruncate(fd, len);
    if (!result) say(TRUNCATE, 0, file->file, (uint64_t)len, NULL, 0);
    pthread_mutex_unlock(&order);
    return result;
}
int ftruncate(int fd, off_t len) { return any_ftruncate(fd, len); }
int ftruncate64(int fd, off_t len) { return any_ftruncate(fd, len); }

/* ---- names ---- */

static void count_down_to_kill(void) {
    if (atomic_load(&control->kill_in) > 0 && atomic_fetch_sub(&control->kill_in, 1) == 1) raise(SIGKILL);
}

int rename(const char *from, const char *to) {
    const char *ours_from = ours(from), *ours_to = ours(to);
    if (!ours_from || !ours_to) return real_rename(from, to);
    pthread_mutex_lock(&order);
    count_down_to_kill();
    int result = real_rename(from, to);
    struct iovec names[] = {{(void *)ours_from, strlen(ours_from) + 1}, {(void *)ours_to, strlen(ours_to)}};
    if (!result) say_all(RENAME, 0, 0, 0, names, 2, names[0].iov_len + names[1].iov_len);
    count_down_to_kill();
    pthread_mutex_unlock(&order);
    return result;
}

#define NAME_CALL(kind, path, call)                          \
    const char *within = ours(path);                         \
    if (!within) return call;                                \
    pthread_mutex_lock(&order);                              \
    int result = call;                                       \
    if (!result) say(kind, 0, 0, 0, within, strlen(within)); \
    pthread_mutex_unlock(&order);                            \
    return result;

int unlink(const char *path) { NAME_CALL(UNLINK, path, real_unlink(path)) }
int rmdir(const char *path) { NAME_CALL(UNLINK, path, real_rmdir(path)) }
int mkdir(const char *path, mode_t mode) { NAME_CALL(MKDIR, path, real_mkdir(path, mode)) }

int unlinkat(int dir, const char *path, int flags) {
    struct open_file *parent = path[0] == '/' ? NULL : open_file(dir);
    char joined[PATH_MAX + sizeof folder];
    if (parent) snprintf(joined, sizeof joined, "%s/%s%s%s", folder, parent->path, parent->path[0] ? "/" : "", path);
    NAME_CALL(UNLINK, parent ? joined : path, real_unlinkat(dir, path, flags))
}

/* ---- syncs ---- */

static int sync_ours(int fd, struct open_file *file, int (*real)(int)) {
    pthread_mutex_lock(&order);
    uint64_t number = (uint64_t)atomic_fetch_add(&control->syncs, 1) + 1;
    uint64_t id = file->file;
    int fails = (int64_t)number >= atomic_load(&control->fail_from) && (int64_t)number < atomic_load(&control->fail_until);
    if (fails) {
        for (int other = 0; other < MAX_FDS && other < 4096; other++)
            if (files[other].file && files[other].ino == file->ino && files[other].dev == file->dev) files[other].owed_error = 1;
    }
    fails |= file->owed_error;
    file->owed_error = 0;
    say(SYNC, 0, id, number, NULL, 0);
    pthread_mutex_unlock(&order);

    int64_t delay_ms = atomic_load(&control->sync_delay_ms);
    if (delay_ms > 0) usleep((useconds_t)delay_ms * 1000);
    int result = fails ? -1 : real(fd), error = fails ? EIO : errno;
    if (fails) atomic_fetch_add(&control->failed_syncs, 1);

    pthread_mutex_lock(&order);
    say(SYNCED, result ? error : 0, id, number, NULL, 0);
    pthread_mutex_unlock(&order);
    errno = error;
    return result;
}

static int any_sync(int fd, int (**real)(int)) {
    struct open_file *file = open_file(fd); /* finds the real calls, too */
    return file ? sync_ours(fd, file, *real) : (*real)(fd);
}
int fsync(int fd) { return any_sync(fd, &real_fsync); }
int fdatasync(int fd) { return any_sync(fd, &real_fdatasync); }

/* sync_file_range is not caught: it promises nothing that survives a power loss, and what it writes was recorded. */

/* ---- free space and time ---- */

#define FREE_CALL(name, type, first, is_ours, unit)                       \
    int name(first where, struct type *stat) {                            \
        static int (*real)(first, struct type *);                         \
        if (!real) real = find(#name);                                    \
        int result = real(where, stat);                                   \
        if (result || !(is_ours)) return result;                          \
        atomic_fetch_add(&control->free_asked, 1);                        \
        int64_t free_bytes = atomic_load(&control->free_bytes);           \
        if (free_bytes >= 0 && stat->unit)                                \
            stat->f_bavail = stat->f_bfree = (uint64_t)free_bytes / (uint64_t)stat->unit; \
        return 0;                                                         \
    }
#define FREE_CALLS(type, unit)                                             \
    FREE_CALL(type, type, const char *, ours(where) != NULL, unit)         \
    FREE_CALL(f##type, type, int, open_file(where) != NULL, unit)
FREE_CALLS(statvfs, f_frsize)
FREE_CALLS(statvfs64, f_frsize)
FREE_CALLS(statfs, f_bsize)
FREE_CALLS(statfs64, f_bsize)

int clock_gettime(clockid_t clock, struct timespec *now) {
    pthread_once(&once, start);
    int result = real_clock_gettime(clock, now);
    if (result || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return result;
    atomic_fetch_add(&control->clock_asked, 1);
    int64_t shift_ms = atomic_load(&control->clock_shift_ms);
    now->tv_sec += shift_ms / 1000;
    now->tv_nsec += shift_ms % 1000 * 1000000;
    if (now->tv_nsec >= 1000000000) now->tv_sec++, now->tv_nsec -= 1000000000;
    if (now->tv_nsec < 0) now->tv_sec--, now->tv_nsec += 1000000000;
    return 0;
}
