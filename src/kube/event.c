/* event.c - what a list and a watch say, taken apart; no I/O. */
#include <string.h>

#include "kube/feed.h"
#include "kube/status.h"
#include "net/json.h"

int
kube_version_read(const json_t *object, char ret[KUBE_VERSION_BYTES], struct err *e)
{
    const json_t *v = json_object_get(json_object_get(object, "metadata"), "resourceVersion");
    size_t n = json_string_length(v);

    if (n == 0 || n >= KUBE_VERSION_BYTES)
        return err_set(e, E_PARSE, "no resourceVersion, or one that is too long");
    const char *text = json_string_value(v);
    static const char may[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._~-";
    if (strspn(text, may) != n) /* it goes into a URL */
        return err_set(e, E_PARSE, "a resourceVersion that no URL may hold");
    memcpy(ret, text, n + 1);
    return 0;
}

static const struct {
    const char *word;
    enum kube_event_type type;
} types[] = {
    { "ADDED", KUBE_PUT },         { "MODIFIED", KUBE_PUT }, { "DELETED", KUBE_GONE },
    { "BOOKMARK", KUBE_BOOKMARK }, { "ERROR", KUBE_ERROR },
};

static int
event_fill(const json_t *o, struct kube_event *ev, struct err *e)
{
    const char *word = json_string_value(json_object_get(o, "type"));
    json_t *object = json_object_get(o, "object");
    size_t i = 0;

    while (i < ARRAY_LEN(types) && (word == NULL || strcmp(types[i].word, word) != 0))
        i++;
    if (i == ARRAY_LEN(types))
        return err_set(e, E_PARSE, "an event of no known type");
    if (!json_is_object(object))
        return err_set(e, E_PARSE, "an event without an object");
    ev->type = types[i].type;
    if (ev->type == KUBE_ERROR)
        kube_status_error((int)json_integer_value(json_object_get(object, "code")), "GET", object,
                          &ev->error);
    else
        TRY(kube_version_read(object, ev->version, e));
    ev->object = json_incref(object);
    return 0;
}

int
kube_event_read(struct span line, struct kube_event *ret, struct err *e)
{
    struct kube_event ev = { .object = NULL };
    json_t *o = NULL;

    TRY(json_object_parse(line, KUBE_MAX_DEPTH, &o, e));
    int r = event_fill(o, &ev, e);
    json_decref(o);
    if (r == 0)
        *ret = ev;
    return r;
}
