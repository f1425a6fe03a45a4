#include "net/json.h"

#include "base/clock.h"
#include "base/str.h"

/* jansson recurses per level and allows 2048 of them; brackets are counted before it starts. */
static int
depth_check(struct span s, int max, struct err *e)
{
    bool in_text = false;
    int depth = 0;

    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];

        if (in_text && c == '\\')
            i++;
        else if (c == '"')
            in_text = !in_text;
        else if (!in_text && (c == '{' || c == '['))
            depth++;
        else if (!in_text && (c == '}' || c == ']'))
            depth--;
        if (depth > max)
            return err_set(e, E_PARSE, "JSON nested deeper than %d", max);
    }
    return 0;
}

int
json_object_parse(struct span s, int max_depth, json_t **ret, struct err *e)
{
    json_error_t je;

    TRY(depth_check(s, max_depth, e));
    json_t *j = json_loadb(s.n == 0 ? "" : (const char *)s.p, s.n, JSON_REJECT_DUPLICATES, &je);
    if (j == NULL)
        return err_set(e, json_error_code(&je) == json_error_out_of_memory ? E_NOMEM : E_PARSE,
                       "JSON: line %d, column %d: %s", je.line, je.column, je.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return err_set(e, E_PARSE, "JSON: not an object");
    }
    *ret = j;
    return 0;
}

int
json_text(const json_t *o, const char *name, struct span *ret, struct err *e)
{
    const json_t *v = json_object_get(o, name);

    if (v == NULL)
        return JSON_MEMBER_ABSENT;
    if (!json_is_string(v))
        return err_set(e, E_PARSE, "\"%s\" is not a text", name);
    *ret = span_of(json_string_value(v), json_string_length(v));
    return 0;
}

int
json_text_copy(const json_t *o, const char *name, char *ret, size_t cap, struct err *e)
{
    struct span s;

    if (TRY(json_text(o, name, &s, e)) == JSON_MEMBER_ABSENT) {
        ret[0] = '\0';
        return 0;
    }
    if (s.n >= cap)
        return err_set(e, E_PARSE, "\"%s\" has %zu bytes, at most %zu are allowed", name, s.n,
                       cap - 1);
    memcpy(ret, s.p, s.n);
    ret[s.n] = '\0';
    return 0;
}

json_t *
json_id(const uint8_t id[DIGEST_BYTES])
{
    char text[DIGEST_TEXT_BYTES];

    hex_text(span_of(id, DIGEST_BYTES), text);
    return json_string(text);
}

json_t *
json_time(int64_t t_unix_s)
{
    char text[RFC3339_BYTES];

    if (t_unix_s == 0)
        return json_null();
    rfc3339_s(t_unix_s, text);
    return json_string(text);
}

json_t *
json_array_with(json_t *take_list, json_t *take_v)
{
    if (json_array_append_new(take_list, take_v) == 0)
        return take_list;
    json_decref(take_list);
    return NULL;
}

json_t *
json_object_with(json_t *take_o, const char *name, json_t *take_v)
{
    if (json_object_set_new(take_o, name, take_v) == 0)
        return take_o;
    json_decref(take_o);
    return NULL;
}

/* As deep as what made it allows: JSON_MAX_DEPTH and its like, or our own builders. */
static void
texts_wipe(json_t *j)
{
    json_t *one;
    const char *name;
    size_t i;

    if (j == NULL || j->refcount != 1)
        return;
    if (json_is_string(j)) {
        const char *text = json_string_value(j);
        void *bytes;

        memcpy(&bytes, &text, sizeof(bytes)); /* jansson's own copy */
        explicit_bzero(bytes, json_string_length(j));
    }
    json_array_foreach(j, i, one)
        texts_wipe(one);
    json_object_foreach(j, name, one)
        texts_wipe(one);
}

void
json_wipe_free(json_t *j)
{
    texts_wipe(j);
    json_decref(j);
}
