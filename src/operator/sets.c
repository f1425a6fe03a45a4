#include "operator/sets.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/write.h"
#include "obs/log.h"
#include "operator/pods.h"
#include "operator/versions.h"

enum { MANIFEST_MAX_BYTES = 4096, SET_KEYS = SET_FILES };

struct one {
    struct sets *sets;
    char ns[64], name[254], text[330]; /* "Secret NS/NAME" */
    struct pods pods;                  /* that mount it */
    bool has_manifest;
    struct kube_feed *feed;
    bool is_known, seen;
    /* as it was read last */
    bool exists, is_ours, was_good;
    json_t *meta;         /* owned: labels and annotations stay */
    struct roots *theirs; /* owned: of a set that is not ours; NULL: it has none that can be read */
    char version[128], uid[64];
    uint64_t known_at;     /* as of which revision, also of its absence; 0: no number */
    struct bundle *bundle; /* owned; NULL: `why` says why it is no set of ours */
    struct set_manifest manifest;
    struct err why;
    struct kube_call *call;
    uint64_t writing; /* generation under way; 0: none */
    /* generation and signer last written, or found well: another one is somebody else's */
    uint64_t tried;
    uint8_t tried_signer[DIGEST_BYTES];
};

struct sets {
    struct loop *loop;
    struct sets_conf conf;
    char owner[330], name[700];
    struct one one[SETS_MAX];
    size_t n, pending; /* writes under way */
    struct err failed; /* of them */
    void (*retired)(const struct err *why, void *arg);
    void *retired_arg;
    struct timer *retire; /* the end of the turn in which it began */
    bool was_known;
};

static const struct metric_desc writes_total = { "meshroot_operator_secret_writes_total",
                                                 "Writes of Secrets, by name and result.",
                                                 METRIC_COUNTER };

/* Base64 of a key, on its way to be freed. */
static void
data_wipe(const json_t *o)
{
    const char *key;
    json_t *v;

    json_object_foreach(json_object_get(o, "data"), key, v)
        if (json_is_string(v))
            explicit_bzero((char *)(uintptr_t)json_string_value(v), json_string_length(v));
}

/* -- what is there -------------------------------------------------------------------------------
 */

static void
one_forget(struct one *o)
{
    bundle_unref(o->bundle);
    o->bundle = NULL;
    json_decref(o->meta);
    o->meta = NULL;
    roots_unref(STEAL(o->theirs));
    o->exists = o->is_ours = false;
    o->version[0] = o->uid[0] = '\0';
}

/* Each of the parts is, byte for byte, what we would write. */
static int
parts_check(const struct bundle *b, const struct buf *bufs, struct err *e)
{
    int done = 0;

    for (size_t i = 0; i < PART__ALL && done == 0; i++) {
        struct buf pem = BUF_INIT(PEM_MAX_BYTES);
        done = bundle_part_pem(b, (enum bundle_part)i, &pem, e);
        if (done == 0 && !span_eq(buf_span(&pem), buf_span(&bufs[i])))
            done = err_set(e, E_CONFLICT, "%s is not as it was written", bundle_file_names[i]);
        buf_wipe(&pem);
    }
    return done;
}

static int
content_read(struct one *o, const json_t *s, struct buf bufs[SET_KEYS], struct bundle **ret,
             struct set_manifest *ret_m, struct err *e)
{
    bool present[SET_KEYS] = { false };
    size_t n = 0, want = o->has_manifest ? PART__N + 1 : PART__N;
    uint64_t generation;

    for (size_t i = 0; i < SET_KEYS; i++) {
        if (i == SET_MANIFEST && !o->has_manifest)
            continue;
        int done = TRY(kube_secret_get(s, set_file_names[i], &bufs[i], e));
        present[i] = done == 0;
        n += present[i];
    }
    want += present[PART_CA_CRL];
    if (n != want || json_object_size(json_object_get(s, "data")) != want)
        return err_set(e, E_CONFLICT, "has not exactly its %zu keys", want);
    TRY(u64_parse(span_str(kube_object_get_annotation(s, SETS_GENERATION)), 1, INT64_MAX,
                  &generation, e));
    TRY(set_parse(bufs, present, ret, ret_m, e));
    TRY(parts_check(*ret, bufs, e));
    if (versions_read(kube_object_get_annotation(s, SETS_VERSIONS), &ret_m->versions) < 0)
        return err_set(e, E_CONFLICT, "annotation " SETS_VERSIONS " is not as it was written");
    bool has_lists = bundle_lists(*ret) != NULL;
    if (present[PART_CA_CRL] != has_lists ||
        (ret_m->versions.v[PART_CA_CRL][0] != '\0') != has_lists)
        return err_set(e, E_CONFLICT, "ca-crl.pem is not as it was written");
    if (o->has_manifest && ret_m->generation != generation)
        return err_set(e, E_CONFLICT,
                       "annotation " SETS_GENERATION " is not that of its manifest.json");
    ret_m->generation = generation;
    return 0;
}

