/* load.c - from files to the view in force: the rules, istiod's log lines, the swap. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/room.h"
#include "obs/log.h"

enum { GENERATION_FILE_BYTES = 256, JWT_FILE_BYTES = 64 * 1024, SAY_AGAIN_MS = 5 };

/* A set as it lies in a folder, its key with the signer process. */
struct set {
    struct bundle *bundle;
    struct signer *signer;
    struct set_manifest manifest;
    bool is_ours;
};

static void
set_done(struct set *s)
{
    bundle_unref(s->bundle);
    signer_unref(s->signer);
}

static void
refuse(struct ca *c, const char *reason, const struct err *why)
{
    char labels[64];

    metric_set(c->conf.metrics, &ca_m_is_present, "", 0);
    if (strcmp(c->refused, why->msg) == 0)
        return; /* said before */
    (void)snprintf(c->refused, sizeof(c->refused), "%s", why->msg);
    (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", reason);
    metric_add(c->conf.metrics, &ca_m_refused, labels, 1);
    log_error("", "Failed to update new Plug-in CA certs: %s%s", why->msg,
              c->loaded.bundle == NULL ? "" : " (the last good set stays in force)");
}

/* -- the generation of sets without a manifest -- */

static int
content_id(const struct bundle *b, uint8_t ret[DIGEST_BYTES], struct err *e)
{
    CLEANUP(buf_done) struct buf all = BUF_INIT(PART__ALL * PEM_MAX_BYTES);

    /* the key is not needed: it is the certificate's */
    TRY(bundle_part_pem(b, PART_ROOT_CERT, &all, e));
    TRY(bundle_part_pem(b, PART_CA_CERT, &all, e));
    TRY(bundle_part_pem(b, PART_CERT_CHAIN, &all, e));
    TRY(bundle_part_pem(b, PART_CA_CRL, &all, e));
    digest(buf_span(&all), ret);
    return 0;
}

/* TRUST_DIR/generation: "N CONTENT_ID\n", so that a restart on the same set keeps its number and
 * one on another set goes on counting. */
static uint64_t
generation_recall(const struct ca *c, const uint8_t id[DIGEST_BYTES])
{
    static const char *const names[] = { "generation" };
    CLEANUP(buf_done) struct buf text = BUF_INIT(GENERATION_FILE_BYTES);
    char want[DIGEST_TEXT_BYTES];
    struct span number, rest;
    uint64_t n = c->loaded.generation;
    bool present;
    struct err e;

    if (c->conf.trust_dir == NULL || n > 0 ||
        fileset_read(c->conf.trust_dir, names, 1, &text, &present, &e) != 0 || !present)
        return n + 1;
    rest = span_trim(buf_span(&text));
    hex_text(span_of(id, DIGEST_BYTES), want);
    (void)span_cut(&rest, ' ', &number);
    if (u64_parse(number, 0, UINT64_MAX - 1, &n, &e) < 0)
        return 1;
    return span_eq_str(rest, want) ? n : n + 1;
}

static void
trust_dir_write(const struct ca *c)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_done) struct buf jwt = BUF_INIT(JWT_FILE_BYTES);
    CLEANUP(buf_done) struct buf lists = BUF_INIT(PEM_MAX_BYTES);
    const char *lists_name = bundle_file_names[PART_CA_CRL];
    char line[GENERATION_FILE_BYTES], id[DIGEST_TEXT_BYTES];
    struct err e;

    if (c->conf.trust_dir == NULL)
        return;
    hex_text(span_of(c->loaded.content_id, DIGEST_BYTES), id);
    (void)snprintf(line, sizeof(line), "%" PRIu64 " %s\n", c->loaded.generation, id);
    if (roots_to_pem(bundle_roots(c->loaded.bundle), &pem, &e) == 0 &&
        ca_jwt_write(&c->jwt, mono_ms(), &jwt, &e) == 0 && crls_to_pem(c->above, &lists, &e) == 0) {
        const struct fileset_file files[] = { { "root-cert.pem", 0644, buf_span(&pem) },
                                              { "generation", 0644, span_str(line) },
                                              { ca_jwt_file, 0600, buf_span(&jwt) },
                                              { lists_name, 0644, buf_span(&lists) } };
        size_t n = ARRAY_LEN(files) - (lists.n == 0 ? 1 : 0);

        if (fileset_write(c->conf.trust_dir, files, n, &e) == 0)
            return;
    }
    log_error("", "the trust set is in force but not written to %s: %s", c->conf.trust_dir, e.msg);
}

