/* conf.c - where the API server is: in a cluster. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/kube.h"
#include "net/json.h"

void
kube_conf_done(struct kube_conf *c)
{
    char **const texts[] = {
        &c->server, &c->ca_file,  &c->token_file, &c->cert_file, &c->key_file,
        &c->ca_pem, &c->cert_pem, &c->key_pem,    &c->token,     &c->exec_dir
    };

    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        if (*texts[i] != NULL)
            explicit_bzero(*texts[i], strlen(*texts[i]));
        free(STEAL(*texts[i]));
    }
    json_wipe_free(STEAL(c->exec));
}

int
kube_conf_in_cluster(struct kube_conf *ret, struct err *e)
{
    CLEANUP(kube_conf_done) struct kube_conf c = { .server = NULL };
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    uint64_t number;

    if (host == NULL || host[0] == '\0' || port == NULL)
        return err_set(e, E_NOTFOUND,
                       "not in a cluster (KUBERNETES_SERVICE_HOST is not set): name the API server "
                       "with --kube-server or --kubeconfig");
    if (u64_parse(span_str(port), 1, 65535, &number, e) < 0)
        return err_wrap(e, "KUBERNETES_SERVICE_PORT");
    bool is_v6 = strchr(host, ':') != NULL;
    TRY(str_format(&c.server, e, is_v6 ? "https://[%s]:%s" : "https://%s:%s", host, port));
    TRY(str_dup(span_str(KUBE_IN_CLUSTER_DIR "/ca.crt"), &c.ca_file, e));
    TRY(str_dup(span_str(KUBE_IN_CLUSTER_DIR "/token"), &c.token_file, e));
    *ret = c;
    c = (struct kube_conf){ .server = NULL };
    return 0;
}
