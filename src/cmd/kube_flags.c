#include "cmd/kube_flags.h"

#include "base/str.h"

static int
text_keep(const char *from, char **to, struct err *e)
{
    return from == NULL ? 0 : str_dup(span_str(from), to, e);
}

int
kube_flags_fill(const struct kube_flags *f, struct kube_conf *ret, struct err *e)
{
    if (f->server != NULL && f->kubeconfig != NULL)
        return err_set(e, E_INVAL, "either --kube-server or --kubeconfig");
    if (f->kubeconfig != NULL)
        return kube_conf_from_file(f->kubeconfig, f->context, ret, e);
    if (f->server == NULL)
        return kube_conf_in_cluster(ret, e);
    TRY(text_keep(f->server, &ret->server, e));
    TRY(text_keep(f->ca_file, &ret->ca_file, e));
    TRY(text_keep(f->token_file, &ret->token_file, e));
    TRY(text_keep(f->cert_file, &ret->cert_file, e));
    return text_keep(f->key_file, &ret->key_file, e);
}
