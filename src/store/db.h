/* db.h - private to store/: one SQLite connection. The only file that sees sqlite3.h is db.c.
 * Thread: one at a time; the caller guards it. Blocks: disk. */
#ifndef STORE_DB_H
#define STORE_DB_H

#include "store/store.h"

struct db;

/* Opens PATH, creates and marks it as ours when it is new; `check`: looks for damage. Errors: SYS,
 * PARSE. */
MUST_USE int db_open(const char *path, bool check, struct db **ret, struct err *e);
/* Opens PATH for reading only, beside whoever writes it. Errors: NOTFOUND, SYS, PARSE. */
MUST_USE int db_open_readonly(const char *path, struct db **ret, struct err *e);
/* From here on every read sees what is committed now. */
MUST_USE int db_snapshot(struct db *d, struct err *e);
void db_close(struct db *d); /* NULL is fine */
DEFINE_CLEANUP(struct db, db_close)

/* The revision of the last commit. */
MUST_USE int db_revision(struct db *d, uint64_t *ret, struct err *e);

MUST_USE int db_begin(struct db *d, struct err *e);
/* One caller's transaction inside db_begin..db_commit. Expectations are looked at before anything
 * is written, so after CONFLICT the outer one goes on as if this one had not been; after any other
 * error it must be rolled back. */
MUST_USE int db_apply(struct db *d, const struct store_op *ops, size_t n, uint64_t revision,
                      struct err *e);
/* Durable afterwards; `revision` is remembered with it. */
MUST_USE int db_commit(struct db *d, uint64_t revision, struct err *e);
void db_rollback(struct db *d);

/* As store_get and store_list. */
MUST_USE int db_get(struct db *d, const char *key, struct buf *value, uint64_t *ret_revision,
                    struct err *e);
MUST_USE int db_list(struct db *d, const char *prefix, const char *after, size_t limit,
                     bool reverse, store_each_fn *each, void *arg, struct err *e);

#endif
