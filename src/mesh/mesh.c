/* mesh.c - opens the parts in order, and switches between the three modes. */
#include "mesh/mesh.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "mesh/mesh_private.h"
#include "obs/log.h"

#define SETTINGS_KEY "mesh/settings"
/* The last generation before `mesh disable`: workloads may hold it still, and drop what is older.
 */
#define FLOOR_KEY "mesh/generation"

enum { SETTINGS_MAX_BYTES = 16 * 1024, ENABLE_PATIENCE_MS = 20 * 1000, STORE_PATIENCE_MS = 100 };

static const struct metric_desc metric_mode = { "meshroot_mesh_mode",
                                                "1 for the mode the mesh is in.", METRIC_GAUGE };

/* -- the CA --------------------------------------------------------------------------------------
 */

static void
pending_end(struct mesh *m, const struct err *why)
{
    struct pending p = m->pending;

    m->pending = (struct pending){ 0 };
    timer_stop(m->patience);
    bundle_unref(p.bundle);
    if (p.done != NULL)
        p.done(why, p.arg);
}

static void
on_loaded(uint64_t generation, const struct roots *roots, const uint8_t signer_id[DIGEST_BYTES],
          void *arg)
{
    struct mesh *m = arg;
    struct err none = { 0 };

    if (m->plugged.rotate != NULL)
        rotate_replica(m->plugged.rotate, "local", generation, roots, signer_id);
    if (m->pending.done != NULL && m->ca != NULL)
        pending_end(m, &none);
}

static void
on_evidence(void *arg)
{
    struct mesh *m = arg;

    if (m->plugged.rotate != NULL)
        rotate_poke(m->plugged.rotate);
}

static struct ca_conf
ca_conf_of(struct mesh *m, bool self_signed)
{
    return (struct ca_conf){
        .dir = m->bundle_dir,
        .self_signed_dir = self_signed ? m->self_signed_dir : NULL,
        .first_generation = m->floor + 1,
        .trust_dir = m->trust_dir,
        .listen = m->conf.ca_listen,
        .workers = m->conf.workers,
        .trust_domain = m->conf.trust_domain,
        .who = m->conf.who,
        .default_ttl_ms = m->conf.default_ttl_ms,
        .max_ttl_ms = m->conf.max_ttl_ms,
        .reread_ms = m->conf.reread_ms,
        .jwt_publish_ms = m->conf.jwt_publish_ms,
        .ledger = m->ledger,
        .store = m->store,
        .metrics = m->metrics,
        .replica = "local",
        .on_loaded = on_loaded,
        .on_evidence = on_evidence,
        .arg = m,
    };
}

static int
ca_open(struct mesh *m, bool self_signed, struct err *e)
{
    struct ca_conf conf = ca_conf_of(m, self_signed);

    return ca_new(m->loop, &conf, &m->ca, e);
}

static void
mode_shown(struct mesh *m)
{
    char label[64];

    metric_clear(m->metrics, &metric_mode);
    (void)snprintf(label, sizeof(label), "mode=\"%s\"", mesh_mode_name(m->settings.mode));
    metric_set(m->metrics, &metric_mode, label, 1);
}

/* Starts what the stored settings ask for; the CA last, so that its first report finds the
 * rotation. */
static int
mode_start(struct mesh *m, struct err *e)
{
    mode_shown(m);
    if (m->settings.mode == MESH_DISABLED)
        return 0;
    if (m->settings.mode == MESH_PLUGGED_IN) {
        if (m->plugged.sync == NULL)
            TRY(plugged_open(m, &m->settings, e));
        TRY(plugged_start_rotation(m, e));
    }
    return ca_open(m, m->settings.mode == MESH_SELF_SIGNED, e);
}

/* -- enable --------------------------------------------------------------------------------------
 */

static int disable(struct mesh *m, struct err *e);

/* Out of the call-backs of the parts that are freed here; what was stored already is taken back. */
static void
enable_refused(void *arg)
{
    struct mesh *m = arg;
    struct err why = m->pending.why, e = { 0 };

    if (m->settings.mode != MESH_DISABLED && disable(m, &e) < 0)
        log_error("mesh", "a failed enable is not taken back: %s", e.msg);
    plugged_close(m);
    pending_end(m, &why);
}

