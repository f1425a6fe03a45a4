/* sync.c - the poll: four reads, and a verdict when two looks in a row agree.
 *
 * The four secrets have no shared version and are written one after another, so one look may see
 * half of a change. A set is judged only when the look before showed the same four versions:
 * nothing was being written between the two. What is judged is the values of one look, by
 * bundle_new; a new key and certificate beside the old chain fail there, because the chain must
 * start with the certificate. Source: specs/peers.md finding 3.
 *
 * The lists (ca-crl) are read beside the four and judged on their own merits: a bad list blocks no
 * key. Only a list that revokes the intermediate stops the set.
 */
#include "net/json.h"
#include "sync/sync.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/secret.h"
#include "base/str.h"
#include "obs/log.h"

enum {
    POLL_MIN_MS = 1000,
    POLL_MAX_MS = 24 * 60 * 60 * 1000,
    ERROR_FIRST_MS = 1000,
    ERROR_CAP_MIN_MS = 5000,
    FETCHES_MAX = 4, /* pinned sets under way at once */
    URL_BYTES = 512,
    NAME_BYTES = 128,
};

/* The version of lists that could not be read, or not be used yet: no vault gives out this one. */
static const char UNREAD[] = "?";

/* What one of the reads brought. */
struct read {
    struct look *look;
    enum bundle_part part;
    bool under_way;
    struct secret *value; /* owned */
    char version[VERSION_TEXT_BYTES];
    struct err why; /* code E_NONE: it went well */
};

/* Reads that belong together: a poll, or the fetch of a pinned set. */
struct look {
    struct sync *sync;
    struct read read[PART__ALL];
    size_t left;              /* reads under way */
    bool is_used, is_waiting; /* fetches: taken; not started yet */
    void (*on_done)(struct look *k);
    sync_fetched_fn *fetched; /* fetches only */
    void *fetched_arg;
};

struct sync {
    struct sync_conf conf; /* texts point into the copies below */
    char url[URL_BYTES], names[PART__ALL][NAME_BYTES];
    struct timer *timer, *fetch_timer;
    struct look poll, fetch[FETCHES_MAX];
    struct sync_versions seen;       /* by the last look that went well */
    struct sync_versions decided;    /* judged last: given, or refused */
    struct sync_versions given;      /* given last, with ... */
    bool lists_used;                 /* ... the lists of the vault */
    char lists_error[ERR_MSG_BYTES]; /* "" while the vault has none, or they are used */
    unsigned errors_n;               /* in a row */
    uint64_t requests;
    int64_t last_success;
    char last_error[ERR_MSG_BYTES]; /* "" while all is well */
};

static const struct metric_desc metric_polls = { "meshroot_sync_polls_total",
                                                 "Looks at the vault, by what came of them.",
                                                 METRIC_COUNTER };
static const struct metric_desc metric_requests = { "meshroot_sync_requests_total",
                                                    "Secrets read from the vault.",
                                                    METRIC_COUNTER };
static const struct metric_desc metric_success = {
    "meshroot_sync_last_success_timestamp_seconds",
    "When the vault last answered for all four secrets.", METRIC_GAUGE
};
static const struct metric_desc metric_refused = {
    "meshroot_sync_refused", "1 while what the vault holds is not taken, by reason.", METRIC_GAUGE
};

static const struct metric_desc metric_lists = {
    "meshroot_sync_lists_refused", "1 while the vault's revocation lists (ca-crl) are not taken.",
    METRIC_GAUGE
};
static const struct metric_desc metric_lists_end = {
    "meshroot_sync_lists_next_update_timestamp_seconds",
    "When the first of the vault's revocation lists expires; 0: there are none.", METRIC_GAUGE
};

/* -- the reads -----------------------------------------------------------------------------------
 */

static void
look_clear(struct look *k)
{
    for (size_t i = 0; i < PART__ALL; i++) {
        secret_free(k->read[i].value);
        k->read[i] = (struct read){ .look = k, .part = (enum bundle_part)i };
    }
}

static void
read_take(struct read *r, const struct vault_secret *s)
{
    const char *name = r->look->sync->names[r->part];

    if (strlen(s->version) >= sizeof(r->version))
        (void)err_set(&r->why, E_PEER, "%s: a version id of more than %d bytes", name,
                      VERSION_TEXT_BYTES - 1);
    else if (s->value.n == 0)
        (void)err_set(&r->why, E_PARSE, "%s version %s: is empty", name, s->version);
    else if (secret_new(s->value, &r->value, &r->why) == 0)
        memcpy(r->version, s->version, strlen(s->version) + 1);
}

