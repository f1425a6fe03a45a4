#include "store/db.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/str.h"

enum {
    APPLICATION_ID = 0x6d727374, /* "mrst" */
    SCHEMA_VERSION = 1,
    BUSY_MS = 5000,
    CHECK_MAX_BYTES = 32 * 1024 * 1024, /* a whole check at open takes about 0.1 s then */
};

/* The statements that are kept prepared; the same order in sql[]. */
enum stmt { GET, META_GET, PUT, DELETE, META_PUT, BEGIN, COMMIT, STMT__N };
enum { READING_STMT_N = PUT }; /* those before only read */

static const char *const sql[STMT__N] = {
    [GET] = "SELECT value, revision FROM kv WHERE key = ?1",
    [PUT] = "INSERT INTO kv(key, value, revision) VALUES(?1, ?2, ?3) ON CONFLICT(key) DO UPDATE "
            "SET value = excluded.value, revision = excluded.revision",
    [DELETE] = "DELETE FROM kv WHERE key = ?1",
    [META_GET] = "SELECT value FROM meta WHERE name = 'revision'",
    [META_PUT] = "INSERT INTO meta(name, value) VALUES('revision', ?1) ON CONFLICT(name) DO UPDATE "
                 "SET value = excluded.value",
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
};

static const char schema[] = "BEGIN IMMEDIATE;"
                             "CREATE TABLE kv(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, "
                             "revision INTEGER NOT NULL) WITHOUT ROWID;"
                             "CREATE TABLE meta(name TEXT PRIMARY KEY NOT NULL, value NOT NULL);"
                             "INSERT INTO meta(name, value) VALUES('revision', 0);"
                             "PRAGMA application_id = 1836217204;"
                             "PRAGMA user_version = 1;"
                             "COMMIT;";
_Static_assert(APPLICATION_ID == 1836217204 && SCHEMA_VERSION == 1, "as in the schema's text");

struct db {
    sqlite3 *h;
    sqlite3_stmt *stmt[STMT__N];
    char *path;
};

/* The error of the call that gave `rc`, in words that say what to do. */
static int
db_fail(const struct db *d, int rc, const char *doing, struct err *e)
{
    int sys = d->h == NULL ? 0 : sqlite3_system_errno(d->h);
    const char *text = d->h == NULL ? sqlite3_errstr(rc) : sqlite3_errmsg(d->h);

    switch (rc & 0xff) {
    case SQLITE_NOMEM:
        return err_nomem(e);
    case SQLITE_NOTADB:
        return err_set(e, E_PARSE, "%s: not a meshroot database: %s", d->path, text);
    case SQLITE_CORRUPT:
        return err_set(e, E_PARSE, "%s: the database is damaged (%s); restore it from a copy",
                       d->path, text);
    case SQLITE_FULL:
        return err_sys(e, ENOSPC, "%s: %s", d->path, doing);
    case SQLITE_READONLY:
        return err_set(e, E_SYS, "%s: %s: the file or its folder is read-only", d->path, doing);
    case SQLITE_BUSY:
        return err_set(e, E_SYS, "%s: %s: another process uses the database", d->path, doing);
    default:
        if (sys != 0)
            return err_sys(e, sys, "%s: %s", d->path, doing);
        return err_set(e, E_SYS, "%s: %s: %s", d->path, doing, text);
    }
}

static int
db_exec(struct db *d, const char *text, const char *doing, struct err *e)
{
    int rc = sqlite3_exec(d->h, text, NULL, NULL, NULL);

    return rc == SQLITE_OK ? 0 : db_fail(d, rc, doing, e);
}

/* Runs a statement that gives no rows and makes it ready for the next use. */
static int
stmt_run(struct db *d, enum stmt which, const char *doing, struct err *e)
{
    int rc = sqlite3_step(d->stmt[which]);
    int r = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : db_fail(d, rc, doing, e);

    (void)sqlite3_reset(d->stmt[which]);
    (void)sqlite3_clear_bindings(d->stmt[which]);
    return r;
}