static void
enable_refuse(struct mesh *m, const struct err *why)
{
    m->pending.why = *why;
    loop_defer(m->loop, enable_refused, m);
}

static void
on_patience(void *arg)
{
    struct mesh *m = arg;
    struct err e = { 0 };

    if (m->settings.mode == MESH_DISABLED &&
        (m->pending.bundle != NULL || m->pending.want.mode == MESH_SELF_SIGNED)) {
        timer_set(m->patience, STORE_PATIENCE_MS); /* the store has the settings and will answer */
        return;
    }
    if (m->settings.mode == MESH_DISABLED)
        plugged_close(m); /* nothing is stored: what was tried is over */
    (void)err_set(&e, E_TIMEOUT, "the CA did not load the bundle within %d s; see the log",
                  ENABLE_PATIENCE_MS / 1000);
    pending_end(m, &e);
}

/* The settings are durable: from here on a crash is a delay. */
static void
on_settings_stored(const struct err *stored, uint64_t revision, void *arg)
{
    struct mesh *m = arg;
    struct err e = *stored;

    (void)revision;
    if (m->pending.done == NULL)
        return;
    if (e.code != E_NONE) {
        enable_refuse(m, &e);
        return;
    }
    m->settings = m->pending.want;
    if (mode_start(m, &e) < 0) {
        log_error("mesh", "enable: %s", e.msg);
        enable_refuse(m, &e);
        return;
    }
    if (m->pending.bundle != NULL)
        rotate_want(m->plugged.rotate, m->pending.bundle, &m->pending.versions);
}

static int
settings_put(const struct mesh_settings *s, struct buf *b, struct err *e)
{
    json_t *j = settings_to_json(s);
    char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);
    int r = text == NULL ? err_nomem(e) : buf_add_str(b, text, e);

    free(text);
    json_decref(j);
    return r;
}

static int
settings_store(struct mesh *m, struct err *e)
{
    struct buf b = BUF_INIT(SETTINGS_MAX_BYTES);
    int r = settings_put(&m->pending.want, &b, e);

    if (r == 0) {
        struct store_op op = { STORE_PUT, SETTINGS_KEY, buf_span(&b), 0 };

        r = store_commit(m->store, &op, 1, m->loop, on_settings_stored, m, e);
    }
    buf_done(&b);
    return r;
}

void
mesh_on_bundle(struct bundle *b, const struct sync_versions *v, void *arg)
{
    struct mesh *m = arg;
    struct err e = { 0 };

    if (m->plugged.rotate != NULL) {
        rotate_want(m->plugged.rotate, b, v);
        return;
    }
    if (m->pending.done == NULL)
        return;
    struct bundle *before = m->pending.bundle; /* the settings are on their way to the store */
    m->pending.bundle = bundle_ref(b);
    m->pending.versions = *v;
    bundle_unref(before);
    if (before == NULL && settings_store(m, &e) < 0)
        enable_refuse(m, &e);
}

void
mesh_on_refused(const struct err *why, void *arg)
{
    struct mesh *m = arg;

    if (m->pending.done != NULL && m->pending.bundle == NULL)
        enable_refuse(m, why);
}

static int
enable_allowed(struct mesh *m, const struct mesh_settings *s, struct err *e)
{
    if (m->pending.done != NULL)
        return err_set(e, E_STATE, "another mesh enable is under way");
    if (s->mode == MESH_DISABLED)
        return err_set(e, E_INVAL, "mode: want self-signed or plugged-in");
    if (m->settings.mode == MESH_SELF_SIGNED && s->mode == MESH_PLUGGED_IN)
        return err_set(
            e, E_STATE,
            "the mesh runs on a self-signed root; switching roots in place would strand its "
            "workloads. Run \"meshroot mesh disable\", then \"mesh enable\" again, and restart "
            "the workloads");
    if (m->settings.mode != MESH_DISABLED)
        return err_set(e, E_STATE,
                       "the mesh is enabled already (%s); run \"meshroot mesh disable\" first",
                       mesh_mode_name(m->settings.mode));
    return 0;
}

