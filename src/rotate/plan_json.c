#include "rotate/plan.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/str.h"

enum { PLAN_FORMAT = 1 };

static inline void
json_free(json_t *j)
{
    json_decref(j);
}
DEFINE_CLEANUP(json_t, json_free)

/* -- writing -------------------------------------------------------------------------------------
 */

struct cert *
plan_roots_find(const struct roots *roots, const uint8_t id[DIGEST_BYTES])
{
    for (size_t i = 0; i < roots_count(roots); i++)
        if (memcmp(cert_id(roots_at(roots, i)), id, DIGEST_BYTES) == 0)
            return roots_at(roots, i);
    return NULL;
}

static int
add_root(json_t *list, const struct plan_root *r, const struct roots *roots, struct err *e)
{
    char id[DIGEST_TEXT_BYTES];
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct cert *c = plan_roots_find(roots, r->id);

    hex_text(span_of(r->id, DIGEST_BYTES), id);
    if (c == NULL)
        return err_set(e, E_NOTFOUND, "plan: the certificate of root %s is missing", id);
    int done = cert_to_pem(c, &pem, e);
    if (done >= 0 &&
        json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "id", id, "since",
                                              (json_int_t)r->since, "pem", buf_text(&pem))) < 0)
        done = err_nomem(e);
    buf_done(&pem);
    return done;
}

static json_t *
signer_to_json(const struct plan_signer *s)
{
    char id[DIGEST_TEXT_BYTES], root[DIGEST_TEXT_BYTES], chain[DIGEST_TEXT_BYTES];

    hex_text(span_of(s->id, DIGEST_BYTES), id);
    hex_text(span_of(s->root_id, DIGEST_BYTES), root);
    hex_text(span_of(s->chain_id, DIGEST_BYTES), chain);
    json_t *versions = json_object();
    for (size_t i = 0; i < PART__N; i++)
        if (json_object_set_new(versions, bundle_secret_names[i], json_string(s->versions.v[i])) <
            0) {
            json_decref(versions);
            return NULL;
        }
    return json_pack("{s:s, s:s, s:s, s:o}", "id", id, "root_id", root, "chain_id", chain,
                     "versions", versions);
}

int
plan_to_json(const struct plan *p, const struct roots *roots, char **ret, struct err *e)
{
    CLEANUP(json_freep) json_t *list = json_array();

    if (list == NULL)
        return err_nomem(e);
    for (size_t i = 0; i < p->roots_n; i++)
        TRY(add_root(list, &p->roots[i], roots, e));
    json_t *signer = signer_to_json(&p->signer);
    if (signer == NULL)
        return err_nomem(e);
    CLEANUP(json_freep)
    json_t *j = json_pack("{s:i, s:I, s:O, s:o, s:s*}", "format", (int)PLAN_FORMAT, "generation",
                          (json_int_t)p->generation, "roots", list, "signer", signer, "forced",
                          p->forced[0] == '\0' ? NULL : p->forced);
    CLEANUP(str_freep) char *text = j == NULL ? NULL : json_dumps(j, JSON_COMPACT);
    if (text == NULL)
        return err_nomem(e);
    if (strlen(text) > PLAN_JSON_BYTES)
        return err_set(e, E_LIMIT, "plan: %zu bytes of roots, more than %d", strlen(text),
                       (int)PLAN_JSON_BYTES);
    *ret = STEAL(text);
    return 0;
}

/* -- reading -------------------------------------------------------------------------------------
 */

static int
read_id(const char *what, const char *text, uint8_t ret[DIGEST_BYTES], struct err *e)
{
    if (hex_parse(span_str(text), ret, DIGEST_BYTES, e) < 0)
        return err_wrap(e, "plan: %s", what);
    return 0;
}

static int
read_generation(const char *what, json_int_t v, uint64_t max, uint64_t *ret, struct err *e)
{
    if (v < 1 || (uint64_t)v > max)
        return err_set(e, E_PARSE, "plan: %s: %" JSON_INTEGER_FORMAT " is not in 1..%" PRIu64, what,
                       v, max);
    *ret = (uint64_t)v;
    return 0;
}

