/* sync_run.c - meshroot sync run: from a vault to a folder, for a CA in another process (ours, or a
 * stock istiod). */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/vault_tool.h"
#include "net/monitor.h"
#include "obs/log.h"
#include "sync/sync.h"

struct run_conf {
    struct vault_target target;
    const char *dir, *names[PART__ALL], *monitoring;
    struct log_flags log;
    uint64_t poll_ms;
    bool once, allow_removal;
};

#define AT(member) offsetof(struct run_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "target-dir", OPT_STRING, AT(dir), NULL, NULL, NULL, OPT_REQUIRED, "DIR", "the folder that gets the files" },
    OPT_VAULT_TARGET(struct run_conf, target),
    { "root-cert-object-name", OPT_STRING, AT(names[PART_ROOT_CERT]), "root-cert", NULL, NULL, 0, "NAME", "secret with the roots" },
    { "ca-cert-object-name", OPT_STRING, AT(names[PART_CA_CERT]), "ca-cert", NULL, NULL, 0, "NAME", "secret with the intermediate" },
    { "ca-key-object-name", OPT_STRING, AT(names[PART_CA_KEY]), "ca-key", NULL, NULL, 0, "NAME", "secret with its key" },
    { "cert-chain-object-name", OPT_STRING, AT(names[PART_CERT_CHAIN]), "cert-chain", NULL, NULL, 0, "NAME", "secret with the chain" },
    { "ca-crl-object-name", OPT_STRING, AT(names[PART_CA_CRL]), NULL, NULL, NULL, 0, "NAME", "secret with the revocation lists of root and intermediates, written as ca-crl.pem [none]" },
    { "rotation-poll-interval", OPT_DURATION, AT(poll_ms), "2m", "1s", "24h", 0, "DURATION", "how often the vault is asked for new versions" },
    { "once", OPT_FLAG, AT(once), NULL, NULL, NULL, 0, NULL, "write the bundle once and exit; refused: exit with the reason" },
    { "allow-root-removal", OPT_FLAG, AT(allow_removal), NULL, NULL, NULL, 0, NULL, "write a set that drops a root which the folder's set trusts" },
    { "monitoring", OPT_STRING, AT(monitoring), "off", NULL, NULL, 0, "ADDR", "/metrics, /healthz, /readyz, /status" },
    OPT_LOG(struct run_conf, log),
    { .name = NULL },
};
/* clang-format on */

static const struct metric_desc metric_generation = { "meshroot_sync_generation",
                                                      "Generation of the set in the folder.",
                                                      METRIC_GAUGE };

struct running { /* freed in reverse */
    const struct run_conf *o;
    struct loop *loop;
    struct metrics *metrics;
    struct vault_client *client;
    struct sync *sync;
    struct monitor *monitor;
    struct bundle *present;        /* in the folder; NULL: none yet */
    struct set_manifest manifest;  /* of it */
    struct bundle *given;          /* the vault's last; NULL: none yet */
    struct sync_versions versions; /* of it */
    struct timer *retry;           /* sync gives each set once */
    struct err why;                /* it is not in the folder; --once: nothing was written */
};

enum { WRITE_RETRY_MS = 5 * 1000 };

static void
running_done(struct running *r)
{
    monitor_free(r->monitor);
    sync_free(r->sync);
    vault_client_free(r->client);
    bundle_unref(r->present);
    bundle_unref(r->given);
    timer_free(r->retry);
    metrics_free(r->metrics);
    loop_free(r->loop);
}

/* -- the folder ----------------------------------------------------------------------------------
 */

/* What is there already, so that generations go on and an equal set is not written again. A folder
 * that holds no bundle is no error: that is what we are here to mend. */