int
mesh_enable(struct mesh *m, const struct mesh_settings *s, mesh_done_fn *done, void *arg,
            struct err *e)
{
    TRY(enable_allowed(m, s, e));
    m->pending = (struct pending){ .want = *s, .done = done, .arg = arg };
    int r = s->mode == MESH_PLUGGED_IN ? plugged_open(m, s, e) : settings_store(m, e);
    if (r < 0) {
        m->pending = (struct pending){ 0 };
        return r;
    }
    timer_set(m->patience, ENABLE_PATIENCE_MS);
    return 0;
}

/* -- disable -------------------------------------------------------------------------------------
 */

/* The key goes with its files; names that are not there any more are fine. */
static void
set_remove(const char *dir)
{
    DIR *d = opendir(dir);

    if (d == NULL)
        return;
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        char path[PATH_BYTES + 300];

        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, de->d_name);
        if (unlink(path) < 0 && errno == EISDIR) {
            set_remove(path);
            (void)rmdir(path);
        }
    }
    (void)closedir(d);
}

static int
disable(struct mesh *m, struct err *e)
{
    char floor[24];
    uint64_t revision;

    if (m->settings.mode == MESH_DISABLED)
        return err_set(e, E_STATE, "the mesh is not enabled");
    if (m->ca != NULL && ca_generation(m->ca) > m->floor)
        m->floor = ca_generation(m->ca);
    (void)snprintf(floor, sizeof(floor), "%" PRIu64, m->floor);
    struct store_op ops[] = {
        { STORE_DELETE, SETTINGS_KEY, { 0 }, 0 },
        { STORE_PUT, FLOOR_KEY, span_str(floor), 0 },
    };
    TRY(store_commit_wait(m->store, ops, ARRAY_LEN(ops), &revision, e));
    if (m->plugged.rotate != NULL && rotate_reset(m->plugged.rotate, e) < 0)
        return err_wrap(e, "disabled, but the rotation plan stays");
    ca_free(m->ca);
    m->ca = NULL;
    plugged_close(m);
    set_remove(m->bundle_dir);
    set_remove(m->trust_dir);
    log_info("mesh", "disabled (was %s); workloads keep their leaves until these expire",
             mesh_mode_name(m->settings.mode));
    m->settings = (struct mesh_settings){ 0 };
    mode_shown(m);
    return 0;
}

/* An enable that still waits for its CA waits for nothing any more. */
int
mesh_disable(struct mesh *m, struct err *e)
{
    struct err why = { 0 };

    TRY(disable(m, e));
    (void)err_set(&why, E_STATE, "the mesh was disabled while it was being enabled");
    if (m->pending.done != NULL)
        pending_end(m, &why);
    return 0;
}

int
mesh_force(struct mesh *m, json_t **ret_risk, struct err *e)
{
    if (m->plugged.rotate == NULL)
        return err_set(e, E_STATE, "no rotation is under way: the mesh is %s",
                       mesh_mode_name(m->settings.mode));
    return rotate_force(m->plugged.rotate, NULL, ret_risk, e);
}

/* -- open and close ------------------------------------------------------------------------------
 */

/* A copy of `s` that lives as long as the mesh. */
static const char *
keep(struct mesh *m, const char *s, struct err *e, int *r)
{
    json_t *copy = s == NULL ? NULL : json_string(s);

    if (s != NULL && (copy == NULL || json_array_append_new(m->texts, copy) < 0)) {
        *r = err_nomem(e);
        return NULL;
    }
    return json_string_value(copy);
}

static int
conf_copy(struct mesh *m, const struct mesh_conf *conf, struct err *e)
{
    struct mesh_conf *c = &m->conf;
    int r = 0;

    *c = *conf;
    m->texts = json_array();
    if (m->texts == NULL)
        return err_nomem(e);
    c->state_dir = m->state_dir;
    c->ca_listen = keep(m, conf->ca_listen, e, &r);
    c->vault_listen = keep(m, conf->vault_listen, e, &r);
    c->monitoring_listen = keep(m, conf->monitoring_listen, e, &r);
    c->vault_name = keep(m, conf->vault_name, e, &r);
    c->trust_domain = keep(m, conf->trust_domain, e, &r);
    if (snprintf(m->state_dir, sizeof(m->state_dir), "%s", conf->state_dir) >= PATH_BYTES - 64)
        return err_set(e, E_INVAL, "--state-dir: longer than %d bytes", PATH_BYTES - 64);
    (void)snprintf(m->bundle_dir, sizeof(m->bundle_dir), "%.900s/bundle", conf->state_dir);
    (void)snprintf(m->self_signed_dir, sizeof(m->self_signed_dir), "%.900s/self-signed",
                   conf->state_dir);
    (void)snprintf(m->trust_dir, sizeof(m->trust_dir), "%.900s/trust", conf->state_dir);
    return r;
}

