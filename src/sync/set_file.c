/* set_file.c - the set on disk: four files, lists, and a manifest that change as one. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/file.h"
#include "base/str.h"
#include "net/json.h"
#include "sync/sync.h"

enum { MANIFEST_MAX_BYTES = 4096 };

const char *const set_file_names[SET_FILES] = {
    "root-cert.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "ca-crl.pem", "manifest.json",
};

/* -- the manifest --------------------------------------------------------------------------------
 */

int
set_manifest_text(const struct bundle *b, const struct set_manifest *m, struct buf *out,
                  struct err *e)
{
    char signer[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(bundle_signer(b)), DIGEST_BYTES), signer);
    json_t *versions = json_object();
    for (size_t i = 0; i < PART__ALL; i++)
        if (i != PART_CA_CRL || bundle_lists(b) != NULL)
            versions =
                json_object_with(versions, bundle_secret_names[i], json_string(m->versions.v[i]));
    json_t *j = json_pack("{s:I, s:s, s:o, s:b, s:I}", "generation", (json_int_t)m->generation,
                          "signer", signer, "versions", versions, "self_signed",
                          (int)m->self_signed, "renew_window_ms", (json_int_t)m->renew_window_ms);
    CLEANUP(str_freep) char *text = j == NULL ? NULL : json_dumps(j, JSON_INDENT(2));
    json_decref(j);
    if (text == NULL)
        return err_nomem(e);
    return buf_add_str(out, text, e);
}

static int
count_get(const json_t *j, const char *member, uint64_t *ret, struct err *e)
{
    const json_t *v = json_object_get(j, member);

    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return err_set(e, E_PARSE, "manifest.json: %s: want a whole number", member);
    *ret = (uint64_t)json_integer_value(v);
    return 0;
}

static int
versions_get(const json_t *j, struct sync_versions *ret, struct err *e)
{
    const json_t *versions = json_object_get(j, "versions");

    for (size_t i = 0; i < PART__ALL; i++) {
        const char *v = json_string_value(json_object_get(versions, bundle_secret_names[i]));

        if (v == NULL && i == PART_CA_CRL)
            v = "";
        if (v == NULL || strlen(v) >= VERSION_TEXT_BYTES)
            return err_set(e, E_PARSE,
                           "manifest.json: versions: %s: want a text of less than %d bytes",
                           bundle_secret_names[i], (int)VERSION_TEXT_BYTES);
        memcpy(ret->v[i], v, strlen(v) + 1);
    }
    return 0;
}

static int
manifest_read(const json_t *j, const struct bundle *b, struct set_manifest *ret, struct err *e)
{
    char signer[DIGEST_TEXT_BYTES];
    const char *said = json_string_value(json_object_get(j, "signer"));

    if (!json_is_object(j))
        return err_set(e, E_PARSE, "manifest.json: want a JSON object");
    TRY(count_get(j, "generation", &ret->generation, e));
    TRY(count_get(j, "renew_window_ms", &ret->renew_window_ms, e));
    TRY(versions_get(j, &ret->versions, e));
    ret->self_signed = json_is_true(json_object_get(j, "self_signed"));
    hex_text(span_of(cert_id(bundle_signer(b)), DIGEST_BYTES), signer);
    if (said == NULL || strcmp(said, signer) != 0)
        return err_set(e, E_DENIED,
                       "manifest.json: is of another ca-cert.pem (signer %.16s, the file is %.16s)",
                       said != NULL ? said : "missing", signer);
    return 0;
}

static int
manifest_parse(struct span text, const struct bundle *b, struct set_manifest *ret, struct err *e)
{
    struct set_manifest m = { 0 };
    json_error_t why;
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, &why);

    if (j == NULL)
        return err_set(e, E_PARSE, "manifest.json: line %d: %s", why.line, why.text);
    int r = manifest_read(j, b, &m, e);
    json_decref(j);
    if (r == 0)
        *ret = m;
    return r;
}

/* -- the set -------------------------------------------------------------------------------------
 */

