/* ca_status.c - what is in force, for people and for mesh status. */
#include "base/clock.h"
#include "base/str.h"
#include "ca/room.h"
#include "net/json.h"

static const char *const mode_names[] = { [CA_MODE_NONE] = "none",
                                          [CA_MODE_PLUGGED_IN] = "plugged-in",
                                          [CA_MODE_SELF_SIGNED] = "self-signed" };

static json_t *
cert_json(const struct cert *c)
{
    char subject[NAME_TEXT_BYTES], issuer[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES],
        id[DIGEST_TEXT_BYTES], from[RFC3339_BYTES], to[RFC3339_BYTES];

    cert_subject_text(c, subject);
    cert_issuer_text(c, issuer);
    cert_serial_text(c, serial);
    hex_text(span_of(cert_id(c), DIGEST_BYTES), id);
    rfc3339_s(cert_not_before(c), from);
    rfc3339_s(cert_not_after(c), to);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "subject", subject, "issuer", issuer,
                     "serial", serial, "id", id, "not_before", from, "not_after", to);
}

static json_t *
roots_json(struct roots *r)
{
    json_t *a = json_array();

    for (size_t i = 0; i < roots_count(r); i++)
        a = json_array_with(a, cert_json(roots_at(r, i)));
    return a;
}

static json_t *
chain_json(const struct bundle *b)
{
    json_t *a = json_array();

    for (size_t i = 0; i < bundle_chain_count(b); i++)
        a = json_array_with(a, cert_json(bundle_chain_at(b, i)));
    return a;
}

static json_t *
versions_json(const struct sync_versions *v)
{
    json_t *o = json_object();

    for (size_t i = 0; i < PART__ALL; i++)
        if (v->v[i][0] != '\0')
            o = json_object_with(o, bundle_secret_names[i], json_string(v->v[i]));
    return o;
}

static json_t *
signer_json(const struct ca *c)
{
    struct signer_status s = signer_process_status(c->signer);

    return json_pack("{s:s, s:s, s:b, s:i, s:I, s:i, s:b, s:s}", "kind",
                     s.token[0] == '\0' ? "file" : "pkcs11", "token", s.token, "up",
                     s.is_up && !c->signer_is_lost, "pid", s.pid, "restarts",
                     (json_int_t)s.restarts, "landlock", s.landlock_abi, "memory_locked",
                     s.memory_locked, "trouble", s.trouble);
}

/* Whom we can tell from a stranger now, and what is in the way. */
static json_t *
pods_watch_json(const struct ca *c)
{
    struct pods_watch_state s = pods_watch_state(c->pods_watch);
    json_int_t age_ms = s.age_ms == UINT64_MAX ? -1 : (json_int_t)s.age_ms;

    return json_pack("{s:s, s:I, s:I, s:b, s:I, s:I, s:s}", "watched", kube_client_server(c->kube),
                     "known", (json_int_t)s.pods, "accounts", (json_int_t)s.accounts, "in_force",
                     s.is_known, "age_ms", age_ms, "max_stale_ms",
                     (json_int_t)c->conf.who.pods_max_stale_ms, "trouble", s.trouble);
}

static json_t *
callers_json(const struct ca *c)
{
    const struct ca_callers *who = &c->conf.who;
    json_t *issuers = json_array();

    for (size_t i = 0; i < who->issuers_n; i++) {
        const struct ca_jwks *j = &c->jwks[i];

        issuers = json_array_with(
            issuers, json_pack("{s:s, s:s, s:I, s:s}", "issuer", who->issuers[i].issuer,
                               "keys_from", jwks_source_from(j->source), "keys",
                               (json_int_t)(j->keys == NULL ? 0 : jwks_count(j->keys)), "trouble",
                               jwks_source_trouble(j->source)));
    }
    json_t *o = json_pack("{s:o, s:b, s:i}", "issuers", issuers, "token_review",
                          who->token_review != 0, "node_accounts", (int)who->node_accounts_n);
    if (c->kube != NULL)
        o = json_object_with(o, "kubernetes", json_string(kube_client_server(c->kube)));
    if (c->pods != NULL)
        o = json_object_with(o, "pods",
                             json_pack("{s:s, s:I, s:s}", "file", who->pods_file, "known",
                                       (json_int_t)pods_file_count(c->pods), "trouble",
                                       pods_file_trouble(c->pods)));
    if (c->pods_watch != NULL)
        o = json_object_with(o, "pods", pods_watch_json(c));
    return o;
}

static json_t *
jwt_json(const struct ca *c)
{
    json_t *keys = json_array();

    for (size_t i = 0; i < c->jwt.n; i++)
        keys = json_array_with(keys, json_string(c->jwt.keys[i].kid));
    return json_pack("{s:s?, s:o}", "signs",
                     c->view == NULL || c->view->jwt_signer == NULL ? NULL : c->view->jwt_kid,
                     "published", keys);
}

json_t *
ca_status(const struct ca *c)
{
    const struct ca_loaded *l = &c->loaded;
    json_t *o =
        json_pack("{s:s, s:I, s:s, s:I, s:b, s:I}", "mode", mode_names[l->mode], "generation",
                  (json_int_t)l->generation, "trust_domain", c->conf.trust_domain,
                  "agents_connected", (json_int_t)atomic_load(&c->watchers_n), "ready",
                  ca_is_ready(c), "port", (json_int_t)c->port);

    if (c->conf.replica != NULL)
        o = json_object_with(o, "replica", json_string(c->conf.replica));
    o = json_object_with(o, "refused",
                         c->refused[0] == '\0' ? json_null() : json_string(c->refused));
    o = json_object_with(o, "signer", signer_json(c));
    o = json_object_with(o, "callers", callers_json(c));
    o = json_object_with(o, "jwt", jwt_json(c));
    o = json_object_with(o, "revocation", revocations_status(c->revocations));
    o = json_object_with(o, "ca_lists", ca_above_status(c));
    o = json_object_with(o, "present", json_id(filewatch_present_id(c->watch)));
    o = json_object_with(o, "loaded", json_id(c->loaded_id));
    if (l->bundle == NULL)
        return o;
    o = json_object_with(o, "versions", versions_json(&l->manifest.versions));
    o = json_object_with(o, "roots", roots_json(bundle_roots(l->bundle)));
    o = json_object_with(o, "intermediate", cert_json(bundle_signer(l->bundle)));
    o = json_object_with(o, "chain", chain_json(l->bundle));
    o = json_object_with(o, "server", cert_json(c->server.leaf));
    return o;
}
