/* SDS without a socket: what a request means, what it may hold, what an answer is made of. */
#include "mint.h"

#include "agent/sds.h"
#include "sds.pb-c.h"

#define ID   "spiffe://cluster.local/ns/shop/sa/web"
#define TYPE "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

enum { D = 1 << SDS_DEFAULT, R = 1 << SDS_ROOTCA, I = 1 << SDS_ID, T = 1 << SDS_DOMAIN };

/* -- what a request means -- */

struct step {
    const char *nonce;
    bool is_refusal;
    unsigned names, dropped, current;
    enum sds_word word;
    unsigned send;
    enum sds_state state; /* before the answer goes out */
};

static void
play(bool is_delta, const struct step *steps, size_t n)
{
    struct sds_peer p = { .is_delta = is_delta };
    char nonce[SDS_NONCE_BYTES];
    unsigned send;

    for (size_t i = 0; i < n; i++) {
        struct sds_request q = { .is_refusal = steps[i].is_refusal,
                                 .names = steps[i].names,
                                 .dropped = steps[i].dropped,
                                 .current = steps[i].current };

        q.names_n = (size_t)__builtin_popcount(q.names);
        (void)snprintf(q.nonce, sizeof(q.nonce), "%s", steps[i].nonce);
        enum sds_word word = sds_peer_take(&p, &q, &send);
        if (word != steps[i].word || send != steps[i].send || p.state != steps[i].state)
            fail_msg("step %zu: %s, send %x, %s", i, sds_word_name(word), send,
                     sds_state_name(p.state));
        if (send != 0)
            sds_peer_sent(&p, nonce);
    }
}

static void
istio_should_respond_table(void **state)
{
    static const struct step steps[] = {
        { "", false, 0, 0, 0, SDS_LEAVES, 0, SDS_IDLE },      /* nothing wanted */
        { "7", false, D, 0, 0, SDS_ASKS, D, SDS_IDLE },       /* a nonce of another server */
        { "1", false, D, 0, 0, SDS_ACKS, 0, SDS_ACKED },      /* equal: silent */
        { "1", false, D | R, 0, 0, SDS_ACKS, R, SDS_ACKED },  /* added: only that */
        { "1", false, D | R, 0, 0, SDS_STALE, 0, SDS_SENT },  /* of the answer before */
        { "2", true, D | R, 0, 0, SDS_NACKS, 0, SDS_NACKED }, /* refused: silent */
        { "2", true, 0, 0, 0, SDS_NACKS, 0, SDS_NACKED }, /* without names it is a refusal still */
        { "1", true, D | R, 0, 0, SDS_STALE, 0, SDS_NACKED },    /* a late refusal */
        { "", false, D | R, 0, 0, SDS_ASKS, D | R, SDS_NACKED }, /* from the beginning */
        { "3", false, R, 0, 0, SDS_ACKS, 0, SDS_ACKED },         /* one less: silent */
        { "3", false, 0, 0, 0, SDS_LEAVES, 0, SDS_IDLE },        /* unsubscribed */
        { "3", false, I, 0, 0, SDS_ACKS, I, SDS_IDLE },
    };

    (void)state;
    play(false, steps, ARRAY_LEN(steps));
}

static void
incremental_xds(void **state)
{
    static const struct step steps[] = {
        { "", false, D | R, 0, R, SDS_ASKS, D, SDS_IDLE }, /* it holds one of them */
        { "1", false, 0, 0, 0, SDS_ACKS, 0, SDS_ACKED },
        { "1", false, R, 0, R, SDS_ACKS, R, SDS_ACKED }, /* again: sent, whatever it holds */
        { "1", false, I, 0, 0, SDS_STALE, I, SDS_SENT }, /* names count on a stale word too */
        { "3", true, 0, 0, 0, SDS_NACKS, 0, SDS_NACKED },
        { "2", true, 0, 0, 0, SDS_STALE, 0, SDS_NACKED },
        { "", false, 0, D | I, 0, SDS_ASKS, 0, SDS_NACKED },
        { "", false, T, T, 0, SDS_ASKS, 0, SDS_NACKED }, /* wanted and not in one breath: not */
        { "", false, 0, R, 0, SDS_LEAVES, 0, SDS_IDLE },
    };
    static const struct step back[] = { { "", false, D | R, 0, D | R, SDS_ASKS, 0, SDS_ACKED } };

    (void)state;
    play(true, steps, ARRAY_LEN(steps));
    play(true, back, ARRAY_LEN(back)); /* all that it wants it holds: it uses it */
}