static void
folder_read(struct running *r)
{
    struct buf bufs[SET_FILES];
    bool present[SET_FILES] = { false };
    struct err e = { 0 };

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    int got = fileset_read(r->o->dir, set_file_names, SET_FILES, bufs, present, &e);
    if (got == 0)
        got = set_parse(bufs, present, &r->present, &r->manifest, &e);
    if (got < 0)
        log_warn("sync", "%s: %s; it will be replaced", r->o->dir, e.msg);
    for (size_t i = 0; i < SET_FILES; i++)
        buf_wipe(&bufs[i]);
}

static bool
is_same(const struct running *r, const struct bundle *b)
{
    return r->present != NULL && roots_equal(bundle_roots(r->present), bundle_roots(b)) &&
           memcmp(cert_id(bundle_signer(r->present)), cert_id(bundle_signer(b)), DIGEST_BYTES) ==
               0 &&
           crls_equal(bundle_lists(r->present), bundle_lists(b));
}

/* The set with the lists that may go with it: the vault's, or those of the folder. */
static int
lists_join(const struct running *r, struct bundle *b, struct sync_versions *v, struct bundle **ret,
           struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *kept = NULL;
    const struct crls *now = r->present == NULL ? NULL : bundle_lists(r->present);
    bool is_refused = bundle_lists(b) == NULL && v->v[PART_CA_CRL][0] != '\0';
    struct err why;

    if (!is_refused && bundle_lists_follow(now, bundle_lists(b), &why) == 0) {
        *ret = bundle_ref(b);
        return 0;
    }
    if (!is_refused)
        log_warn("sync", "the revocation lists of the folder stay: %s", why.msg);
    TRY(bundle_lists_fitting(b, now, &kept, e));
    TRY(bundle_lists_spare(b, kept, e));
    memcpy(v->v[PART_CA_CRL], r->manifest.versions.v[PART_CA_CRL], VERSION_TEXT_BYTES);
    return bundle_with_lists(b, kept, ret, e);
}

static int
folder_write(struct running *r, struct bundle *vaults, const struct sync_versions *v, struct err *e)
{
    struct set_manifest m = { .generation = r->manifest.generation + 1, .versions = *v };
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;

    TRY(lists_join(r, vaults, &m.versions, &b, e));
    if (is_same(r, b))
        return 0;
    if (r->present != NULL && !r->o->allow_removal &&
        !roots_contain(bundle_roots(b), bundle_roots(r->present)))
        return err_set(e, E_STATE,
                       "the vault's set drops a root that %s trusts; this process sees no "
                       "workloads and cannot say "
                       "that none needs it. Trust old and new together first, or say "
                       "--allow-root-removal (with "
                       "\"meshroot up\" the step is taken by evidence)",
                       r->o->dir);
    TRY(set_write(r->o->dir, b, &m, e));
    bundle_unref(r->present);
    r->present = bundle_ref(b);
    r->manifest = m;
    char subject[NAME_TEXT_BYTES];
    cert_subject_text(bundle_signer(b), subject);
    metric_set(r->metrics, &metric_generation, "", (double)m.generation);
    log_info("sync", "generation %" PRIu64 " is in %s: %s", m.generation, r->o->dir, subject);
    return 0;
}

/* -- sync's calls --------------------------------------------------------------------------------
 */

static void
given_write(void *arg)
{
    struct running *r = arg;
    struct err before = r->why;

    r->why = (struct err){ 0 };
    if (folder_write(r, r->given, &r->versions, &r->why) == 0)
        return;
    if (strcmp(before.msg, r->why.msg) != 0)
        log_warn("sync", "not written: %s", r->why.msg);
    timer_set(r->retry, WRITE_RETRY_MS);
}

static void
on_bundle(struct bundle *b, const struct sync_versions *v, void *arg)
{
    struct running *r = arg;
    struct bundle *before = r->given;

    r->given = bundle_ref(b);
    bundle_unref(before);
    r->versions = *v;
    timer_stop(r->retry);
    given_write(r);
    if (r->o->once)
        loop_stop(r->loop);
}

