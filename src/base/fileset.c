/* fileset.c - a set of files that changes as one, in kubelet's layout. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

#define DATA_LINK "..data"

enum { GENERATION_BYTES = 64, STABLE_TRIES = 20, STABLE_WAIT_US = 5000 };

static void
fd_close(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static bool
name_is_good(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL && strncmp(name, "..", 2) != 0 &&
           strcmp(name, ".") != 0;
}

static void
generation_name(char ret[GENERATION_BYTES])
{
    struct timespec t;
    struct tm tm = { 0 };
    char day[32];

    (void)clock_gettime(CLOCK_REALTIME, &t);
    (void)gmtime_r(&t.tv_sec, &tm);
    (void)strftime(day, sizeof(day), "%Y_%m_%d_%H_%M_%S", &tm);
    (void)snprintf(ret, GENERATION_BYTES, "..%s.%09ld%04llx", day, t.tv_nsec,
                   (unsigned long long)random_below(65536));
}

/* One file of a set that is opened or moved, not read or written. */
struct apart {
    size_t i;         /* its number; SIZE_MAX: all files are alike */
    const char *from; /* writing: where it lies now */
    int fd;           /* reading: the open file; owned */
};

static int
file_move(int dirfd, const struct fileset_file *f, const char *from, struct err *e)
{
    if (renameat(AT_FDCWD, from, dirfd, f->name) < 0)
        return err_sys(e, errno, "%s: move to %s", from, f->name);
    if (fchmodat(dirfd, f->name, f->mode, 0) < 0)
        return err_sys(e, errno, "%s: set its mode", f->name);
    return 0;
}

static int
generation_fill(int dirfd, const char *gen, const struct fileset_file *files, size_t n,
                const struct apart *apart, struct err *e)
{
    if (mkdirat(dirfd, gen, 0755) < 0)
        return err_sys(e, errno, "%s: make folder", gen);
    CLEANUP(fd_close) int fd = openat(dirfd, gen, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s: open", gen);
    for (size_t i = 0; i < n; i++) {
        const struct fileset_file *f = &files[i];

        if (i == apart->i) {
            TRY(file_move(fd, f, apart->from, e));
            continue;
        }
        CLEANUP(fd_close)
        int out = openat(fd, f->name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, f->mode);

        if (out < 0 || fchmod(out, f->mode) < 0)
            return err_sys(e, errno, "%s: create", f->name);
        for (struct span s = f->data; s.n > 0;) {
            ssize_t r = write(out, s.p, s.n);
            if (r < 0 && errno != EINTR)
                return err_sys(e, errno, "%s: write", f->name);
            if (r > 0)
                s = span_skip(s, (size_t)r);
        }
        if (fsync(out) < 0)
            return err_sys(e, errno, "%s: sync", f->name);
    }
    return fsync(fd) < 0 ? err_sys(e, errno, "%s: sync", gen) : 0;
}

/* Points `link` at `to` in one step. */
static int
link_swap(int dirfd, const char *to, const char *link, struct err *e)
{
    char tmp[GENERATION_BYTES + 8];

    (void)snprintf(tmp, sizeof(tmp), "..tmp-%08llx", (unsigned long long)random_below(UINT32_MAX));
    if (symlinkat(to, dirfd, tmp) < 0)
        return err_sys(e, errno, "%s: link", link);
    if (renameat(dirfd, tmp, dirfd, link) < 0) {
        int why = errno;

        (void)unlinkat(dirfd, tmp, 0);
        return err_sys(e, why, "%s: swap", link);
    }
    return 0;
}

static void
generation_remove(int dirfd, const char *gen)
{
    int fd = openat(dirfd, gen, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (d == NULL) {
        fd_close(&fd);
        return;
    }
    for (struct dirent *de; (de = readdir(d)) != NULL;)
        if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
            (void)unlinkat(fd, de->d_name, 0);
    (void)closedir(d);
    (void)unlinkat(dirfd, gen, AT_REMOVEDIR);
}

static bool
set_has(const struct fileset_file *files, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(files[i].name, name) == 0)
            return true;
    return false;
}

static bool
is_set_link(int dirfd, const char *name)
{
    char to[sizeof(DATA_LINK "/") + 1] = "";

    return readlinkat(dirfd, name, to, sizeof(to) - 1) > 0 &&
           strncmp(to, DATA_LINK "/", sizeof(DATA_LINK "/") - 1) == 0;
}

/* Removes what a crash or an older set left: generations but `keep` and `keep_too`, dead links. */
static void
set_sweep(int dirfd, const char *keep, const char *keep_too, const struct fileset_file *files,
          size_t n)
{
    int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (d == NULL) {
        fd_close(&fd);
        return;
    }
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        const char *name = de->d_name;

        if (strncmp(name, "..tmp-", 6) == 0)
            (void)unlinkat(dirfd, name, 0);
        else if (strncmp(name, "..2", 3) == 0 && strcmp(name, keep) != 0 &&
                 strcmp(name, keep_too) != 0)
            generation_remove(dirfd, name);
        else if (name[0] != '.' && !set_has(files, n, name) && is_set_link(dirfd, name))
            (void)unlinkat(dirfd, name, 0);
    }
    (void)closedir(d);
}