static void
theirs_read(struct one *o, const json_t *s)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct err e;

    if (kube_secret_get(s, bundle_file_names[PART_ROOT_CERT], &pem, &e) == 0 &&
        roots_from_pem(buf_span(&pem), &o->theirs, &e) < 0)
        o->theirs = NULL;
    buf_done(&pem);
}

static void
one_take(struct one *o, const json_t *s, uint64_t as_of)
{
    struct buf bufs[SET_KEYS];
    const char *owner = kube_object_get_annotation(s, SETS_OWNER);
    const json_t *meta = json_object_get(s, "metadata");
    struct bundle *b = NULL;

    one_forget(o);
    o->exists = true;
    o->is_ours = strcmp(owner, o->sets->owner) == 0;
    (void)snprintf(o->version, sizeof(o->version), "%s", kube_object_version(s));
    o->known_at = as_of;
    (void)snprintf(o->uid, sizeof(o->uid), "%s", kube_object_uid(s));
    o->meta = json_pack("{s:O?, s:O?, s:O?}", "labels", json_object_get(meta, "labels"),
                        "annotations", json_object_get(meta, "annotations"), "ownerReferences",
                        json_object_get(meta, "ownerReferences"));
    memset(&o->why, 0, sizeof(o->why));
    if (!o->is_ours)
        theirs_read(o, s);
    for (size_t i = 0; i < SET_KEYS; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    if (content_read(o, s, bufs, &b, &o->manifest, &o->why) != 0) {
        bundle_unref(b);
        b = NULL;
        (void)err_wrap(&o->why, "%s", o->text);
    }
    o->bundle = b;
    for (size_t i = 0; i < SET_KEYS; i++)
        buf_wipe(&bufs[i]);
}

/* -- writes --------------------------------------------------------------------------------------
 */

static void
write_over(struct one *o, const struct err *why)
{
    struct sets *s = o->sets;
    char label[330];

    (void)snprintf(label, sizeof(label), "secret=\"%s\",result=\"%s\"", o->name,
                   why == NULL ? "done" : "failed");
    metric_add(s->conf.metrics, &writes_total, label, 1);
    o->writing = 0;
    if (why != NULL && s->failed.code == E_NONE) {
        s->failed = *why;
        (void)err_wrap(&s->failed, "%s", o->text);
    }
    if (--s->pending == 0)
        s->conf.on_moved(s->failed.code == E_NONE ? NULL : &s->failed, s->conf.arg);
}

static void
on_written(const json_t *body, const struct err *why, void *arg)
{
    struct one *o = arg;
    uint64_t at = kube_revision(kube_object_version(body));

    o->call = NULL;
    if (why == NULL && !kube_is_late(at, o->known_at, o->exists))
        one_take(o, body, at); /* else the watch has told of a later change already */
    if (why == NULL) {
        data_wipe(body);
        o->was_good = o->bundle != NULL && o->is_ours;
        log_info("operator", "generation %" PRIu64 " is in %s", o->manifest.generation, o->text);
        pods_tell(&o->pods, o->manifest.generation);
    } else if (why->code == E_NOTFOUND) {
        one_forget(o); /* the next try makes it */
    }
    write_over(o, why);
}

static int
data_set(const struct one *o, json_t *s, const struct bundle *b, const struct set_manifest *m,
         struct err *e)
{
    int done = 0;

    for (size_t i = 0; i < PART__ALL && done == 0; i++) {
        struct buf pem = BUF_INIT(PEM_MAX_BYTES);

        if (i == PART_CA_CRL && bundle_lists(b) == NULL)
            continue;
        done = bundle_part_pem(b, (enum bundle_part)i, &pem, e);
        if (done == 0)
            done = kube_secret_set(s, set_file_names[i], buf_span(&pem), e);
        buf_wipe(&pem);
    }
    if (done < 0 || !o->has_manifest)
        return done;
    struct buf text = BUF_INIT(MANIFEST_MAX_BYTES);
    done = set_manifest_text(b, m, &text, e);
    if (done == 0)
        done = kube_secret_set(s, set_file_names[SET_MANIFEST], buf_span(&text), e);
    buf_done(&text);
    return done;
}

/* Labels, annotations and owners of others stay; data is ours as a whole. */
static int
object_fill(const struct one *o, json_t *s, const struct bundle *b, const struct set_manifest *m,
            struct err *e)
{
    CLEANUP(str_freep) char *versions = NULL;
    char generation[24];
    json_t *meta = json_object_get(s, "metadata");

    (void)snprintf(generation, sizeof(generation), "%" PRIu64, m->generation);
    TRY(versions_text(&m->versions, &versions, e));
    if ((o->meta != NULL && json_object_update(meta, o->meta) < 0) ||
        json_object_set_new(s, "type", json_string("Opaque")) < 0)
        return err_nomem(e);
    if (o->exists)
        TRY(kube_object_guard(s, o->version, e));
    TRY(kube_object_annotate(s, SETS_OWNER, o->sets->owner, e));
    TRY(kube_object_annotate(s, SETS_GENERATION, generation, e));
    TRY(kube_object_annotate(s, SETS_VERSIONS, versions, e));
    TRY(kube_object_label(s, "app.kubernetes.io/managed-by", "meshroot", e));
    return data_set(o, s, b, m, e);
}

static int
one_write(struct one *o, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    json_t *s = NULL;

    kube_cancel(STEAL(o->call));
    TRY(kube_object_new(&kube_secret, o->ns, o->name, &s, e));
    int done = object_fill(o, s, b, m, e);
    struct kube_write w = { .kind = &kube_secret, .object = s };
    if (done == 0)
        done = o->exists ? kube_update(o->sets->conf.kube, &w, on_written, o, &o->call, e)
                         : kube_create(o->sets->conf.kube, &w, on_written, o, &o->call, e);
    data_wipe(s);
    json_decref(s);
    if (done == 0) {
        o->writing = o->tried = m->generation;
        memcpy(o->tried_signer, cert_id(bundle_signer(b)), DIGEST_BYTES);
    }
    return done;
}

/* -- the port ------------------------------------------------------------------------------------
 */

static int
port_read(void *self, struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    struct sets *s = self;
    struct one *least = NULL;

    for (size_t i = 0; i < s->n; i++) {
        struct one *o = &s->one[i];

        if (!o->exists)
            return SET_ABSENT;
        if (!o->is_ours)
            return err_set(e, E_DENIED, "%s is not marked as ours", o->text);
        if (o->bundle == NULL) {
            *e = o->why;
            return err_result(e);
        }
        if (least == NULL || o->manifest.generation < least->manifest.generation)
            least = o;
    }
    if (least == NULL)
        return SET_ABSENT;
    *ret = bundle_ref(least->bundle);
    *ret_m = least->manifest;
    return 0;
}

int
sets_check(const struct sets *s, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct one *o = &s->one[i];
        if (!o->is_known)
            return err_set(e, E_BUSY, "%s: it is not known yet what is there", o->text);
        if (o->exists && !o->is_ours && !s->conf.adopt)
            return err_set(e, E_DENIED,
                           "%s belongs to somebody else and is not touched: delete it, or take it "
                           "over with spec.adopt: true (mesh enable --adopt)",
                           o->text);
    }
    return 0;
}

