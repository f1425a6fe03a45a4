/* store.h - ordered keys with values, transactions, watch. Layer: store.
 *
 * The face of SQLite now and of etcd later. Writes are asynchronous and grouped: one writer thread
 * commits all that waits in one durable transaction (group commit; it may wait STORE_GROUP_US for
 * more, see "a source"), then answers each on its own loop. Reads see what is committed and block
 * on the disk shortly; services read at start and keep their own state after that. Keys are texts
 * with '/' between parts
 * ("ledger/row/0000000000000042"), at most STORE_KEY_BYTES; order is by bytes.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"
#include "net/loop.h"

struct store;

enum {
    STORE_KEY_BYTES = 512,
    STORE_VALUE_BYTES = 256 * 1024,
    STORE_TXN_OPS = 64,
    STORE_QUEUE_OPS = 65536,              /* waiting to be committed; beyond: LIMIT */
    STORE_QUEUE_BYTES = 64 * 1024 * 1024, /* their keys and values together */
};

/* Opens (creates) DIR/meshroot.db: SQLite, WAL, synchronous=FULL, mode 0600; starts the writer
 * thread. The caller holds dir_lock. Owner: caller. Errors: SYS (read-only, full: says which),
 * PARSE (not ours, damaged). */
MUST_USE int store_open_sqlite(const char *dir, struct store **ret, struct err *e);
/* Opens DIR/meshroot.db for reading only, whoever holds dir_lock, running or not: for commands.
 * Writes and watches fail with STATE. Errors: NOTFOUND (there is none), SYS, PARSE. */
MUST_USE int store_open_sqlite_readonly(const char *dir, struct store **ret, struct err *e);
/* Of a store opened for reading only: from here on all reads see what is committed now. The
 * writer's log grows until this store is closed. Errors: SYS, STATE (not read-only). */
MUST_USE int store_hold_snapshot(struct store *s, struct err *e);
/* Commits what waits, then closes. NULL is fine. */
void store_close(struct store *s);

enum store_op_kind {
    STORE_PUT,
    STORE_DELETE,
    STORE_EXPECT,       /* the key's revision must be `revision`; 0: the key must not exist */
    STORE_EXPECT_VALUE, /* the key's value must be `value`; an empty one: or not exist */
};
struct store_op {
    enum store_op_kind kind;
    const char *key;   /* copied; 1..STORE_KEY_BYTES bytes, no control characters */
    struct span value; /* STORE_PUT, STORE_EXPECT_VALUE; copied */
    uint64_t revision; /* STORE_EXPECT */
};

/* All of `ops` or none, durable before `done` is called with e->code == E_NONE, on `l`. With `l`
 * NULL `done` is called on the writer's thread (it is short, and does not wait for the store); with
 * `done` NULL there is no answer. Expectations are about the state before this transaction. Answers
 * come in the order of the commits, which is the order of the calls. Every key that was put has
 * *revision afterwards; revisions only grow. done's errors: CONFLICT (an expectation did not hold),
 * SYS (disk full, read-only: the store stays usable). Errors: INVAL, LIMIT (the queue is full),
 * NOMEM, STATE (opened for reading only). Thread: any. */
typedef void store_done_fn(const struct err *e, uint64_t revision, void *arg);
MUST_USE int store_commit(struct store *s, const struct store_op *ops, size_t n, struct loop *l,
                          store_done_fn *done, void *arg, struct err *e);
/* Waits until it is durable: for starts and commands, never on a loop. `ret_revision` may be NULL.
 */
MUST_USE int store_commit_wait(struct store *s, const struct store_op *ops, size_t n,
                               uint64_t *ret_revision, struct err *e);

/* -- a source: a transaction that is written down at the last moment -----------------------------
 *
 * For one that makes many small writes: it says that there is more, and is asked for its operations
 * when the writer begins a group, so that they take in all that came until then. After a group of
 * several the next one starts a millisecond later for each of them, STORE_GROUP_US at most; a
 * caller alone is not made to wait.
 */
enum { STORE_SOURCE_OPS = 256, STORE_GROUP_US = 8000 };
struct store_source;
/* Writes at most STORE_SOURCE_OPS operations to `ops`, whose keys and values stay as they are until
 * `done`; how many, 0 for none (then `done` is not called). Keys and values must be as store_commit
 * wants them. Both are called on the writer's thread, are short, and may call
 * store_source_more and store_commit, not wait for the store. */
typedef size_t store_fill_fn(struct store_op *ops, void *arg);
/* Its operations are one transaction, as store_commit has them, applied after the transactions of
 * store_commit that were called before the fill. Errors: NOMEM, STATE (opened for reading only). */
MUST_USE int store_source_new(struct store *s, store_fill_fn *fill, store_done_fn *done, void *arg,
                              struct store_source **ret, struct err *e);
/* One more thing to write: `fill` will be called. Thread: any. */
void store_source_more(struct store_source *src);
/* Waits until neither function runs; none is called afterwards. NULL is fine. Thread: any but the
 * writer's. */
void store_source_free(struct store_source *src);

/* r: 0 done, value appended; STORE_ABSENT no such key. *ret_revision may be NULL. Thread: any.
 * Blocks: disk. */
enum { STORE_ABSENT = 1 };
MUST_USE int store_get(struct store *s, const char *key, struct buf *value, uint64_t *ret_revision,
                       struct err *e);
/* Calls each(key, value, revision, arg) for keys with `prefix` in order (backwards when `reverse`),
 * beginning with the one that follows `after` in that order (NULL: from the end), at most `limit`;
 * a negative result of `each` stops and is returned. All of it is one snapshot; other readers wait
 * meanwhile, so walk long ranges in pages. `each` may read from the store. */
typedef int store_each_fn(const char *key, struct span value, uint64_t revision, void *arg,
                          struct err *e);
MUST_USE int store_list(struct store *s, const char *prefix, const char *after, size_t limit,
                        bool reverse, store_each_fn *each, void *arg, struct err *e);

/* Calls fn(key, arg) on `l` after each commit that put or deleted a key with `prefix` (a hint: read
 * it again). */
struct store_watch;
typedef void store_watch_fn(const char *key, void *arg);
MUST_USE int store_watch_new(struct store *s, const char *prefix, struct loop *l,
                             store_watch_fn *fn, void *arg, struct store_watch **ret,
                             struct err *e);
void store_watch_free(struct store_watch *w); /* from the loop's thread; no call comes afterwards */

/* Whether what was written last has reached the disk. After a failure the writer tries a small
 * write of its own each STORE_PROBE_MS until one succeeds, so that a disk that has room again is
 * seen without a caller's help. Errors: SYS (what the disk said). Thread: any. */
enum { STORE_PROBE_MS = 1000 };
MUST_USE int store_health(struct store *s, struct err *e);

/* A sum over what the writer did: durable transactions of the database (each for many commits),
 * operations in them, and transactions that failed for SYS. */
struct store_stats {
    uint64_t transactions, operations, errors;
};
void store_get_stats(struct store *s, struct store_stats *ret);

#endif
