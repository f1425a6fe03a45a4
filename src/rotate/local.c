/* local.c - the ports of `meshroot up`: the plan in the store, the set in a folder. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

#include "base/file.h"
#include "base/str.h"
#include "rotate/ports.h"

static const char KEY_PLAN[] = "rotate/plan";
/* The last generation of a plan that was forgotten: workloads may hold it still. */
static const char KEY_FLOOR[] = "rotate/generation";

/* -- the plan ------------------------------------------------------------------------------------
 */

static int
plan_load(void *self, struct buf *text, uint64_t *ret_revision, struct err *e)
{
    int done = store_get(self, KEY_PLAN, text, ret_revision, e);

    return done == STORE_ABSENT ? ROTATE_ABSENT : done;
}

static int
floor_load(void *self, uint64_t *ret, struct err *e)
{
    struct buf text = BUF_INIT(32);
    uint64_t floor = 0;

    int done = store_get(self, KEY_FLOOR, &text, NULL, e);
    if (done == 0 && u64_parse(buf_span(&text), 0, INT64_MAX - 1, &floor, e) < 0)
        done = err_wrap(e, "store: key %s", KEY_FLOOR);
    buf_done(&text);
    if (done < 0)
        return done;
    *ret = floor;
    return 0;
}

static int
plan_save(void *self, struct span text, uint64_t revision, struct loop *l, rotate_saved_fn *done,
          void *arg, struct err *e)
{
    const struct store_op ops[] = {
        { .kind = STORE_EXPECT, .key = KEY_PLAN, .revision = revision },
        { .kind = STORE_PUT, .key = KEY_PLAN, .value = text },
    };

    return store_commit(self, ops, ARRAY_LEN(ops), l, done, arg, e);
}

static int
plan_forget(void *self, uint64_t generation, struct err *e)
{
    char floor[24];
    uint64_t revision;

    (void)snprintf(floor, sizeof(floor), "%" PRIu64, generation);
    const struct store_op ops[] = {
        { .kind = STORE_PUT, .key = KEY_FLOOR, .value = span_str(floor) },
        { .kind = STORE_DELETE, .key = KEY_PLAN },
    };
    return store_commit_wait(self, ops, ARRAY_LEN(ops), &revision, e);
}

struct rotate_plans
rotate_plans_store(struct store *s)
{
    return (struct rotate_plans){ plan_load, floor_load, plan_save, plan_forget, s };
}

/* -- the folder ----------------------------------------------------------------------------------
 */

static int
folder_read(void *self, struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    struct buf bufs[SET_FILES];
    bool present[SET_FILES] = { false };

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    int done = fileset_read(self, set_file_names, SET_FILES, bufs, present, e);
    if (done == FILE_ABSENT)
        done = SET_ABSENT;
    else if (done == 0)
        done = set_parse(bufs, present, ret, ret_m, e);
    for (size_t i = 0; i < SET_FILES; i++)
        buf_wipe(&bufs[i]);
    return done;
}

static int
folder_write(void *self, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    return set_write(self, b, m, e);
}

struct rotate_target
rotate_target_folder(const char *dir)
{
    return (struct rotate_target){ dir, folder_read, folder_write, (void *)(uintptr_t)dir };
}