static void
on_read(const struct vault_secret *s, const struct err *why, void *arg)
{
    struct read *r = arg;
    struct look *k = r->look;

    r->under_way = false;
    if (why != NULL) {
        r->why = *why;
        (void)err_wrap(&r->why, "%s", k->sync->names[r->part]);
    } else {
        read_take(r, s);
    }
    if (--k->left == 0)
        k->on_done(k);
}

/* Whether this part is read: the lists only where they have a name and, pinned, a version. */
static bool
is_asked(const struct sync *s, size_t part, const struct sync_versions *v)
{
    return part != PART_CA_CRL ||
           (s->names[part][0] != '\0' && (v == NULL || v->v[part][0] != '\0'));
}

/* Starts them; `v` NULL: the latest. Errors end the look with fewer reads under way, and are its
 * result. */
static void
look_start(struct look *k, const struct sync_versions *v)
{
    struct sync *s = k->sync;

    look_clear(k);
    k->left = 1; /* held until all are started */
    for (size_t i = 0; i < PART__ALL; i++) {
        struct read *r = &k->read[i];

        if (is_asked(s, i, v) && s->conf.get(s->conf.self, s->names[i], v == NULL ? NULL : v->v[i],
                                             on_read, r, &r->why) == 0) {
            r->under_way = true;
            k->left++;
            s->requests++;
            metric_add(s->conf.metrics, &metric_requests, "", 1);
        }
    }
    if (--k->left == 0)
        k->on_done(k);
}

/* Of the four. */
static const struct err *
look_error(const struct look *k)
{
    for (size_t i = 0; i < PART__N; i++)
        if (k->read[i].why.code != E_NONE)
            return &k->read[i].why;
    return NULL;
}

/* The set that was read, checked. An error says which versions it is about. */
static int
look_bundle(const struct look *k, struct bundle **ret, struct err *e)
{
    struct span parts[PART__N];

    for (size_t i = 0; i < PART__N; i++)
        parts[i] = secret_span(k->read[i].value);
    if (bundle_new(parts, ret, e) == 0)
        return 0;
    for (size_t i = 0; i < PART__N; i++) /* "ca-key.pem: ..." is about the secret ca-key */
        if (strncmp(e->msg, bundle_file_names[i], strlen(bundle_file_names[i])) == 0)
            return err_wrap(e, "secret %s version %.8s", k->sync->names[i], k->read[i].version);
    return err_wrap(e, "the four secrets");
}

/* The lists of this look. r: 0; *ret NULL: there are none, by an empty value too: a vault that
 * keeps what was deleted gives no name free. */
static int
look_lists(const struct look *k, const struct bundle *b, struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    const struct read *r = &k->read[PART_CA_CRL];

    if (r->value == NULL && r->why.code != E_NONE && r->why.code != E_NOTFOUND) {
        *e = r->why;
        return err_result(e);
    }
    if (r->value != NULL && span_trim(secret_span(r->value)).n > 0) {
        int done = bundle_lists_read(b, secret_span(r->value), &lists, e);
        if (done == 0)
            done = bundle_lists_check_time(lists, unix_s(), e);
        if (done < 0)
            return err_wrap(e, "secret %s version %.8s", k->sync->names[PART_CA_CRL], r->version);
    }
    *ret = STEAL(lists);
    return 0;
}

/* -- the verdict ---------------------------------------------------------------------------------
 */

static void
refuse(struct sync *s, const struct err *why)
{
    char label[64];

    (void)snprintf(label, sizeof(label), "reason=\"%s\"", err_meaning(why->code)->name);
    metric_clear(s->conf.metrics, &metric_refused);
    metric_set(s->conf.metrics, &metric_refused, label, 1);
    if (strcmp(s->last_error, why->msg) == 0)
        return;
    memcpy(s->last_error, why->msg, sizeof(s->last_error));
    log_with(LOG_WARN, "sync", LABELS({ "vault", s->url }),
             "%s; the last good bundle stays in force", why->msg);
    if (s->conf.on_refused != NULL)
        s->conf.on_refused(why, s->conf.arg);
}