static int
number_get(struct db *d, const char *text, int64_t *ret, struct err *e)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(d->h, text, -1, &st, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *ret = sqlite3_column_int64(st, 0);
    int r = rc == SQLITE_ROW ? 0 : db_fail(d, rc, "open", e);
    (void)sqlite3_finalize(st);
    return r;
}

/* A new file is made ours; anything else must be ours already. */
static int
schema_check(struct db *d, struct err *e)
{
    int64_t app = 0, version = 0, tables = 0;

    TRY(number_get(d, "PRAGMA application_id", &app, e));
    TRY(number_get(d, "PRAGMA user_version", &version, e));
    TRY(number_get(d, "SELECT count(*) FROM sqlite_schema", &tables, e));
    if (app == 0 && version == 0 && tables == 0)
        return db_exec(d, schema, "create", e);
    if (app != APPLICATION_ID)
        return err_set(e, E_PARSE, "%s: not a meshroot database (application id %lld)", d->path,
                       (long long)app);
    if (version != SCHEMA_VERSION)
        return err_set(e, E_PARSE, "%s: made by another release of meshroot (schema %lld, want %d)",
                       d->path, (long long)version, (int)SCHEMA_VERSION);
    return 0;
}

static int
content_check(struct db *d, struct err *e)
{
    struct stat st;
    sqlite3_stmt *q = NULL;
    int r = 0;

    if (stat(d->path, &st) < 0 || st.st_size > CHECK_MAX_BYTES)
        return 0; /* damage in a large file shows when it is read */
    int rc = sqlite3_prepare_v2(d->h, "PRAGMA quick_check(1)", -1, &q, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(q);
    const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(q, 0) : NULL;
    if (text == NULL)
        r = db_fail(d, rc, "check", e);
    else if (strcmp(text, "ok") != 0)
        r = err_set(e, E_PARSE, "%s: the database is damaged (%s); restore it from a copy", d->path,
                    text);
    (void)sqlite3_finalize(q);
    return r;
}

/* SQLite gives its -wal and -shm files the mode of the database, so it is made before. */
static int
file_prepare(const char *path, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return err_sys(e, errno, "%s: open", path);
    int r = fchmod(fd, 0600) < 0 ? err_sys(e, errno, "%s: set its mode", path) : 0;
    (void)close(fd);
    return r;
}

static int
statements_prepare(struct db *d, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++) {
        int rc = sqlite3_prepare_v3(d->h, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &d->stmt[i], NULL);

        if (rc != SQLITE_OK)
            return db_fail(d, rc, "open", e);
    }
    return 0;
}

static int
db_start(struct db *d, bool check, struct err *e)
{
    int rc = sqlite3_open_v2(d->path, &d->h, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);

    if (rc != SQLITE_OK)
        return db_fail(d, rc, "open", e);
    (void)sqlite3_extended_result_codes(d->h, 1);
    (void)sqlite3_busy_timeout(d->h, BUSY_MS);
    TRY(schema_check(d, e));
    if (check)
        TRY(content_check(d, e));
    TRY(db_exec(d,
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                "PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;",
                "open", e));
    return statements_prepare(d, STMT__N, e);
}

int
db_open(const char *path, bool check, struct db **ret, struct err *e)
{
    CLEANUP(db_closep) struct db *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return err_nomem(e);
    TRY(str_dup(span_str(path), &d->path, e));
    TRY(file_prepare(path, e));
    TRY(db_start(d, check, e));
    *ret = STEAL(d);
    return 0;
}

/* An empty file is one whose owner is about to make it, or nobody's: neither is ours to change. */
static int
db_start_readonly(struct db *d, struct err *e)
{
    int64_t app = 0;
    int rc = sqlite3_open_v2(d->path, &d->h, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);

    if (rc != SQLITE_OK)
        return db_fail(d, rc, "open", e);
    (void)sqlite3_extended_result_codes(d->h, 1);
    (void)sqlite3_busy_timeout(d->h, BUSY_MS);
    TRY(number_get(d, "PRAGMA application_id", &app, e));
    if (app == 0)
        return err_set(e, E_PARSE, "%s: not a meshroot database (application id 0)", d->path);
    TRY(schema_check(d, e));
    TRY(db_exec(d, "PRAGMA trusted_schema = OFF; PRAGMA query_only = ON;", "open", e));
    return statements_prepare(d, READING_STMT_N, e);
}

