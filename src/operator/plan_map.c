#include "operator/plan_map.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/feed.h"
#include "kube/write.h"

#define KEY_PLAN  "plan.json"
#define KEY_FLOOR "generation"

/* A save under way. */
struct save {
    struct plan_map *map; /* NULL once that is gone */
    char *text;           /* owned: what is to be there */
    rotate_saved_fn *done;
    void *arg;
    struct err why;   /* of the write, while it is read what is there */
    bool is_deferred; /* its answer comes at the end of this turn, whatever happens */
    unsigned tries;
};

struct plan_map {
    struct loop *loop;
    struct kube_client *kube;
    char ns[64], name[330];
    struct kube_call *call; /* a read, or a write of plan_map_retire */
    struct kube_call *write;
    struct save *save;
    plan_map_fn *opened; /* or the one of plan_map_retire */
    void *arg;
    bool exists;
    char *plan;               /* owned; NULL: none */
    uint64_t floor, revision; /* revision: counts what was seen of others and of us */
    uint64_t retire_floor;
    char version[128];
};

/* -- what is there -------------------------------------------------------------------------------
 */

static int
map_read(struct plan_map *m, const json_t *o, struct err *e)
{
    const json_t *data = json_object_get(o, "data");
    const char *plan = json_string_value(json_object_get(data, KEY_PLAN));
    const char *floor = json_string_value(json_object_get(data, KEY_FLOOR));
    const char *version = kube_object_version(o);
    CLEANUP(str_freep) char *copy = NULL;
    uint64_t n = 0;

    if (version[0] == '\0' || strlen(version) >= sizeof(m->version))
        return err_set(e, E_PEER, "ConfigMap %s/%s: has no resourceVersion", m->ns, m->name);
    if (floor != NULL && u64_parse(span_str(floor), 0, GENERATION_TOLD_MAX, &n, e) < 0)
        return err_wrap(e, "ConfigMap %s/%s: " KEY_FLOOR, m->ns, m->name);
    if (plan != NULL)
        TRY(str_dup(span_str(plan), &copy, e));
    free(m->plan);
    m->plan = STEAL(copy);
    m->floor = n;
    if (!m->exists || strcmp(version, m->version) != 0)
        m->revision++; /* else it is as it was: a write failed, and changed nothing */
    m->exists = true;
    memcpy(m->version, version, strlen(version) + 1);
    return 0;
}

static void
map_absent(struct plan_map *m)
{
    free(STEAL(m->plan));
    m->exists = false;
    m->revision++;
    m->version[0] = '\0';
}

/* r: 0 known now. `body`, `why` as of a call. */
static int
map_answer(struct plan_map *m, const json_t *body, const struct err *why, struct err *e)
{
    if (why != NULL && why->code == E_NOTFOUND) {
        map_absent(m);
        return 0;
    }
    if (why != NULL) {
        *e = *why;
        return err_wrap(e, "ConfigMap %s/%s", m->ns, m->name);
    }
    return map_read(m, body, e);
}

static int
map_get(struct plan_map *m, kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    TRY(kube_path(&kube_config_map, m->ns, m->name, NULL, &path, e));
    return kube_get(m->kube, path, 0, done, arg, ret, e);
}

static void
on_opened(const json_t *body, const struct err *why, void *arg)
{
    struct plan_map *m = arg;
    struct err e = { 0 };

    m->call = NULL;
    int done = map_answer(m, body, why, &e);
    m->opened(done < 0 ? &e : NULL, m->arg);
}

/* -- the port ------------------------------------------------------------------------------------
 */

static int
port_load(void *self, struct buf *text, uint64_t *ret_revision, struct err *e)
{
    struct plan_map *m = self;

    if (m->plan == NULL)
        return ROTATE_ABSENT;
    TRY(buf_add_str(text, m->plan, e));
    *ret_revision = m->revision;
    return 0;
}

static int
port_floor(void *self, uint64_t *ret, struct err *e)
{
    struct plan_map *m = self;

    (void)e;
    *ret = m->floor;
    return 0;
}

static void
save_end(struct save *s, const struct err *why)
{
    struct err none = { 0 };

    if (s->map != NULL)
        s->map->save = NULL;
    s->done(why == NULL ? &none : why, s->map == NULL ? 0 : s->map->revision, s->arg);
    free(s->text);
    free(s);
}

static void on_saved(const json_t *body, const struct err *why, void *arg);
static int map_write(struct plan_map *m, const char *plan, uint64_t floor, kube_done_fn *done,
                     void *arg, struct kube_call **ret, struct err *e);

/* The write failed, or nobody knows: what is there decides. */
static void
on_read_again(const json_t *body, const struct err *why, void *arg)
{
    struct save *s = arg;
    struct plan_map *m = s->map;
    struct err e = { 0 };

    m->write = NULL;
    if (map_answer(m, body, why, &e) < 0) {
        save_end(s, &e);
    } else if (!m->exists && s->tries++ == 0 &&
               map_write(m, s->text, m->floor, on_saved, s, &m->write, &e) == 0) {
        return; /* somebody deleted it: the driver has the plan, and it is made anew */
    } else if (m->plan != NULL && strcmp(m->plan, s->text) == 0) {
        save_end(s, NULL); /* it was done all the same */
    } else {
        e = s->why;
        if (e.code == E_EXISTS || e.code == E_NOTFOUND)
            e.code = E_CONFLICT;
        (void)err_wrap(&e, "ConfigMap %s/%s", m->ns, m->name);
        save_end(s, &e);
    }
}

