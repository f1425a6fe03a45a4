/* tmpdir.h - a folder of its own for each test, and small helpers on it. */
#ifndef TESTS_UNIT_TMPDIR_H
#define TESTS_UNIT_TMPDIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static inline int
tmpdir_remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* A new empty folder, mode 0755; its name into `ret` (64 bytes). */
static inline void
tmpdir_make(char ret[64])
{
    (void)snprintf(ret, 64, "/tmp/meshroot-test-XXXXXX");
    if (mkdtemp(ret) == NULL || chmod(ret, 0755) < 0)
        abort();
}

static inline void
tmpdir_remove(const char *dir)
{
    (void)nftw(dir, tmpdir_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
