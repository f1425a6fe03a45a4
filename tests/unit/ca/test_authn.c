/* test_authn.c - who is let in, and the reason for each who is not. */
#include "kit.h"

#include <inttypes.h>

#include "base/clock.h"

static const char identity[] = "spiffe://cluster.local/ns/shop/sa/cart";

/* "Bearer " and a token with these claims. */
static void
token(const struct key *k, const char *kid, const char *claims, struct buf *out)
{
    struct err e = { 0 };

    assert_ok(buf_add_str(out, "Bearer ", &e));
    assert_ok(jwt_sign(k, kid, false, span_str(claims), out, &e));
}

static void
specs_3_tokens(void **state)
{
#define GOOD "\"aud\":[\"istio-ca\"],\"sub\":\"system:serviceaccount:shop:cart\","
#define FROM "\"iss\":\"https://issuer.test\","
    static const struct {
        const char *what, *kid, *claims; /* %d: seconds from now */
        int exp_s;
        const char *reason; /* NULL: let in */
        const char *auth;
    } rows[] = {
        { "good", "k1", "{" FROM GOOD "\"jti\":\"t-1\",\"exp\":%" PRId64 "}", 60, NULL, "jwt:t-1" },
        { "good, no id", "k1", "{" FROM GOOD "\"exp\":%" PRId64 "}", 60, NULL, "jwt:" },
        { "expired", "k1", "{" FROM GOOD "\"exp\":%" PRId64 "}", -3600, "expired", NULL },
        { "wrong issuer", "k1", "{\"iss\":\"https://evil\"," GOOD "\"exp\":%" PRId64 "}", 60,
          "issuer", NULL },
        { "wrong audience", "k1",
          "{" FROM "\"aud\":\"vault\",\"sub\":\"system:serviceaccount:shop:cart\",\"exp\":%" PRId64
          "}",
          60, "audience", NULL },
        { "unknown key", "k2", "{" FROM GOOD "\"exp\":%" PRId64 "}", 60, "kid", NULL },
        { "no service account", "k1",
          "{" FROM "\"aud\":\"istio-ca\",\"sub\":\"alice\",\"exp\":%" PRId64 "}", 60, "workload",
          NULL },
    };
    struct ca_conf conf = kit_conf();
    struct kit k;
    CLEANUP(buf_done) struct buf set = BUF_INIT(8192);
    struct jwks *keys;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    assert_ok(jwks_of_key(k.root_key, "k1", &set, &e));
    assert_ok(jwks_from_json(buf_span(&set), &keys, &e));
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 1, keys);
    jwks_unref(keys);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_done) struct buf t = BUF_INIT(8192);
        char claims[512];
        struct ca_caller caller;
        const char *reason = "";
        struct span asked;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(claims, sizeof(claims), rows[i].claims, unix_s() + rows[i].exp_s);
#pragma GCC diagnostic pop
        token(k.root_key, rows[i].kid, claims, &t);
        struct ca_credentials c = { buf_span(&t), NULL };
        int r = ca_authenticate(&conf, v, &c, &caller, &asked, &reason, &e);
        if (rows[i].reason != NULL) {
            assert_int_equal(r, -E_AUTH);
            if (strcmp(reason, rows[i].reason) != 0)
                fail_msg("%s: reason %s", rows[i].what, reason);
            continue;
        }
        assert_ok(r);
        assert_string_equal(caller.identity, identity);
        assert_memory_equal(caller.auth, rows[i].auth, strlen(rows[i].auth));
    }
    kit_done(&k);
}

static void
specs_3_the_prefix_is_exact(void **state)
{
    static const struct {
        const char *header, *reason;
    } rows[] = {
        { "", "none" },         { "bearer a.b.c", "scheme" },  { "Basic YTpi", "scheme" },
        { "Bearer", "scheme" }, { "Bearer a.b.c", "no_keys" },
    };
    struct ca_conf conf = kit_conf();
    struct kit k;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 1, NULL); /* no keys read yet */
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct ca_credentials c = { span_str(rows[i].header), NULL };
        struct ca_caller caller;
        const char *reason = "";
        struct span asked;

        bool may_mend = strcmp(rows[i].reason, "no_keys") == 0;

        assert_int_equal(ca_authenticate(&conf, v, &c, &caller, &asked, &reason, &e),
                         may_mend ? -E_BUSY : -E_AUTH);
        assert_string_equal(reason, rows[i].reason);
    }
    kit_done(&k);
}

static void
client_certificates(void **state)
{
    static const struct {
        const char *what, *uri;
        int64_t from_s, to_s;
        bool other_root;
        const char *reason; /* NULL: let in */
    } rows[] = {
        { "good", identity, -60, 60, false, NULL },
        { "expired while connected", identity, -120, -60, false, "cert_expired" },
        { "not yet valid", identity, 60, 120, false, "cert_expired" },
        { "other trust domain", "spiffe://other/ns/shop/sa/cart", -60, 60, false,
          "cert_trust_domain" },
        { "other shape", "spiffe://cluster.local/cart", -60, 60, false, "cert_identity" },
        { "root has gone since", identity, -60, 60, true, "cert_root" },
    };
    struct ca_conf conf = kit_conf();
    struct kit k, other;
    struct err e = { 0 };

    (void)state;
    kit_make(&k, "A", 365);
    kit_make(&other, "B", 365);
    CLEANUP(ca_view_unrefp) struct ca_view *v = kit_view(&k, 1, NULL);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t now = unix_s();
        struct tls_peer peer = { .leaf = kit_leaf(&k, rows[i].uri, now + rows[i].from_s,
                                                  now + rows[i].to_s),
                                 .uri = span_str(rows[i].uri) };
        struct ca_credentials c = { span_str(""), &peer };
        struct ca_caller caller;
        const char *reason = "";
        struct span asked;

        memcpy(peer.root_id, cert_id(rows[i].other_root ? other.root : k.root), DIGEST_BYTES);
        int r = ca_authenticate(&conf, v, &c, &caller, &asked, &reason, &e);
        cert_unref(peer.leaf);
        if (rows[i].reason == NULL) {
            assert_ok(r);
            assert_string_equal(caller.identity, identity);
            assert_memory_equal(caller.auth, "cert:7", 6);
            continue;
        }
        if (r >= 0 || strcmp(reason, rows[i].reason) != 0)
            fail_msg("%s: r %d reason %s", rows[i].what, r, reason);
    }
    kit_done(&k);
    kit_done(&other);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specs_3_tokens),
        cmocka_unit_test(specs_3_the_prefix_is_exact),
        cmocka_unit_test(client_certificates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
