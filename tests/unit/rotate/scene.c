#include "scene.h"

#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct scene_pki pki;

struct sync_versions
versions(const char *name)
{
    struct sync_versions v;

    memset(&v, 0, sizeof(v));
    for (size_t i = 0; i < PART__N; i++)
        (void)snprintf(v.v[i], VERSION_TEXT_BYTES, "%s-%zu", name, i);
    return v;
}

int
make_pki(void **state)
{
    (void)state;
    make_root("Root A", &pki.a);
    make_root("Root B", &pki.b);
    renew_root("Root A", &pki.a, &pki.a_renewed);
    make_intermediate("Intermediate A1", 3000, &pki.a, &pki.a1);
    make_intermediate("Intermediate A2", 3000, &pki.a, &pki.a2);
    make_intermediate("Intermediate B1", 3000, &pki.b, &pki.b1);
    make_intermediate("Intermediate B short", 1, &pki.b, &pki.b_short);
    pki.a_a1 = make_bundle(&pki.a, &pki.a1, NULL);
    pki.a_renewed_a1 = make_bundle(&pki.a_renewed, &pki.a1, NULL);
    pki.a_a2 = make_bundle(&pki.a, &pki.a2, NULL);
    pki.ab_a1 = make_bundle(&pki.a, &pki.a1, &pki.b);
    pki.ab_b1 = make_bundle(&pki.b, &pki.b1, &pki.a);
    pki.b_b1 = make_bundle(&pki.b, &pki.b1, NULL);
    pki.b_brief = make_bundle(&pki.b, &pki.b_short, NULL);
    return 0;
}

int
free_pki(void **state)
{
    (void)state;
    struct authority *all[] = { &pki.a,  &pki.b,  &pki.a_renewed, &pki.a1,
                                &pki.a2, &pki.b1, &pki.b_short };
    struct bundle *bundles[] = { pki.a_a1, pki.a_a2,    pki.ab_a1,       pki.ab_b1,
                                 pki.b_b1, pki.b_brief, pki.a_renewed_a1 };

    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        authority_done(all[i]);
    for (size_t i = 0; i < ARRAY_LEN(bundles); i++)
        bundle_unref(bundles[i]);
    return 0;
}

/* -- the world around the driver -----------------------------------------------------------------
 */

const uint8_t *
letter_id(char c)
{
    return cert_id(c == 'A' ? pki.a.cert : pki.b.cert);
}

static size_t
letters_ids(const char *s, uint8_t (*ret)[DIGEST_BYTES])
{
    size_t n = 0;

    for (; s != NULL && s[n] != '\0'; n++)
        memcpy(ret[n], letter_id(s[n]), DIGEST_BYTES);
    return n;
}

static void
each_load(void *self, ledger_workload_fn *fn, void *arg)
{
    struct scene *s = self;

    for (size_t i = 0; i < LOADS_MAX; i++) {
        uint8_t leaf[ROOTS_MAX][DIGEST_BYTES], ack[ROOTS_MAX][DIGEST_BYTES];
        struct ledger_workload w = { .identity = "spiffe://td/ns/shop/sa/cart",
                                     .instance = "00112233445566778899aabbccddeeff",
                                     .can_acknowledge = true,
                                     .ack_generation = s->loads[i].ack_generation,
                                     .min_row_generation = 1,
                                     .last_not_after = 1800000000 };
        if (s->loads[i].leaves == NULL)
            continue;
        w.leaf_roots_n = letters_ids(s->loads[i].leaves, leaf);
        w.ack_roots_n = letters_ids(s->loads[i].acked, ack);
        w.leaf_roots = (const uint8_t(*)[DIGEST_BYTES])leaf;
        w.ack_roots = (const uint8_t(*)[DIGEST_BYTES])ack;
        fn(&w, arg);
    }
}

struct answer {
    struct scene *s;
    sync_fetched_fn *done;
    void *arg;
};

static void
answer_later(void *arg)
{
    struct answer *a = arg;
    struct err why;

    (void)err_set(&why, E_PEER, "the vault is down");
    a->done(a->s->answer, &why, a->arg);
    free(a);
}

static int
fake_fetch(void *self, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
           struct err *e)
{
    struct scene *s = self;
    struct answer *a = malloc(sizeof(*a));

    assert_non_null(a);
    *a = (struct answer){ s, done, arg };
    s->asked = *v;
    s->fetches++;
    return loop_post(s->loop, answer_later, a, e);
}

static void
tick(void *arg)
{
    struct scene *s = arg;

    if (s->until(s) || mono_ms() > s->deadline) {
        s->came = s->until(s);
        loop_stop(s->loop);
    } else {
        timer_set(s->tick, TICK_MS);
    }
}

bool
scene_run(struct scene *s, bool (*until)(struct scene *))
{
    struct err e;

    s->until = until;
    s->deadline = mono_ms() + DEADLINE_MS;
    timer_set(s->tick, 0);
    assert_ok(loop_run(s->loop, &e));
    return s->came;
}

