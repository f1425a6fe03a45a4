/* file.h - files that are whole or absent, and sets of files that change as one. Layer: base.
 *
 * Every function blocks on the disk. Thread: any; two writers of one path must be kept apart by the
 * caller (dir_lock).
 */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

/* Appends the whole file to `b` (capped by b->max). Follows symbolic links: mounts are made of
 * them. r: 0 done; FILE_ABSENT no such file. Errors: SYS (names the path), LIMIT. */
enum { FILE_ABSENT = 1 };
MUST_USE int file_read(const char *path, struct buf *b, struct err *e);

/* Creates directory `path` and its parents with `mode`; an existing one is fine. Errors: SYS. */
MUST_USE int dir_make(const char *path, mode_t mode, struct err *e);
/* The same with mode 0700, for what others must not touch: an existing one must be ours (or root's)
 * and writable by nobody else, who could swap any file in it. Errors: SYS, DENIED. */
MUST_USE int dir_make_own(const char *path, struct err *e);

/* Writes `path` as a whole: temporary file, fsync, rename, fsync of the folder. After a crash the
 * old or the new content is there, never a part. Errors: SYS. */
MUST_USE int file_write(const char *path, struct span s, mode_t mode, struct err *e);
/* The same, but refuses to replace. Errors: EXISTS (names the path), SYS. */
MUST_USE int file_write_new(const char *path, struct span s, mode_t mode, struct err *e);

/* Takes the exclusive lock DIR/lock until dir_unlock or the process ends; writes our pid into it.
 * Errors: STATE (another process holds it; the message has its pid), SYS. */
MUST_USE int dir_lock(const char *dir, int *ret_fd, struct err *e);
void dir_unlock(int fd);

/* -- A set of files that changes as one ---------------------------------------------------------
 *
 * Laid out as kubelet does with Secret volumes, so that every reader of such volumes is at home:
 *   DIR/..2026_11_23_21_12_40.123456789/NAME   the files of one generation
 *   DIR/..data -> ..2026_...                   swapped by one rename: the moment of change
 *   DIR/NAME -> ..data/NAME                    what readers open
 * Source: Kubernetes pkg/volume/util/atomic_writer (behaviour), specs/istio-ca.md 5.5.
 */
enum { FILESET_MAX = 8, FILESET_MAX_FILE_BYTES = 256 * 1024 };

struct fileset_file {
    const char *name; /* borrowed, static in practice: "ca-cert.pem"; no '/', no leading ".." */
    mode_t mode;
    struct span data;
};

/* Writes all of `files` (1..FILESET_MAX) as one swap and removes the generations before, keeping
 * the last one for readers half-way through. Names that the set no longer has are removed. Errors:
 * SYS, INVAL (a bad name). On failure the set in place is untouched. */
MUST_USE int fileset_write(const char *dir, const struct fileset_file *files, size_t n,
                           struct err *e);

/* Reads `names` from one generation, never from two: the folder behind ..data is opened once and
 * the files are read from there. In a folder without ..data (written by hand) the files are read
 * twice until two reads agree. An absent file gives an empty buffer with present[i] == false. bufs
 * n buffers, initialised by the caller with their caps; on failure left empty r: 0 done;
 * FILE_ABSENT the folder itself is absent. Errors: SYS, LIMIT, BUSY (kept changing). */
MUST_USE int fileset_read(const char *dir, const char *const *names, size_t n, struct buf *bufs,
                          bool *present, struct err *e);

/* The same, but file number `sealed` is opened and never read, for a process that must not hold its
 * content: its buffer (of FILE_IDENTITY_BYTES at least) gets what tells it from any other file and
 * from itself after a change, and *ret_fd the open file, of the same generation as the rest.
 * *ret_fd  owner: caller, close(); -1 when it is absent. Errors: also DENIED (not a file). */
enum { FILE_IDENTITY_BYTES = 64 };
MUST_USE int fileset_read_sealed(const char *dir, const char *const *names, size_t n, size_t sealed,
                                 struct buf *bufs, bool *present, int *ret_fd, struct err *e);
/* fileset_write with file number `moved` taken from path `from` (same file system), where another
 * process has written and synced it; its `data` is not looked at. */
MUST_USE int fileset_write_moved(const char *dir, const struct fileset_file *files, size_t n,
                                 size_t moved, const char *from, struct err *e);

#endif