int
sets_first_check(const struct sets *s, const struct bundle *b, struct err *e)
{
    TRY(sets_check(s, e));
    for (size_t i = 0; i < s->n; i++) {
        const struct one *o = &s->one[i];
        if (o->theirs != NULL && (!roots_contain(bundle_roots(b), o->theirs) ||
                                  !roots_has(o->theirs, cert_id(bundle_signer_root(b)))))
            return err_set(e, E_DENIED,
                           "%s belongs to somebody else, and workloads have leaves under its root: "
                           "the vault's set, under another one, would cut them off. Put that set "
                           "into the vault first, let it be adopted, then change the vault's",
                           o->text);
    }
    return 0;
}

static bool
holds(const struct one *o, const struct bundle *b, const struct set_manifest *m)
{
    return o->exists && o->is_ours && o->bundle != NULL &&
           o->manifest.generation == m->generation &&
           memcmp(cert_id(bundle_signer(o->bundle)), cert_id(bundle_signer(b)), DIGEST_BYTES) ==
               0 &&
           roots_equal(bundle_roots(o->bundle), bundle_roots(b)) &&
           crls_equal(bundle_lists(o->bundle), bundle_lists(b));
}

static int
port_write(void *self, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    struct sets *s = self;

    TRY(sets_check(s, e));
    if (s->pending > 0)
        return err_set(e, E_BUSY, "%s: a write is under way", s->name);
    memset(&s->failed, 0, sizeof(s->failed));
    s->pending = 1; /* held until all are started */
    for (size_t i = 0; i < s->n; i++) {
        struct one *o = &s->one[i];
        struct err why;

        if (holds(o, b, m))
            continue;
        if (one_write(o, b, m, &why) == 0)
            s->pending++;
        else if (s->failed.code == E_NONE)
            s->failed = why;
    }
    s->pending--;
    if (s->pending > 0)
        return ROTATE_LATER;
    *e = s->failed;
    return s->failed.code == E_NONE ? 0 : err_result(e);
}