static int
set_publish(int dirfd, const char *gen, const struct fileset_file *files, size_t n, struct err *e)
{
    TRY(link_swap(dirfd, gen, DATA_LINK, e));
    for (size_t i = 0; i < n; i++) {
        char to[GENERATION_BYTES + 64];

        if (is_set_link(dirfd, files[i].name))
            continue;
        (void)snprintf(to, sizeof(to), DATA_LINK "/%s", files[i].name);
        TRY(link_swap(dirfd, to, files[i].name, e));
    }
    return fsync(dirfd) < 0 ? err_sys(e, errno, "sync folder") : 0;
}

static int
set_write_all(const char *dir, const struct fileset_file *files, size_t n,
              const struct apart *apart, struct err *e)
{
    char gen[GENERATION_BYTES], before[GENERATION_BYTES] = "";

    if (n == 0 || n > FILESET_MAX)
        return err_set(e, E_INVAL, "%s: a set of %zu files, want 1..%d", dir, n, (int)FILESET_MAX);
    for (size_t i = 0; i < n; i++)
        if (!name_is_good(files[i].name) || strlen(files[i].name) > 60)
            return err_set(e, E_INVAL, "%s: \"%.60s\" is not a file name for a set", dir,
                           files[i].name);
    TRY(dir_make(dir, 0755, e));
    CLEANUP(fd_close) int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return err_sys(e, errno, "%s: open", dir);
    if (readlinkat(dirfd, DATA_LINK, before, sizeof(before) - 1) < 0)
        before[0] = '\0';
    generation_name(gen);
    if (generation_fill(dirfd, gen, files, n, apart, e) < 0 ||
        set_publish(dirfd, gen, files, n, e) < 0) {
        char now[GENERATION_BYTES] = "";

        if (readlinkat(dirfd, DATA_LINK, now, sizeof(now) - 1) < 0 || strcmp(now, gen) != 0)
            generation_remove(dirfd, gen);
        return err_wrap(e, "%s", dir);
    }
    set_sweep(dirfd, gen, before, files, n);
    return 0;
}

int
fileset_write(const char *dir, const struct fileset_file *files, size_t n, struct err *e)
{
    return set_write_all(dir, files, n, &(struct apart){ SIZE_MAX, NULL, -1 }, e);
}

int
fileset_write_moved(const char *dir, const struct fileset_file *files, size_t n, size_t moved,
                    const char *from, struct err *e)
{
    return set_write_all(dir, files, n, &(struct apart){ moved, from, -1 }, e);
}

static void
bufs_clear(struct buf *bufs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_wipe(&bufs[i]);
}

static int
file_take(int fd, const char *name, struct buf *b, struct err *e)
{
    for (;;) {
        uint8_t *at = NULL;
        size_t room = b->max - b->n;

        if (room == 0)
            return err_set(e, E_LIMIT, "%s: larger than %zu bytes", name, b->max - 1);
        if (room > 16384)
            room = 16384;
        TRY(buf_reserve(b, room, &at, e));
        ssize_t r = read(fd, at, room);
        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "%s: read", name);
        if (r == 0)
            break;
        if (r > 0)
            b->n += (size_t)r;
    }
    if (b->p != NULL)
        b->p[b->n] = '\0';
    return 0;
}

/* Whoever changes a file's content, or puts another in its place, changes one of these. */
static int
file_identify(int fd, const char *name, struct buf *b, struct err *e)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "%s: look at", name);
    if (!S_ISREG(st.st_mode))
        return err_set(e, E_DENIED, "%s: is not a file", name);
    const uint64_t id[] = { (uint64_t)st.st_dev,          (uint64_t)st.st_ino,
                            (uint64_t)st.st_size,         (uint64_t)st.st_mtim.tv_sec,
                            (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_ctim.tv_sec,
                            (uint64_t)st.st_ctim.tv_nsec };
    static_assert(sizeof(id) < FILE_IDENTITY_BYTES, "fits its buffer");
    return buf_add(b, span_of(id, sizeof(id)), e);
}