static void
what_is_pushed(void **state)
{
    static const struct {
        bool is_delta;
        unsigned names;
        enum sds_state state;
        unsigned changed, want;
    } rows[] = {
        { false, D | R, SDS_ACKED, SDS_KEYS, D | R }, /* all of them: one snapshot */
        { false, R, SDS_ACKED, SDS_KEYS, 0 },
        { true, D | R, SDS_ACKED, SDS_KEYS, D },
        { true, D | R, SDS_NACKED, SDS_KEYS, D | R }, /* the trust set that it refused as well */
        { true, D | R, SDS_SENT, SDS_TRUSTS, D | R },
        { true, 0, SDS_IDLE, SDS_KEYS | SDS_TRUSTS, 0 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct sds_peer p = { .is_delta = rows[i].is_delta,
                                    .names = rows[i].names,
                                    .state = rows[i].state };

        assert_int_equal(sds_peer_push(&p, rows[i].changed), rows[i].want);
    }
}

/* -- content, requests, answers -- */

struct world {
    struct mint_ca root, other;
    struct roots *wide;
    struct key *key;
    struct cert *leaf;
    struct creds creds, wider, fresh;
    struct sds_content content;
};

static int
setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    struct err e;

    assert_non_null(w);
    mint_ca(&w->root, "CN=Root A", NULL);
    mint_ca(&w->other, "CN=Root B", NULL);
    assert_ok(roots_union(w->root.roots, w->other.roots, &w->wide, &e));
    assert_ok(key_make(KEY_P256, &w->key, &e));
    w->leaf = mint_leaf(&w->root, w->key, ID, 600);
    w->creds = (struct creds){ .key = w->key, .leaf = w->leaf, .roots = w->root.roots };
    w->wider = w->fresh = w->creds;
    w->wider.roots = w->wide;
    w->fresh.leaf = w->root.cert;
    assert_ok(sds_content_init(&w->content, ID, &e));
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct world *w = *state;

    mint_ca_done(&w->root);
    mint_ca_done(&w->other);
    roots_unref(w->wide);
    key_unref(w->key);
    cert_unref(w->leaf);
    free(w);
    return 0;
}

static void
content_has_equal_versions_for_equal_content(void **state)
{
    struct world *w = *state;
    struct err e;
    char before[SDS_VERSION_BYTES];

    assert_string_equal(w->content.name[SDS_DOMAIN], "spiffe://cluster.local");
    assert_int_equal(sds_content_use(&w->content, &w->creds), SDS_KEYS | SDS_TRUSTS);
    assert_int_equal(sds_content_use(&w->content, &w->creds), 0);
    (void)snprintf(before, sizeof(before), "%s", sds_content_version(&w->content, SDS_ROOTCA));
    assert_int_equal(sds_content_use(&w->content, &w->wider), SDS_TRUSTS);
    assert_string_not_equal(before, sds_content_version(&w->content, SDS_DOMAIN));
    assert_int_equal(sds_content_use(&w->content, &w->fresh), SDS_KEYS | SDS_TRUSTS);
    assert_string_equal(before, sds_content_version(&w->content, SDS_ROOTCA));
    assert_err(sds_content_init(&w->content, "https://cluster.local/", &e), E_PARSE,
               "does not start with spiffe://");
}

static ProtobufCBinaryData
bytes(const char *s)
{
    return (ProtobufCBinaryData){ strlen(s), (uint8_t *)(uintptr_t)s };
}

static int
parse_names(struct world *w, size_t n, const char *name, struct sds_request *q, struct err *e)
{
    static uint8_t packed[1 << 20];
    Envoy__Sds__DiscoveryRequest m = ENVOY__SDS__DISCOVERY_REQUEST__INIT;
    ProtobufCBinaryData names[64];

    assert_true(n <= ARRAY_LEN(names));
    for (size_t i = 0; i < n; i++)
        names[i] = bytes(name);
    m.type_url = bytes(TYPE);
    m.resource_names = names;
    m.n_resource_names = n;
    size_t len = envoy__sds__discovery_request__pack(&m, packed);
    return sds_request_parse(&w->content, false, span_of(packed, len), q, e);
}

static void
requests_are_bounded(void **state)
{
    static char name[SDS_NAME_BYTES + 1000];
    struct world *w = *state;
    struct sds_request q;
    struct err e;

    memset(name, 'n', sizeof(name) - 1);
    name[3] = '\n';
    assert_ok(parse_names(w, SDS_NAMES_MAX, name, &q, &e));
    assert_int_equal(q.names_n, SDS_NAMES_MAX);
    assert_int_equal(q.strangers_n, SDS_NAMES_MAX);
    assert_int_equal(strlen(q.strangers[0]), SDS_STRANGER_BYTES - 1);
    assert_int_equal(q.strangers[0][3], '?'); /* it may end in a log line */
    assert_err(parse_names(w, SDS_NAMES_MAX + 1, "default", &q, &e), E_LIMIT, "17 names");
    assert_int_equal(q.names_n, SDS_NAMES_MAX); /* written on success only */
    assert_ok(parse_names(w, 2, "default", &q, &e));
    assert_int_equal(q.names, D);
    assert_ok(parse_names(w, 1, "default\n", &q, &e));
    assert_int_equal(q.names, 0);
}

