#include "validate/deployment.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "kube/write.h"
#include "net/json.h"

static int64_t
number(const json_t *o, const char *name)
{
    return (int64_t)json_integer_value(json_object_get(o, name));
}

static const char *
text(const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));

    return s == NULL ? "" : s;
}

/* -- which istiod --------------------------------------------------------------------------------
 */

static const json_t *
pod_template(const json_t *deployment)
{
    return json_object_get(json_object_get(deployment, "spec"), "template");
}

static const json_t *
container_of(const json_t *deployment)
{
    const json_t *all =
        json_object_get(json_object_get(pod_template(deployment), "spec"), "containers");
    const json_t *c;
    size_t i;

    json_array_foreach(all, i, c) {
        if (strcmp(text(c, "name"), "discovery") == 0)
            return c;
    }
    return json_array_size(all) == 1 ? json_array_get(all, 0) : NULL;
}

/* "docker.io/istio/pilot:1.20.3-distroless@sha256:..." -> "1.20.3-distroless". */
static void
tag_read(const char *image, char ret[VALIDATE_VERSION_BYTES])
{
    const char *at = strchr(image, '@'), *slash = strrchr(image, '/');
    size_t n = at == NULL ? strlen(image) : (size_t)(at - image), from = n;

    for (size_t i = slash == NULL ? 0 : (size_t)(slash - image); i < n; i++)
        from = image[i] == ':' ? i + 1 : from;
    (void)snprintf(ret, VALIDATE_VERSION_BYTES, "%.*s", (int)(n - from), image + from);
}

/* The version is older than major.minor; one that cannot be read is not. */
static bool
is_older(const char *version, uint64_t major, uint64_t minor)
{
    struct span rest = span_str(version), part;
    uint64_t got[2];
    struct err e;

    for (size_t i = 0; i < 2; i++) {
        size_t n = 0;

        if (!span_cut(&rest, '.', &part))
            return false;
        while (n < part.n && part.p[n] >= '0' && part.p[n] <= '9')
            n++;
        if (u64_parse(span_of(part.p, n), 0, 10000, &got[i], &e) < 0)
            return false;
    }
    return got[0] < major || (got[0] == major && got[1] < minor);
}

int
validate_istiod_read(const json_t *deployment, struct validate_istiod *ret, struct err *e)
{
    const json_t *c = container_of(deployment), *v;
    size_t i;

    if (c == NULL)
        return err_set(e, E_PARSE,
                       "deployment %.100s has no container \"discovery\": is it istiod?",
                       kube_object_name(deployment));
    *ret = (struct validate_istiod){ .is_multiroot = false };
    tag_read(text(c, "image"), ret->version);
    json_array_foreach(json_object_get(c, "env"), i, v) {
        if (strcmp(text(v, "name"), "ISTIO_MULTIROOT_MESH") == 0)
            ret->is_multiroot = strcmp(text(v, "value"), "true") == 0;
    }
    ret->takes_roots_hot = ret->is_multiroot && !is_older(ret->version, 1, 20);
    ret->hot_compares_text = is_older(ret->version, 1, 30);
    return 0;
}

/* -- the rollout ---------------------------------------------------------------------------------
 */

static bool
deadline_exceeded(const json_t *status)
{
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(status, "conditions"), i, c) {
        if (strcmp(text(c, "type"), "Progressing") == 0 &&
            strcmp(text(c, "reason"), "ProgressDeadlineExceeded") == 0)
            return true;
    }
    return false;
}

