#include "agent/room.h"
#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"

static json_t *
leaf_json(const struct creds *c)
{
    char serial[SERIAL_TEXT_BYTES], issuer[NAME_TEXT_BYTES];

    cert_serial_text(c->leaf, serial);
    cert_issuer_text(c->leaf, issuer);
    return json_pack("{s:s, s:I, s:s, s:o, s:o, s:o, s:o, s:b, s:b}", "serial", serial,
                     "generation", (json_int_t)c->leaf_generation, "issuer", issuer, "signer_id",
                     json_id(c->signer_id), "root_id", json_id(c->leaf_root_id), "not_before",
                     json_time(cert_not_before(c->leaf)), "not_after",
                     json_time(cert_not_after(c->leaf)), "trusted", creds_leaf_is_trusted(c),
                     "revoked", creds_is_revoked(c));
}

static json_t *
roots_json(const struct roots *r)
{
    json_t *all = json_array();

    for (size_t i = 0; i < roots_count(r); i++) {
        const struct cert *c = roots_at(r, i);
        char subject[NAME_TEXT_BYTES];

        cert_subject_text(c, subject);
        all =
            json_array_with(all, json_pack("{s:o, s:s, s:o}", "id", json_id(cert_id(c)), "subject",
                                           subject, "not_after", json_time(cert_not_after(c))));
    }
    return all;
}

static json_t *
proxies_json(const struct agent *a)
{
    json_t *all = json_array();

    for (size_t i = 0; i < a->proxies_n; i++) {
        const struct agent_proxy *p = &a->proxies[i];

        all = json_array_with(all, json_pack("{s:s, s:i, s:I}", "direction",
                                             p->is_inbound ? "inbound" : "outbound", "port",
                                             (int)p->port, "connections",
                                             (json_int_t)proxy_connections(p->proxy)));
    }
    return all;
}

static json_t *
ca_json(const struct agent *a)
{
    return json_pack("{s:s, s:s}", "address", a->conf.ca_addr, "trust_stream",
                     a->is_watching   ? "on the trust stream"
                     : a->ca_is_plain ? "has no trust stream"
                                      : "not on the trust stream");
}

/* What our word to the CA waits for, when one is due. */
static json_t *
word_waits_json(const struct agent *a)
{
    char text[ERR_MSG_BYTES];

    if (!a->ack_due)
        return json_null();
    if (!reload_is_settled(a->reload))
        return json_string("the reload command has not worked yet");
    workload_why_unsettled(a->workload, text, sizeof(text));
    return json_string(text[0] == '\0' ? "the CA" : text);
}

bool
agent_is_ready(const struct agent *a)
{
    return a->now != NULL && cert_not_after(a->now->leaf) > unix_s();
}

json_t *
agent_status(const struct agent *a)
{
    const struct creds *c = a->now;
    bool has_error = a->last_error[0] != '\0';

    return json_pack(
        "{s:s, s:s, s:b, s:I, s:o, s:o, s:o, s:I, s:o, s:o, s:o, s:b, s:i, s:o, s:o, s:o, s:o, "
        "s:o}",
        "identity", a->conf.identity, "instance", a->instance, "ready", agent_is_ready(a),
        "generation", (json_int_t)(c == NULL ? 0 : c->generation), "leaf",
        c == NULL ? json_null() : leaf_json(c), "roots",
        c == NULL ? json_array() : roots_json(c->roots), "next_renewal", json_time(a->renew_at_s),
        "acknowledged_generation", (json_int_t)a->acked_generation, "acknowledged_at",
        json_time(a->acked_at_s), "word_waits_for", word_waits_json(a), "ca", ca_json(a),
        "watching", a->is_watching, "failures", (int)a->renew_failures, "last_error",
        has_error ? json_string(a->last_error) : json_null(), "last_error_at",
        json_time(has_error ? a->last_error_s : 0), "proxies", proxies_json(a), "reload",
        reload_status(a->reload), "workload_api", workload_status(a->workload));
}