struct rotate_target
sets_port(struct sets *s)
{
    return (
        struct rotate_target){ .name = s->name, .read = port_read, .write = port_write, .self = s };
}

/* -- watches -------------------------------------------------------------------------------------
 */

static bool
as_tried(const struct one *o)
{
    return o->manifest.generation == o->tried &&
           memcmp(cert_id(bundle_signer(o->bundle)), o->tried_signer, DIGEST_BYTES) == 0;
}

static void
one_moved(struct one *o)
{
    struct sets *s = o->sets;
    bool good = o->exists && o->is_ours && o->bundle != NULL;

    if (o->was_good && !good)
        s->conf.on_restored(o->text, o->exists ? o->why.msg : "was deleted", s->conf.arg);
    else if (o->was_good && o->writing == 0 && !as_tried(o))
        s->conf.on_restored(o->text, "another whole set was put there", s->conf.arg);
    else if (good && !o->was_good && o->tried == 0) { /* of a leader before us */
        o->tried = o->manifest.generation;
        memcpy(o->tried_signer, cert_id(bundle_signer(o->bundle)), DIGEST_BYTES);
    }
    o->was_good = good;
    if (s->was_known && s->pending == 0)
        s->conf.on_moved(NULL, s->conf.arg);
}

/* It was, or the list of this version has none. */
static void
one_gone(struct one *o, uint64_t version)
{
    bool was = o->exists;

    one_forget(o);
    o->known_at = version;
    if (was)
        one_moved(o);
}

/* Also while a write is under way: it may be this write's, whose answer is lost. */
static int
on_put(const json_t *s, void *arg, struct err *e)
{
    struct one *o = arg;
    uint64_t at = kube_revision(kube_feed_version(o->feed));
    bool is_it = strcmp(kube_object_name(s), o->name) == 0;

    (void)e;
    o->seen = o->seen || is_it;
    if (is_it && !kube_is_late(at, o->known_at, o->exists)) {
        if (o->known_at == 0 || strcmp(kube_object_version(s), o->version) != 0) {
            one_take(o, s, at);
            one_moved(o);
        }
        o->known_at = at;
    }
    data_wipe(s);
    return 0;
}

static int
on_gone(const json_t *s, void *arg, struct err *e)
{
    struct one *o = arg;

    (void)e;
    if (strcmp(kube_object_name(s), o->name) == 0 && strcmp(kube_object_uid(s), o->uid) == 0)
        one_gone(o, kube_revision(kube_feed_version(o->feed)));
    data_wipe(s);
    return 0;
}

static void
on_begin(void *arg)
{
    ((struct one *)arg)->seen = false;
}

/* What we wrote may be in the history that is no more: rotation looks at what there is now. */
static void
on_rewound(void *arg)
{
    struct one *o = arg;
    struct err e;

    o->known_at = 0;
    if (o->writing == 0)
        return;
    kube_cancel(STEAL(o->call));
    (void)err_set(&e, E_CONFLICT, "the API server went back to an older state meanwhile");
    write_over(o, &e);
}

static void
on_whole(void *arg)
{
    struct one *o = arg;
    struct sets *s = o->sets;
    uint64_t version = kube_revision(kube_feed_version(o->feed));

    if (!o->seen && !kube_is_late(version, o->known_at, o->exists))
        one_gone(o, version);
    o->is_known = true;
    if (!s->was_known && sets_are_known(s)) {
        s->was_known = true;
        s->conf.on_known(s->conf.arg);
    }
}

/* -- public --------------------------------------------------------------------------------------
 */