void
driver_open(struct scene *s)
{
    struct err e;

    assert_ok(store_open_sqlite(s->state, &s->store, &e));
    s->conf.plans = rotate_plans_store(s->store);
    assert_ok(rotate_new(s->loop, &s->conf, &s->r, &e));
}

/* The process ends here: what was queued in the store may be durable, nothing after it happens. */
void
driver_crash(struct scene *s)
{
    rotate_free(s->r);
    s->r = NULL;
    store_close(s->store);
    s->store = NULL;
}

int
set_up(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e;

    assert_non_null(s);
    (void)snprintf(s->dir, sizeof(s->dir), "/tmp/test_rotate.XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    (void)snprintf(s->folder, sizeof(s->folder), "%s/ca", s->dir);
    (void)snprintf(s->state, sizeof(s->state), "%s/state", s->dir);
    assert_ok(dir_make(s->state, 0700, &e));
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(metrics_new(&s->metrics, &e));
    assert_ok(timer_new(s->loop, tick, s, &s->tick, &e));
    s->conf = (struct rotate_conf){ .workloads = each_load,
                                    .workloads_self = s,
                                    .metrics = s->metrics,
                                    .target = rotate_target_folder(s->folder),
                                    .renew_window_ms = 5000,
                                    .replicas_n = 1,
                                    .fetch = fake_fetch,
                                    .self = s };
    driver_open(s);
    *state = s;
    return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

int
tear_down(void **state)
{
    struct scene *s = *state;

    driver_crash(s);
    timer_free(s->tick);
    loop_free(s->loop);
    metrics_free(s->metrics);
    (void)nftw(s->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(s);
    clock_shift_for_test(0);
    return 0;
}

/* -- what is seen --------------------------------------------------------------------------------
 */

struct bundle *
folder_read(struct scene *s, struct set_manifest *ret_m)
{
    struct err e;
    struct buf bufs[SET_FILES];
    bool present[SET_FILES];
    struct bundle *b = NULL;

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(fileset_read(s->folder, set_file_names, SET_FILES, bufs, present, &e));
    assert_ok(set_parse(bufs, present, &b, ret_m, &e));
    for (size_t i = 0; i < SET_FILES; i++)
        buf_wipe(&bufs[i]);
    return b;
}

/* The folder holds this generation, these roots, this signer, and the versions it came from. */
void
assert_folder(struct scene *s, uint64_t generation, const char *roots,
              const struct authority *signer, const char *version)
{
    struct set_manifest m;
    CLEANUP(bundle_unrefp) struct bundle *b = folder_read(s, &m);
    struct sync_versions want = versions(version);

    assert_int_equal(m.generation, generation);
    assert_int_equal(m.renew_window_ms, 5000);
    assert_false(m.self_signed);
    assert_memory_equal(&m.versions, &want, sizeof(want));
    assert_int_equal(roots_count(bundle_roots(b)), strlen(roots));
    for (const char *p = roots; *p != '\0'; p++)
        assert_true(roots_has(bundle_roots(b), letter_id(*p)));
    assert_memory_equal(cert_id(bundle_signer(b)), cert_id(signer->cert), DIGEST_BYTES);
}

bool
is_settled(struct scene *s)
{
    return s->r->has_plan && !s->r->lagging && s->r->commit == NULL &&
           (s->r->want == NULL || plan_classify(&s->r->plan, &s->r->wanted) == CLASS_NONE);
}

bool
is_held(struct scene *s)
{
    return s->r->commit == NULL && !s->r->lagging && s->r->step.kind == STEP_HELD;
}

bool
is_troubled(struct scene *s)
{
    return s->r->trouble != TROUBLE_NONE;
}

bool
is_caught_up(struct scene *s)
{
    return s->r->has_plan && !s->r->lagging && s->r->commit == NULL;
}

void
want(struct scene *s, struct bundle *b, const char *version)
{
    struct sync_versions v = versions(version);

    rotate_want(s->r, b, &v);
}

/* The replica has loaded what is in the folder. */
void
replica_loads(struct scene *s)
{
    struct set_manifest m;
    CLEANUP(bundle_unrefp) struct bundle *b = folder_read(s, &m);

    rotate_replica(s->r, "ca-0", m.generation, bundle_roots(b), cert_id(bundle_signer(b)));
}

void
assert_held(struct scene *s, const char *reason, const char *gated)
{
    json_t *j = rotate_status(s->r);
    char labels[64];

    assert_non_null(j);
    json_t *held = json_object_get(j, "held");
    assert_string_equal(json_string_value(json_object_get(held, "reason")), reason);
    assert_string_equal(json_string_value(json_object_get(held, "gated")), gated);
    (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", reason);
    assert_int_equal((int)metric_value(s->metrics, "meshroot_rotate_held", labels), 1);
    json_decref(j);
}

void
settle(struct scene *s, struct bundle *b, const char *version)
{
    want(s, b, version);
    run_until(s, is_settled);
}

void
folder_remove(struct scene *s)
{
    (void)nftw(s->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