enum validate_rollout
validate_rollout_read(const json_t *d, char ret[VALIDATE_WHY_BYTES])
{
    const json_t *status = json_object_get(d, "status"), *spec = json_object_get(d, "spec");
    const json_t *asked = json_object_get(spec, "replicas");
    long long wanted = asked == NULL ? 1 : (long long)json_integer_value(asked);
    long long updated = number(status, "updatedReplicas"), all = number(status, "replicas");
    long long available = number(status, "availableReplicas");
    const char *name = kube_object_name(d);
    const char *about = "Waiting for deployment";

    if (number(json_object_get(d, "metadata"), "generation") > number(status, "observedGeneration"))
        (void)snprintf(ret, VALIDATE_WHY_BYTES,
                       "Waiting for deployment spec update to be observed...");
    else if (deadline_exceeded(status)) {
        (void)snprintf(ret, VALIDATE_WHY_BYTES, "deployment \"%s\" exceeded its progress deadline",
                       name);
        return ROLLOUT_FAILED;
    } else if (updated < wanted)
        (void)snprintf(
            ret, VALIDATE_WHY_BYTES,
            "%s \"%s\" rollout to finish: %lld out of %lld new replicas have been updated...",
            about, name, updated, wanted);
    else if (all > updated)
        (void)snprintf(ret, VALIDATE_WHY_BYTES,
                       "%s \"%s\" rollout to finish: %lld old replicas are pending termination...",
                       about, name, all - updated);
    else if (available < updated)
        (void)snprintf(
            ret, VALIDATE_WHY_BYTES,
            "%s \"%s\" rollout to finish: %lld of %lld updated replicas are available...", about,
            name, available, updated);
    else {
        (void)snprintf(ret, VALIDATE_WHY_BYTES, "deployment \"%s\" successfully rolled out", name);
        return ROLLOUT_DONE;
    }
    return ROLLOUT_UNDER_WAY;
}

bool
validate_is_paused(const json_t *deployment)
{
    return json_is_true(json_object_get(json_object_get(deployment, "spec"), "paused"));
}

int
validate_is_its_pod(const json_t *deployment, const json_t *pod, struct err *e)
{
    const json_t *selector = json_object_get(json_object_get(deployment, "spec"), "selector");
    json_t *labels = json_object_get(selector, "matchLabels"), *v;
    const char *key;

    if (json_object_size(labels) == 0 ||
        json_array_size(json_object_get(selector, "matchExpressions")) > 0)
        return err_set(e, E_PARSE, "deployment %.100s does not select its pods by labels alone",
                       kube_object_name(deployment));
    json_object_foreach(labels, key, v) {
        if (!json_is_string(v) ||
            strcmp(kube_object_get_label(pod, key), json_string_value(v)) != 0)
            return VALIDATE_NOT_ITS;
    }
    return 0;
}

/* -- workloads -----------------------------------------------------------------------------------
 */

static bool
has_container(const json_t *pod, const char *name)
{
    static const char *const lists[] = { "containers", "initContainers" };
    const json_t *spec = json_object_get(pod, "spec"), *c;
    size_t i;

    for (size_t k = 0; k < ARRAY_LEN(lists); k++)
        json_array_foreach(json_object_get(spec, lists[k]), i, c) {
            if (strcmp(text(c, "name"), name) == 0)
                return true;
        }
    return false;
}

/* A volume, or one source of a projected one. */
static bool
is_of_mesh(const json_t *source, const char *config_map)
{
    return strcmp(text(json_object_get(source, "configMap"), "name"), config_map) == 0 ||
           strcmp(text(json_object_get(source, "serviceAccountToken"), "audience"), "istio-ca") ==
               0 ||
           strcmp(text(json_object_get(source, "clusterTrustBundle"), "signerName"),
                  "istio.io/istiod-ca") == 0;
}

/* Of the chart: they speak to the CA, and get no certificate from it. */
static bool
is_our_own(const json_t *pod)
{
    static const char *const parts[] = { "operator", "ca", "vault", "validator" };
    const char *part = kube_object_get_label(pod, "app.kubernetes.io/component");

    if (strcmp(kube_object_get_label(pod, "app.kubernetes.io/name"), "meshroot") != 0)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(parts); i++)
        if (strcmp(part, parts[i]) == 0)
            return true;
    return false;
}