static void
on_refused(const struct err *why, void *arg)
{
    struct running *r = arg;

    if (!r->o->once)
        return; /* sync's own status says so, as long as it is so */
    r->why = *why;
    loop_stop(r->loop);
}

static int
get_secret(void *self, const char *name, const char *version, vault_secret_fn *done, void *arg,
           struct err *e)
{
    return vault_get(self, name, version, done, arg, e);
}

static bool
is_ready(void *self)
{
    const struct running *r = self;

    return r->present != NULL;
}

static char *
status_text(void *self)
{
    const struct running *r = self;
    json_t *j = json_pack("{s:s, s:I, s:s?, s:o}", "target", r->o->dir, "generation",
                          (json_int_t)r->manifest.generation, "held",
                          r->why.code != E_NONE ? r->why.msg : NULL, "sync", sync_status(r->sync));
    char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));

    json_decref(j);
    return text;
}

/* --once is done when the set was written, and not before. */
static void
on_stop_signal(void *arg)
{
    struct running *r = arg;

    if (r->o->once)
        (void)err_set(&r->why, E_STATE, "stopped by a signal: nothing was written");
    loop_stop(r->loop);
}

static int
parts_open(struct running *r, struct err *e)
{
    char url[VAULT_URL_TEXT_BYTES];

    TRY(loop_new(&r->loop, e));
    TRY(loop_on_signal(r->loop, SIGTERM, on_stop_signal, r, e));
    TRY(loop_on_signal(r->loop, SIGINT, on_stop_signal, r, e));
    TRY(metrics_new(&r->metrics, e));
    TRY(timer_new(r->loop, given_write, r, &r->retry, e));
    TRY(vault_target_open(&r->o->target, r->loop, url, &r->client, e));
    struct sync_conf conf = { .get = get_secret,
                              .self = r->client,
                              .vault_url = url,
                              .poll_ms = r->o->poll_ms,
                              .metrics = r->metrics,
                              .on_bundle = on_bundle,
                              .on_refused = on_refused,
                              .arg = r };
    memcpy(conf.object_names, r->o->names, sizeof(conf.object_names));
    TRY(sync_new(r->loop, &conf, &r->sync, e));
    struct monitor_conf m = { .metrics = r->metrics,
                              .is_ready = is_ready,
                              .not_ready = "no bundle was written yet; see /status\n",
                              .status = status_text,
                              .self = r };
    return monitor_new(r->loop, r->o->monitoring, &m, &r->monitor, e);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    CLEANUP(running_done) struct running r = { .o = conf };

    (void)args;
    log_flags_setup(&r.o->log);
    folder_read(&r);
    TRY(parts_open(&r, e));
    TRY(loop_run(r.loop, e));
    if (r.o->once && r.why.code != E_NONE) {
        *e = r.why;
        return err_result(e);
    }
    return 0;
}

const struct command cmd_sync_run = {
    "sync run",
    "",
    0,
    0,
    opts,
    sizeof(struct run_conf),
    run,
    "carry a vault's four secrets to a folder, as one set",
    "Polls the vault, pairs the four secrets into one checked bundle or nothing, and writes it to "
    "a folder with one\n"
    "atomic swap (the layout of a Kubernetes Secret volume), for a CA in another process: meshroot "
    "ca serve, or a\n"
    "stock istiod. The last good bundle stays whatever happens to the vault.\n"
    "It sees no workloads, so it does not take away a root that the folder's set trusts unless it "
    "is told to; meshroot\n"
    "up, which sees them, does that by itself when it is safe.\n"
    "\n" VAULT_TARGET_HELP "\n"
    "Examples:\n"
    "  meshroot sync run --vault-url https://v.vault.azure.net --target-dir /etc/cacerts "
    "--rotation-poll-interval 20s\n"
    "  meshroot sync run --vault-name meshroot --target-dir ./cacerts --once\n",
};