static int
settings_load(struct mesh *m, struct err *e)
{
    struct buf b = BUF_INIT(SETTINGS_MAX_BYTES);
    int r = store_get(m->store, SETTINGS_KEY, &b, NULL, e);

    if (r == 0) {
        json_t *j = json_loadb(buf_text(&b), b.n, JSON_REJECT_DUPLICATES, NULL);

        r = settings_from_json(j, &m->settings, e);
        if (r < 0)
            r = err_wrap(e, "the stored mesh settings");
        json_decref(j);
    }
    buf_done(&b);
    return r == STORE_ABSENT ? 0 : r;
}

static int
floor_load(struct mesh *m, struct err *e)
{
    struct buf b = BUF_INIT(64);
    int r = store_get(m->store, FLOOR_KEY, &b, NULL, e);

    if (r == 0)
        r = u64_parse(buf_span(&b), 0, INT64_MAX, &m->floor, e);
    buf_done(&b);
    return r == STORE_ABSENT ? 0 : r;
}

static int
parts_open(struct mesh *m, struct err *e)
{
    struct ca_conf ca = ca_conf_of(m, false);

    TRY(ca_conf_check(&ca, e)); /* the CA is opened by `mesh enable`; who started us is told now */
    TRY(dir_make_own(m->state_dir, e));
    TRY(dir_lock(m->state_dir, &m->lock_fd, e));
    TRY(metrics_new(&m->metrics, e));
    TRY(store_open_sqlite(m->state_dir, &m->store, e));
    TRY(ledger_open(m->store, m->metrics, &m->ledger, e));
    if (m->conf.ledger_keep_ms > 0)
        TRY(ledger_keep_for(m->ledger, m->conf.ledger_keep_ms, e));
    struct vault_service_conf vault = {
        .state_dir = m->state_dir,
        .store = m->store,
        .listen = m->conf.vault_listen,
        .names = { m->conf.vault_name },
        .names_n = 1,
        .metrics = m->metrics,
    };
    TRY(vault_service_new(m->loop, &vault, &m->vault, e));
    TRY(timer_new(m->loop, on_patience, m, &m->patience, e));
    TRY(settings_load(m, e));
    TRY(floor_load(m, e));
    TRY(mode_start(m, e));
    return admin_open(m, e);
}

int
mesh_new(struct loop *l, const struct mesh_conf *conf, struct mesh **ret, struct err *e)
{
    struct mesh *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    m->loop = l;
    m->lock_fd = -1;
    if (conf_copy(m, conf, e) < 0 || parts_open(m, e) < 0) {
        mesh_free(m);
        return err_result(e);
    }
    *ret = m;
    return 0;
}

void
mesh_free(struct mesh *m)
{
    struct err gone = { 0 };

    if (m == NULL)
        return;
    admin_free(m->admin);
    monitor_free(m->monitor);
    (void)err_set(&gone, E_STATE, "meshroot up is stopping");
    if (m->pending.done != NULL)
        pending_end(m, &gone);
    ca_free(m->ca);
    plugged_close(m);
    timer_free(m->patience);
    vault_service_free(m->vault);
    ledger_close(m->ledger);
    store_close(m->store);
    metrics_free(m->metrics);
    json_decref(m->texts);
    if (m->lock_fd >= 0)
        dir_unlock(m->lock_fd);
    free(m);
}

bool
mesh_is_ready(struct mesh *m)
{
    return m->settings.mode == MESH_DISABLED || (m->ca != NULL && ca_is_ready(m->ca));
}

struct metrics *
mesh_metrics(struct mesh *m)
{
    return m->metrics;
}