bool
validate_is_workload(const json_t *pod, const char *config_map)
{
    const json_t *volumes = json_object_get(json_object_get(pod, "spec"), "volumes"), *v, *source;
    size_t i, k;

    if (has_container(pod, "discovery"))
        return false;
    if (has_container(pod, "istio-proxy"))
        return true;
    if (is_our_own(pod))
        return false;
    json_array_foreach(volumes, i, v) {
        if (is_of_mesh(v, config_map))
            return true;
        json_array_foreach(json_object_get(json_object_get(v, "projected"), "sources"), k, source) {
            if (is_of_mesh(source, config_map))
                return true;
        }
    }
    return false;
}

int64_t
validate_data_changed(const json_t *object)
{
    const json_t *all = json_object_get(json_object_get(object, "metadata"), "managedFields"), *m;
    int64_t newest = 0, t;
    struct err e;
    size_t i;

    json_array_foreach(all, i, m) {
        if (json_object_get(json_object_get(m, "fieldsV1"), "f:data") == NULL ||
            rfc3339_parse(span_str(text(m, "time")), &t, &e) < 0)
            continue;
        newest = t > newest ? t : newest;
    }
    return newest;
}

/* -- what is remembered --------------------------------------------------------------------------
 */

static const char *const states[] = {
    [TRIED_NONE] = "none", [TRIED_OPEN] = "open", [TRIED_DONE] = "done", [TRIED_FAILED] = "failed"
};

static int
memory_parse(const char *annotation, struct validate_memory *m, struct err *e)
{
    CLEANUP(json_decrefp) json_t *o = NULL;
    char state[16], roots[DIGEST_TEXT_BYTES];

    TRY(json_object_parse(span_str(annotation), JSON_MAX_DEPTH, &o, e));
    TRY(json_text_copy(o, "state", state, sizeof(state), e));
    TRY(json_text_copy(o, "roots", roots, sizeof(roots), e));
    TRY(json_text_copy(o, "run", m->run, sizeof(m->run), e));
    TRY(json_text_copy(o, "at", m->at, sizeof(m->at), e));
    TRY(json_text_copy(o, "why", m->why, sizeof(m->why), e));
    TRY(hex_parse(span_str(roots), m->roots, DIGEST_BYTES, e));
    for (size_t i = 0; i < ARRAY_LEN(states); i++)
        if (strcmp(state, states[i]) == 0)
            m->tried = (enum validate_tried)i;
    return 0;
}

void
validate_memory_read(const json_t *deployment, struct validate_memory *ret)
{
    const char *annotation = kube_object_get_annotation(deployment, VALIDATE_MEMORY);
    struct err e;

    *ret = (struct validate_memory){ .tried = TRIED_NONE };
    if (annotation[0] != '\0' && memory_parse(annotation, ret, &e) < 0)
        *ret = (struct validate_memory){ .tried = TRIED_NONE };
}

int
validate_memory_patch(const struct validate_memory *m, const char *restarts_at,
                      const json_t *was_read, json_t **ret, struct err *e)
{
    char roots[DIGEST_TEXT_BYTES];
    CLEANUP(json_decrefp) json_t *patch = json_object();

    hex_text(span_of(m->roots, DIGEST_BYTES), roots);
    CLEANUP(json_decrefp)
    json_t *memory = json_pack("{s:s, s:s, s:s, s:s, s:s}", "roots", roots, "state",
                               states[m->tried], "run", m->run, "at", m->at, "why", m->why);
    CLEANUP(str_freep) char *annotation = json_dumps(memory, JSON_COMPACT);
    if (annotation == NULL || patch == NULL)
        return err_nomem(e);
    TRY(kube_object_annotate(patch, VALIDATE_MEMORY, annotation, e));
    if (was_read != NULL)
        TRY(kube_object_guard(patch, kube_object_version(was_read), e));
    if (restarts_at != NULL &&
        json_object_set_new(patch, "spec",
                            json_pack("{s:{s:{s:{s:s}}}}", "template", "metadata", "annotations",
                                      VALIDATE_RESTARTED, restarts_at)) != 0)
        return err_nomem(e);
    *ret = STEAL(patch);
    return 0;
}
