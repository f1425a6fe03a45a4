/* jwt_keys.c - which keys JWT-SVIDs may be signed with, and which ones workloads are told of.
 *
 * The signer in force signs them. A new one's key is published at once and signs once it has been
 * for conf.jwt_publish_ms; until then its forerunner signs, whose key the signer process keeps.
 * When the new one takes over, the old key stays published until the last token of it has expired.
 * The moments are kept beside the trust set, so that a restart goes on where it was. What a new
 * signer process does not hold any more cannot sign: then callers are told to come back.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/room.h"

enum { DOC_MAX_BYTES = 64 * 1024 };

const char ca_jwt_file[] = "jwt-keys.json";

static void
key_done(struct ca_jwt_key *k)
{
    signer_unref(k->signer);
    *k = (struct ca_jwt_key){ .signer = NULL };
}

void
ca_jwt_done(struct ca_jwt *j)
{
    for (size_t i = 0; i < j->n; i++)
        key_done(&j->keys[i]);
    j->n = 0;
}

void
ca_jwt_copy(const struct ca_jwt *from, struct ca_jwt *ret)
{
    *ret = *from;
    for (size_t i = 0; i < ret->n; i++)
        if (ret->keys[i].signer != NULL)
            (void)signer_ref(ret->keys[i].signer);
}

static void
key_drop(struct ca_jwt *j, size_t i)
{
    key_done(&j->keys[i]);
    j->n--;
    memmove(&j->keys[i], &j->keys[i + 1], (j->n - i) * sizeof(j->keys[0]));
}

/* -- the moments: by the clock that does not jump, from what the wall clock said before -- */

static uint64_t
mono_of(int64_t wall_s, int64_t now_s, uint64_t now_ms, uint64_t most_ms)
{
    uint64_t left = wall_s <= now_s ? 0 : (uint64_t)(wall_s - now_s) * 1000;

    return now_ms + (left > most_ms ? most_ms : left);
}

static int64_t
wall_of(uint64_t ms, int64_t now_s, uint64_t now_ms)
{
    return now_s + (ms <= now_ms ? 0 : (int64_t)((ms - now_ms + 999) / 1000));
}

static const uint64_t gone_after_ms = (SIGNER_JWT_LIFE_S + CA_JWT_SLACK_S) * (uint64_t)1000;

int
ca_jwt_use(struct ca_jwt *j, const struct cert *cert, struct signer *s, uint64_t publish_ms,
           uint64_t now_ms, struct err *e)
{
    CLEANUP(buf_done) struct buf jwk = BUF_INIT(CA_JWK_BYTES);
    struct ca_jwt_key k = { .ready_ms = now_ms };
    size_t i = 0;

    TRY(jwk_of_cert(cert, k.kid, &jwk, e));
    (void)snprintf(k.jwk, sizeof(k.jwk), "%s", buf_text(&jwk));
    while (i < j->n && strcmp(j->keys[i].kid, k.kid) != 0)
        i++;
    if (i < j->n) { /* published already: it goes on, or it comes back */
        k.ready_ms = j->keys[i].ready_ms;
        key_drop(j, i);
    } else if (j->n > 0) {
        k.ready_ms = now_ms + publish_ms;
    }
    if (j->n == CA_JWT_KEYS_MAX)
        key_drop(j, ca_jwt_signing(j, now_ms) == &j->keys[0] ? 1 : 0);
    k.signer = signer_ref(s);
    j->keys[j->n++] = k;
    return 0;
}

void
ca_jwt_adopt(struct ca_jwt *j, struct signer *s)
{
    for (size_t i = 0; i < j->n; i++) {
        signer_unref(j->keys[i].signer);
        j->keys[i].signer = i + 1 == j->n ? signer_ref(s) : NULL;
    }
}

const struct ca_jwt_key *
ca_jwt_signing(const struct ca_jwt *j, uint64_t now_ms)
{
    size_t i = j->n;

    if (i > 0 && j->keys[i - 1].ready_ms <= now_ms)
        return j->keys[i - 1].signer == NULL ? NULL : &j->keys[i - 1];
    /* the newest of those before it that signed already */
    for (i = i == 0 ? 0 : i - 1; i-- > 0;)
        if (j->keys[i].ready_ms <= now_ms && j->keys[i].gone_ms == 0)
            return j->keys[i].signer == NULL ? NULL : &j->keys[i];
    return NULL;
}

