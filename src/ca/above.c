/* above.c - the revocation lists of the CAs in the set: the root's over its intermediates, made
 * where the root's key is. A bad one blocks nothing; one that revokes the signer stops the set. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "ca/room.h"

static const struct metric_desc m_refused = {
    "meshroot_ca_lists_refused", "1 while the revocation lists beside the set are not used.",
    METRIC_GAUGE
};
static const struct metric_desc m_entries = {
    "meshroot_ca_lists_entries", "CA certificates that the lists beside the set revoke.",
    METRIC_GAUGE
};
static const struct metric_desc m_end = { "meshroot_ca_lists_next_update_timestamp_seconds",
                                          "When the first of the lists beside the set expires.",
                                          METRIC_GAUGE };

static void
why_set(struct ca *c, const struct err *why)
{
    metric_set(c->conf.metrics, &m_refused, "", why == NULL ? 0 : 1);
    if (why == NULL) {
        c->above_why[0] = '\0';
        return;
    }
    if (strcmp(c->above_why, why->msg) != 0)
        log_error("revoke",
                  "the revocation lists beside the set are not used: %s; those in force stay",
                  why->msg);
    (void)snprintf(c->above_why, sizeof(c->above_why), "%s", why->msg);
}

int
ca_above_choose(struct ca *c, const struct bundle *b, const struct set_manifest *m,
                struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    struct err why = m->lists_why;

    if (why.code == E_NONE && bundle_lists_follow(c->above, bundle_lists(b), &why) == 0) {
        why_set(c, NULL);
        lists = bundle_lists(b) == NULL ? NULL : crls_ref(bundle_lists(b));
    } else {
        why_set(c, &why);
        TRY(bundle_lists_fitting(b, c->above, &lists, e));
    }
    TRY(bundle_lists_spare(b, lists, e));
    *ret = STEAL(lists);
    return 0;
}

static void
say(const struct crls *lists)
{
    struct err e;

    if (lists == NULL)
        log_warn("revoke",
                 "the set has no revocation lists any more: what they revoked is accepted "
                 "again");
    else
        log_info("revoke", "%zu revocation lists of CAs are in force, with %zu entries",
                 crls_count(lists), crls_entries(lists));
    if (bundle_lists_check_time(lists, unix_s(), &e) < 0)
        log_warn("revoke",
                 "%s: our agents go on with it, other verifiers do not get it; sign a new one",
                 e.msg);
}

void
ca_above_put(struct ca *c, struct crls *take)
{
    int64_t end = bundle_lists_end(take);

    if (!crls_equal(c->above, take))
        say(take);
    crls_unref(c->above);
    c->above = take;
    metric_set(c->conf.metrics, &m_entries, "", (double)crls_entries(take));
    metric_set(c->conf.metrics, &m_end, "", end == INT64_MAX ? 0 : (double)end);
    revocations_above(c->revocations, take);
}

/* For a start beside bad lists: those of before are better than none. */
void
ca_above_recall(struct ca *c)
{
    const char *const *name = &bundle_file_names[PART_CA_CRL];
    CLEANUP(buf_done) struct buf text = BUF_INIT(PEM_MAX_BYTES);
    bool present = false;
    struct err e;

    if (c->conf.trust_dir == NULL ||
        fileset_read(c->conf.trust_dir, name, 1, &text, &present, &e) != 0 || !present)
        return;
    if (crls_from_pem(buf_span(&text), &c->above, &e) < 0)
        log_warn("revoke", "%s/%s is not used: %s", c->conf.trust_dir, *name, e.msg);
}

json_t *
ca_above_status(const struct ca *c)
{
    int64_t end = bundle_lists_end(c->above);
    char text[RFC3339_BYTES];

    rfc3339_s(end, text);
    return json_pack("{s:I, s:I, s:s?, s:s?}", "lists", (json_int_t)crls_count(c->above), "entries",
                     (json_int_t)crls_entries(c->above), "next_update",
                     end == INT64_MAX ? NULL : text, "refused",
                     c->above_why[0] == '\0' ? NULL : c->above_why);
}
