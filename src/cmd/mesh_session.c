#include "cmd/mesh_session.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "operator/plugin_ca.h"

void
mesh_session_done(struct mesh_session *s)
{
    json_wipe_free(s->body);
    kube_session_close(&s->kube);
    kube_conf_done(&s->conf);
}

const char *
mesh_namespace(const struct mesh_kube *k)
{
    return k->namespace != NULL ? k->namespace : "istio-system";
}

int
mesh_names_check(const struct mesh_kube *k, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    return kube_path(&kube_plugin_ca, mesh_namespace(k), k->name, NULL, &path, e);
}

static int
conf_find(const struct mesh_kube *k, struct kube_conf *ret, struct err *e)
{
    CLEANUP(str_freep) char *usual = NULL;
    const char *list = getenv("KUBECONFIG"), *home = getenv("HOME");

    if (k->kubeconfig != NULL)
        return kube_conf_from_file(k->kubeconfig, k->context, ret, e);
    if (list != NULL && list[0] != '\0')
        return kube_conf_from_files(list, k->context, ret, e);
    if (home != NULL)
        TRY(str_format(&usual, e, "%s/.kube/config", home));
    if (usual != NULL && access(usual, R_OK) == 0)
        return kube_conf_from_file(usual, k->context, ret, e);
    int done = kube_conf_in_cluster(ret, e);
    return done == 0 || e->code != E_NOTFOUND
               ? done
               : err_set(e, E_NOTFOUND,
                         "which cluster? --kubeconfig FILE, KUBECONFIG and ~/.kube/config name "
                         "none, and this is no pod of one");
}

static void
on_waits(const char *line, void *arg)
{
    (void)arg;
    (void)fprintf(stderr, "%s\n", line);
}

int
mesh_session_open(const struct mesh_kube *k, struct mesh_session *s, struct err *e)
{
    s->ns = mesh_namespace(k);
    TRY(mesh_names_check(k, e));
    s->name = k->name;
    TRY(conf_find(k, &s->conf, e));
    return kube_session_open(&s->conf, 0, on_waits, NULL, &s->kube, e);
}

int
mesh_session_get(struct mesh_session *s, const struct kube_kind *what, const char *name,
                 struct err *e)
{
    json_wipe_free(STEAL(s->body)); /* it may be a Secret */
    return kube_session_get(&s->kube, what, s->ns, name, &s->body, e);
}

int
mesh_session_look(struct mesh_session *s, uint64_t until_ms, struct err *e)
{
    for (;;) {
        int done = mesh_session_get(s, &kube_plugin_ca, s->name, e);
        if (done == 0 || !kube_session_may_ask_again(e) || mono_ms() > until_ms)
            return done;
        kube_session_pause(&s->kube, MESH_LOOK_MS);
    }
}

int
mesh_session_write(struct mesh_session *s, kube_verb_fn *verb, const struct kube_write *w,
                   struct err *e)
{
    json_wipe_free(STEAL(s->body));
    return kube_session_write(&s->kube, verb, w, &s->body, e);
}
