#include "kube/yaml.h"

#include <string.h>
#include <yaml.h>

#include "base/str.h"

struct reader {
    yaml_parser_t parser;
    size_t nodes_n;
};

static int value_read(struct reader *r, const yaml_event_t *first, unsigned depth, json_t **ret,
                      struct err *e);

static int
syntax(const struct reader *r, struct err *e)
{
    if (r->parser.error == YAML_MEMORY_ERROR)
        return err_nomem(e);
    return err_set(e, E_PARSE, "YAML: line %zu: %s", r->parser.problem_mark.line + 1,
                   r->parser.problem == NULL ? "not YAML" : r->parser.problem);
}

static int
refuse(const yaml_event_t *ev, struct err *e, const char *words)
{
    return err_set(e, E_PARSE, "YAML: line %zu: %s", ev->start_mark.line + 1, words);
}

/* The next event into *ret, which the caller deletes. */
static int
next(struct reader *r, yaml_event_t *ret, struct err *e)
{
    if (yaml_parser_parse(&r->parser, ret) == 0) {
        memset(ret, 0, sizeof(*ret));
        return syntax(r, e);
    }
    return 0;
}

/* -- scalars -------------------------------------------------------------------------------------
 */

static int
scalar_read(const yaml_event_t *ev, json_t **ret, struct err *e)
{
    const char *text = (const char *)ev->data.scalar.value;
    size_t n = ev->data.scalar.length;
    bool is_plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

    if (ev->data.scalar.anchor != NULL || (ev->data.scalar.tag != NULL))
        return refuse(ev, e, "anchors and tags are not taken");
    if (memchr(text, '\0', n) != NULL)
        return refuse(ev, e, "a NUL in a text");
    if (is_plain && (n == 0 || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
        *ret = json_null();
    else if (is_plain && (strcmp(text, "true") == 0 || strcmp(text, "false") == 0))
        *ret = json_boolean(text[0] == 't');
    else
        *ret = json_stringn(text, n);
    return *ret == NULL ? err_nomem(e) : 0;
}

/* -- collections ---------------------------------------------------------------------------------
 */

static int
list_fill(struct reader *r, json_t *list, unsigned depth, struct err *e)
{
    for (;;) {
        CLEANUP(yaml_event_delete) yaml_event_t ev = { .type = YAML_NO_EVENT };
        json_t *one = NULL;

        TRY(next(r, &ev, e));
        if (ev.type == YAML_SEQUENCE_END_EVENT)
            return 0;
        TRY(value_read(r, &ev, depth + 1, &one, e));
        if (json_array_append_new(list, one) != 0)
            return err_nomem(e);
    }
}

static int
member_read(struct reader *r, const yaml_event_t *key, json_t *object, unsigned depth,
            struct err *e)
{
    CLEANUP(yaml_event_delete) yaml_event_t ev = { .type = YAML_NO_EVENT };
    json_t *one = NULL;

    if (key->type != YAML_SCALAR_EVENT || key->data.scalar.anchor != NULL ||
        key->data.scalar.tag != NULL)
        return refuse(key, e, "a name that is not a plain text");
    const char *name = (const char *)key->data.scalar.value;
    if (strlen(name) != key->data.scalar.length || json_object_get(object, name) != NULL)
        return refuse(key, e, "a name that is there twice, or has a NUL");
    TRY(next(r, &ev, e));
    TRY(value_read(r, &ev, depth + 1, &one, e));
    return json_object_set_new(object, name, one) != 0 ? err_nomem(e) : 0;
}

static int
object_fill(struct reader *r, json_t *object, unsigned depth, struct err *e)
{
    for (;;) {
        CLEANUP(yaml_event_delete) yaml_event_t ev = { .type = YAML_NO_EVENT };

        TRY(next(r, &ev, e));
        if (ev.type == YAML_MAPPING_END_EVENT)
            return 0;
        TRY(member_read(r, &ev, object, depth, e));
    }
}

static int
collection_read(struct reader *r, const yaml_event_t *first, unsigned depth, json_t **ret,
                struct err *e)
{
    bool is_list = first->type == YAML_SEQUENCE_START_EVENT;
    CLEANUP(json_decrefp) json_t *all = is_list ? json_array() : json_object();

    if (all == NULL)
        return err_nomem(e);
    if (is_list
            ? first->data.sequence_start.anchor != NULL || first->data.sequence_start.tag != NULL
            : first->data.mapping_start.anchor != NULL || first->data.mapping_start.tag != NULL)
        return refuse(first, e, "anchors and tags are not taken");
    TRY(is_list ? list_fill(r, all, depth, e) : object_fill(r, all, depth, e));
    *ret = STEAL(all);
    return 0;
}

static int
value_read(struct reader *r, const yaml_event_t *first, unsigned depth, json_t **ret, struct err *e)
{
    if (depth > YAML_MAX_DEPTH || ++r->nodes_n > YAML_MAX_NODES)
        return err_set(e, E_LIMIT, "YAML: line %zu: more than %d levels, or %d values",
                       first->start_mark.line + 1, YAML_MAX_DEPTH, YAML_MAX_NODES);
    if (first->type == YAML_SCALAR_EVENT)
        return scalar_read(first, ret, e);
    if (first->type == YAML_SEQUENCE_START_EVENT || first->type == YAML_MAPPING_START_EVENT)
        return collection_read(r, first, depth, ret, e);
    return refuse(first, e,
                  first->type == YAML_ALIAS_EVENT ? "aliases are not taken" : "a value is missing");
}

/* -- the document --------------------------------------------------------------------------------
 */

/* Consumes one event, which must be of that type. */
static int
expect(struct reader *r, yaml_event_type_t type, const char *words, struct err *e)
{
    CLEANUP(yaml_event_delete) yaml_event_t ev = { .type = YAML_NO_EVENT };

    TRY(next(r, &ev, e));
    return ev.type == type ? 0 : refuse(&ev, e, words);
}

static int
document_read(struct reader *r, json_t **ret, struct err *e)
{
    CLEANUP(yaml_event_delete) yaml_event_t ev = { .type = YAML_NO_EVENT };
    CLEANUP(json_decrefp) json_t *doc = NULL;

    TRY(expect(r, YAML_STREAM_START_EVENT, "no text", e));
    TRY(expect(r, YAML_DOCUMENT_START_EVENT, "nothing is in it", e));
    TRY(next(r, &ev, e));
    TRY(value_read(r, &ev, 0, &doc, e));
    TRY(expect(r, YAML_DOCUMENT_END_EVENT, "something after the document", e));
    TRY(expect(r, YAML_STREAM_END_EVENT, "a second document", e));
    *ret = STEAL(doc);
    return 0;
}

int
yaml_to_json(struct span text, json_t **ret, struct err *e)
{
    struct reader r = { .nodes_n = 0 };

    if (yaml_parser_initialize(&r.parser) == 0)
        return err_nomem(e);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, text.n == 0 ? (const uint8_t *)"" : text.p, text.n);
    int done = document_read(&r, ret, e);
    yaml_parser_delete(&r.parser);
    return done;
}