static void
all_well(struct sync *s)
{
    if (s->last_error[0] == '\0')
        return;
    log_with(LOG_INFO, "sync", LABELS({ "vault", s->url }),
             "the vault's four secrets are a bundle again");
    s->last_error[0] = '\0';
    metric_clear(s->conf.metrics, &metric_refused);
}

static void
lists_refuse(struct sync *s, const struct err *why)
{
    const char *trace = strstr(why->msg, " Trace ID: "); /* another one at each poll */
    int n = trace == NULL ? (int)strlen(why->msg) : (int)(trace - why->msg);

    metric_set(s->conf.metrics, &metric_lists, "", 1);
    if (strncmp(s->lists_error, why->msg, (size_t)n) == 0 && s->lists_error[n] == '\0')
        return;
    (void)snprintf(s->lists_error, sizeof(s->lists_error), "%.*s", n, why->msg);
    log_with(LOG_WARN, "sync", LABELS({ "vault", s->url }),
             "%s; the revocation lists in force stay, the four secrets go on", s->lists_error);
}

static void
lists_again(struct sync *s)
{
    metric_set(s->conf.metrics, &metric_lists, "", 0);
    s->lists_error[0] = '\0';
    log_with(LOG_INFO, "sync", LABELS({ "vault", s->url }),
             "the vault's revocation lists are taken again");
}

static void
lists_fine(struct sync *s, const struct crls *lists)
{
    bool is_gone = lists == NULL && s->lists_used;
    int64_t end = lists == NULL ? 0 : bundle_lists_end(lists);

    metric_set(s->conf.metrics, &metric_lists_end, "", end == INT64_MAX ? 0 : (double)end);
    if (is_gone)
        log_with(LOG_WARN, "sync", LABELS({ "vault", s->url }),
                 "the revocation lists (secret %s) are gone from the vault: what they revoked is "
                 "accepted again",
                 s->names[PART_CA_CRL]);
    if (s->lists_error[0] != '\0')
        lists_again(s);
}

static bool
versions_equal(const struct sync_versions *a, const struct sync_versions *b)
{
    for (size_t i = 0; i < PART__ALL; i++)
        if (strcmp(a->v[i], b->v[i]) != 0)
            return false;
    return true;
}

/* The four with the lists beside them, in *b; r < 0: the lists revoke what would sign. */
static int
lists_join(struct sync *s, struct bundle **b, bool *ret_used, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    struct bundle *with;
    struct err why = { 0 };

    *ret_used = false;
    if (look_lists(&s->poll, *b, &lists, &why) < 0) {
        lists_refuse(s, &why);
        (void)snprintf(s->decided.v[PART_CA_CRL], VERSION_TEXT_BYTES, UNREAD); /* judge it again */
        return 0;
    }
    if (bundle_lists_spare(*b, lists, e) < 0)
        return err_wrap(e, "secret %s version %.8s", s->names[PART_CA_CRL],
                        s->poll.read[PART_CA_CRL].version);
    TRY(bundle_with_lists(*b, lists, &with, e));
    bundle_unref(*b);
    *b = with;
    lists_fine(s, lists);
    *ret_used = lists != NULL;
    return 0;
}

/* Two looks agree on versions that are not judged yet. */
static void
judge(struct sync *s, const struct sync_versions *v)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct err why = { 0 };
    bool lists_used = false;

    s->decided = *v;
    if (look_bundle(&s->poll, &b, &why) < 0 || lists_join(s, &b, &lists_used, &why) < 0) {
        metric_add(s->conf.metrics, &metric_polls, "result=\"refused\"", 1);
        refuse(s, &why);
        return;
    }
    metric_add(s->conf.metrics, &metric_polls, "result=\"bundle\"", 1);
    all_well(s);
    if (versions_equal(v, &s->given) && lists_used == s->lists_used)
        return; /* back to what is given already */
    s->given = *v;
    s->lists_used = lists_used;
    struct sync_versions told = *v;
    if (!lists_used && s->lists_error[0] == '\0')
        told.v[PART_CA_CRL][0] = '\0'; /* an empty text is no list */
    s->conf.on_bundle(b, &told, s->conf.arg);
}

/* -- the poll ------------------------------------------------------------------------------------
 */

static uint64_t
jittered(uint64_t ms)
{
    return ms - ms / 10 + random_below(ms / 5 + 1);
}

