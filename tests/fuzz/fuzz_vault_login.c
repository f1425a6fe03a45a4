/* fuzz_vault_login.c - the Secret with the operator's credentials of the vault: they go to the
 * vault's client only when all are there, as they were written, with roots beside them that can be
 * read or none; every other Secret is a problem with a word. And versions that a set remembers.
 *
 * The input is the Secret, JSON. */
#include <stdlib.h>

#include "../unit/operator/login_kit.h"
#include "base/str.h"
#include "operator/versions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const json_t *secret;

/* `text` is the whole of what the Secret has under `key`. */
static void
is_whole(const char *key, const char *text)
{
    struct buf b = BUF_INIT(1 << 20);
    struct err e;

    if (text == NULL || kube_secret_get(secret, key, &b, &e) != 0 ||
        !span_eq_str(buf_span(&b), text))
        abort();
    buf_done(&b);
}

static void
on_open(const struct vault_client_conf *conf)
{
    is_whole("tenant", conf->tenant);
    is_whole("client_id", conf->client_id);
    is_whole("client_secret", conf->client_secret);
    if (conf->tenant[0] == '\0' || conf->client_id[0] == '\0' || conf->client_secret[0] == '\0')
        abort(); /* an empty one would be looked up in the environment, or sent */
}

/* What is read is written and read the same. */
static void
versions_check(const char *text)
{
    struct sync_versions v, w;
    CLEANUP(str_freep) char *again = NULL;
    struct err e;

    if (versions_read(text, &v) < 0)
        return;
    for (size_t i = 0; i < PART__ALL; i++)
        if (memchr(v.v[i], '\0', VERSION_TEXT_BYTES) == NULL)
            abort();
    if (versions_text(&v, &again, &e) < 0 || versions_read(again, &w) < 0 ||
        memcmp(&v, &w, sizeof(v)) != 0)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(str_freep) char *text = NULL;
    struct err e;

    if (str_dup(span_of(data, size), &text, &e) == 0)
        versions_check(text);
    json_t *o =
        size == 0 ? NULL : json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    secret = o;
    login_play(o, on_open);
    const char *words = strstr(play.problem, ": ");
    bool has_word = words != NULL && words > play.problem && words[2] != '\0';
    if (play.opened_n + play.problems_n != 1 || play.looks_n != play.opened_n ||
        has_word != (play.problems_n == 1) ||
        strstr(play.path, "/namespaces/mesh/secrets/login") == NULL)
        abort();
    json_decref(o);
    return 0;
}
