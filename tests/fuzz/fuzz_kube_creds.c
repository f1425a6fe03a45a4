/* fuzz_kube_creds.c - what an exec plug-in writes, and what a kubeconfig says of one: what is taken
 * fits into a header and a command line. */
#include <stdlib.h>
#include <string.h>

#include "kube/exec.h"
#include "kube/feed.h"
#include "net/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
exec_holds(const json_t *exec)
{
    const json_t *one;
    size_t i;

    if (json_string_length(json_object_get(exec, "command")) == 0 ||
        json_array_size(json_object_get(exec, "args")) > KUBE_EXEC_MAX_WORDS)
        abort();
    json_array_foreach(json_object_get(exec, "args"), i, one)
        if (json_string_value(one) == NULL)
            abort();
    json_array_foreach(json_object_get(exec, "env"), i, one)
        if (json_string_value(json_object_get(one, "value")) == NULL ||
            strchr(json_string_value(json_object_get(one, "name")), '=') != NULL)
            abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(kube_creds_done) struct kube_creds c = { .token = NULL };
    CLEANUP(json_wipe_freep) json_t *o = NULL;
    struct err e = { .code = E_NONE };

    if (kube_creds_read(span_of(data, size), "client.authentication.k8s.io/v1", &c, &e) < 0) {
        if (e.code != E_PARSE || c.token != NULL || c.cert_pem != NULL || c.key_pem != NULL)
            abort();
    } else if ((c.token == NULL && c.cert_pem == NULL) ||
               (c.cert_pem == NULL) != (c.key_pem == NULL) ||
               (c.token != NULL && (c.token[0] == '\0' || strpbrk(c.token, " \r\n\t") != NULL)))
        abort();
    if (json_object_parse(span_of(data, size), KUBE_MAX_DEPTH, &o, &e) == 0 &&
        kube_exec_check(o, &e) == 0)
        exec_holds(o);
    return 0;
}