/* Full jitter below a doubling cap; what the vault asks for comes first. */
static uint64_t
error_pause(const struct sync *s, const struct err *why)
{
    uint64_t cap = s->conf.poll_ms < ERROR_CAP_MIN_MS ? ERROR_CAP_MIN_MS : s->conf.poll_ms;
    uint64_t top = (uint64_t)ERROR_FIRST_MS << (s->errors_n < 8 ? s->errors_n : 8);

    cap = cap > SYNC_ERROR_MAX_MS ? SYNC_ERROR_MAX_MS : cap;
    top = top > cap ? cap : top;
    uint64_t pause = ERROR_FIRST_MS / 2 + random_below(top);
    uint64_t asked = (uint64_t)why->retry_after_s * 1000;
    return asked > pause ? jittered(asked) + asked / 10 : pause;
}

static void
poll_failed(struct sync *s, const struct err *why)
{
    struct err e = *why;

    metric_add(s->conf.metrics, &metric_polls, "result=\"error\"", 1);
    s->errors_n++;
    refuse(s, &e);
    timer_set(s->timer, error_pause(s, &e));
}

static bool
lists_were_read(const struct look *k)
{
    const struct err *why = &k->read[PART_CA_CRL].why;

    return why->code == E_NONE || why->code == E_NOTFOUND;
}

/* Lists that could not be read are as they were, as far as we know; that none are there is known
 * by the vault's word alone. */
static void
lists_version(const struct look *k, char version[VERSION_TEXT_BYTES])
{
    const struct err *why = &k->read[PART_CA_CRL].why;
    struct sync *s = k->sync;

    if (lists_were_read(k))
        return;
    lists_refuse(s, why);
    (void)snprintf(version, VERSION_TEXT_BYTES, "%s",
                   s->seen.v[PART_CA_CRL][0] == '\0' ? UNREAD : s->seen.v[PART_CA_CRL]);
}

static void
on_polled(struct look *k)
{
    struct sync *s = k->sync;
    const struct err *why = look_error(k);
    struct sync_versions now;

    if (why != NULL) {
        poll_failed(s, why);
        look_clear(k);
        return;
    }
    for (size_t i = 0; i < PART__ALL; i++)
        memcpy(now.v[i], k->read[i].version, sizeof(now.v[i]));
    lists_version(k, now.v[PART_CA_CRL]);
    s->errors_n = 0;
    s->last_success = unix_s();
    metric_set(s->conf.metrics, &metric_success, "", (double)s->last_success);
    bool agree = versions_equal(&now, &s->seen), is_new = !versions_equal(&now, &s->decided);
    s->seen = now;
    timer_set(s->timer, is_new && !agree ? SYNC_CONFIRM_MS : jittered(s->conf.poll_ms));
    if (is_new && agree)
        judge(s, &now);
    else
        metric_add(s->conf.metrics, &metric_polls,
                   is_new ? "result=\"changed\"" : "result=\"unchanged\"", 1);
    /* a vault that failed and now answers for what was judged good */
    if (!is_new && versions_equal(&now, &s->given))
        all_well(s);
    if (!is_new && lists_were_read(k) && s->lists_error[0] != '\0')
        lists_again(s);
    look_clear(k);
}

static void
on_timer(void *arg)
{
    struct sync *s = arg;

    look_start(&s->poll, NULL);
}

/* -- pinned sets ---------------------------------------------------------------------------------
 */

static void
on_fetched(struct look *k)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    sync_fetched_fn *done = k->fetched;
    void *arg = k->fetched_arg;
    const struct err *failed = look_error(k);
    struct err why = { 0 };

    if (failed != NULL)
        why = *failed;
    else
        (void)look_bundle(k, &b, &why);
    look_clear(k);
    k->is_used = false;
    done(b, b == NULL ? &why : NULL, arg);
}

/* On a later turn: a read that could not even start is told as every answer is. */
static void
on_fetch_timer(void *arg)
{
    struct sync *s = arg;

    for (size_t i = 0; i < FETCHES_MAX; i++) {
        struct look *k = &s->fetch[i];
        struct sync_versions v;

        if (!k->is_waiting)
            continue;
        k->is_waiting = false;
        for (size_t p = 0; p < PART__ALL; p++)
            memcpy(v.v[p], k->read[p].version, sizeof(v.v[p]));
        v.v[PART_CA_CRL][0] = '\0'; /* lists are not pinned */
        look_start(k, &v);
    }
}

int
sync_fetch(struct sync *s, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
           struct err *e)
{
    struct look *k = NULL;

