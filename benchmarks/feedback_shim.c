/* Preloaded into a process that writes a feedback store (LD_PRELOAD), it sees what SQLite does to the store's files.

   SHIM_STORE  the database's absolute path; its -wal and -journal are watched with it, and its directory's syncs
   SHIM_TRACE  every change of these is appended here, in order: a header (struct record) and the written bytes
   SHIM_FAIL   "sync" or "write": such calls fail with SHIM_ERRNO as long as the file SHIM_ARMED is there; with
               SHIM_ONCE only the first

   A write is recorded before it is made, a sync after it has succeeded. What is mapped into memory (the -shm file, an
   index of the log that is never read after a restart) is not seen. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FDS 4096
#define NONE 0
#define DIRECTORY (-1)

struct record {
    char op; /* C create, W write, T truncate, U unlink, S sync of a file, D sync of the directory */
    char pad[3];
    int32_t file; /* 1, 2, ...: every file that was ever made under one of the names */
    int64_t offset; /* of C and U: the name, 0 database, 1 -wal, 2 -journal */
    int64_t length;
};

static const char *const SUFFIXES[] = {"", "-wal", "-journal"};
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static const char *store, *trace_path, *fail, *armed;
static char directory[4096];
static int trace = -1, fail_errno, fail_once, failed, last_file;
static int file_of_fd[MAX_FDS], file_of_name[3];

__attribute__((constructor)) static void start(void) {
    store = getenv("SHIM_STORE");
    trace_path = getenv("SHIM_TRACE");
    fail = getenv("SHIM_FAIL");
    armed = getenv("SHIM_ARMED");
    fail_errno = getenv("SHIM_ERRNO") ? atoi(getenv("SHIM_ERRNO")) : EIO;
    fail_once = getenv("SHIM_ONCE") != NULL;
    if (store == NULL || strlen(store) >= sizeof directory) abort();
    strcpy(directory, store);
    *strrchr(directory, '/') = 0;
    if (trace_path) trace = (int)syscall(SYS_openat, AT_FDCWD, trace_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
}

static void note(char op, int file, int64_t offset, const void *data, int64_t length) {
    struct record head = {op, {0, 0, 0}, file, offset, length};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, data ? (size_t)length : 0}};
    if (trace < 0) return;
    ssize_t wanted = (ssize_t)(sizeof head + parts[1].iov_len);
    if (syscall(SYS_writev, trace, parts, 2) != wanted) abort();
}

static int name_of(const char *path) {
    size_t n = store ? strlen(store) : 0;
    if (!store || strncmp(path, store, n) != 0) return -1;
    for (int name = 0; name < 3; name++)
        if (strcmp(path + n, SUFFIXES[name]) == 0) return name;
    return -1;
}

static int file_at(int fd) { return fd >= 0 && fd < MAX_FDS ? file_of_fd[fd] : NONE; }

static int must_fail(const char *what, int fd) {
    if (!fail || !armed || file_at(fd) <= NONE || strcmp(fail, what) != 0 || (fail_once && failed)) return 0;
    if (syscall(SYS_faccessat, AT_FDCWD, armed, F_OK) != 0) return 0;
    failed = 1;
    errno = fail_errno;
    return 1;
}

static int opened(const char *path, int flags, int mode) {
    int name = name_of(path);
    int is_new = name >= 0 && syscall(SYS_faccessat, AT_FDCWD, path, F_OK) != 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd < 0 || fd >= MAX_FDS) return fd;
    pthread_mutex_lock(&mutex);
    file_of_fd[fd] = NONE;
    if (name >= 0) {
        if (is_new) {
            file_of_name[name] = ++last_file;
            note('C', last_file, name, NULL, 0);
        }
        file_of_fd[fd] = file_of_name[name];
        if (flags & O_TRUNC) note('T', file_of_fd[fd], 0, NULL, 0);
    } else if (strcmp(path, directory) == 0) {
        file_of_fd[fd] = DIRECTORY;
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

#define OPEN(function)                             \
    int function(const char *path, int flags, ...) { \
        va_list more;                              \
        va_start(more, flags);                     \
        int mode = va_arg(more, int);              \
        va_end(more);                              \
        return opened(path, flags, mode);          \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (fd >= 0 && fd < MAX_FDS) file_of_fd[fd] = NONE;
    return (int)syscall(SYS_close, fd);
}

static ssize_t written(int fd, const void *data, size_t length, int64_t offset, int positioned) {
    if (must_fail("write", fd)) return -1;
    pthread_mutex_lock(&mutex);
    if (file_at(fd) > NONE) {
        if (!positioned) offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        note('W', file_at(fd), offset, data, (int64_t)length);
    }
    ssize_t done = positioned ? syscall(SYS_pwrite64, fd, data, length, offset) : syscall(SYS_write, fd, data, length);
    if (file_at(fd) > NONE && trace >= 0 && done != (ssize_t)length) abort(); /* the trace would not be true */
    pthread_mutex_unlock(&mutex);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return written(fd, data, n, at, 1); }
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) { return written(fd, data, n, at, 1); }

ssize_t write(int fd, const void *data, size_t n) {
    return file_at(fd) > NONE ? written(fd, data, n, 0, 0) : syscall(SYS_write, fd, data, n);
}

static int truncated(int fd, int64_t length) {
    if (must_fail("write", fd)) return -1;
    pthread_mutex_lock(&mutex);
    if (file_at(fd) > NONE) note('T', file_at(fd), length, NULL, 0);
    int done = (int)syscall(SYS_ftruncate, fd, length);
    pthread_mutex_unlock(&mutex);
    return done;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

static int synced(int fd, long call) {
    if (must_fail("sync", fd)) return -1;
    int done = (int)syscall(call, fd);
    pthread_mutex_lock(&mutex);
    int file = file_at(fd);
    if (done == 0 && file != NONE) note(file == DIRECTORY ? 'D' : 'S', file, 0, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return done;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

int unlink(const char *path) {
    int name = name_of(path);
    pthread_mutex_lock(&mutex);
    int done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (done == 0 && name >= 0) {
        note('U', file_of_name[name], name, NULL, 0);
        file_of_name[name] = NONE;
    }
    pthread_mutex_unlock(&mutex);
    return done;
}
