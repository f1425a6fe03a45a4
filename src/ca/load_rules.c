/* load_rules.c - which set may follow which. */
#include <inttypes.h>

#include "base/clock.h"
#include "ca/room.h"

static int
no(const char **ret_reason, const char *reason, enum err_code code, struct err *e,
   const char *words)
{
    *ret_reason = reason;
    return err_set(e, code, "%s", words);
}

static int
life_check(const struct ca_conf *conf, const struct ca_loaded *next, const char **ret_reason,
           struct err *e)
{
    int64_t end = bundle_not_after(next->bundle);
    int64_t leaf = (int64_t)(conf->default_ttl_ms / 1000);
    char text[RFC3339_BYTES];

    if (end - unix_s() >= leaf)
        return 0;
    rfc3339_s(end, text); /* no "seconds left": the same refusal has the same words */
    *ret_reason = "short_life";
    return err_set(e, E_DENIED,
                   "ca-cert.pem: its chain ends at %s, which is less than one leaf lifetime "
                   "(%" PRId64 " s) away; put an intermediate with more life in its place",
                   text, leaf);
}

int
ca_load_check(const struct ca_conf *conf, const struct ca_loaded *now, const struct ca_loaded *next,
              const char **ret_reason, struct err *e)
{
    /* content_id has the lists that are good; of a ca-crl.pem that is not, why tells it apart */
    bool same = now->mode == next->mode &&
                memcmp(now->content_id, next->content_id, DIGEST_BYTES) == 0 &&
                strcmp(now->manifest.lists_why.msg, next->manifest.lists_why.msg) == 0;

    *ret_reason = "";
    if (now->mode == CA_MODE_SELF_SIGNED && next->mode == CA_MODE_PLUGGED_IN)
        return no(ret_reason, "self_signed", E_STATE, e,
                  "this mesh runs on a self-signed root; its workloads do not trust another yet: "
                  "disable, then enable (mesh disable, mesh enable)");
    if (same && now->manifest.generation == next->manifest.generation &&
        now->manifest.renew_window_ms == next->manifest.renew_window_ms)
        return CA_LOAD_SAME;
    if (now->mode == next->mode && now->manifest.generation != 0 &&
        next->manifest.generation != 0 && next->manifest.generation < now->manifest.generation) {
        *ret_reason = "generation";
        return err_set(e, E_STATE,
                       "manifest.json: generation %" PRIu64 " is older than %" PRIu64
                       ", which is in force; generations only grow",
                       next->manifest.generation, now->manifest.generation);
    }
    return life_check(conf, next, ret_reason, e);
}
