/* object.c - the few members of Kubernetes objects that are written and read here. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/feed.h"
#include "kube/write.h"

/* -- building -----------------------------------------------------------------------------------
 */

static int
set_new(json_t *o, const char *name, json_t *take_value, struct err *e)
{
    return json_object_set_new(o, name, take_value) == 0
               ? 0
               : err_set(e, E_INVAL, "\"%.100s\": a text that is not UTF-8, or out of memory",
                         name);
}

/* The object in `o` of that name, made when it is not there; borrowed. */
static int
inside(json_t *o, const char *name, json_t **ret, struct err *e)
{
    if (!json_is_object(json_object_get(o, name)) &&
        json_object_set_new(o, name, json_object()) != 0)
        return err_nomem(e);
    *ret = json_object_get(o, name);
    return 0;
}

int
kube_object_new(const struct kube_kind *kind, const char *ns, const char *name, json_t **ret,
                struct err *e)
{
    json_t *o = json_pack("{s:s, s:s, s:{s:s}}", "apiVersion", kind->api, "kind", kind->kind,
                          "metadata", "name", name);
    json_t *meta = json_object_get(o, "metadata");

    if (o == NULL)
        return err_set(e, E_INVAL, "the name of a %s is not UTF-8", kind->kind);
    if (ns != NULL && set_new(meta, "namespace", json_string(ns), e) < 0) {
        json_decref(o);
        return err_result(e);
    }
    *ret = o;
    return 0;
}

static int
meta_set(json_t *o, const char *map, const char *key, const char *value, struct err *e)
{
    json_t *meta, *all;

    TRY(inside(o, "metadata", &meta, e));
    TRY(inside(meta, map, &all, e));
    return set_new(all, key, value == NULL ? json_null() : json_string(value), e);
}

int
kube_object_label(json_t *o, const char *key, const char *value, struct err *e)
{
    return meta_set(o, "labels", key, value, e);
}

int
kube_object_annotate(json_t *o, const char *key, const char *value, struct err *e)
{
    return meta_set(o, "annotations", key, value, e);
}

int
kube_object_own(json_t *o, const json_t *owner, bool is_controller, struct err *e)
{
    const char *uid = kube_object_uid(owner);
    json_t *meta;

    if (uid[0] == '\0')
        return err_set(e, E_INVAL, "an owner without a uid");
    json_t *one =
        json_pack("{s:s, s:s, s:s, s:s, s:b}", "apiVersion", kube_object_text(owner, "apiVersion"),
                  "kind", kube_object_text(owner, "kind"), "name", kube_object_name(owner), "uid",
                  uid, "controller", is_controller);
    if (one == NULL)
        return err_nomem(e);
    if (inside(o, "metadata", &meta, e) < 0) {
        json_decref(one);
        return err_result(e);
    }
    json_t *all = json_object_get(meta, "ownerReferences");
    if (all == NULL) {
        all = json_array();
        if (json_object_set_new(meta, "ownerReferences", all) != 0) {
            json_decref(one);
            return err_nomem(e);
        }
    }
    return json_array_append_new(all, one) == 0 ? 0 : err_nomem(e);
}

int
kube_object_guard(json_t *o, const char *version, struct err *e)
{
    json_t *meta;

    if (version[0] == '\0')
        return err_set(e, E_PARSE, "%s %s was read without a resourceVersion",
                       kube_object_text(o, "kind"), kube_object_name(o));
    TRY(inside(o, "metadata", &meta, e));
    return set_new(meta, "resourceVersion", json_string(version), e);
}

int
kube_secret_set(json_t *o, const char *key, struct span bytes, struct err *e)
{
    CLEANUP(buf_wipe) struct buf text = BUF_INIT(KUBE_DATA_MAX_BYTES * 4 / 3 + 4);
    json_t *data;

    if (bytes.n > KUBE_DATA_MAX_BYTES)
        return err_set(e, E_LIMIT, "\"%.100s\": a Secret holds %d bytes", key, KUBE_DATA_MAX_BYTES);
    TRY(base64_add(&text, bytes, e));
    TRY(inside(o, "data", &data, e));
    return set_new(data, key, json_string(buf_text(&text)), e);
}

int
kube_config_map_set(json_t *o, const char *key, struct span text, struct err *e)
{
    json_t *data;

    if (text.n > KUBE_DATA_MAX_BYTES)
        return err_set(e, E_LIMIT, "\"%.100s\": a ConfigMap holds %d bytes", key,
                       KUBE_DATA_MAX_BYTES);
    TRY(inside(o, "data", &data, e));
    return set_new(data, key, json_stringn(text.n == 0 ? "" : (const char *)text.p, text.n), e);
}

/* -- reading ------------------------------------------------------------------------------------
 */

static const char *
text_or_none(const json_t *v)
{
    const char *text = json_string_value(v);

    return text == NULL ? "" : text;
}

static const json_t *
meta_of(const json_t *o)
{
    return json_object_get(o, "metadata");
}

const char *
kube_object_name(const json_t *o)
{
    return text_or_none(json_object_get(meta_of(o), "name"));
}

const char *
kube_object_ns(const json_t *o)
{
    return text_or_none(json_object_get(meta_of(o), "namespace"));
}

const char *
kube_object_uid(const json_t *o)
{
    return text_or_none(json_object_get(meta_of(o), "uid"));
}

const char *
kube_object_version(const json_t *o)
{
    return text_or_none(json_object_get(meta_of(o), "resourceVersion"));
}

uint64_t
kube_revision(const char *version)
{
    uint64_t n;
    struct err e;

    return u64_parse(span_str(version), 1, UINT64_MAX, &n, &e) == 0 ? n : 0;
}

bool
kube_is_late(uint64_t revision, uint64_t known, bool exists)
{
    return revision != 0 && (exists ? revision < known : revision <= known);
}

const char *
kube_object_get_label(const json_t *o, const char *key)
{
    return text_or_none(json_object_get(json_object_get(meta_of(o), "labels"), key));
}

const char *
kube_object_get_annotation(const json_t *o, const char *key)
{
    return text_or_none(json_object_get(json_object_get(meta_of(o), "annotations"), key));
}

bool
kube_object_is_going(const json_t *o)
{
    return json_is_string(json_object_get(meta_of(o), "deletionTimestamp"));
}

const char *
kube_object_text(const json_t *o, const char *path)
{
    struct span rest = span_str(path), name;

    while (span_cut(&rest, '.', &name)) {
        char member[KUBE_LABEL_MAX_BYTES + 1];

        if (name.n >= sizeof(member))
            return "";
        memcpy(member, name.p, name.n);
        member[name.n] = '\0';
        o = json_object_get(o, member);
    }
    return text_or_none(o);
}

int
kube_secret_get(const json_t *o, const char *key, struct buf *out, struct err *e)
{
    const json_t *v = json_object_get(json_object_get(o, "data"), key);

    if (v == NULL || json_is_null(v))
        return KUBE_DATA_ABSENT;
    if (!json_is_string(v))
        return err_set(e, E_PARSE, "\"%.100s\" of the Secret is not a text", key);
    if (base64_decode(out, span_of(json_string_value(v), json_string_length(v)), e) < 0)
        return err_wrap(e, "\"%.100s\" of the Secret", key);
    return 0;
}