/* -- the swap -- */

static void
workers_set(struct ca *c)
{
    struct err e;

    for (size_t i = 0; i < c->workers_n; i++)
        if (ca_worker_set(&c->workers[i], c->view, c->tls, &e) < 0)
            log_error("", "a worker keeps the former set: %s", e.msg);
}

/* A view of `l` and TLS settings to go with it; nothing of `c` changes on failure. `server` NULL:
 * keep the serving certificate. */
static int
view_make(struct ca *c, const struct ca_loaded *l, const struct ca_jwt *jwt,
          struct ca_server_cert *server, struct ca_view **ret_view, struct tls_conf **ret_tls,
          struct err *e)
{
    struct jwks *keys[CA_JWKS_MAX] = { NULL };
    CLEANUP(ca_view_unrefp) struct ca_view *v = NULL;

    for (size_t i = 0; i < c->conf.who.issuers_n; i++)
        keys[i] = c->jwks[i].keys;
    struct ca_view_args a = { .bundle = l->bundle,
                              .signer = l->signer,
                              .keys = keys,
                              .crls = revocations_handed_out(c->revocations),
                              .generation = l->generation,
                              .renew_window_ms = l->manifest.renew_window_ms,
                              .jwt = jwt,
                              .alive = &c->views_alive,
                              .cuts = revocations_cuts(c->revocations) };
    TRY(ca_view_new(&a, &v, e));
    if (server != NULL)
        TRY(ca_server_cert_make(&c->conf, v, server, e));
    TRY(ca_server_tls(server == NULL ? &c->server : server, v, ret_tls, e));
    *ret_view = STEAL(v);
    return 0;
}

static void
view_put(struct ca *c, struct ca_view *take_v, struct tls_conf *take_tls)
{
    ca_view_unref(c->view);
    tls_conf_unref(c->tls);
    c->view = take_v;
    c->tls = take_tls;
    workers_set(c);
}

/* -- keys of JWT-SVIDs -- */

static void
jwt_put(struct ca *c, struct ca_jwt *take)
{
    ca_jwt_done(&c->jwt);
    c->jwt = *take;
    take->n = 0; /* its references have moved */
}

/* With the signer of `l` in force. */
static void
jwt_next(const struct ca *c, const struct ca_loaded *l, struct ca_jwt *ret)
{
    uint64_t next;
    struct err e;

    ca_jwt_copy(&c->jwt, ret);
    if (ca_jwt_use(ret, bundle_signer(l->bundle), l->signer, c->conf.jwt_publish_ms, mono_ms(),
                   &e) < 0) {
        log_warn("jwt", "JWT-SVIDs are not signed under this set: %s", e.msg);
        ca_jwt_done(ret);
    }
    (void)ca_jwt_tick(ret, mono_ms(), &next);
}

void
ca_load_jwt(void *arg)
{
    struct ca *c = arg;
    CLEANUP(ca_jwt_done) struct ca_jwt j = { .n = 0 };
    uint64_t next, now = mono_ms();
    struct ca_view *v;
    struct tls_conf *tls;
    struct err e;

    if (c->view == NULL)
        return;
    ca_jwt_copy(&c->jwt, &j);
    bool changed = ca_jwt_tick(&j, now, &next);
    changed = changed || (ca_jwt_signing(&j, now) == NULL) != (c->view->jwt_signer == NULL);
    if (next > 0)
        timer_set(c->jwt_timer, next > now ? next - now : 0);
    if (!changed)
        return;
    if (view_make(c, &c->loaded, &j, NULL, &v, &tls, &e) < 0) {
        log_error("jwt", "the keys of JWT-SVIDs stay as they are: %s", e.msg);
        timer_set(c->jwt_timer, CA_TICK_MS);
        return;
    }
    jwt_put(c, &j);
    view_put(c, v, tls);
    trust_dir_write(c);
    log_info("jwt", "JWT-SVIDs: %zu keys are published, %s signs", c->jwt.n,
             c->view->jwt_signer == NULL ? "none" : c->view->jwt_kid);
}

