#include "net/http_target.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/str.h"

/* "https://host/path?q" to "/path?q"; origin-form stays as it is. */
static struct span
target_origin(struct span raw)
{
    struct span rest = raw;

    if (!span_starts(raw, "http://") && !span_starts(raw, "https://"))
        return raw;
    rest = span_skip(rest, span_starts(raw, "https://") ? 8 : 7);
    while (rest.n > 0 && rest.p[0] != '/' && rest.p[0] != '?')
        rest = span_skip(rest, 1);
    return rest;
}

/* Appends the decoded form of `s` and a NUL at *at. */
static int
decode(struct span s, bool is_query, char **at, struct err *e)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];

        if (c == '%') {
            if (s.n - i < 3 || hex_parse(span_of(s.p + i + 1, 2), &c, 1, e) < 0)
                return err_set(e, E_PARSE, "a broken %% escape in the request target");
            i += 2;
            if (c == 0)
                return err_set(e, E_PARSE, "%%00 in the request target");
        } else if (c <= ' ' || c == 0x7f) {
            return err_set(e, E_PARSE, "a control character in the request target");
        } else if (c == '+' && is_query) {
            c = ' ';
        }
        *(*at)++ = (char)c;
    }
    *(*at)++ = '\0';
    return 0;
}

static int
query_parse(struct span query, struct http_target *t, char *at, struct err *e)
{
    struct span part, name;

    while (span_cut(&query, '&', &part)) {
        if (part.n == 0)
            continue;
        if (t->query_n == HTTP_MAX_QUERY)
            return err_set(e, E_LIMIT, "more than %d query parameters", (int)HTTP_MAX_QUERY);
        (void)span_cut(&part, '=', &name);
        t->query[t->query_n].name = at;
        TRY(decode(name, true, &at, e));
        t->query[t->query_n].value = at;
        TRY(decode(part, true, &at, e));
        t->query_n++;
    }
    return 0;
}

static int
target_fill(struct span raw, struct http_target *t, struct err *e)
{
    struct span path = { 0 }, query = target_origin(raw);
    char *at = t->text;

    (void)span_cut(&query, '#', &path); /* a fragment is for the client only */
    query = path;
    (void)span_cut(&query, '?', &path);
    if (path.n == 0)
        path = span_str("/");
    if (path.p[0] != '/')
        return err_set(e, E_PARSE, "the request target does not start with \"/\"");
    t->path = at;
    TRY(decode(path, false, &at, e));
    return query_parse(query, t, at, e);
}

int
http_target_parse(struct span raw, struct http_target *ret, struct err *e)
{
    struct http_target t = { 0 };

    if (raw.n > HTTP_MAX_TARGET_BYTES)
        return err_set(e, E_LIMIT, "the request target is longer than %d bytes",
                       (int)HTTP_MAX_TARGET_BYTES);
    /* decoding never grows; each query part needs at most two NULs more than its own bytes */
    t.text = calloc(1, raw.n + 2 + (size_t)2 * HTTP_MAX_QUERY);
    if (t.text == NULL)
        return err_nomem(e);
    if (target_fill(raw, &t, e) < 0) {
        http_target_done(&t);
        return err_result(e);
    }
    *ret = t;
    return 0;
}

void
http_target_done(struct http_target *t)
{
    free(t->text);
    *t = (struct http_target){ 0 };
}

const char *
http_target_query(const struct http_target *t, const char *name)
{
    for (size_t i = 0; i < t->query_n; i++)
        if (strcmp(t->query[i].name, name) == 0)
            return t->query[i].value;
    return NULL;
}