static int
one_open(struct sets *s, const struct set_place *p, struct one *o, struct err *e)
{
    CLEANUP(str_freep) char *all = NULL, *path = NULL;

    o->sets = s;
    o->has_manifest = p->has_manifest;
    (void)snprintf(o->ns, sizeof(o->ns), "%s", p->ns);
    (void)snprintf(o->name, sizeof(o->name), "%s", p->name);
    (void)snprintf(o->text, sizeof(o->text), "Secret %s/%s", p->ns, p->name);
    TRY(pods_init(&o->pods, s->conf.kube, p->ns, p->pods, e));
    TRY(kube_path(&kube_secret, p->ns, NULL, NULL, &all, e));
    TRY(str_format(&path, e, "%s?fieldSelector=metadata.name%%3D%s", all, p->name));
    struct kube_feed_conf f = { .path = path,
                                .name = p->name,
                                .metrics = s->conf.metrics,
                                .begin = on_begin,
                                .put = on_put,
                                .gone = on_gone,
                                .whole = on_whole,
                                .rewound = on_rewound,
                                .verify_ms = KUBE_FEED_VERIFY_MS,
                                .arg = o };
    return kube_feed_new(s->loop, s->conf.kube, &f, &o->feed, e);
}

static void
retired_later(void *arg)
{
    struct sets *s = arg;

    if (--s->pending == 0)
        s->retired(s->failed.code == E_NONE ? NULL : &s->failed, s->retired_arg);
}

int
sets_new(struct loop *l, const struct sets_conf *conf, struct sets **ret, struct err *e)
{
    struct sets *s = calloc(1, sizeof(*s));
    int done = 0;

    if (s == NULL)
        return err_nomem(e);
    s->loop = l;
    s->conf = *conf;
    (void)snprintf(s->owner, sizeof(s->owner), "%s", conf->owner);
    done = timer_new(l, retired_later, s, &s->retire, e);
    for (size_t i = 0; i < conf->places_n && done == 0; i++) {
        done = one_open(s, &conf->places[i], &s->one[i], e);
        s->n = i + 1;
    }
    (void)snprintf(s->name, sizeof(s->name), "%s%s%s", s->one[0].text, s->n > 1 ? " and " : "",
                   s->n > 1 ? s->one[1].text : "");
    if (done < 0) {
        sets_free(s);
        return done;
    }
    *ret = s;
    return 0;
}

void
sets_free(struct sets *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < s->n; i++) {
        kube_feed_free(s->one[i].feed);
        kube_cancel(s->one[i].call);
        one_forget(&s->one[i]);
        pods_done(&s->one[i].pods);
    }
    timer_free(s->retire);
    free(s);
}

bool
sets_are_known(const struct sets *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (!s->one[i].is_known)
            return false;
    return true;
}

uint64_t
sets_generation(const struct sets *s)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < s->n; i++) {
        const struct one *o = &s->one[i];
        if (!o->exists || !o->is_ours || o->bundle == NULL)
            return 0;
        if (o->manifest.generation < least)
            least = o->manifest.generation;
    }
    return least;
}

bool
sets_exist(const struct sets *s)
{
    return s->one[0].exists;
}

static void
on_deleted(const json_t *body, const struct err *why, void *arg)
{
    struct one *o = arg;
    struct sets *s = o->sets;

    (void)body;
    o->call = NULL;
    if (why != NULL && why->code != E_NOTFOUND && s->failed.code == E_NONE) {
        s->failed = *why;
        (void)err_wrap(&s->failed, "%s", o->text);
    }
    if (--s->pending == 0)
        s->retired(s->failed.code == E_NONE ? NULL : &s->failed, s->retired_arg);
}

int
sets_retire(struct sets *s, void (*done)(const struct err *why, void *arg), void *arg,
            struct err *e)
{
    if (s->pending > 0)
        return err_set(e, E_BUSY, "%s: a write is under way", s->name);
    memset(&s->failed, 0, sizeof(s->failed));
    s->retired = done;
    s->retired_arg = arg;
    s->was_known = false; /* nothing is put back any more */
    s->pending = 1;
    for (size_t i = 0; i < s->n; i++) {
        struct one *o = &s->one[i];
        struct kube_write w = {
            .kind = &kube_secret, .ns = o->ns, .name = o->name, .uid = o->uid, .version = o->version
        };
        struct err why;

        if (!o->exists || !o->is_ours)
            continue;
        kube_cancel(STEAL(o->call));
        o->was_good = false;
        if (kube_delete(s->conf.kube, &w, on_deleted, o, &o->call, &why) == 0)
            s->pending++;
        else if (s->failed.code == E_NONE)
            s->failed = why;
    }
    timer_set(s->retire, 0);
    return 0;
}
