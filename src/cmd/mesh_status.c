/* mesh_status.c - meshroot mesh status: one page that answers "who is on what". */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "cmd/admin_client.h"
#include "cmd/commands.h"
#include "cmd/mesh_kube.h"

struct status_conf {
    const char *state_dir, *output;
    bool watch;
    struct mesh_kube kube;
};

static const struct opt opts[] = {
    OPT_STATE_DIR(struct status_conf, state_dir),
    OPT_OUTPUT(struct status_conf, output),
    OPT_MESH_KUBE(struct status_conf, kube),
    { "watch", OPT_FLAG, offsetof(struct status_conf, watch), NULL, NULL, NULL, 0, NULL,
      "print again every second, until interrupted" },
    { .name = NULL },
};

static void
cert_print(const char *what, const json_t *c)
{
    const char *subject = shown_text(c, "subject");

    if (json_is_object(c)) /* a serving certificate has no subject */
        printf("%-14s %s  until %s  sha256 %.16s\n", what,
               subject[0] != '\0' ? subject : "(DNS names)", shown_text(c, "not_after"),
               shown_text(c, "id"));
}

static void
ca_print(const json_t *ca)
{
    const json_t *versions = json_object_get(ca, "versions"), *c, *v;
    const char *name;
    size_t i;

    if (!json_is_object(ca))
        return;
    printf("%-14s %" JSON_INTEGER_FORMAT "\n", "Generation", shown_number(ca, "generation"));
    json_object_foreach((json_t *)(uintptr_t)versions, name, v)
        if (json_string_length(v) > 0)
            printf("%-14s %s version %s\n", "", name, json_string_value(v));
    json_array_foreach(json_object_get(ca, "roots"), i, c)
        cert_print(i == 0 ? "Roots" : "", c);
    cert_print("Intermediate", json_object_get(ca, "intermediate"));
    cert_print("Server", json_object_get(ca, "server"));
    if (strcmp(shown_text(ca, "loaded"), shown_text(ca, "present")) != 0)
        printf("%-14s loaded %.16s != present %.16s\n", "Stale", shown_text(ca, "loaded"),
               shown_text(ca, "present"));
    if (json_is_string(json_object_get(ca, "refused")))
        printf("%-14s %s\n", "Refused", shown_text(ca, "refused"));
}

static void
rotation_print(const json_t *r)
{
    const json_t *held = json_object_get(r, "held"), *w;
    size_t i;

    if (!json_is_object(r))
        return;
    printf("%-14s %s\n", "Rotation", shown_text(r, "class"));
    if (!json_is_object(held))
        return;
    printf("%-14s %s\n", "Held", shown_text(held, "detail"));
    json_array_foreach(json_object_get(held, "waits_for"), i, w)
        printf("%-14s %s %s  %s\n", i == 0 ? "Waits for" : "", shown_text(w, "identity"),
               shown_text(w, "instance"), shown_text(w, "why"));
}

static void
fleet_print(const json_t *f)
{
    const json_t *a, *n;
    const char *key;
    size_t i;

    printf("%-14s %" JSON_INTEGER_FORMAT " with leaves in use\n", "Workloads",
           shown_number(f, "workloads"));
    json_object_foreach(json_object_get(f, "by_trust_generation"), key, n)
        printf("%-14s %" JSON_INTEGER_FORMAT " acknowledged trust set %s\n", "",
               json_integer_value(n), key);
    json_object_foreach(json_object_get(f, "by_issuer"), key, n)
        printf("%-14s %" JSON_INTEGER_FORMAT " use leaves of %.16s\n", "", json_integer_value(n),
               key);
    if (json_array_size(json_object_get(f, "agents")) == 0)
        return;
    printf("\n%-52s %-10s %-6s %s\n", "IDENTITY", "INSTANCE", "TRUST", "LEAVES UNTIL");
    json_array_foreach(json_object_get(f, "agents"), i, a) {
        printf("%-52s %-10.8s %-6" JSON_INTEGER_FORMAT " %s\n", shown_text(a, "identity"),
               shown_text(a, "instance"), shown_number(a, "trust_generation"),
               shown_text(a, "until"));
    }
}

static void
status_print(const json_t *s)
{
    const json_t *sync = json_object_get(s, "sync");

    printf("%-14s %s%s\n", "Mode", shown_text(s, "mode"),
           json_is_true(json_object_get(s, "ready")) ? "" : " (not ready)");
    printf("%-14s %s\n", "Trust domain", shown_text(s, "trust_domain"));
    if (json_is_object(sync)) {
        printf("%-14s %s  every %s, last success %s\n", "Vault", shown_text(sync, "vault"),
               shown_text(sync, "poll_interval"), shown_text(sync, "last_success"));
        if (json_is_string(json_object_get(sync, "last_error")))
            printf("%-14s %s\n", "Vault says", shown_text(sync, "last_error"));
    }
    ca_print(json_object_get(s, "ca"));
    rotation_print(json_object_get(s, "rotation"));
    fleet_print(json_object_get(s, "fleet"));
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct status_conf *c = conf;
    CLEANUP(str_freep) char *dir = NULL;

    (void)args;
    if (mesh_is_on_kube(&c->kube)) {
        int r;

        do {
            if (c->watch && isatty(STDOUT_FILENO) == 1)
                printf("\033[H\033[2J");
            r = mesh_kube_status(&c->kube, c->output, e);
            if (r >= 0)
                TRY(stdout_check(e)); /* whoever read it may have gone */
        } while (r >= 0 && c->watch && sleep(1) == 0);
        return r;
    }
    TRY(state_dir(c->state_dir, &dir, e));
    do {
        json_t *s = NULL;

        TRY(admin_call(dir, "GET", "/v1/status", NULL, &s, e));
        if (c->watch && isatty(STDOUT_FILENO) == 1)
            printf("\033[H\033[2J");
        if (strcmp(c->output, "json") == 0) {
            TRY(print_json(s, e));
        } else {
            status_print(s);
            json_decref(s);
        }
        TRY(stdout_check(e));
    } while (c->watch && sleep(1) == 0);
    return 0;
}

const struct command cmd_mesh_status = {
    "mesh status",
    "",
    0,
    0,
    opts,
    sizeof(struct status_conf),
    run,
    "who signs, who trusts what, what is held and why",
    "Shows the CA's mode, the generation of the bundle in force and the secret versions it came "
    "from, every\n"
    "certificate with its end, the rotation under way with what it waits for, and the workloads by "
    "trust set and\n"
    "issuer. The generation is the same number in logs, metrics, files and the trust stream.\n"
    "\n"
    "Exit status: 0 here it is; 1 there is no PluginCA (on Kubernetes); 3 no meshroot up runs "
    "there.\n"
    "\n"
    "Examples:\n"
    "  meshroot mesh status\n"
    "  meshroot mesh status --watch\n"
    "  meshroot mesh status --namespace aks-istio-system        # on Kubernetes: the PluginCA's\n"
    "  meshroot mesh status --output json | jq .rotation.held\n",
};
