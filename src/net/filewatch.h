/* filewatch.h - tells when a set of files has a new content. Layer: net. Thread: its loop.
 *
 * Events (inotify) are a hint only: the set is also re-read every `interval_ms` and compared by
 * content hash, so a lost event, a dead watch, a replaced folder or a symlink swap delays a change
 * by one interval at most. Source: design.md invariant 7.
 */
#ifndef NET_FILEWATCH_H
#define NET_FILEWATCH_H

#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/file.h"
#include "net/loop.h"

struct filewatch;

/* What was read: names[i] has bytes bufs[i] when present[i]; borrowed for the call. Called on the
 * loop, first as soon as the folder can be read, then at each change of content. */
typedef void filewatch_fn(const struct buf *bufs, const bool *present, void *arg);
/* The set could not be read (err of fileset_read, or the folder is absent): called once per new
 * reason. */
typedef void filewatch_error_fn(const struct err *why, void *arg);

struct filewatch_conf {
    const char *dir;          /* copied */
    const char *const *names; /* 1..FILESET_MAX, static */
    size_t n, max_file_bytes;
    const char *sealed;   /* the one of `names` that is never read: its buffer has its identity
                             (fileset_read_sealed); NULL: none */
    uint64_t interval_ms; /* 100 ms .. 1 h; how stale a reader can get at worst */
    bool use_events;      /* false: polling only (tests of the safety net) */
    filewatch_fn *on_change;
    filewatch_error_fn *on_error; /* NULL: ignored */
    void *arg;
};

/* Owner: caller, filewatch_free. Errors: NOMEM, SYS. The first read happens on the next loop turn.
 */
MUST_USE int filewatch_new(struct loop *l, const struct filewatch_conf *conf,
                           struct filewatch **ret, struct err *e);
void filewatch_free(struct filewatch *w); /* NULL is fine */
/* Reads now, e.g. after our own write; calls back before it returns when the content is new. */
void filewatch_poke(struct filewatch *w);
/* During on_change: the sealed file, open; borrowed. -1: it is absent. */
int filewatch_sealed_fd(const struct filewatch *w);
/* SHA-256 over names, presence and content as last read (32 bytes, borrowed). What the reader did
 * with it is the reader's to compare: that is `loaded != present`. */
const uint8_t *filewatch_present_id(const struct filewatch *w);

#endif
