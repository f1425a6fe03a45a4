/* fuzz_agent_flags.c - what an agent is told by people and by trailers: addresses, proxies, the
 * Workload API's socket, when to come again. What is taken is within its bounds and means what it
 * says; what is not names itself.
 *
 * The first byte says which. */
#include <stdlib.h>
#include <string.h>

#include "agent/plan.h"
#include "agent/workload.h"
#include "base/str.h"
#include "identity/cluster.h"
#include "net/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
refused(const struct err *e)
{
    if (e->msg[0] == '\0' || strlen(e->msg) >= ERR_MSG_BYTES)
        abort();
}

static void
addrs(const char *text)
{
    struct addr all[GRPC_TARGETS_MAX], listen = { .port = 0 }, to = { .port = 0 };
    const char *rule = NULL;
    size_t n = 0;
    struct err e = { 0 };

    if (plan_addrs_parse(text, all, GRPC_TARGETS_MAX, &n, &e) < 0)
        refused(&e);
    else if (n < 1 || n > GRPC_TARGETS_MAX || strchr(text, ':') == NULL)
        abort();
    if (plan_inbound_parse(text, &listen, &to, &e) < 0)
        refused(&e);
    else if (strchr(text, '=') == NULL)
        abort();
    if (plan_outbound_parse(text, &listen, &to, &rule, &e) < 0)
        refused(&e);
    else if (rule < text || rule >= text + strlen(text) || rule[-1] != '=')
        abort();
}

static void
socket_path(const char *text)
{
    char path[WORKLOAD_PATH_BYTES];
    struct err e = { 0 };

    if (workload_path(text, path, &e) < 0) {
        refused(&e);
        return;
    }
    const char *at = strncmp(text, "unix://", 7) == 0 ? text + 7
                     : strncmp(text, "unix:", 5) == 0 ? text + 5
                                                      : text;
    if (path[0] != '/' || strcmp(path, at) != 0)
        abort();
}

static void
words(char *text)
{
    char *all[8];
    struct err e = { 0 };

    if (plan_words(text, all, ARRAY_LEN(all) - 1, &e) < 0) {
        refused(&e);
        return;
    }
    if (all[0] == NULL)
        abort();
    for (size_t i = 0; all[i] != NULL; i++)
        if (i >= ARRAY_LEN(all) - 1 || all[i][0] == '\0' || strchr(all[i], ' ') != NULL)
            abort();
}

static void
names(struct span s, const char *text)
{
    struct err e = { 0 };

    if (node_account_check(text, &e) < 0)
        refused(&e);
    else if (strchr(text, '/') == NULL)
        abort();
    if (k8s_label_ok(s) && (s.n == 0 || s.n > 63 || memchr(s.p, '.', s.n) != NULL))
        abort();
    if (k8s_label_ok(s) && !k8s_subdomain_ok(s))
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(str_freep) char *text = NULL;
    struct err e;

    if (size < 2 || str_dup(span_of(data + 1, size - 1), &text, &e) < 0)
        return 0;
    struct span s = span_str(text);
    uint64_t ms = plan_retry_ms(s, data[0], (data[0] & 1) != 0, UINT32_MAX);
    if (ms == 0 || ms > BACKOFF_MAX_MS + BACKOFF_MAX_MS / 4)
        abort();
    switch (data[0] % 4) {
    case 0:
        addrs(text);
        break;
    case 1:
        socket_path(text);
        break;
    case 2:
        words(text);
        break;
    default:
        names(s, text);
        break;
    }
    return 0;
}
