/* test_filewatch.c - design.md invariant 7: whatever happens to the folder, the new content is
 * seen. */
#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "net/filewatch.h"
#include "tmpdir.h"

enum { DEADLINE_MS = 60 * 1000, POLL_MS = 100, NEVER_MS = 60 * 60 * 1000, PATH_MAX_BYTES = 160 };

static const char *const names[] = { "a.pem", "b.pem" };

struct run {
    struct loop *loop;
    struct filewatch *watch;
    char top[64], dir[PATH_MAX_BYTES];
    const char *want_a, *want_b; /* NULL: absent */
    int seen, errors;
    bool matched;
};

static void
on_change(const struct buf *bufs, const bool *present, void *arg)
{
    struct run *r = arg;

    r->seen++;
    r->matched = present[0] == (r->want_a != NULL) && present[1] == (r->want_b != NULL) &&
                 (r->want_a == NULL || strcmp(buf_text(&bufs[0]), r->want_a) == 0) &&
                 (r->want_b == NULL || strcmp(buf_text(&bufs[1]), r->want_b) == 0);
    if (r->matched)
        loop_stop(r->loop);
}

static void
on_error(const struct err *why, void *arg)
{
    struct run *r = arg;

    (void)why;
    r->errors++;
}

static void
on_deadline(void *arg)
{
    loop_stop(arg);
}

/* Runs the loop until the set reads (a, b); fails after the deadline. */
static void
expect(struct run *r, const char *what, const char *a, const char *b)
{
    struct timer *deadline = NULL;
    struct err e = { 0 };

    r->want_a = a;
    r->want_b = b;
    r->matched = false;
    assert_ok(timer_new(r->loop, on_deadline, r->loop, &deadline, &e));
    timer_set(deadline, DEADLINE_MS);
    assert_ok(loop_run(r->loop, &e));
    timer_free(deadline);
    if (!r->matched)
        fail_msg("not seen: %s", what);
}

static void
put(const char *dir, const char *name, const char *text)
{
    char path[2 * PATH_MAX_BYTES];
    struct err e = { 0 };

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = fopen(path, "w"); /* in place, as a careless tool does */
    assert_non_null(f);
    (void)fputs(text, f);
    assert_int_equal(fclose(f), 0);
    (void)e;
}

static void
put_set(const char *dir, const char *a, const char *b)
{
    struct fileset_file files[] = { { "a.pem", 0644, span_str(a) },
                                    { "b.pem", 0600, span_str(b) } };
    struct err e = { 0 };

    assert_ok(fileset_write(dir, files, 2, &e));
}

static void
run_open(struct run *r, bool use_events, uint64_t interval_ms)
{
    struct err e = { 0 };

    *r = (struct run){ .loop = NULL };
    tmpdir_make(r->top);
    (void)snprintf(r->dir, sizeof(r->dir), "%s/set", r->top);
    assert_ok(loop_new(&r->loop, &e));
    put_set(r->dir, "a1", "b1");
    struct filewatch_conf conf = { .dir = r->dir,
                                   .names = names,
                                   .n = 2,
                                   .max_file_bytes = 1024,
                                   .interval_ms = interval_ms,
                                   .use_events = use_events,
                                   .on_change = on_change,
                                   .on_error = on_error,
                                   .arg = r };
    assert_ok(filewatch_new(r->loop, &conf, &r->watch, &e));
}

static void
run_close(struct run *r)
{
    filewatch_free(r->watch);
    loop_free(r->loop);
    tmpdir_remove(r->top);
}

/* The same story with events alone and with the interval alone: each must do by itself. */
static void
story(bool use_events)
{
    char other[PATH_MAX_BYTES], aside[PATH_MAX_BYTES];
    struct run r;

    run_open(&r, use_events, use_events ? NEVER_MS : POLL_MS);
    (void)snprintf(other, sizeof(other), "%s/other", r.top);
    (void)snprintf(aside, sizeof(aside), "%s/aside", r.top);
    expect(&r, "the first read", "a1", "b1");
    put_set(r.dir, "a2", "b2");
    expect(&r, "a swap of the whole set", "a2", "b2");
    put_set(other, "a3", "b3");
    assert_int_equal(rename(r.dir, aside), 0);
    assert_int_equal(rename(other, r.dir), 0);
    expect(&r, "the folder replaced by another", "a3", "b3");
    put_set(r.dir, "a4", "b4");
    expect(&r, "a swap in the new folder", "a4", "b4");
    tmpdir_remove(r.dir);
    assert_int_equal(symlink(aside, r.dir), 0);
    expect(&r, "the folder replaced by a link", "a2", "b2");
    run_close(&r);
}

static void
test_events_alone(void **state)
{
    (void)state;
    story(true);
}

static void
test_interval_alone(void **state)
{
    (void)state;
    story(false);
}

static void
test_plain_folder(void **state)
{
    struct run r;
    char plain[PATH_MAX_BYTES], aside[PATH_MAX_BYTES];

    (void)state;
    run_open(&r, true, POLL_MS);
    expect(&r, "the first read", "a1", "b1");
    (void)snprintf(plain, sizeof(plain), "%s/plain", r.top);
    (void)snprintf(aside, sizeof(aside), "%s/aside", r.top);
    struct err e = { 0 };
    assert_ok(dir_make(plain, 0755, &e));
    put(plain, "a.pem", "hand");
    assert_int_equal(rename(r.dir, aside), 0);
    assert_int_equal(rename(plain, r.dir), 0);
    expect(&r, "a folder written by hand, one file absent", "hand", NULL);
    put(r.dir, "b.pem", "made");
    expect(&r, "the absent file appears", "hand", "made");
    put(r.dir, "a.pem", "edit");
    expect(&r, "an edit in place", "edit", "made");
    run_close(&r);
}

static void
test_absent_folder_is_told_once_and_comes_back(void **state)
{
    char aside[PATH_MAX_BYTES];
    struct run r;

    (void)state;
    run_open(&r, false, POLL_MS);
    expect(&r, "the first read", "a1", "b1");
    (void)snprintf(aside, sizeof(aside), "%s/aside", r.top);
    assert_int_equal(rename(r.dir, aside), 0);
    for (int i = 0; i < 3; i++)
        filewatch_poke(r.watch);
    assert_int_equal(r.errors, 1);
    int seen = r.seen;
    assert_int_equal(rename(aside, r.dir), 0);
    filewatch_poke(r.watch);
    assert_int_equal(r.seen, seen); /* the same content: nothing to tell */
    put_set(r.dir, "a2", "b2");
    expect(&r, "a change after the absence", "a2", "b2");
    run_close(&r);
}

static void
test_limits(void **state)
{
    struct loop *l = NULL;
    struct filewatch *w = NULL;
    struct err e = { 0 };

    (void)state;
    assert_ok(loop_new(&l, &e));
    struct filewatch_conf conf = { .dir = "/x", .names = names, .n = 2, .interval_ms = 99 };
    assert_err(filewatch_new(l, &conf, &w, &e), E_INVAL, "100ms..1h");
    conf.interval_ms = 1000;
    conf.n = 0;
    assert_err(filewatch_new(l, &conf, &w, &e), E_INVAL, "set of 0 files");
    loop_free(l);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_alone),
        cmocka_unit_test(test_interval_alone),
        cmocka_unit_test(test_plain_folder),
        cmocka_unit_test(test_absent_folder_is_told_once_and_comes_back),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("net/filewatch", tests, NULL, NULL);
}
