/* status.c - one JSON object with everything an operator asks at night. */
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "mesh/mesh_private.h"

enum { AGENTS_SHOWN = 1000 };

struct fleet {
    json_t *agents;               /* owned by the caller */
    json_t *by_trust, *by_issuer; /* generation -> count; signer -> leaves */
    size_t n, cannot_say;
};

static void
count_up(json_t **counts, const char *key, size_t n)
{
    json_int_t have = json_integer_value(json_object_get(*counts, key));

    *counts = json_object_with(*counts, key, json_integer(have + (json_int_t)n));
}

static json_t *
ids_list(const uint8_t (*ids)[DIGEST_BYTES], size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        list = json_array_with(list, json_id(ids[i]));
    return list;
}

static void
workload_add(const struct ledger_workload *w, void *arg)
{
    struct fleet *f = arg;
    char generation[32], until[RFC3339_BYTES], id[DIGEST_TEXT_BYTES];

    f->n++;
    f->cannot_say += w->can_acknowledge ? 0 : 1;
    (void)snprintf(generation, sizeof(generation), "%llu", (unsigned long long)w->ack_generation);
    count_up(&f->by_trust, generation, 1);
    for (size_t i = 0; i < w->leaf_signers_n; i++) {
        hex_text(span_of(w->leaf_signers[i], DIGEST_BYTES), id);
        count_up(&f->by_issuer, id, 1);
    }
    if (f->n > AGENTS_SHOWN)
        return;
    rfc3339_s(w->last_not_after, until);
    f->agents = json_array_with(
        f->agents,
        json_pack("{s:s, s:s, s:b, s:I, s:o, s:I, s:o, s:o, s:s}", "identity", w->identity,
                  "instance", w->instance, "can_acknowledge", (int)w->can_acknowledge,
                  "trust_generation", (json_int_t)w->ack_generation, "trusts",
                  ids_list(w->ack_roots, w->ack_roots_n), "leaves_in_use", (json_int_t)w->leaves_n,
                  "leaf_roots", ids_list(w->leaf_roots, w->leaf_roots_n), "leaf_signers",
                  ids_list(w->leaf_signers, w->leaf_signers_n), "until", until));
}

static json_t *
fleet_status(struct mesh *m)
{
    struct fleet f = { json_array(), json_object(), json_object(), 0, 0 };

    ledger_workloads(m->ledger, workload_add, &f);
    return json_pack("{s:I, s:I, s:o, s:o, s:o}", "workloads", (json_int_t)f.n,
                     "cannot_acknowledge", (json_int_t)f.cannot_say, "by_trust_generation",
                     f.by_trust, "by_issuer", f.by_issuer, "agents", f.agents);
}

json_t *
mesh_status(struct mesh *m)
{
    return json_pack("{s:s, s:s, s:b, s:o, s:s, s:o, s:o, s:o, s:o, s:I, s:o}", "version",
                     MESHROOT_VERSION, "mode", mesh_mode_name(m->settings.mode), "ready",
                     (int)mesh_is_ready(m), "settings", settings_to_json(&m->settings),
                     "trust_domain", m->conf.trust_domain, "ca",
                     m->ca != NULL ? ca_status(m->ca) : json_null(), "rotation",
                     m->plugged.rotate != NULL ? rotate_status(m->plugged.rotate) : json_null(),
                     "sync", m->plugged.sync != NULL ? sync_status(m->plugged.sync) : json_null(),
                     "fleet", fleet_status(m), "ledger_rows", (json_int_t)ledger_count(m->ledger),
                     "ports", mesh_ports(m));
}

json_t *
mesh_ports(struct mesh *m)
{
    return json_pack("{s:I, s:s, s:I}", "ca", (json_int_t)(m->ca != NULL ? ca_port(m->ca) : 0),
                     "vault", vault_service_url(m->vault), "monitoring",
                     (json_int_t)(m->monitor != NULL ? monitor_port(m->monitor) : 0));
}