static void
memory_for_one_request_is_bounded(void **state)
{
    struct world *w = *state;
    static uint8_t unknown[SDS_REQUEST_MAX_BYTES];
    struct sds_request q;
    struct err e;

    for (size_t i = 0; i < sizeof(unknown); i += 2)
        unknown[i] = 0x40; /* field 8, number 0: two bytes that take dozens to keep */
    assert_err(sds_request_parse(&w->content, false, span_of(unknown, sizeof(unknown)), &q, &e),
               E_PARSE, "too big");
    assert_err(sds_request_parse(&w->content, false, span_of(unknown, 2000), &q, &e), E_PARSE,
               "is not what is served here");
}

static void
versions_that_a_client_holds(void **state)
{
    struct world *w = *state;
    Envoy__Sds__DeltaDiscoveryRequest m = ENVOY__SDS__DELTA_DISCOVERY_REQUEST__INIT;
    Envoy__Sds__VersionEntry v[2] = { ENVOY__SDS__VERSION_ENTRY__INIT,
                                      ENVOY__SDS__VERSION_ENTRY__INIT },
                             *all[] = { &v[0], &v[1] };
    uint8_t packed[1024];
    struct sds_request q;
    struct err e;

    v[0].key = bytes("default");
    v[1].key = bytes("ROOTCA");
    m.type_url = bytes(TYPE);
    m.n_initial_resource_versions = 2;
    m.initial_resource_versions = all;
    size_t n = envoy__sds__delta_discovery_request__pack(&m, packed);
    assert_ok(sds_request_parse(&w->content, true, span_of(packed, n), &q, &e));
    assert_int_equal(q.current, 0); /* no version is not the version of nothing */
    (void)sds_content_use(&w->content, &w->creds);
    v[0].value = bytes("0123");
    v[1].value = bytes(sds_content_version(&w->content, SDS_ROOTCA));
    n = envoy__sds__delta_discovery_request__pack(&m, packed);
    assert_ok(sds_request_parse(&w->content, true, span_of(packed, n), &q, &e));
    assert_int_equal(q.current, R);
}

static void
an_answer_is_what_envoy_reads(void **state)
{
    struct world *w = *state;
    struct buf b = BUF_INIT(1 << 20), pem = BUF_INIT(65536);
    static const struct sds_request removed = { .strangers_n = 1, .strangers = { "other" } };
    struct err e;

    (void)sds_content_use(&w->content, &w->creds);
    assert_ok(sds_answer_pack(&w->content, true, D | T, span_str("key"), "5", &removed, &b, &e));
    Envoy__Sds__DeltaDiscoveryResponse *m =
        envoy__sds__delta_discovery_response__unpack(NULL, b.n, b.p);
    assert_non_null(m);
    assert_string_equal(m->nonce, "5");
    assert_int_equal(m->n_resources, 2);
    assert_string_equal(m->resources[0]->name, "default");
    assert_string_equal(m->resources[1]->name, "spiffe://cluster.local");
    assert_string_equal(m->resources[1]->resource->type_url, TYPE);
    const Envoy__Sds__Secret *leaf = m->resources[0]->resource->value,
                             *trust = m->resources[1]->resource->value;
    assert_null(leaf->validation_context);
    assert_null(trust->tls_certificate);
    assert_non_null(memmem(leaf->tls_certificate->private_key->inline_bytes.data,
                           leaf->tls_certificate->private_key->inline_bytes.len, "a2V5", 4));
    assert_ok(roots_to_pem(w->creds.roots, &pem, &e));
    const ProtobufCBinaryData *ca = &trust->validation_context->trusted_ca->inline_bytes;
    assert_true(span_eq(span_of(ca->data, ca->len), buf_span(&pem)));
    assert_int_equal(m->n_removed_resources, 1);
    assert_memory_equal(m->removed_resources[0].data, "other", 5);
    envoy__sds__delta_discovery_response__free_unpacked(m, NULL);
    buf_done(&b);
    buf_done(&pem);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
#define T_(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        cmocka_unit_test(istio_should_respond_table),
        cmocka_unit_test(incremental_xds),
        cmocka_unit_test(what_is_pushed),
        T_(content_has_equal_versions_for_equal_content),
        T_(requests_are_bounded),
        T_(memory_for_one_request_is_bounded),
        T_(versions_that_a_client_holds),
        T_(an_answer_is_what_envoy_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