void
ca_load_recall(struct ca *c)
{
    const char *const names[] = { ca_jwt_file };
    CLEANUP(buf_done) struct buf text = BUF_INIT(JWT_FILE_BYTES);
    bool present = false;
    struct err e = { 0 };

    ca_above_recall(c);
    if (c->conf.trust_dir == NULL ||
        fileset_read(c->conf.trust_dir, names, 1, &text, &present, &e) != 0 || !present)
        return;
    if (ca_jwt_recall(buf_span(&text), c->conf.jwt_publish_ms, mono_ms(), &c->jwt, &e) < 0)
        log_warn("jwt", "%s: what was kept of the keys of JWT-SVIDs is not used: %s",
                 c->conf.trust_dir, e.msg);
}

static void
log_cert(const struct cert *cert)
{
    CLEANUP(buf_done) struct buf line = BUF_INIT(4096);
    struct err e;

    if (cert_log_line(cert, &line, &e) == 0)
        log_info("", "%s", buf_text(&line));
}

/* Source: specs/istio-ca.md 5.4, 5.6. */
static void
log_loaded(const struct ca *c, bool is_reload)
{
    const struct bundle *b = c->loaded.bundle;

    if (is_reload)
        log_info("", "update root cert and generate new dns certs");
    log_cert(c->server.leaf);
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        log_cert(bundle_chain_at(b, i));
    log_cert(bundle_signer_root(b));
    log_info("", "Istiod certificates are reloaded");
    log_info("spiffe", "Added %zu certs to trust domain %s in peer cert verifier",
             roots_count(bundle_roots(b)), c->conf.trust_domain);
    if (is_reload)
        log_info("", "Istiod has detected the newly added intermediate CA and updated its key and "
                     "certs accordingly");
    log_with(LOG_INFO, "", LABELS({ "generation", c->view->generation_text }),
             "Bundle in force: %s",
             c->loaded.mode == CA_MODE_SELF_SIGNED ? "self-signed" : "plugged-in");
}

static void
warn_short_life(const struct ca *c)
{
    int64_t left = c->view->not_after - unix_s();
    int64_t leaf = (int64_t)(c->conf.default_ttl_ms / 1000);

    if (left < 2 * leaf)
        log_warn("",
                 "THE SIGNING CERTIFICATE ENDS SOON: %" PRId64 " s are left, less than two leaf "
                 "lifetimes of %" PRId64 " s; leaves are cut short, replace the intermediate now",
                 left, leaf);
}

static void
warn_not_der(const struct cert *c)
{
    char name[NAME_TEXT_BYTES];

    if (cert_is_der(c))
        return;
    cert_subject_text(c, name);
    log_warn(
        "",
        "\"%s\" is not DER (CA:TRUE as 0x01, perhaps): OpenSSL reads it, clients in Go, Istio's "
        "agents among them, refuse it; make it anew",
        name);
}

static void
warn_of_bundle(const struct ca *c)
{
    const struct bundle *b = c->loaded.bundle;

    warn_short_life(c);
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        warn_not_der(bundle_chain_at(b, i));
    for (size_t i = 0; i < roots_count(bundle_roots(b)); i++)
        warn_not_der(roots_at(bundle_roots(b), i));
}

static void
signer_is_held(struct ca *c)
{
    c->signer_is_lost = false;
    metric_set(c->conf.metrics, &ca_m_signer_up, "", 1);
}