static int
set_write_with(const char *dir, const struct bundle *b, const struct set_manifest *m,
               const char *key_path, struct err *e)
{
    struct fileset_file files[SET_FILES];
    struct buf text[SET_FILES];
    size_t n = 0;
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(text); i++)
        text[i] = BUF_INIT(i < PART__ALL ? PEM_MAX_BYTES : MANIFEST_MAX_BYTES);
    for (size_t i = 0; i < PART__ALL && r == 0; i++)
        if (i != PART_CA_KEY || key_path == NULL)
            r = bundle_part_pem(b, (enum bundle_part)i, &text[i], e);
    if (r == 0)
        r = set_manifest_text(b, m, &text[SET_MANIFEST], e);
    for (size_t i = 0; i < ARRAY_LEN(text); i++)
        if (i != PART_CA_CRL || bundle_lists(b) != NULL)
            files[n++] = (struct fileset_file){ set_file_names[i], i == PART_CA_KEY ? 0600 : 0644,
                                                buf_span(&text[i]) };
    if (r == 0)
        r = key_path == NULL ? fileset_write(dir, files, n, e)
                             : fileset_write_moved(dir, files, n, PART_CA_KEY, key_path, e);
    for (size_t i = 0; i < ARRAY_LEN(text); i++)
        buf_wipe(&text[i]);
    return r;
}

int
set_write(const char *dir, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    return set_write_with(dir, b, m, NULL, e);
}

int
set_write_moved(const char *dir, const struct bundle *b, const struct set_manifest *m,
                const char *key_path, struct err *e)
{
    return set_write_with(dir, b, m, key_path, e);
}

/* Which of the four are missing, as "ca-key.pem, cert-chain.pem". */
static int
missing(const bool *present, bool is_key_in_token, struct err *e)
{
    char names[128] = "";

    for (size_t i = 0; i < PART__N; i++) {
        size_t n = strlen(names);

        if (!present[i] && !(i == PART_CA_KEY && is_key_in_token))
            (void)snprintf(names + n, sizeof(names) - n, "%s%s", n > 0 ? ", " : "",
                           set_file_names[i]);
    }
    return err_set(e, E_DENIED,
                   "%s missing; a bundle is all of root-cert.pem, ca-cert.pem, %scert-chain.pem",
                   names, is_key_in_token ? "" : "ca-key.pem, ");
}

/* The fifth part, on its own merits: what it is not good for does not touch the four. */
static int
lists_take(struct bundle **b, struct span pem, struct err *ret_why, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *lists = NULL;
    struct bundle *with;
    struct err why;

    if (bundle_lists_read(*b, pem, &lists, &why) < 0) {
        (void)err_wrap(&why, "%s", bundle_file_names[PART_CA_CRL]);
        *ret_why = why; /* not sooner: it may be set on the way to success */
        return why.code == E_NOMEM ? err_nomem(e) : 0;
    }
    if (bundle_lists_spare(*b, lists, e) < 0)
        return err_wrap(e, "%s", bundle_file_names[PART_CA_CRL]);
    TRY(bundle_with_lists(*b, lists, &with, e));
    bundle_unref(*b);
    *b = with;
    return 0;
}

typedef int bundle_make_fn(const struct span parts[PART__N], struct bundle **ret, struct err *e);

static int
parse_with(bundle_make_fn *make, const struct buf *bufs, const bool *present, bool is_key_in_token,
           struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    struct set_manifest m = { 0 };
    struct span parts[PART__N];
    size_t n = 0, want = 0;

    for (size_t i = 0; i < PART__N; i++) {
        bool is_wanted = i != PART_CA_KEY || !is_key_in_token;

        parts[i] = buf_span(&bufs[i]);
        want += is_wanted ? 1 : 0;
        n += is_wanted && present[i] ? 1 : 0;
    }
    if (n == 0)
        return SET_ABSENT;
    if (n < want)
        return missing(present, is_key_in_token, e);
    TRY(make(parts, &b, e));
    if (present[SET_MANIFEST])
        TRY(manifest_parse(buf_span(&bufs[SET_MANIFEST]), b, &m, e));
    if (present[PART_CA_CRL])
        TRY(lists_take(&b, buf_span(&bufs[PART_CA_CRL]), &m.lists_why, e));
    *ret = STEAL(b);
    *ret_m = m;
    return 0;
}

int
set_parse(const struct buf *bufs, const bool *present, struct bundle **ret,
          struct set_manifest *ret_m, struct err *e)
{
    return parse_with(bundle_new, bufs, present, false, ret, ret_m, e);
}

int
set_parse_public(const struct buf *bufs, const bool *present, bool is_key_in_token,
                 struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    return parse_with(bundle_new_public, bufs, present, is_key_in_token, ret, ret_m, e);
}
