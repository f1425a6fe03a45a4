/* Objects are shared by threads without a lock: all of them at once, from several threads. */
#include "ca_kit.h"

#include <pthread.h>
#include <stdatomic.h>

#include "pki/bundle.h"

enum { THREADS = 4, ROUNDS = 200 };

static struct ca a, a1, leaf;
static struct bundle *bundle;
static atomic_int failures;

static void *
use(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        struct bundle *b = bundle_ref(bundle);
        struct cert *c = cert_ref(leaf.cert), *inter = bundle_chain_at(b, 0), *root = NULL;
        struct key *k = key_ref(bundle_key(b));
        struct roots *r = roots_ref(bundle_roots(b)), *more = NULL;
        struct buf line = BUF_INIT(4096);
        struct err e;
        char text[NAME_TEXT_BYTES];

        cert_subject_text(c, text);
        if (roots_verify(r, c, &inter, 1, &root, &e) < 0 || !cert_key_matches(inter, k) ||
            cert_log_line(c, &line, &e) < 0 || roots_union(r, r, &more, &e) < 0 ||
            strcmp(text, "CN=leaf") != 0)
            atomic_fetch_add(&failures, 1);
        buf_done(&line);
        roots_unref(more);
        roots_unref(r);
        key_unref(k);
        cert_unref(c);
        bundle_unref(b);
    }
    return NULL;
}

static void
shared_objects(void **state)
{
    pthread_t t[THREADS];
    struct err e;

    (void)state;
    ca_make(&a, NULL, "CN=A", -1);
    ca_make(&a1, &a, "CN=A1", 0);
    ca_bent(&leaf, &a1, "leaf", -1, 1, "basicConstraints=CA:FALSE;subjectAltName=URI:spiffe://a/b");
    struct buf root = pem_of(&a.cert, 1), inter = pem_of(&a1.cert, 1), key = pem_of_key(a1.key);
    const struct span parts[PART__N] = { buf_span(&root), buf_span(&inter), buf_span(&key),
                                         buf_span(&inter) };
    assert_ok(bundle_new(parts, &bundle, &e));
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&t[i], NULL, use, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_int_equal(atomic_load(&failures), 0);
    bundle_unref(bundle);
    buf_done(&root);
    buf_done(&inter);
    buf_wipe(&key);
    ca_done(&a);
    ca_done(&a1);
    ca_done(&leaf);
}

int
main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(shared_objects) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