int
db_open_readonly(const char *path, struct db **ret, struct err *e)
{
    CLEANUP(db_closep) struct db *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return err_nomem(e);
    TRY(str_dup(span_str(path), &d->path, e));
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return err_set(e, E_NOTFOUND, "%s: no such file", path);
    TRY(db_start_readonly(d, e));
    *ret = STEAL(d);
    return 0;
}

int
db_snapshot(struct db *d, struct err *e)
{
    uint64_t revision;

    TRY(db_exec(d, "BEGIN", "read", e));
    return db_revision(d, &revision, e); /* the first read is what takes it */
}

void
db_close(struct db *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < STMT__N; i++)
        (void)sqlite3_finalize(d->stmt[i]);
    (void)sqlite3_close(d->h);
    free(d->path);
    free(d);
}

int
db_revision(struct db *d, uint64_t *ret, struct err *e)
{
    int rc = sqlite3_step(d->stmt[META_GET]);
    int r = rc == SQLITE_ROW ? 0 : db_fail(d, rc, "read", e);

    if (r == 0)
        *ret = (uint64_t)sqlite3_column_int64(d->stmt[META_GET], 0);
    (void)sqlite3_reset(d->stmt[META_GET]);
    return r;
}

int
db_begin(struct db *d, struct err *e)
{
    return stmt_run(d, BEGIN, "write", e);
}

int
db_commit(struct db *d, uint64_t revision, struct err *e)
{
    (void)sqlite3_bind_int64(d->stmt[META_PUT], 1, (int64_t)revision);
    TRY(stmt_run(d, META_PUT, "write", e));
    return stmt_run(d, COMMIT, "write", e);
}

void
db_rollback(struct db *d)
{
    /* a full disk may have rolled back already */
    if (sqlite3_get_autocommit(d->h) == 0)
        (void)sqlite3_exec(d->h, "ROLLBACK", NULL, NULL, NULL);
}

static void
key_bind(sqlite3_stmt *st, int at, const char *key)
{
    (void)sqlite3_bind_text(st, at, key, -1, SQLITE_STATIC);
}

/* r: 0 it holds. Errors: CONFLICT. */
static int
expect_check(struct db *d, const struct store_op *op, struct err *e)
{
    sqlite3_stmt *st = d->stmt[GET];
    int r = 0;

    key_bind(st, 1, op->key);
    int rc = sqlite3_step(st);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        r = db_fail(d, rc, "read", e);
    } else {
        bool there = rc == SQLITE_ROW;
        uint64_t revision = there ? (uint64_t)sqlite3_column_int64(st, 1) : 0;
        struct span v = { 0 };

        if (there)
            v = span_of(sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0));
        if (op->kind == STORE_EXPECT ? revision != op->revision : !span_eq(v, op->value))
            r = err_set(e, E_CONFLICT, "%s was changed by somebody else", op->key);
    }
    (void)sqlite3_reset(st);
    (void)sqlite3_clear_bindings(st);
    return r;
}

static int
op_apply(struct db *d, const struct store_op *op, uint64_t revision, struct err *e)
{
    enum stmt which = op->kind == STORE_PUT ? PUT : DELETE;
    sqlite3_stmt *st = d->stmt[which];

    key_bind(st, 1, op->key);
    if (op->kind == STORE_PUT) {
        const void *p = op->value.n == 0 ? "" : (const void *)op->value.p; /* NULL would be NULL */

        (void)sqlite3_bind_blob(st, 2, p, (int)op->value.n, SQLITE_STATIC);
        (void)sqlite3_bind_int64(st, 3, (int64_t)revision);
    }
    return stmt_run(d, which, "write", e);
}

static bool
is_expectation(const struct store_op *op)
{
    return op->kind == STORE_EXPECT || op->kind == STORE_EXPECT_VALUE;
}

