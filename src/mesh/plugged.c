/* plugged.c - what a plugged-in mesh has beyond the CA: a vault client, sync, rotation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/secret.h"
#include "mesh/mesh_private.h"

enum { CREDENTIALS_MAX_BYTES = 16 * 1024 };

/* Who sync is towards the vault: borrowed texts, valid while `json` is. */
struct credentials {
    json_t *json; /* owned, or NULL when they came from the environment */
    const char *tenant, *client_id, *client_secret;
};

static void
credentials_done(struct credentials *c)
{
    json_decref(c->json);
}

static int
credentials_from_file(const char *path, struct credentials *ret, struct err *e)
{
    struct buf b = BUF_INIT(CREDENTIALS_MAX_BYTES);
    int r = file_read(path, &b, e);

    if (r == FILE_ABSENT)
        r = err_set(e, E_NOTFOUND, "%s: no such file", path);
    if (r == 0) {
        ret->json = json_loadb(buf_text(&b), b.n, JSON_REJECT_DUPLICATES, NULL);
        ret->tenant = json_string_value(json_object_get(ret->json, "tenant"));
        ret->client_id = json_string_value(json_object_get(ret->json, "client_id"));
        ret->client_secret = json_string_value(json_object_get(ret->json, "client_secret"));
        if (ret->tenant == NULL || ret->client_id == NULL || ret->client_secret == NULL)
            r = err_set(e, E_PARSE, "%s: want a JSON object with tenant, client_id, client_secret",
                        path);
    }
    buf_wipe(&b);
    return r;
}

static int
credentials_from_environment(const char *url, struct credentials *ret, struct err *e)
{
    ret->tenant = getenv("AZURE_TENANT_ID");
    ret->client_id = getenv("AZURE_CLIENT_ID");
    ret->client_secret = getenv("AZURE_CLIENT_SECRET");
    if (ret->tenant == NULL || ret->client_id == NULL || ret->client_secret == NULL)
        return err_set(e, E_INVAL,
                       "%s is not our own vault, and AZURE_TENANT_ID, AZURE_CLIENT_ID and "
                       "AZURE_CLIENT_SECRET are not all set for meshroot up",
                       url);
    return 0;
}

static bool
is_our_vault(struct mesh *m, const char *vault_id)
{
    char name[VAULT_NAME_BYTES];
    struct err e;

    if (strcmp(vault_id, vault_service_url(m->vault)) == 0)
        return true;
    return strncmp(vault_id, "https://", 8) != 0 && vault_id_name(vault_id, name, &e) == 0 &&
           strcasecmp(name, m->conf.vault_name) == 0;
}

static int
client_open(struct mesh *m, const struct mesh_settings *s, char url[VAULT_URL_BYTES], struct err *e)
{
    CLEANUP(credentials_done) struct credentials cred = { 0 };
    char ca_file[PATH_BYTES + 32], file[PATH_BYTES + 32];
    bool ours = is_our_vault(m, s->vault_id);

    TRY(vault_id_url(s->vault_id, url, e));
    if (ours)
        (void)snprintf(url, VAULT_URL_BYTES, "%s", vault_service_url(m->vault));
    (void)snprintf(ca_file, sizeof(ca_file), "%s/vault-ca.pem", m->state_dir);
    (void)snprintf(file, sizeof(file), "%s/credentials/sync.json", m->state_dir);
    if (ours)
        TRY(credentials_from_file(file, &cred, e));
    else
        TRY(credentials_from_environment(url, &cred, e));
    struct vault_client_conf conf = {
        .url = url,
        .ca_file = ours ? ca_file : getenv("MESHROOT_VAULT_CA_FILE"),
        .tenant = cred.tenant,
        .client_id = cred.client_id,
        .client_secret = cred.client_secret,
    };
    return vault_client_new(m->loop, &conf, &m->plugged.vault, e);
}

static int
get_secret(void *self, const char *name, const char *version, vault_secret_fn *done, void *arg,
           struct err *e)
{
    return vault_get(self, name, version, done, arg, e);
}

int
plugged_open(struct mesh *m, const struct mesh_settings *s, struct err *e)
{
    char url[VAULT_URL_BYTES];

    TRY(client_open(m, s, url, e));
    struct sync_conf conf = {
        .get = get_secret,
        .self = m->plugged.vault,
        .vault_url = url,
        .poll_ms = s->poll_ms,
        .metrics = m->metrics,
        .on_bundle = mesh_on_bundle,
        .on_refused = mesh_on_refused,
        .arg = m,
    };
    for (size_t i = 0; i < PART__ALL; i++)
        conf.object_names[i] = s->object_names[i];
    if (sync_new(m->loop, &conf, &m->plugged.sync, e) < 0) {
        plugged_close(m);
        return err_result(e);
    }
    return 0;
}

static int
fetch_pinned(void *self, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
             struct err *e)
{
    struct mesh *m = self;

    return sync_fetch(m->plugged.sync, v, done, arg, e);
}

int
plugged_start_rotation(struct mesh *m, struct err *e)
{
    struct rotate_conf conf = {
        .plans = rotate_plans_store(m->store),
        .target = rotate_target_folder(m->bundle_dir),
        .ledger = m->ledger,
        .metrics = m->metrics,
        .hold_replacement = m->settings.hold_replacement,
        .renew_window_ms = m->conf.renew_window_ms,
        .floor = m->floor,
        .min_life_s = (int64_t)(m->conf.default_ttl_ms / 1000),
        .replicas_n = 1,
        .fetch = fetch_pinned,
        .self = m,
    };

    return rotate_new(m->loop, &conf, &m->plugged.rotate, e);
}

void
plugged_close(struct mesh *m)
{
    rotate_free(m->plugged.rotate);
    sync_free(m->plugged.sync);
    vault_client_free(m->plugged.vault);
    m->plugged = (struct plugged){ 0 };
}
