/* fuzz_kubeconfig.c - a kubeconfig that is taken names a server; YAML comes out within its bounds.
 */
#include <stdlib.h>
#include <string.h>

#include "kube/kube.h"
#include "kube/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned
deeper(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static unsigned
depth_of(const json_t *o)
{
    json_t *one;
    const char *name;
    unsigned deepest = 0;
    size_t i;

    json_array_foreach(o, i, one) {
        deepest = deeper(depth_of(one), deepest);
    }
    json_object_foreach((json_t *)(uintptr_t)o, name, one) {
        deepest = deeper(depth_of(one), deepest);
    }
    return deepest + 1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(kube_conf_done) struct kube_conf c = { .server = NULL };
    CLEANUP(json_decrefp) json_t *o = NULL;
    struct err e;

    if (size > 4096)
        return 0;
    if (yaml_to_json(span_of(data, size), &o, &e) == 0 && depth_of(o) > YAML_MAX_DEPTH + 1)
        abort();
    if (kube_conf_read(span_of(data, size), "/etc/kubeconfig", NULL, &c, &e) == 0 &&
        (c.server == NULL || o == NULL || (c.token != NULL && strpbrk(c.token, " \r\n") != NULL) ||
         (c.ca_pem != NULL && strstr(c.ca_pem, "-----BEGIN ") == NULL) ||
         (c.exec != NULL && (c.token != NULL || c.exec_dir == NULL))))
        abort();
    return 0;
}
