#include "operator/pods.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/str.h"
#include "kube/write.h"
#include "obs/log.h"
#include "operator/sets.h"

int
pods_init(struct pods *p, struct kube_client *kube, const char *ns, const char *selector,
          struct err *e)
{
    p->kube = kube;
    (void)snprintf(p->ns, sizeof(p->ns), "%s", ns);
    return str_dup(span_str(selector), &p->selector, e);
}

void
pods_done(struct pods *p)
{
    kube_cancel(p->call);
    free(p->selector);
}

static void
on_told(const json_t *body, const struct err *why, void *arg)
{
    (void)body;
    (void)arg;
    if (why != NULL && why->code != E_NOTFOUND)
        log_debug("operator", "a pod is not told to look at its Secret: %s", why->msg);
}

static void
on_found(const json_t *body, const struct err *why, void *arg)
{
    struct pods *p = arg;

    p->call = NULL;
    const json_t *items = json_object_get(body, "items"), *pod;
    char generation[24];
    struct err e;
    size_t i;

    if (why != NULL) {
        log_debug("operator", "the pods of %s (%s) are not known: %s", p->ns, p->selector,
                  why->msg);
        return;
    }
    (void)snprintf(generation, sizeof(generation), "%" PRIu64, p->generation);
    json_array_foreach(items, i, pod) {
        json_t *patch =
            json_pack("{s:{s:{s:s}}}", "metadata", "annotations", SETS_GENERATION, generation);
        struct kube_write w = {
            .kind = &kube_pod, .ns = p->ns, .name = kube_object_name(pod), .object = patch
        };
        if (i < PODS_TOLD_MAX && patch != NULL &&
            kube_patch(p->kube, &w, on_told, NULL, NULL, &e) < 0)
            on_told(NULL, &e, NULL);
        json_decref(patch);
    }
}

void
pods_tell(struct pods *p, uint64_t generation)
{
    CLEANUP(str_freep) char *all = NULL, *path = NULL;
    struct err e;

    kube_cancel(STEAL(p->call));
    p->generation = generation;
    if (kube_path(&kube_pod, p->ns, NULL, NULL, &all, &e) < 0 ||
        str_format(&path, &e, "%s?labelSelector=%s", all, p->selector) < 0 ||
        kube_get(p->kube, path, 0, on_found, p, &p->call, &e) < 0)
        log_debug("operator", "the pods of %s (%s) are not asked for: %s", p->ns, p->selector,
                  e.msg);
}