static int
read_once(int dirfd, const char *const *names, size_t n, struct buf *bufs, bool *present,
          struct apart *apart, struct err *e)
{
    fd_close(&apart->fd);
    apart->fd = -1;
    for (size_t i = 0; i < n; i++) {
        bool is_apart = i == apart->i; /* a pipe in its place must not hold us up */
        CLEANUP(fd_close)
        int fd = openat(dirfd, names[i], O_RDONLY | O_CLOEXEC | (is_apart ? O_NONBLOCK : 0));

        bufs[i].n = 0;
        present[i] = fd >= 0;
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return err_sys(e, errno, "%s: open", names[i]);
        TRY(is_apart ? file_identify(fd, names[i], &bufs[i], e)
                     : file_take(fd, names[i], &bufs[i], e));
        if (is_apart) {
            apart->fd = fd;
            fd = -1;
        }
    }
    return 0;
}

static bool
bufs_equal(const struct buf *a, const struct buf *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!span_eq(buf_span(&a[i]), buf_span(&b[i])))
            return false;
    return true;
}

/* For folders that people write by hand, file after file: two reads in a row must agree. */
static int
read_stable(int dirfd, const char *const *names, size_t n, struct buf *bufs, bool *present,
            struct apart *apart, struct err *e)
{
    struct buf again[FILESET_MAX];
    int r = 0;
    bool same = false;

    for (size_t i = 0; i < n; i++)
        again[i] = BUF_INIT(bufs[i].max);
    for (int k = 0; k < STABLE_TRIES && r == 0 && !same; k++) {
        if (k > 0)
            (void)usleep(STABLE_WAIT_US);
        r = read_once(dirfd, names, n, bufs, present, apart, e);
        if (r == 0)
            r = read_once(dirfd, names, n, again, present, apart, e);
        same = r == 0 && bufs_equal(bufs, again, n);
    }
    bufs_clear(again, n);
    if (r == 0 && !same)
        return err_set(e, E_BUSY, "the files keep changing while they are read");
    return r;
}

/* Whether the folder behind `data` is still the current generation. */
static bool
is_current(int dirfd, int data)
{
    struct stat then, now;

    return fstat(data, &then) == 0 && fstatat(dirfd, DATA_LINK, &now, 0) == 0 &&
           then.st_dev == now.st_dev && then.st_ino == now.st_ino;
}

/* A reader that two swaps overtook finds its generation being removed: a file that is absent then
 * says nothing, and it reads the new one. r: 0; SET_BY_HAND there is no ..data. */
enum { SET_BY_HAND = 1 };
static int
read_generation(int dirfd, const char *const *names, size_t n, struct buf *bufs, bool *present,
                struct apart *apart, struct err *e)
{
    for (int k = 0; k < STABLE_TRIES; k++) {
        CLEANUP(fd_close) int data = openat(dirfd, DATA_LINK, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        bool all = true;

        if (data < 0)
            return SET_BY_HAND;
        TRY(read_once(data, names, n, bufs, present, apart, e));
        for (size_t i = 0; i < n; i++)
            all = all && present[i];
        if (all || is_current(dirfd, data))
            return 0;
    }
    return err_set(e, E_BUSY, "the set keeps changing while it is read");
}

static int
set_read_all(const char *dir, const char *const *names, size_t n, struct buf *bufs, bool *present,
             struct apart *apart, struct err *e)
{
    if (n == 0 || n > FILESET_MAX)
        return err_set(e, E_INVAL, "%s: a set of %zu files, want 1..%d", dir, n, (int)FILESET_MAX);
    CLEANUP(fd_close) int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0 && errno == ENOENT)
        return FILE_ABSENT;
    if (dirfd < 0)
        return err_sys(e, errno, "%s: open", dir);
    int r = read_generation(dirfd, names, n, bufs, present, apart, e);
    if (r == SET_BY_HAND)
        r = read_stable(dirfd, names, n, bufs, present, apart, e);
    if (r < 0) {
        bufs_clear(bufs, n);
        fd_close(&apart->fd);
        return err_wrap(e, "%s", dir);
    }
    return 0;
}

int
fileset_read(const char *dir, const char *const *names, size_t n, struct buf *bufs, bool *present,
             struct err *e)
{
    struct apart none = { SIZE_MAX, NULL, -1 };

    return set_read_all(dir, names, n, bufs, present, &none, e);
}

int
fileset_read_sealed(const char *dir, const char *const *names, size_t n, size_t sealed,
                    struct buf *bufs, bool *present, int *ret_fd, struct err *e)
{
    struct apart apart = { sealed, NULL, -1 };
    int r = TRY(set_read_all(dir, names, n, bufs, present, &apart, e));

    *ret_fd = apart.fd;
    return r;
}