/* `take_lists` go with the set; owned also on failure. */
static int
load(struct ca *c, const struct ca_loaded *next, struct crls *take_lists, struct err *e)
{
    struct ca_server_cert server = { .key = NULL };
    CLEANUP(ca_jwt_done) struct ca_jwt jwt = { .n = 0 };
    struct ca_view *v;
    struct tls_conf *tls;

    jwt_next(c, next, &jwt);
    bool is_reload = c->loaded.bundle != NULL;
    if (is_reload && !roots_equal(bundle_roots(c->loaded.bundle), bundle_roots(next->bundle)))
        log_info("", "Updating new ROOT-CA");
    ca_above_put(c, take_lists);
    revocations_signer(c->revocations, bundle_signer(next->bundle), next->signer);
    if (view_make(c, next, &jwt, &server, &v, &tls, e) < 0) {
        ca_server_cert_done(&server);
        return err_result(e);
    }
    if (ledger_note_issuers(c->conf.ledger, next->bundle, e) < 0)
        log_warn("", "the ledger will not know these issuers by name: %s", e->msg);
    bundle_unref(c->loaded.bundle);
    signer_unref(c->loaded.signer);
    c->loaded = *next;
    (void)bundle_ref(c->loaded.bundle);
    (void)signer_ref(c->loaded.signer);
    signer_is_held(c);
    ca_server_cert_done(&c->server);
    c->server = server;
    jwt_put(c, &jwt);
    view_put(c, v, tls);
    trust_dir_write(c);
    timer_set(c->jwt_timer, 0);
    log_loaded(c, is_reload);
    warn_of_bundle(c);
    return 0;
}

static void
said_tell(struct ca *c)
{
    const struct roots *roots = bundle_roots(c->loaded.bundle);
    struct ca_said said = { .generation = c->loaded.generation };
    struct err e;

    for (; said.roots_n < roots_count(roots); said.roots_n++)
        memcpy(said.roots[said.roots_n], cert_id(roots_at(roots, said.roots_n)), DIGEST_BYTES);
    memcpy(said.signer_id, cert_id(bundle_signer(c->loaded.bundle)), DIGEST_BYTES);
    for (size_t i = 0; i < c->workers_n; i++)
        if (ca_worker_say(&c->workers[i], &said, &e) < 0)
            log_error("", "a worker's evidence stays behind: %s", e.msg);
}

/* The gates of a rotation take this word for: nothing here writes a row, or hands out a trust set,
 * of an older generation any more. So it waits for the last call that holds an older view. */
void
ca_load_say(void *arg)
{
    struct ca *c = arg;
    struct bundle *b = c->loaded.bundle;

    if (atomic_load_explicit(&c->views_alive, memory_order_acquire) > 1)
        timer_set(c->say, SAY_AGAIN_MS);
    else if (b != NULL) {
        said_tell(c);
        if (c->conf.on_loaded != NULL)
            c->conf.on_loaded(c->loaded.generation, bundle_roots(b), cert_id(bundle_signer(b)),
                              c->conf.arg);
    }
}

static void
loaded_say(struct ca *c)
{
    struct metrics *m = c->conf.metrics;

    metric_set(m, &ca_m_generation, "", (double)c->loaded.generation);
    metric_add(m, &ca_m_reloads, "", 1);
    ca_metrics_expiry(c);
    ca_load_say(c);
}

static void
present_is_loaded(struct ca *c)
{
    memcpy(c->loaded_id, filewatch_present_id(c->watch), DIGEST_BYTES);
    c->refused[0] = '\0';
    metric_set(c->conf.metrics, &ca_m_is_present, "", 1);
}

/* The set in force again, with its key in a signer process that did not have it. */
static int
adopt(struct ca *c, struct signer *signer, struct err *e)
{
    struct ca_loaded next = c->loaded;
    CLEANUP(ca_jwt_done) struct ca_jwt jwt = { .n = 0 };
    struct ca_view *v;
    struct tls_conf *tls;

    next.signer = signer;
    revocations_signer(c->revocations, bundle_signer(next.bundle), signer);
    ca_jwt_copy(&c->jwt, &jwt);
    ca_jwt_adopt(&jwt, signer);
    TRY(view_make(c, &next, &jwt, NULL, &v, &tls, e));
    jwt_put(c, &jwt);
    signer_unref(c->loaded.signer);
    c->loaded.signer = signer_ref(signer);
    view_put(c, v, tls);
    signer_is_held(c);
    log_info("signer", "The new signer process holds the key in force");
    return 0;
}

