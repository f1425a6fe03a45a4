/* agent_status.c - meshroot agent status: what one workload's agent holds, and how it goes. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "cmd/commands.h"
#include "net/http.h"

enum { ANSWER_MAX_BYTES = 1024 * 1024, CALL_MS = 5 * 1000 };

struct status_conf {
    const char *dir, *socket, *monitoring, *output;
};

#define AT(member) offsetof(struct status_conf, member)
static const struct opt opts[] = {
    { "dir", OPT_STRING, AT(dir), NULL, NULL, NULL, 0, "DIR",
      "the agent's --dir: it answers on DIR/agent.sock" },
    { "socket", OPT_STRING, AT(socket), NULL, NULL, NULL, 0, "PATH", "that socket itself" },
    { "monitoring", OPT_STRING, AT(monitoring), NULL, NULL, NULL, 0, "ADDR",
      "the agent's --monitoring address [127.0.0.1:15020 when no flag is given]" },
    OPT_OUTPUT(struct status_conf, output),
    { .name = NULL },
};

/* -- asking -- */

static int
ask(const struct status_conf *c, struct buf *ret, struct err *e)
{
    CLEANUP(str_freep) char *sock = NULL;
    CLEANUP(str_freep) char *url = NULL;
    const char *addr = c->monitoring == NULL ? "127.0.0.1:15020" : c->monitoring;
    int status = 0;

    if (c->dir != NULL)
        TRY(str_format(&sock, e, "%s/agent.sock", c->dir));
    else if (c->socket != NULL)
        TRY(str_dup(span_str(c->socket), &sock, e));
    if (sock != NULL && access(sock, F_OK) < 0)
        return err_set(e, E_NOTFOUND, "no agent runs there: %s does not exist", sock);
    TRY(str_format(&url, e, "http://%s/status", sock != NULL ? "localhost" : addr));
    const struct http_request_conf q = { .method = "GET",
                                         .url = url,
                                         .unix_socket = sock,
                                         .timeout_ms = CALL_MS,
                                         .max_body_bytes = ANSWER_MAX_BYTES };
    if (http_fetch(&q, &status, ret, e) < 0)
        return err_wrap(e, "%s (is the agent running?)", sock != NULL ? sock : addr);
    if (status != 200)
        return err_set(e, E_PEER, "%s answered HTTP %d", sock != NULL ? sock : addr, status);
    return 0;
}

/* -- printing -- */

static bool
is(const json_t *j, const char *member)
{
    return json_is_true(json_object_get(j, member));
}

#define ROW "%-14s "
#define N   "%" JSON_INTEGER_FORMAT

static void
leaf_print(const json_t *s)
{
    const json_t *leaf = json_object_get(s, "leaf"), *root;
    size_t i;

    if (!json_is_object(leaf)) {
        printf(ROW "none yet\n", "Leaf");
        return;
    }
    printf(ROW "%s%s\n", "Leaf", shown_text(leaf, "serial"),
           is(leaf, "trusted") ? "" : "  (no root of the trust set is its own)");
    printf(ROW "by %s\n", "", shown_text(leaf, "issuer"));
    printf(ROW "until %s, renewed at %s\n", "", shown_text(leaf, "not_after"),
           shown_text(s, "next_renewal"));
    printf(ROW "generation " N "\n", "Trust set", shown_number(s, "generation"));
    json_array_foreach(json_object_get(s, "roots"), i, root)
        printf(ROW "%s  until %s  sha256 %.16s\n", "", shown_text(root, "subject"),
               shown_text(root, "not_after"), shown_text(root, "id"));
}

static void
ca_print(const json_t *s)
{
    const json_t *ca = json_object_get(s, "ca");

    printf(ROW "%s, %s\n", "CA", shown_text(ca, "address"), shown_text(ca, "trust_stream"));
    if (shown_number(s, "acknowledged_generation") != 0)
        printf(ROW "knows that generation " N " is in use, since %s\n", "",
               shown_number(s, "acknowledged_generation"), shown_text(s, "acknowledged_at"));
    if (json_is_string(json_object_get(s, "word_waits_for")))
        printf(ROW "%s\n", "Word waits for", shown_text(s, "word_waits_for"));
    if (shown_number(s, "failures") != 0)
        printf(ROW N " calls failed in a row\n", "", shown_number(s, "failures"));
    if (json_is_string(json_object_get(s, "last_error")))
        printf(ROW "%s  (%s)\n", "Last error", shown_text(s, "last_error"),
               shown_text(s, "last_error_at"));
}

