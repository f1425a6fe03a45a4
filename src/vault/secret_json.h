/* secret_json.h - private to vault/: the JSON of secrets, requests and stored attributes. Thread:
 * any. Source: specs/azure.md 1.2, 1.5.
 */
#ifndef VAULT_SECRET_JSON_H
#define VAULT_SECRET_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

enum {
    SECRET_VALUE_BYTES = 25600, /* 25 KB, the service's documented limit */
    SECRET_TAGS = 15,
    SECRET_TAG_CHARS = 256, /* of a key, and of a value */
    SECRET_CONTENT_TYPE_CHARS = 255,
    SECRET_NAME_BYTES = 128, /* 127 and a NUL */
    SECRET_VERSION_BYTES = 33,
    SECRET_RECOVERABLE_DAYS = 90,
};

/* Makes jansson wipe every block that it frees: documents here hold secret values. Once is enough.
 */
void json_wipes_memory(void);
static inline void
json_unref(json_t *j)
{
    json_decref(j);
}
DEFINE_CLEANUP(json_t, json_unref)
/* Appends the compact text of `j`. Errors: LIMIT, NOMEM. */
MUST_USE int json_add(struct buf *b, const json_t *j, struct err *e);

/* ^[0-9a-zA-Z-]{1,127}$ */
bool secret_name_ok(const char *name);
/* 32 hex digits, any case. */
bool secret_version_ok(const char *version);

/* What a SecretSet or SecretUpdate body asks for. */
struct secret_change {
    json_t *doc;                                             /* owned; the rest points into it */
    struct span value;                                       /* set only */
    const json_t *content_type, *tags, *enabled, *nbf, *exp; /* NULL: unchanged */
};

/* `is_set`: a value is required. A null member counts as absent, unknown ones are ignored. Errors:
 * PARSE (not JSON), INVAL (names the member), LIMIT (value, tags, contentType), NOMEM. */
MUST_USE int secret_change_parse(struct span body, bool is_set, struct secret_change *ret,
                                 struct err *e);
void secret_change_done(struct secret_change *c);

/* The attributes of one version, as stored. */
struct secret_meta {
    bool enabled;
    int64_t nbf, exp, created, updated; /* unix seconds; nbf and exp 0 when absent */
    json_t *content_type, *tags;        /* owned references, or NULL */
};
void secret_meta_done(struct secret_meta *m);
/* Applies what is present in `c`. Errors: INVAL (exp is before nbf); `m` may then be half changed.
 */
MUST_USE int secret_meta_apply(struct secret_meta *m, const struct secret_change *c, struct err *e);
/* Stored form and back. Errors: NOMEM; PARSE (damaged). */
MUST_USE int secret_meta_save(const struct secret_meta *m, struct buf *out, struct err *e);
MUST_USE int secret_meta_load(struct span text, struct secret_meta *ret, struct err *e);

/* SecretBundle, or SecretItem when `value` is NULL. Owner of *ret: caller. Errors: NOMEM. */
MUST_USE int secret_bundle(const struct secret_meta *m, const char *id, const struct span *value,
                           json_t **ret, struct err *e);

#endif