/* One checked set: load it, or say why not. */
static void
consider(struct ca *c, const struct set *s)
{
    const struct set_manifest *m = &s->manifest;
    struct ca_loaded next = { .mode = m->self_signed ? CA_MODE_SELF_SIGNED : CA_MODE_PLUGGED_IN,
                              .is_ours = s->is_ours,
                              .bundle = s->bundle,
                              .signer = s->signer,
                              .manifest = *m };
    struct crls *lists = NULL;
    const char *reason = "internal";
    struct err e;

    int r = content_id(s->bundle, next.content_id, &e);
    if (r == 0)
        r = ca_load_check(&c->conf, &c->loaded, &next, &reason, &e);
    if (r == CA_LOAD_SAME && c->signer_is_lost) {
        reason = "signer";
        r = adopt(c, s->signer, &e);
        r = r < 0 ? r : CA_LOAD_SAME;
    }
    if (r == CA_LOAD_SAME) {
        log_debug("", "the same set again");
        present_is_loaded(c);
        return;
    }
    if (r == 0) {
        reason = "revoked";
        r = ca_above_choose(c, s->bundle, m, &lists, &e);
    }
    if (r == 0) {
        next.generation = m->generation > 0 ? m->generation : generation_recall(c, next.content_id);
        reason = "internal";
        r = load(c, &next, lists, &e);
    }
    if (r < 0) {
        refuse(c, reason, &e);
        return;
    }
    present_is_loaded(c);
    loaded_say(c);
}

/* -- folders -- */

/* r: 0; SET_ABSENT. The key goes from its file to the signer process, not through here. */
static int
set_take(struct ca *c, const struct buf *bufs, const bool *present, int key_fd, struct set *ret,
         struct err *e)
{
    bool in_token = c->conf.token_uri != NULL;
    int r = TRY(set_parse_public(bufs, present, in_token, &ret->bundle, &ret->manifest, e));

    if (r == 0 && in_token && present[PART_CA_KEY])
        log_warn("",
                 "%s/ca-key.pem is there and not read: the key is in the token (--signer); "
                 "remove the file, and replace the key if it is the token's",
                 c->conf.dir);
    return r == 0 ? signer_load(c->signer, bundle_signer(ret->bundle), key_fd, &ret->signer, e) : r;
}

/* r: 0; SET_ABSENT. */
static int
set_read(struct ca *c, const char *dir, struct set *ret, struct err *e)
{
    struct buf bufs[SET_FILES];
    bool present[SET_FILES];
    int key_fd = -1;

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(FILESET_MAX_FILE_BYTES);
    int r =
        fileset_read_sealed(dir, set_file_names, SET_FILES, PART_CA_KEY, bufs, present, &key_fd, e);
    if (r == 0)
        r = set_take(c, bufs, present, key_fd, ret, e);
    else if (r == FILE_ABSENT)
        r = SET_ABSENT;
    for (size_t i = 0; i < SET_FILES; i++)
        buf_done(&bufs[i]);
    if (key_fd >= 0)
        (void)close(key_fd);
    return r;
}

/* -- self-signed -- */

static void
load_self_signed(struct ca *c)
{
    CLEANUP(set_done) struct set s = { .is_ours = true };
    struct err e = { .code = E_NONE };

    if (c->conf.self_signed_dir == NULL)
        return;
    int r = set_read(c, c->conf.self_signed_dir, &s, &e);
    if (r == SET_ABSENT && ca_self_signed_make(c, &e) < 0)
        r = -1;
    else if (r == SET_ABSENT)
        r = set_read(c, c->conf.self_signed_dir, &s, &e);
    if (r != 0) {
        (void)err_wrap(&e, "self-signed root in %s", c->conf.self_signed_dir);
        refuse(c, "self_signed", &e);
        return;
    }
    s.manifest.self_signed = true;
    if (s.manifest.generation < c->conf.first_generation)
        s.manifest.generation = c->conf.first_generation;
    if (c->loaded.bundle == NULL)
        log_info("", "Use self-signed certificate as the CA certificate");
    consider(c, &s);
}