static void
sds_print(const json_t *sds)
{
    const json_t *t, *name;
    size_t i, k;

    if (!json_is_object(sds))
        return;
    printf(ROW N " streams, " N " pushes, " N " acknowledged, " N " refused\n", "SDS",
           (json_int_t)json_array_size(json_object_get(sds, "streams")),
           shown_number(sds, "pushes"), shown_number(sds, "acknowledged"),
           shown_number(sds, "refused"));
    json_array_foreach(json_object_get(sds, "streams"), i, t) {
        printf(ROW "%s  %s  %s at %s ", "", shown_text(t, "node"), shown_text(t, "api"),
               shown_text(t, "state"), shown_text(t, "word_at"));
        json_array_foreach(json_object_get(t, "names"), k, name)
            printf(" %s", json_string_value(name));
        printf("%s%s\n", json_is_string(json_object_get(t, "reason")) ? ": " : "",
               json_is_string(json_object_get(t, "reason")) ? shown_text(t, "reason") : "");
    }
    if (json_is_string(json_object_get(sds, "last_refusal")))
        printf(ROW "%s  (%s)\n", "Last refusal", shown_text(sds, "last_refusal"),
               shown_text(sds, "last_refusal_at"));
}

static void
clients_print(const json_t *s)
{
    const json_t *w = json_object_get(s, "workload_api"), *p, *r = json_object_get(s, "reload");
    size_t i;

    json_array_foreach(json_object_get(s, "proxies"), i, p)
        printf(ROW "%s, port " N ", " N " connections\n", i == 0 ? "mTLS proxy" : "",
               shown_text(p, "direction"), shown_number(p, "port"), shown_number(p, "connections"));
    if (json_is_object(w))
        printf(ROW "%s, " N " streams, " N " pushes, " N " refused\n", "Workload API",
               shown_text(w, "endpoint"), shown_number(w, "streams"), shown_number(w, "pushes"),
               shown_number(w, "refused"));
    sds_print(json_object_get(w, "sds"));
    if (json_is_object(r))
        printf(ROW "%s%s%s at %s (%s, " N " ms)%s\n", "Reload", shown_text(r, "last_result"),
               json_is_string(json_object_get(r, "last_error")) ? ": " : "",
               json_is_string(json_object_get(r, "last_error")) ? shown_text(r, "last_error") : "",
               shown_text(r, "last_at"), shown_text(r, "last_reason"), shown_number(r, "last_ms"),
               is(r, "running") ? ", runs now" : "");
}

static void
status_print(const json_t *s)
{
    printf(ROW "%s\n", "Identity", shown_text(s, "identity"));
    printf(ROW "%s\n", "State", is(s, "ready") ? "ready" : "not ready");
    leaf_print(s);
    ca_print(s);
    clients_print(s);
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct status_conf *c = conf;
    CLEANUP(buf_done) struct buf answer = BUF_INIT(ANSWER_MAX_BYTES);

    (void)args;
    if ((c->dir != NULL) + (c->socket != NULL) + (c->monitoring != NULL) > 1)
        return err_set(e, E_INVAL, "--dir, --socket or --monitoring: one of them");
    TRY(ask(c, &answer, e));
    json_t *s = json_loadb(buf_text(&answer), answer.n, 0, NULL);
    if (!json_is_object(s)) {
        json_decref(s);
        return err_set(e, E_PEER, "the answer is not an agent's status");
    }
    bool is_ready = is(s, "ready");
    if (strcmp(c->output, "json") == 0) {
        TRY(print_json(s, e));
    } else {
        status_print(s);
        json_decref(s);
    }
    return is_ready ? 0 : CMD_FAILED;
}

const struct command cmd_agent_status = {
    "agent status",
    "",
    0,
    0,
    opts,
    sizeof(struct status_conf),
    run,
    "what one workload's agent holds, who uses it, and what went wrong",
    "Shows identity, leaf and its next renewal, trust set and generation, what the CA knows of it, "
    "the last\n"
    "error, the clients of the Workload API and of SDS with their last word, and how the reload "
    "command ended.\n"
    "Exit status 0: a valid certificate is in use; 1: none is; 3: no agent runs there.\n"
    "\n"
    "Examples:\n"
    "  meshroot agent status --dir /run/certs\n"
    "  meshroot agent status --monitoring 127.0.0.1:15020 --output json | jq .leaf.not_after\n",
};
