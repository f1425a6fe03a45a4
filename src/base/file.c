#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"

enum { READ_CHUNK_BYTES = 16 * 1024, PID_TEXT_BYTES = 24 };

static void
fd_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static int
fd_read_all(int fd, const char *path, struct buf *b, struct err *e)
{
    for (;;) {
        uint8_t *at = NULL;
        size_t room = b->max - b->n < READ_CHUNK_BYTES ? b->max - b->n : READ_CHUNK_BYTES;
        uint8_t extra;

        if (room > 0 && buf_reserve(b, room, &at, e) < 0)
            return err_wrap(e, "%s", path);
        ssize_t r = read(fd, room > 0 ? at : &extra, room > 0 ? room : 1);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return err_sys(e, errno, "%s: read", path);
        if (r == 0)
            return 0;
        if (room == 0)
            return err_set(e, E_LIMIT, "%s: larger than %zu bytes", path, b->max);
        b->n += (size_t)r;
        b->p[b->n] = '\0';
    }
}

static int
file_read_at(int dirfd, const char *path, struct buf *b, struct err *e)
{
    CLEANUP(fd_close) int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return FILE_ABSENT;
    if (fd < 0)
        return err_sys(e, errno, "%s: open", path);
    return fd_read_all(fd, path, b, e);
}

int
file_read(const char *path, struct buf *b, struct err *e)
{
    return file_read_at(AT_FDCWD, path, b, e);
}

int
dir_make(const char *path, mode_t mode, struct err *e)
{
    CLEANUP(str_freep) char *p = NULL;
    struct stat st;

    TRY(str_dup(span_str(path), &p, e));
    for (char *s = p + 1; *s != '\0'; s++) {
        if (*s != '/')
            continue;
        *s = '\0';
        if (mkdir(p, mode) < 0 && errno != EEXIST)
            return err_sys(e, errno, "%s: make folder", p);
        *s = '/';
    }
    if (mkdir(p, mode) < 0 && errno != EEXIST)
        return err_sys(e, errno, "%s: make folder", p);
    if (stat(p, &st) == 0 && !S_ISDIR(st.st_mode))
        return err_set(e, E_EXISTS, "%s is no folder: name another one", p);
    return 0;
}

int
dir_make_own(const char *path, struct err *e)
{
    struct stat st;

    TRY(dir_make(path, 0700, e));
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "%s", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return err_set(e, E_DENIED, "%s belongs to another user; use a folder of your own", path);
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return err_set(e, E_DENIED, "%s can be written by others; chmod go-w %s", path, path);
    return 0;
}

static int
write_all(int fd, struct span s)
{
    while (s.n > 0) {
        ssize_t r = write(fd, s.p, s.n);

        if (r < 0 && errno != EINTR)
            return -1;
        if (r > 0)
            s = span_skip(s, (size_t)r);
    }
    return 0;
}

/* Creates `path` below `dirfd` with exactly `mode`, whatever the umask; it must not exist. */
static int
file_create_at(int dirfd, const char *path, struct span s, mode_t mode, struct err *e)
{
    CLEANUP(fd_close)
    int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);

    if (fd < 0 && errno == EEXIST)
        return err_set(e, E_EXISTS, "%s exists already", path);
    if (fd < 0)
        return err_sys(e, errno, "%s: create", path);
    if (fchmod(fd, mode) < 0 || write_all(fd, s) < 0 || fsync(fd) < 0) {
        int why = errno;

        (void)unlinkat(dirfd, path, 0);
        return err_sys(e, why, "%s: write", path);
    }
    return 0;
}

static int
parent_sync(const char *path, struct err *e)
{
    CLEANUP(str_freep) char *dir = NULL;
    const char *slash = strrchr(path, '/');

    TRY(str_dup(slash == NULL ? span_str(".") : span_of(path, (size_t)(slash - path) + 1), &dir,
                e));
    CLEANUP(fd_close) int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return err_sys(e, errno, "%s: sync folder", dir);
    return 0;
}

static int
temp_name(const char *path, char **ret, struct err *e)
{
    return str_format(ret, e, "%s.tmp-%d-%08llx", path, (int)getpid(),
                      (unsigned long long)random_below(UINT32_MAX));
}

int
file_write(const char *path, struct span s, mode_t mode, struct err *e)
{
    CLEANUP(str_freep) char *tmp = NULL;

    TRY(temp_name(path, &tmp, e));
    TRY(file_create_at(AT_FDCWD, tmp, s, mode, e));
    if (rename(tmp, path) < 0) {
        int why = errno;

        (void)unlink(tmp);
        return err_sys(e, why, "%s: replace", path);
    }
    return parent_sync(path, e);
}

int
file_write_new(const char *path, struct span s, mode_t mode, struct err *e)
{
    CLEANUP(str_freep) char *tmp = NULL;

    TRY(temp_name(path, &tmp, e));
    TRY(file_create_at(AT_FDCWD, tmp, s, mode, e));
    int r = link(tmp, path);
    int why = errno;
    (void)unlink(tmp);
    if (r < 0 && why == EEXIST)
        return err_set(e, E_EXISTS, "%s exists already", path);
    if (r < 0)
        return err_sys(e, why, "%s: create", path);
    return parent_sync(path, e);
}

int
dir_lock(const char *dir, int *ret_fd, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    CLEANUP(fd_close) int fd = -1;
    char pid[PID_TEXT_BYTES] = "";

    TRY(str_format(&path, e, "%s/lock", dir));
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_sys(e, errno, "%s: open", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return err_sys(e, errno, "%s: lock", path);
        ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
        return err_set(e, E_STATE, "%s is in use by another meshroot process (pid %.*s)", dir,
                       n > 0 ? (int)strcspn(pid, "\n") : 1, n > 0 ? pid : "?");
    }
    int n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, (size_t)n, 0) != n)
        return err_sys(e, errno, "%s: write", path);
    *ret_fd = fd;
    fd = -1;
    return 0;
}

void
dir_unlock(int fd)
{
    fd_close(&fd);
}
