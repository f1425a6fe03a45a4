/* store_kit.h - a store on SQLite in a folder of its own. */
#ifndef TESTS_UNIT_STORE_STORE_KIT_H
#define TESTS_UNIT_STORE_STORE_KIT_H

#include "unit.h"

#include "base/clock.h"
#include "store/store.h"
#include "tmpdir.h"

struct fix {
    char dir[64];
    struct store *s;
    struct loop *l;
};

static inline int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct err e = { 0 };

    tmpdir_make(f->dir);
    assert_ok(loop_new(&f->l, &e));
    assert_ok(store_open_sqlite(f->dir, &f->s, &e));
    *state = f;
    return 0;
}

static inline int
teardown(void **state)
{
    struct fix *f = *state;

    store_close(f->s);
    loop_free(f->l);
    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

static inline struct store_op
put(const char *key, const char *value)
{
    return (struct store_op){ .kind = STORE_PUT, .key = key, .value = span_str(value) };
}

static inline void
put_now(struct fix *f, const char *key, const char *value)
{
    struct err e = { 0 };
    struct store_op op = put(key, value);

    assert_ok(store_commit_wait(f->s, &op, 1, NULL, &e));
}

static inline void
assert_value(struct fix *f, const char *key, const char *want)
{
    struct buf b = BUF_INIT(STORE_VALUE_BYTES);
    struct err e = { 0 };
    int r = store_get(f->s, key, &b, NULL, &e);

    assert_int_equal(r, want == NULL ? STORE_ABSENT : 0);
    if (want != NULL)
        assert_string_equal(buf_text(&b), want);
    buf_done(&b);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