bool
ca_jwt_tick(struct ca_jwt *j, uint64_t now_ms, uint64_t *ret_next_ms)
{
    bool changed = false, has_moved = j->n > 0 && j->keys[j->n - 1].ready_ms <= now_ms;
    uint64_t next = j->n > 0 && !has_moved ? j->keys[j->n - 1].ready_ms : 0;

    for (size_t i = 0; i + 1 < j->n;) {
        struct ca_jwt_key *k = &j->keys[i];

        if (has_moved && k->gone_ms == 0) {
            k->gone_ms = now_ms + gone_after_ms;
            signer_unref(k->signer); /* the signer process forgets the key */
            k->signer = NULL;
            changed = true;
        }
        if (k->gone_ms > 0 && k->gone_ms <= now_ms) {
            key_drop(j, i);
            changed = true;
            continue;
        }
        if (k->gone_ms > 0 && (next == 0 || k->gone_ms < next))
            next = k->gone_ms;
        i++;
    }
    *ret_next_ms = next;
    return changed;
}

int
ca_jwt_bundle(const struct ca_jwt *j, struct buf *out, struct err *e)
{
    TRY(buf_add_str(out, "{\"keys\":[", e));
    for (size_t i = 0; i < j->n; i++)
        TRY(buf_addf(out, e, "%s%s", i == 0 ? "" : ",", j->keys[i].jwk));
    return buf_add_str(out, "]}", e);
}

/* -- over a restart -- */

int
ca_jwt_write(const struct ca_jwt *j, uint64_t now_ms, struct buf *out, struct err *e)
{
    int64_t now_s = unix_s();

    TRY(buf_add_str(out, "{\"keys\":[", e));
    for (size_t i = 0; i < j->n; i++) {
        const struct ca_jwt_key *k = &j->keys[i];

        TRY(buf_addf(out, e,
                     "%s\n {\"kid\":\"%s\",\"ready\":%" PRId64 ",\"gone\":%" PRId64 ",\"jwk\":%s}",
                     i == 0 ? "" : ",", k->kid, wall_of(k->ready_ms, now_s, now_ms),
                     k->gone_ms == 0 ? 0 : wall_of(k->gone_ms, now_s, now_ms), k->jwk));
    }
    return buf_add_str(out, "\n]}\n", e);
}

/* base64url, as jwk_thumbprint makes it: it is written again as it is. */
static bool
kid_ok(const char *kid)
{
    if (kid == NULL || strlen(kid) != JWK_THUMBPRINT_BYTES - 1)
        return false;
    for (size_t i = 0; kid[i] != '\0'; i++)
        if ((unsigned char)kid[i] >= 0x80 ||
            (!isalnum((unsigned char)kid[i]) && kid[i] != '-' && kid[i] != '_'))
            return false;
    return true;
}

static int
key_recall(const json_t *o, uint64_t publish_ms, uint64_t now_ms, struct ca_jwt_key *ret,
           struct err *e)
{
    const char *kid = json_string_value(json_object_get(o, "kid"));
    int64_t ready = json_integer_value(json_object_get(o, "ready")),
            gone = json_integer_value(json_object_get(o, "gone")), now_s = unix_s();
    CLEANUP(str_freep) char *jwk = json_dumps(json_object_get(o, "jwk"), JSON_COMPACT);

    if (!kid_ok(kid) || jwk == NULL || strlen(jwk) >= sizeof(ret->jwk))
        return err_set(e, E_PARSE, "%s: a key of bad form", ca_jwt_file);
    *ret = (struct ca_jwt_key){ .ready_ms = mono_of(ready, now_s, now_ms, publish_ms) };
    memcpy(ret->kid, kid, JWK_THUMBPRINT_BYTES);
    memcpy(ret->jwk, jwk, strlen(jwk) + 1);
    if (gone != 0)
        ret->gone_ms = mono_of(gone, now_s, now_ms, gone_after_ms) + 1; /* never 0 */
    return 0;
}

int
ca_jwt_recall(struct span text, uint64_t publish_ms, uint64_t now_ms, struct ca_jwt *ret,
              struct err *e)
{
    json_error_t why;
    json_t *doc = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, &why);
    const json_t *keys = json_object_get(doc, "keys"), *o;
    struct ca_jwt j = { .n = 0 };
    size_t i;
    int r = 0;

    if (!json_is_array(keys) || json_array_size(keys) > CA_JWT_KEYS_MAX)
        r = err_set(e, E_PARSE, "%s: want a list of at most %d keys", ca_jwt_file, CA_JWT_KEYS_MAX);
    json_array_foreach(keys, i, o) {
        if (r == 0)
            r = key_recall(o, publish_ms, now_ms, &j.keys[j.n++], e);
    }
    json_decref(doc);
    if (r == 0)
        *ret = j;
    return r;
}