static void
on_saved(const json_t *body, const struct err *why, void *arg)
{
    struct save *s = arg;
    struct plan_map *m = s->map;
    struct err e = { 0 };

    m->write = NULL;
    if (why == NULL && map_read(m, body, &e) == 0) {
        save_end(s, NULL);
        return;
    }
    s->why = why == NULL ? e : *why;
    if (map_get(m, on_read_again, s, &m->write, &e) < 0)
        save_end(s, &s->why);
}

static int
map_object(const struct plan_map *m, const char *plan, uint64_t floor, json_t **ret, struct err *e)
{
    char n[24];
    json_t *o = NULL;

    (void)snprintf(n, sizeof(n), "%" PRIu64, floor);
    TRY(kube_object_new(&kube_config_map, m->ns, m->name, &o, e));
    int done = kube_config_map_set(o, KEY_FLOOR, span_str(n), e);
    if (done == 0 && plan != NULL)
        done = kube_config_map_set(o, KEY_PLAN, span_str(plan), e);
    if (done == 0)
        done = kube_object_label(o, "app.kubernetes.io/managed-by", "meshroot", e);
    if (done == 0 && m->exists)
        done = kube_object_guard(o, m->version, e);
    if (done < 0)
        json_decref(o);
    else
        *ret = o;
    return done;
}

static int
map_write(struct plan_map *m, const char *plan, uint64_t floor, kube_done_fn *done, void *arg,
          struct kube_call **ret, struct err *e)
{
    json_t *o = NULL;

    TRY(map_object(m, plan, floor, &o, e));
    struct kube_write w = { .kind = &kube_config_map, .object = o };
    int r = m->exists ? kube_update(m->kube, &w, done, arg, ret, e)
                      : kube_create(m->kube, &w, done, arg, ret, e);
    json_decref(o);
    return r;
}

static void
conflict_later(void *arg)
{
    struct save *s = arg;
    struct err e;

    (void)err_set(&e, E_CONFLICT, "the plan is not what was read any more");
    save_end(s, &e);
}

static int
port_save(void *self, struct span text, uint64_t revision, struct loop *l, rotate_saved_fn *done,
          void *arg, struct err *e)
{
    struct plan_map *m = self;
    struct save *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    *s = (struct save){ .map = m, .done = done, .arg = arg };
    int r = m->save != NULL ? err_set(e, E_BUSY, "the plan is being written") : 0;
    if (r == 0)
        r = str_dup(text, &s->text, e);
    s->is_deferred = revision != (m->plan == NULL ? 0 : m->revision);
    if (r == 0 && s->is_deferred)
        loop_defer(l, conflict_later, s);
    else if (r == 0)
        r = map_write(m, s->text, m->floor, on_saved, s, &m->write, e);
    if (r < 0) {
        free(s->text);
        free(s);
        return r;
    }
    m->save = s;
    return 0;
}

struct rotate_plans
plan_map_port(struct plan_map *m)
{
    return (struct rotate_plans){
        .load = port_load, .floor = port_floor, .save = port_save, .self = m
    };
}

/* -- open, retire, close -------------------------------------------------------------------------
 */

int
plan_map_new(struct loop *l, struct kube_client *kube, const char *ns, const char *name,
             plan_map_fn *opened, void *arg, struct plan_map **ret, struct err *e)
{
    struct plan_map *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    *m = (struct plan_map){ .loop = l, .kube = kube, .opened = opened, .arg = arg };
    (void)snprintf(m->ns, sizeof(m->ns), "%s", ns);
    (void)snprintf(m->name, sizeof(m->name), "%s-plan", name);
    if (map_get(m, on_opened, m, &m->call, e) < 0) {
        plan_map_free(m);
        return err_result(e);
    }
    *ret = m;
    return 0;
}

void
plan_map_free(struct plan_map *m)
{
    if (m == NULL)
        return;
    kube_cancel(m->call);
    kube_cancel(m->write);
    if (m->save != NULL) {
        struct err e;

        (void)err_set(&e, E_PEER, "the operator stops");
        m->save->map = NULL;
        if (!m->save->is_deferred)
            save_end(m->save, &e); /* the driver has gone before: this frees its part */
    }
    free(m->plan);
    free(m);
}

bool
plan_map_has_plan(const struct plan_map *m)
{
    return m->plan != NULL;
}

/* What is written over is what is there now: somebody may have written since, and the answer to our
 * own write may have been lost. */
static void
on_retire_read(const json_t *body, const struct err *why, void *arg)
{
    struct plan_map *m = arg;
    struct err e = { 0 };

    m->call = NULL;
    int done = map_answer(m, body, why, &e);
    if (m->floor < m->retire_floor)
        m->floor = m->retire_floor;
    if (done == 0)
        done = map_write(m, NULL, m->floor, on_opened, m, &m->call, &e);
    if (done < 0)
        m->opened(&e, m->arg);
}

int
plan_map_retire(struct plan_map *m, uint64_t generation, plan_map_fn *done, void *arg,
                struct err *e)
{
    if (m->call != NULL || m->save != NULL)
        return err_set(e, E_BUSY, "the plan is being written");
    m->opened = done;
    m->arg = arg;
    m->retire_floor = generation > m->floor ? generation : m->floor;
    return map_get(m, on_retire_read, m, &m->call, e);
}