/* A mesh that ran self-signed when this process started still does, whatever has been plugged in.
 */
static void
self_signed_first(struct ca *c)
{
    if (c->loaded.bundle == NULL && ca_self_signed_is_kept(c))
        load_self_signed(c);
}

/* -- filewatch's calls -- */

void
ca_load_changed(const struct buf *bufs, const bool *present, void *arg)
{
    struct ca *c = arg;
    CLEANUP(set_done) struct set s = { .bundle = NULL };
    struct err e;

    int r = set_take(c, bufs, present, filewatch_sealed_fd(c->watch), &s, &e);
    if (r == SET_ABSENT) {
        if (c->loaded.bundle == NULL)
            load_self_signed(c);
        if (c->loaded.bundle == NULL || c->loaded.is_ours)
            return;
        if (c->loaded.mode == CA_MODE_SELF_SIGNED)
            c->loaded.mode = CA_MODE_NONE; /* disabled: any set may follow */
        r = err_set(&e, E_NOTFOUND, "%s holds no set any more", c->conf.dir);
    }
    self_signed_first(c);
    if (c->loaded.bundle != NULL)
        log_info("", "Update Istiod cacerts");
    if (r < 0) {
        refuse(c, e.code == E_NOTFOUND ? "absent" : "inconsistent", &e);
        return;
    }
    consider(c, &s);
}

void
ca_load_failed(const struct err *why, void *arg)
{
    struct ca *c = arg;

    if (c->loaded.bundle == NULL && why->code == E_NOTFOUND)
        load_self_signed(c);
    if (!c->loaded.is_ours)
        refuse(c, "unreadable", why);
}

/* A self-signed set of ours that is gone means that the mesh was disabled: any set may follow. */
static bool
was_disabled(const struct ca *c)
{
    return c->loaded.is_ours && c->loaded.mode != CA_MODE_NONE && !ca_self_signed_is_kept(c);
}

static void
read_again(struct ca *c)
{
    CLEANUP(set_done) struct set s = { .bundle = NULL };
    struct err e;

    int r = set_read(c, c->conf.dir, &s, &e);
    if (r == 0)
        consider(c, &s);
    else if (r < 0)
        refuse(c, "inconsistent", &e);
}

void
ca_load_again(struct ca *c)
{
    if (was_disabled(c))
        c->loaded.mode = CA_MODE_NONE;
    else if (c->signer_is_lost && c->loaded.is_ours)
        load_self_signed(c);
    else if (!c->signer_is_lost && c->refused[0] == '\0')
        return;
    read_again(c);
}

void
ca_load_signer(bool is_up, void *arg)
{
    struct ca *c = arg;

    c->signer_is_lost = c->loaded.bundle != NULL;
    metric_set(c->conf.metrics, &ca_m_signer_up, "", is_up && !c->signer_is_lost ? 1 : 0);
    if (!is_up)
        return;
    metric_add(c->conf.metrics, &ca_m_signer_starts, "", 1);
    ca_load_again(c);
}

void
ca_load_view(struct ca *c, const char *why)
{
    struct ca_view *v;
    struct tls_conf *tls;
    struct err e;

    if (c->loaded.bundle == NULL)
        return;
    if (view_make(c, &c->loaded, &c->jwt, NULL, &v, &tls, &e) < 0)
        log_error("", "%s, which is not in force yet: %s", why, e.msg);
    else
        view_put(c, v, tls);
}

void
ca_load_server_cert(struct ca *c)
{
    struct ca_server_cert server = { .key = NULL };
    struct ca_view *v;
    struct tls_conf *tls;
    struct err e;

    if (view_make(c, &c->loaded, &c->jwt, &server, &v, &tls, &e) < 0) {
        ca_server_cert_done(&server);
        log_error("", "the CA's serving certificate is not renewed: %s", e.msg);
        return;
    }
    ca_server_cert_done(&c->server);
    c->server = server;
    view_put(c, v, tls);
    log_cert(server.leaf);
    log_info("", "Istiod certificates are reloaded");
}
