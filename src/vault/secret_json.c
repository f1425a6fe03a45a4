#include "vault/secret_json.h"

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

/* 9999-12-31T23:59:59Z */
static const int64_t time_max_s = 253402300799;

/* -- jansson ------------------------------------------------------------------------------------
 */

static void
wipes_memory_once(void)
{
    json_set_alloc_funcs(malloc, free_wiped);
}

void
json_wipes_memory(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, wipes_memory_once);
}

struct dump {
    struct buf *b;
    struct err *e;
};

static int
on_dump(const char *p, size_t n, void *arg)
{
    struct dump *d = arg;

    return buf_add(d->b, span_of(p, n), d->e) < 0 ? -1 : 0;
}

int
json_add(struct buf *b, const json_t *j, struct err *e)
{
    struct dump d = { b, e };

    e->code = E_NONE;
    if (json_dump_callback(j, on_dump, &d, JSON_COMPACT | JSON_PRESERVE_ORDER) == 0)
        return 0;
    return e->code == E_NONE ? err_nomem(e) : -(int)e->code;
}

/* -- names --------------------------------------------------------------------------------------
 */

bool
secret_name_ok(const char *name)
{
    size_t n = 0;

    for (; name[n] != '\0'; n++)
        if (n == SECRET_NAME_BYTES - 1 || (!isalnum((unsigned char)name[n]) && name[n] != '-'))
            return false;
    return n > 0;
}

bool
secret_version_ok(const char *version)
{
    size_t n = strspn(version, "0123456789abcdefABCDEF");

    return n == SECRET_VERSION_BYTES - 1 && version[n] == '\0';
}

/* -- request bodies -----------------------------------------------------------------------------
 */

/* Characters of valid UTF-8 (jansson has checked it): all bytes that do not continue one. */
static size_t
chars(const json_t *s)
{
    const char *p = json_string_value(s);
    size_t n = 0;

    for (; *p != '\0'; p++)
        n += ((unsigned char)*p & 0xc0) != 0x80;
    return n;
}

/* A member of that type, or NULL when absent or null. */
static int
member(const json_t *o, const char *name, bool (*is_right)(const json_t *), const char *type,
       const json_t **ret, struct err *e)
{
    const json_t *j = json_object_get(o, name);

    *ret = NULL;
    if (j == NULL || json_is_null(j))
        return 0;
    if (!is_right(j))
        return err_set(e, E_INVAL, "Property '%s' is not %s.", name, type);
    *ret = j;
    return 0;
}

static bool
is_object(const json_t *j)
{
    return json_is_object(j);
}

static bool
is_string(const json_t *j)
{
    return json_is_string(j);
}

static bool
is_boolean(const json_t *j)
{
    return json_is_boolean(j);
}

static bool
is_time(const json_t *j)
{
    return json_is_integer(j) && json_integer_value(j) >= 0 && json_integer_value(j) <= time_max_s;
}

static int
tags_check(const json_t *tags, struct err *e)
{
    const char *key;
    json_t *value;

    if (json_object_size(tags) > SECRET_TAGS)
        return err_set(e, E_LIMIT, "Property 'tags' has %zu tags; at most %d are possible.",
                       json_object_size(tags), (int)SECRET_TAGS);
    json_object_foreach((json_t *)(uintptr_t)tags, key, value) {
        if (!json_is_string(value))
            return err_set(e, E_INVAL, "The tag '%.80s' is not a string.", key);
        if (strlen(key) > SECRET_TAG_CHARS || chars(value) > SECRET_TAG_CHARS)
            return err_set(e, E_LIMIT,
                           "The tag '%.80s' is too long: at most %d characters are possible.", key,
                           (int)SECRET_TAG_CHARS);
    }
    return 0;
}

static int
value_take(struct secret_change *c, struct err *e)
{
    const json_t *value;

    TRY(member(c->doc, "value", is_string, "a string", &value, e));
    if (value == NULL)
        return err_set(e, E_INVAL, "Property 'value' is required.");
    c->value = span_of(json_string_value(value), json_string_length(value));
    if (c->value.n > SECRET_VALUE_BYTES)
        return err_set(e, E_LIMIT,
                       "The secret value has %zu bytes; at most %d are possible (25 KB).",
                       c->value.n, (int)SECRET_VALUE_BYTES);
    return 0;
}

static int
change_fill(struct secret_change *c, bool is_set, struct err *e)
{
    const json_t *attributes;

    if (is_set)
        TRY(value_take(c, e));
    TRY(member(c->doc, "contentType", is_string, "a string", &c->content_type, e));
    if (c->content_type != NULL && chars(c->content_type) > SECRET_CONTENT_TYPE_CHARS)
        return err_set(e, E_LIMIT, "Property 'contentType' has more than %d characters.",
                       (int)SECRET_CONTENT_TYPE_CHARS);
    TRY(member(c->doc, "tags", is_object, "an object", &c->tags, e));
    if (c->tags != NULL)
        TRY(tags_check(c->tags, e));
    TRY(member(c->doc, "attributes", is_object, "an object", &attributes, e));
    if (attributes == NULL)
        return 0;
    TRY(member(attributes, "enabled", is_boolean, "true or false", &c->enabled, e));
    TRY(member(attributes, "nbf", is_time, "a time in Unix seconds", &c->nbf, e));
    return member(attributes, "exp", is_time, "a time in Unix seconds", &c->exp, e);
}