    for (size_t i = 0; i < FETCHES_MAX && k == NULL; i++)
        k = s->fetch[i].is_used ? NULL : &s->fetch[i];
    if (k == NULL)
        return err_set(e, E_LIMIT, "more than %d pinned sets are being fetched", (int)FETCHES_MAX);
    *k = (struct look){ .sync = s,
                        .is_used = true,
                        .is_waiting = true,
                        .on_done = on_fetched,
                        .fetched = done,
                        .fetched_arg = arg };
    look_clear(k);
    for (size_t i = 0; i < PART__N; i++)
        memcpy(k->read[i].version, v->v[i], sizeof(k->read[i].version));
    timer_set(s->fetch_timer, 0);
    return 0;
}

/* -- open, close, status -------------------------------------------------------------------------
 */

static int
texts_copy(struct sync *s, const struct sync_conf *conf, struct err *e)
{
    if (snprintf(s->url, sizeof(s->url), "%s", conf->vault_url) >= URL_BYTES)
        return err_set(e, E_INVAL, "a vault URL of more than %d bytes", URL_BYTES - 1);
    for (size_t i = 0; i < PART__ALL; i++)
        if (snprintf(s->names[i], NAME_BYTES, "%s",
                     conf->object_names[i] == NULL ? "" : conf->object_names[i]) >= NAME_BYTES)
            return err_set(e, E_INVAL, "a secret name of more than %d bytes", NAME_BYTES - 1);
    return 0;
}

int
sync_new(struct loop *l, const struct sync_conf *conf, struct sync **ret, struct err *e)
{
    if (conf->poll_ms < POLL_MIN_MS || conf->poll_ms > POLL_MAX_MS)
        return err_set(e, E_INVAL, "rotation poll interval: %" PRIu64 " ms is outside 1s..24h",
                       conf->poll_ms);
    struct sync *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    s->conf = *conf;
    s->poll = (struct look){ .sync = s, .on_done = on_polled };
    if (texts_copy(s, conf, e) < 0 || timer_new(l, on_timer, s, &s->timer, e) < 0 ||
        timer_new(l, on_fetch_timer, s, &s->fetch_timer, e) < 0) {
        sync_free(s);
        return err_result(e);
    }
    timer_set(s->timer, 0);
    *ret = s;
    return 0;
}

void
sync_free(struct sync *s)
{
    struct err e;

    if (s == NULL)
        return;
    timer_free(s->timer);
    timer_free(s->fetch_timer);
    look_clear(&s->poll);
    (void)err_set(&e, E_BUSY, "the vault is closed");
    for (size_t i = 0; i < FETCHES_MAX; i++) {
        look_clear(&s->fetch[i]);
        if (s->fetch[i].is_used)
            s->fetch[i].fetched(NULL, &e, s->fetch[i].fetched_arg);
    }
    free(s);
}

static json_t *
versions_json(const struct sync *s)
{
    json_t *j = json_object();

    for (size_t i = 0; i < PART__ALL; i++)
        if (s->seen.v[i][0] != '\0' || i != PART_CA_CRL)
            j = json_object_with(j, s->names[i], json_string(s->seen.v[i]));
    return j;
}

static json_t *
lists_json(const struct sync *s)
{
    bool is_off = s->names[PART_CA_CRL][0] == '\0', is_bad = s->lists_error[0] != '\0';

    return json_pack("{s:s, s:s?}", "state",
                     is_off          ? "off"
                     : is_bad        ? "refused"
                     : s->lists_used ? "used"
                                     : "none",
                     "error", is_bad ? s->lists_error : NULL);
}

json_t *
sync_status(const struct sync *s)
{
    char interval[DURATION_BYTES], success[RFC3339_BYTES];
    bool is_given = versions_equal(&s->seen, &s->given),
         is_judged = versions_equal(&s->seen, &s->decided);

    duration_ms_text(s->conf.poll_ms, interval);
    rfc3339_s(s->last_success, success);
    return json_pack("{s:s, s:s, s:s?, s:s?, s:I, s:o, s:o, s:s}", "vault", s->url, "poll_interval",
                     interval, "last_success", s->last_success > 0 ? success : NULL, "last_error",
                     s->last_error[0] != '\0' ? s->last_error : NULL, "requests",
                     (json_int_t)s->requests, "versions", versions_json(s), "lists", lists_json(s),
                     "pairing",
                     s->last_success == 0 ? "not read yet"
                     : is_given           ? "whole"
                     : is_judged          ? "refused"
                                          : "changing");
}