static int
read_root(json_t *j, struct plan *p, struct cert **ret_cert, struct err *e)
{
    const char *id, *pem;
    json_int_t since;
    json_error_t why;
    struct plan_root *r = &p->roots[p->roots_n];
    CLEANUP(cert_unrefp) struct cert *c = NULL;
    size_t n = 0;

    if (json_unpack_ex(j, &why, JSON_STRICT, "{s:s, s:I, s:s}", "id", &id, "since", &since, "pem",
                       &pem) < 0)
        return err_set(e, E_PARSE, "plan: roots: %s", why.text);
    TRY(read_id("roots: id", id, r->id, e));
    TRY(read_generation("roots: since", since, p->generation, &r->since, e));
    if (plan_find_root(p, r->id) != NULL)
        return err_set(e, E_PARSE, "plan: roots: %s is there twice", id);
    if (certs_from_pem(span_str(pem), &c, 1, &n, e) < 0)
        return err_wrap(e, "plan: roots: pem");
    if (memcmp(cert_id(c), r->id, DIGEST_BYTES) != 0)
        return err_set(e, E_PARSE, "plan: roots: %s is not the id of its certificate", id);
    p->roots_n++;
    *ret_cert = STEAL(c);
    return 0;
}

static int
read_versions(json_t *j, struct sync_versions *ret, struct err *e)
{
    if (!json_is_object(j) || json_object_size(j) != PART__N)
        return err_set(e, E_PARSE, "plan: signer: versions are not the four secrets'");
    for (size_t i = 0; i < PART__N; i++) {
        json_t *v = json_object_get(j, bundle_secret_names[i]);
        if (!json_is_string(v) || json_string_length(v) >= VERSION_TEXT_BYTES)
            return err_set(e, E_PARSE, "plan: signer: versions: %s is missing or too long",
                           bundle_secret_names[i]);
        memset(ret->v[i], 0, VERSION_TEXT_BYTES);
        memcpy(ret->v[i], json_string_value(v), json_string_length(v));
    }
    return 0;
}

static int
read_signer(json_t *j, struct plan *p, struct err *e)
{
    const char *id, *root, *chain;
    json_t *versions;
    json_error_t why;

    if (json_unpack_ex(j, &why, JSON_STRICT, "{s:s, s:s, s:s, s:o}", "id", &id, "root_id", &root,
                       "chain_id", &chain, "versions", &versions) < 0)
        return err_set(e, E_PARSE, "plan: signer: %s", why.text);
    TRY(read_id("signer: id", id, p->signer.id, e));
    TRY(read_id("signer: root_id", root, p->signer.root_id, e));
    TRY(read_id("signer: chain_id", chain, p->signer.chain_id, e));
    if (plan_find_root(p, p->signer.root_id) == NULL)
        return err_set(e, E_PARSE, "plan: signer: its root %s is not among the roots", root);
    return read_versions(versions, &p->signer.versions, e);
}

static int
read_roots(json_t *list, struct plan *p, struct roots **ret, struct err *e)
{
    struct cert *certs[ROOTS_MAX] = { NULL };
    size_t n = json_array_size(list);
    int done = 0;

    if (n < 1 || n > ROOTS_MAX)
        return err_set(e, E_PARSE, "plan: %zu roots are not 1..%d", n, (int)ROOTS_MAX);
    for (size_t i = 0; i < n && done >= 0; i++)
        done = read_root(json_array_get(list, i), p, &certs[i], e);
    if (done >= 0)
        done = roots_from_certs(certs, n, ret, e);
    for (size_t i = 0; i < n; i++)
        cert_unref(certs[i]);
    return done;
}

int
plan_from_json(struct span text, struct plan *ret, struct roots **ret_roots, struct err *e)
{
    json_error_t why;
    int format;
    json_int_t generation;
    json_t *list, *signer;
    const char *forced = "";
    struct plan p = { .roots_n = 0 };
    CLEANUP(roots_unrefp) struct roots *roots = NULL;

    if (text.n == 0 || text.n > PLAN_JSON_BYTES)
        return err_set(e, E_PARSE, "plan: %zu bytes are not 1..%d", text.n, (int)PLAN_JSON_BYTES);
    CLEANUP(json_freep)
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, &why);
    if (j == NULL)
        return err_set(e, E_PARSE, "plan: line %d: %s", why.line, why.text);
    if (json_unpack_ex(j, &why, JSON_STRICT, "{s:i, s:I, s:o, s:o, s?s}", "format", &format,
                       "generation", &generation, "roots", &list, "signer", &signer, "forced",
                       &forced) < 0)
        return err_set(e, E_PARSE, "plan: %s", why.text);
    if (strlen(forced) >= sizeof(p.forced))
        return err_set(e, E_PARSE, "plan: forced: is too long for a word");
    memcpy(p.forced, forced, strlen(forced));
    if (format != PLAN_FORMAT)
        return err_set(e, E_PARSE, "plan: format %d is not %d: it was written by another version",
                       format, (int)PLAN_FORMAT);
    TRY(read_generation("generation", generation, GENERATION_MAX, &p.generation, e));
    TRY(read_roots(list, &p, &roots, e));
    TRY(read_signer(signer, &p, e));
    *ret = p;
    *ret_roots = STEAL(roots);
    return 0;
}