int
db_apply(struct db *d, const struct store_op *ops, size_t n, uint64_t revision, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (is_expectation(&ops[i]))
            TRY(expect_check(d, &ops[i], e));
    for (size_t i = 0; i < n; i++)
        if (!is_expectation(&ops[i]) && op_apply(d, &ops[i], revision, e) < 0)
            return err_wrap(e, "%s", ops[i].key);
    return 0;
}

int
db_get(struct db *d, const char *key, struct buf *value, uint64_t *ret_revision, struct err *e)
{
    sqlite3_stmt *st = d->stmt[GET];
    int r = 0;

    key_bind(st, 1, key);
    int rc = sqlite3_step(st);
    if (rc == SQLITE_DONE) {
        r = STORE_ABSENT;
    } else if (rc != SQLITE_ROW) {
        r = db_fail(d, rc, "read", e);
    } else {
        const void *p = sqlite3_column_blob(st, 0);

        r = buf_add(value, span_of(p, (size_t)sqlite3_column_bytes(st, 0)), e);
        if (r == 0 && ret_revision != NULL)
            *ret_revision = (uint64_t)sqlite3_column_int64(st, 1);
    }
    (void)sqlite3_reset(st);
    (void)sqlite3_clear_bindings(st);
    return r < 0 ? err_wrap(e, "%s", key) : r;
}

static const char list_up[] = "SELECT key, value, revision FROM kv WHERE key >= ?1 AND key < ?2 "
                              "AND (?3 IS NULL OR key > ?3) ORDER BY key LIMIT ?4";
static const char list_down[] = "SELECT key, value, revision FROM kv WHERE key >= ?1 AND key < ?2 "
                                "AND key < coalesce(?3, ?2) ORDER BY key DESC LIMIT ?4";

/* The first text that is after all that start with `prefix`. */
static void
prefix_end(const char *prefix, char ret[STORE_KEY_BYTES + 4])
{
    size_t n = strlen(prefix);

    memcpy(ret, prefix, n + 1);
    while (n > 0 && (uint8_t)ret[n - 1] == 0xff)
        n--;
    if (n > 0)
        ret[n - 1] = (char)(uint8_t)((uint8_t)ret[n - 1] + 1);
    else
        memcpy(ret, "\xff\xff", n = 2);
    ret[n] = '\0';
}

/* A walk starts at `after` when that is further on: the query planner uses one bound only. */
static void
list_bind(sqlite3_stmt *st, const char *prefix, const char *end, const char *after, size_t limit,
          bool reverse)
{
    bool use = after != NULL && (reverse ? strcmp(after, end) < 0 : strcmp(after, prefix) > 0);

    key_bind(st, 1, use && !reverse ? after : prefix);
    key_bind(st, 2, use && reverse ? after : end);
    if (after != NULL)
        key_bind(st, 3, after);
    (void)sqlite3_bind_int64(st, 4, limit > INT64_MAX ? INT64_MAX : (int64_t)limit);
}

int
db_list(struct db *d, const char *prefix, const char *after, size_t limit, bool reverse,
        store_each_fn *each, void *arg, struct err *e)
{
    char end[STORE_KEY_BYTES + 4];
    sqlite3_stmt *st = NULL;
    int r = 0, rc;

    prefix_end(prefix, end);
    rc = sqlite3_prepare_v2(d->h, reverse ? list_down : list_up, -1, &st, NULL);
    if (rc != SQLITE_OK)
        return db_fail(d, rc, "read", e);
    list_bind(st, prefix, end, after, limit, reverse);
    while (r >= 0 && (rc = sqlite3_step(st)) == SQLITE_ROW) {
        const void *p = sqlite3_column_blob(st, 1);
        struct span v = span_of(p, (size_t)sqlite3_column_bytes(st, 1));

        r = each((const char *)sqlite3_column_text(st, 0), v, (uint64_t)sqlite3_column_int64(st, 2),
                 arg, e);
    }
    if (r >= 0 && rc != SQLITE_DONE)
        r = db_fail(d, rc, "read", e);
    (void)sqlite3_finalize(st);
    return r < 0 ? r : 0;
}
