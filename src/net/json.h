/* json.h - JSON from strangers: bounded, and with one meaning only. Layer: net. Thread: any. */
#ifndef NET_JSON_H
#define NET_JSON_H

#include <jansson.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"
#include "pki/pki.h"

enum { JSON_MAX_DEPTH = 16 }; /* for what has no reason to be deeper */

/* One JSON object and nothing after it; a name twice in an object, nesting beyond `max_depth` and
 * \u0000 are refused (what one reader takes from such a text, another does not; RFC 7515 4).
 * Owner: caller, CLEANUP(json_decrefp). Errors: PARSE, NOMEM. */
MUST_USE int json_object_parse(struct span s, int max_depth, json_t **ret, struct err *e);

/* The member `name` as text. r: 0 done, *ret borrowed; JSON_MEMBER_ABSENT. Errors: PARSE (not a
 * text). */
enum { JSON_MEMBER_ABSENT = 1 };
MUST_USE int json_text(const json_t *o, const char *name, struct span *ret, struct err *e);
/* The member `name`, a text, copied into `ret` of `cap` bytes, never cut; "" when absent. Errors:
 * PARSE. */
MUST_USE int json_text_copy(const json_t *o, const char *name, char *ret, size_t cap,
                            struct err *e);

/* A digest as a text of lower-case hex digits. Owner: caller; NULL: out of memory. */
json_t *json_id(const uint8_t id[DIGEST_BYTES]);
/* Unix seconds as RFC 3339; 0: null. Owner: caller; NULL: out of memory. */
json_t *json_time(int64_t t_unix_s);

/* The list with `take_v` at its end, the object with `take_v` as its member `name`. Both are taken;
 * NULL when either is NULL or memory runs out, so that what is built step by step, and given to
 * json_pack as "o" in the end, is whole or not there at all. Owner: caller. */
MUST_USE json_t *json_array_with(json_t *take_list, json_t *take_v);
MUST_USE json_t *json_object_with(json_t *take_o, const char *name, json_t *take_v);

/* Overwrites every text of `j` that nobody else holds, then lets go of it as json_decref; for what
 * may hold a key or a token. (jansson itself wipes nothing, neither what it parsed in.) NULL is
 * fine. */
void json_wipe_free(json_t *j);
DEFINE_CLEANUP(json_t, json_wipe_free)

#endif
