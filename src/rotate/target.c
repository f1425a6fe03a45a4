#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "obs/log.h"
#include "rotate/driver.h"

/* Two bundles that sign alike have the same certificate and present the same chain. */
void
signer_of(const struct bundle *b, const struct sync_versions *v, struct plan_signer *ret)
{
    uint8_t ids[CHAIN_MAX * DIGEST_BYTES];
    size_t n = 0;

    memset(ret, 0, sizeof(*ret));
    memcpy(ret->id, cert_id(bundle_signer(b)), DIGEST_BYTES);
    memcpy(ret->root_id, cert_id(bundle_signer_root(b)), DIGEST_BYTES);
    for (size_t i = 0; i < bundle_chain_count(b) && i < CHAIN_MAX; i++) {
        memcpy(ids + n, cert_id(bundle_chain_at(b, i)), DIGEST_BYTES);
        n += DIGEST_BYTES;
    }
    digest(span_of(ids, n), ret->chain_id);
    if (v != NULL)
        ret->versions = *v;
}

/* The root counts: one that was renewed with its key has the same intermediate below it, and leaves
 * are recorded under the root that the bundle names. */
static bool
signs_as_planned(struct rotate *r, const struct bundle *b)
{
    struct plan_signer s;

    if (b == NULL)
        return false;
    signer_of(b, NULL, &s);
    if (!plan_signer_eq(&s, &r->plan.signer))
        return false;
    cert_subject_text(bundle_signer(b), r->signer_subject);
    return true;
}

static int
target_read(const struct rotate *r, struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    return r->conf.target.read(r->conf.target.self, ret, ret_m, e);
}

uint64_t
target_generation(const struct rotate *r)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct set_manifest m = { .generation = 0 };
    struct err e;

    return target_read(r, &b, &m, &e) == 0 ? m.generation : 0;
}

/* With the roots of the plan, and the lists in force. */
static int
bundle_as_planned(struct rotate *r, const struct bundle *signer, struct bundle **ret, struct err *e)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    CLEANUP(crls_unrefp) struct crls *lists = NULL;

    TRY(bundle_with_roots(signer, r->roots, &b, e));
    TRY(rotate_lists_for(r, b, &lists, e));
    return bundle_with_lists(b, lists, ret, e);
}

static bool
lists_as_planned(struct rotate *r, const struct bundle *b)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    struct err e;

    return rotate_lists_for(r, b, &lists, &e) == 0 && crls_equal(bundle_lists(b), lists);
}

/* r: as the port's. */
static int
target_write(struct rotate *r, const struct bundle *signer, struct err *e)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct set_manifest m = { .generation = r->plan.generation,
                              .versions = r->plan.signer.versions,
                              .renew_window_ms = r->conf.renew_window_ms };

    TRY(bundle_as_planned(r, signer, &b, e));
    const char *version = bundle_lists(b) == NULL ? "" : r->lists_version;
    memcpy(m.versions.v[PART_CA_CRL], version, strlen(version) + 1);
    return r->conf.target.write(r->conf.target.self, b, &m, e);
}

static void
fetched(struct bundle *b, const struct err *why, void *arg)
{
    struct fetch *f = arg;
    struct rotate *r = f->r;

    free(f);
    if (r == NULL)
        return;
    r->fetch = NULL;
    if (b == NULL) {
        rotate_trouble(r, TROUBLE_SIGNER, why);
    } else if (!signs_as_planned(r, b)) {
        struct err e;
        (void)err_set(&e, E_CONFLICT,
                      "the vault's pinned versions are not the signer of generation %" PRIu64,
                      r->plan.generation);
        rotate_trouble(r, TROUBLE_SIGNER, &e);
    } else {
        bundle_unref(r->signer);
        r->signer = bundle_ref(b);
        target_bring_up(r, false);
    }
    rotate_look_soon(r, 0);
}

static void
fetch_signer(struct rotate *r)
{
    struct err e;
    int done;

    if (r->fetch != NULL || mono_ms() < r->retry_at)
        return;
    if (r->conf.fetch == NULL) {
        (void)err_set(&e, E_STATE,
                      "%s does not hold the signer of generation %" PRIu64
                      ", and no vault is configured to fetch it from",
                      r->conf.target.name, r->plan.generation);
        rotate_trouble(r, TROUBLE_SIGNER, &e);
        return;
    }
    struct fetch *f = calloc(1, sizeof(*f));
    if (f == NULL) {
        (void)err_nomem(&e);
        rotate_trouble(r, TROUBLE_SIGNER, &e);
        return;
    }
    f->r = r;
    r->fetch = f;
    done = r->conf.fetch(r->conf.self, &r->plan.signer.versions, fetched, f, &e);
    if (done < 0) {
        r->fetch = NULL;
        free(f);
        rotate_trouble(r, TROUBLE_SIGNER, &e);
    }
}

void
target_bring_up(struct rotate *r, bool may_fetch)
{
    CLEANUP(bundle_unrefp) struct bundle *there = NULL;
    struct set_manifest m = { .generation = 0 };
    bool was_lagging = r->lagging;
    struct err e;

    if (r->is_writing)
        return;
    int read = target_read(r, &there, &m, &e);

    r->target_look_at = mono_ms() + TARGET_LOOK_MS;
    bool is_ahead = m.generation > r->plan.generation && m.generation <= GENERATION_TOLD_MAX;
    r->ahead = read == 0 && is_ahead ? m.generation : 0;
    r->lagging = read != 0 || m.generation != r->plan.generation || !signs_as_planned(r, there) ||
                 !roots_equal(bundle_roots(there), r->roots) || !lists_as_planned(r, there) ||
                 m.lists_why.code != E_NONE; /* lists that are none: without any in force, too */
    r->is_seen = r->is_seen || !r->lagging;
    if (!r->lagging || r->ahead != 0)
        return;
    if (read < 0 && !was_lagging)
        log_warn("rotate", "the set in %s cannot be used and is written anew: %s",
                 r->conf.target.name, e.msg);
    else if (m.lists_why.code != E_NONE && !was_lagging)
        log_warn("rotate", "the set in %s is written anew: %s", r->conf.target.name,
                 m.lists_why.msg);

    const struct bundle *signer = NULL;
    const struct bundle *sources[] = { r->signer, there, r->want };
    for (size_t i = 0; i < ARRAY_LEN(sources) && signer == NULL; i++)
        signer = signs_as_planned(r, sources[i]) ? sources[i] : NULL;
    if (signer == NULL) {
        if (may_fetch)
            fetch_signer(r);
        return;
    }
    if (r->trouble == TROUBLE_TARGET && mono_ms() < r->retry_at)
        return;
    int done = target_write(r, signer, &e);
    if (done < 0)
        rotate_trouble(r, TROUBLE_TARGET, &e);
    r->is_writing = done == ROTATE_LATER;
    if (done != 0)
        return;
    r->lagging = false;
    r->is_seen = true;
    bundle_unref(STEAL(r->signer)); /* its key is in the folder now */
    log_info("rotate", "generation %" PRIu64 " is in %s", r->plan.generation, r->conf.target.name);
}