int
secret_change_parse(struct span body, bool is_set, struct secret_change *ret, struct err *e)
{
    struct secret_change c = { 0 };
    json_error_t why;

    c.doc = json_loadb((const char *)body.p, body.n, JSON_REJECT_DUPLICATES, &why);
    if (c.doc == NULL && json_error_code(&why) == json_error_out_of_memory)
        return err_nomem(e);
    if (c.doc == NULL) /* not why.text: it quotes the body */
        return err_set(e, E_PARSE, "The request body is not valid JSON (line %d, column %d).",
                       why.line, why.column);
    if (!json_is_object(c.doc))
        (void)err_set(e, E_PARSE, "The request body is not a JSON object.");
    else if (change_fill(&c, is_set, e) == 0) {
        *ret = c;
        return 0;
    }
    secret_change_done(&c);
    return err_result(e);
}

void
secret_change_done(struct secret_change *c)
{
    json_decref(c->doc);
    *c = (struct secret_change){ 0 };
}

/* -- attributes ---------------------------------------------------------------------------------
 */

void
secret_meta_done(struct secret_meta *m)
{
    json_decref(m->content_type);
    json_decref(m->tags);
    *m = (struct secret_meta){ 0 };
}

static void
replace(json_t **at, const json_t *with)
{
    json_decref(*at);
    *at = json_incref((json_t *)(uintptr_t)with);
}

int
secret_meta_apply(struct secret_meta *m, const struct secret_change *c, struct err *e)
{
    if (c->enabled != NULL)
        m->enabled = json_is_true(c->enabled);
    if (c->nbf != NULL)
        m->nbf = json_integer_value(c->nbf);
    if (c->exp != NULL)
        m->exp = json_integer_value(c->exp);
    if (c->content_type != NULL)
        replace(&m->content_type, c->content_type);
    if (c->tags != NULL)
        replace(&m->tags, c->tags);
    if (m->nbf != 0 && m->exp != 0 && m->exp < m->nbf)
        return err_set(e, E_INVAL, "Property 'exp' is before 'nbf'.");
    return 0;
}

static bool
put(json_t *o, const char *name, json_t *take_value)
{
    return json_object_set_new(o, name, take_value) == 0;
}

static bool
put_times(json_t *o, const struct secret_meta *m)
{
    return put(o, "enabled", json_boolean(m->enabled)) &&
           (m->nbf == 0 || put(o, "nbf", json_integer(m->nbf))) &&
           (m->exp == 0 || put(o, "exp", json_integer(m->exp))) &&
           put(o, "created", json_integer(m->created)) &&
           put(o, "updated", json_integer(m->updated));
}

int
secret_meta_save(const struct secret_meta *m, struct buf *out, struct err *e)
{
    CLEANUP(json_unrefp) json_t *o = json_object();

    if (o == NULL || !put_times(o, m) ||
        (m->content_type != NULL && !put(o, "contentType", json_incref(m->content_type))) ||
        (m->tags != NULL && !put(o, "tags", json_incref(m->tags))))
        return err_nomem(e);
    return json_add(out, o, e);
}

int
secret_meta_load(struct span text, struct secret_meta *ret, struct err *e)
{
    CLEANUP(json_unrefp) json_t *o = json_loadb((const char *)text.p, text.n, 0, NULL);
    json_t *type = json_object_get(o, "contentType"), *tags = json_object_get(o, "tags");

    if (!json_is_boolean(json_object_get(o, "enabled")) ||
        !json_is_integer(json_object_get(o, "created")) ||
        (type != NULL && !json_is_string(type)) || (tags != NULL && !json_is_object(tags)))
        return err_set(e, E_PARSE, "damaged attributes in the store");
    *ret = (struct secret_meta){
        .enabled = json_is_true(json_object_get(o, "enabled")),
        .nbf = json_integer_value(json_object_get(o, "nbf")),
        .exp = json_integer_value(json_object_get(o, "exp")),
        .created = json_integer_value(json_object_get(o, "created")),
        .updated = json_integer_value(json_object_get(o, "updated")),
        .content_type = json_incref(type),
        .tags = json_incref(tags),
    };
    return 0;
}

static bool
bundle_fill(json_t *o, const struct secret_meta *m, const char *id, const struct span *value)
{
    json_t *a = json_object();

    /* o owns a from here on, also when the rest fails */
    return put(o, "id", json_string(id)) && put(o, "attributes", a) && put_times(a, m) &&
           put(a, "recoveryLevel", json_string("Recoverable+Purgeable")) &&
           put(a, "recoverableDays", json_integer(SECRET_RECOVERABLE_DAYS)) &&
           put(o, "tags", m->tags == NULL ? json_object() : json_incref(m->tags)) &&
           (m->content_type == NULL || put(o, "contentType", json_incref(m->content_type))) &&
           (value == NULL || put(o, "value", json_stringn((const char *)value->p, value->n)));
}

int
secret_bundle(const struct secret_meta *m, const char *id, const struct span *value, json_t **ret,
              struct err *e)
{
    CLEANUP(json_unrefp) json_t *o = json_object();

    if (o == NULL || !bundle_fill(o, m, id, value))
        return err_nomem(e);
    *ret = STEAL(o);
    return 0;
}
