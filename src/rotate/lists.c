/* lists.c - which revocation lists of the CAs go with the signer. They follow the vault as soon as
 * they may: they do not go back, and they do not revoke what signs. */
#include "base/clock.h"
#include "base/str.h"
#include "obs/log.h"
#include "rotate/driver.h"

static void
note(struct rotate *r, enum lists_why w, const struct err *why)
{
    const char *text = why == NULL ? "" : why->msg;

    if (why != NULL && strcmp(r->lists_why[w], text) != 0)
        log_with(LOG_WARN, "rotate", LABELS({ "reason", "lists" }),
                 "the vault's revocation lists are not in force: %s", text);
    memcpy(r->lists_why[w], text, strlen(text) + 1);
}

void
rotate_lists_recall(struct rotate *r)
{
    CLEANUP(bundle_unrefp) struct bundle *there = NULL;
    struct set_manifest m = { .generation = 0 };
    struct err e;

    if (r->conf.target.read(r->conf.target.self, &there, &m, &e) != 0)
        return;
    if (m.lists_why.code != E_NONE)
        log_warn("rotate", "%s: %s; without it until the vault answers", r->conf.target.name,
                 m.lists_why.msg);
    if (bundle_lists(there) == NULL)
        return;
    r->lists = crls_ref(bundle_lists(there));
    memcpy(r->lists_version, m.versions.v[PART_CA_CRL], VERSION_TEXT_BYTES);
}

void
rotate_lists_forget(struct rotate *r)
{
    crls_unref(STEAL(r->lists));
    r->lists_version[0] = '\0';
    for (int i = 0; i < LISTS_WHY__N; i++)
        r->lists_why[i][0] = '\0';
}

/* What the vault has is known, fit to be used (sync.h), and not what is in force. */
static bool
is_other(const struct rotate *r)
{
    bool is_kept = r->want != NULL && bundle_lists(r->want) == NULL &&
                   r->wanted.signer.versions.v[PART_CA_CRL][0] != '\0';

    return r->want != NULL && !is_kept && !crls_equal(bundle_lists(r->want), r->lists);
}

bool
rotate_lists_are_due(struct rotate *r, const struct bundle *signer)
{
    const struct crls *next = r->want == NULL ? NULL : bundle_lists(r->want);
    struct err e;

    if (!is_other(r)) {
        note(r, LISTS_WHY_TAKE, NULL);
        return false;
    }
    int done = bundle_lists_follow(r->lists, next, &e);
    if (done == 0 && (done = bundle_lists_spare(signer, next, &e)) < 0)
        (void)err_wrap(&e, "not before the signer has moved");
    note(r, LISTS_WHY_TAKE, done < 0 ? &e : NULL);
    return done == 0;
}

bool
rotate_lists_are_due_now(struct rotate *r)
{
    CLEANUP(bundle_unrefp) struct bundle *there = NULL;
    struct set_manifest m = { .generation = 0 };
    struct err e;

    if (is_other(r) && r->conf.target.read(r->conf.target.self, &there, &m, &e) != 0)
        return false;
    return rotate_lists_are_due(r, there);
}

bool
rotate_lists_are_pending(const struct rotate *r)
{
    return is_other(r) && r->lists_why[LISTS_WHY_TAKE][0] == '\0';
}

void
rotate_lists_go_along(const struct rotate *r, struct commit *c)
{
    struct crls *lists = bundle_lists(r->want);

    c->moves_lists = true;
    c->lists = lists == NULL ? NULL : crls_ref(lists);
    memcpy(c->lists_version, r->wanted.signer.versions.v[PART_CA_CRL], VERSION_TEXT_BYTES);
}

void
rotate_lists_committed(struct rotate *r, struct commit *c)
{
    if (!c->moves_lists)
        return;
    if (r->lists != NULL && c->lists == NULL)
        log_warn("rotate", "the revocation lists of the CAs are gone from the vault: what they "
                           "revoked is accepted again");
    crls_unref(r->lists);
    r->lists = STEAL(c->lists);
    memcpy(r->lists_version, c->lists_version, VERSION_TEXT_BYTES);
}

void
rotate_lists_action(const struct rotate *r, struct action *a)
{
    const struct crls *next = bundle_lists(r->want);

    a->step = "lists";
    if (next == NULL)
        (void)snprintf(a->why, sizeof(a->why), "the revocation lists are gone from the vault");
    else
        (void)snprintf(a->why, sizeof(a->why),
                       "the vault has other revocation lists: %zu, with %zu entries",
                       crls_count(next), crls_entries(next));
}

int
rotate_lists_for(struct rotate *r, const struct bundle *b, struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *fit = NULL;
    struct err why;

    TRY(bundle_lists_fitting(b, r->lists, &fit, e));
    int done = fit == NULL || !r->conf.lists_whole ? 0 : bundle_lists_are_whole(b, fit, &why);
    if (done < 0)
        (void)err_wrap(&why,
                       "%s goes without ca-crl.pem, for a stock istiod wants a list of each "
                       "certificate of cert-chain.pem",
                       r->conf.target.name);
    note(r, LISTS_WHY_WHOLE, done < 0 ? &why : NULL);
    *ret = done < 0 ? NULL : STEAL(fit);
    return 0;
}

json_t *
rotate_lists_json(const struct rotate *r)
{
    const char *held = r->lists_why[LISTS_WHY_TAKE];
    int64_t end = bundle_lists_end(r->lists);
    char text[RFC3339_BYTES];

    if (held[0] == '\0')
        held = r->lists_why[LISTS_WHY_WHOLE];
    if (r->lists == NULL && held[0] == '\0')
        return json_null();
    rfc3339_s(end, text);
    return json_pack("{s:s, s:I, s:I, s:s?, s:s?}", "version", r->lists_version, "lists",
                     (json_int_t)crls_count(r->lists), "entries",
                     (json_int_t)crls_entries(r->lists), "next_update",
                     end == INT64_MAX ? NULL : text, "held", held[0] == '\0' ? NULL : held);
}
