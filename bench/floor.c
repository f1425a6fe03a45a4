/* floor.c - see floor.h. Straight on OpenSSL: it shares no code with what it is held against. */
#include "floor.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "handshake.h"
#include "pki/leaf.h"
#include "pki/openssl.h"

enum { SLICE_US = 4000, PAUSE_US = 16000, TEXT_BYTES = 400, POINT_MAX = 133 };

static const uint8_t text[TEXT_BYTES] = "a TBSCertificate is about this long";

struct job {
    EVP_PKEY *leaf, *params; /* borrowed; owned, EC: the curve without a point */
    OSSL_PARAM *rsa;         /* owned, RSA: modulus and exponent */
    uint8_t point[POINT_MAX];
    size_t point_n;
    EVP_MD *sha256; /* owned */
    EVP_MD_CTX *sign, *scratch;
    struct handshake *handshake; /* owned; NULL: connections stay */
    double aside_us;             /* the handshakes' clients, which are not the floor's */
    uint8_t csr_sig[SIGNATURE_MAX_BYTES];
    size_t csr_sig_n;
};

struct floor_run {
    struct job job;
    pthread_t thread;
    pthread_mutex_t lock;
    double cpu_us;
    size_t n;
    atomic_bool is_over, is_bad;
};

double
clock_us(int id)
{
    struct timespec t;

    (void)clock_gettime(id, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void
job_done(struct job *j)
{
    EVP_PKEY_free(j->params);
    OSSL_PARAM_free(j->rsa);
    EVP_MD_free(j->sha256);
    EVP_MD_CTX_free(j->sign);
    EVP_MD_CTX_free(j->scratch);
    handshake_free(j->handshake);
}

static bool
public_half(struct job *j, EVP_PKEY *leaf)
{
    if (EVP_PKEY_get_base_id(leaf) == EVP_PKEY_RSA)
        return EVP_PKEY_todata(leaf, EVP_PKEY_PUBLIC_KEY, &j->rsa) == 1;
    j->params = EVP_PKEY_new();
    return j->params != NULL && EVP_PKEY_copy_parameters(j->params, leaf) == 1 &&
           EVP_PKEY_get_octet_string_param(leaf, OSSL_PKEY_PARAM_PUB_KEY, j->point,
                                           sizeof(j->point), &j->point_n) == 1;
}

static bool
job_init(struct job *j, struct key *ca, struct key *leaf)
{
    *j = (struct job){ .leaf = key_evp(leaf),
                       .sign = EVP_MD_CTX_new(),
                       .scratch = EVP_MD_CTX_new(),
                       .sha256 = EVP_MD_fetch(NULL, "SHA256", NULL),
                       .csr_sig_n = sizeof(j->csr_sig) };
    return j->sign != NULL && j->scratch != NULL && j->sha256 != NULL &&
           EVP_DigestSignInit_ex(j->scratch, NULL, "SHA256", NULL, NULL, j->leaf, NULL) == 1 &&
           EVP_DigestSign(j->scratch, j->csr_sig, &j->csr_sig_n, text, sizeof(text)) == 1 &&
           EVP_DigestSignInit_ex(j->sign, NULL, "SHA256", NULL, NULL, key_evp(ca), NULL) == 1 &&
           public_half(j, j->leaf);
}

static EVP_PKEY *
make_key(struct job *j)
{
    EVP_PKEY *k = NULL;

    if (j->rsa != NULL) {
        EVP_PKEY_CTX *x = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);

        if (x == NULL || EVP_PKEY_fromdata_init(x) != 1 ||
            EVP_PKEY_fromdata(x, &k, EVP_PKEY_PUBLIC_KEY, j->rsa) != 1)
            k = NULL;
        EVP_PKEY_CTX_free(x);
        return k;
    }
    k = EVP_PKEY_new();
    if (k != NULL && EVP_PKEY_copy_parameters(k, j->params) == 1 &&
        EVP_PKEY_set1_encoded_public_key(k, j->point, j->point_n) == 1)
        return k;
    EVP_PKEY_free(k);
    return NULL;
}

static bool
verify(struct job *j, EVP_PKEY *k)
{
    EVP_MD_CTX_reset(j->scratch);
    return EVP_DigestVerifyInit(j->scratch, NULL, j->sha256, NULL, k) == 1 &&
           EVP_DigestVerify(j->scratch, j->csr_sig, j->csr_sig_n, text, sizeof(text)) == 1;
}

static bool
sign(struct job *j)
{
    uint8_t sig[SIGNATURE_MAX_BYTES];
    size_t n = sizeof(sig);

    return EVP_MD_CTX_copy_ex(j->scratch, j->sign) == 1 &&
           EVP_DigestSign(j->scratch, sig, &n, text, sizeof(text)) == 1;
}

static bool
connect_one(struct job *j)
{
    double client_us = j->handshake == NULL ? 0 : handshake_run(j->handshake);

    j->aside_us += client_us;
    return client_us >= 0;
}

static bool
one(struct job *j)
{
    bool good = connect_one(j);
    EVP_PKEY *k = make_key(j);

    good = good && k != NULL && verify(j, k) && sign(j);
    EVP_PKEY_free(k);
    return good;
}

static void *
floor_main(void *arg)
{
    struct floor_run *f = arg;

    (void)one(&f->job); /* what is slow the first time */
    while (!atomic_load(&f->is_over)) {
        double from = clock_us(CLOCK_THREAD_CPUTIME_ID), now = from;
        size_t n = 0;

        f->job.aside_us = 0;
        for (; now - from < SLICE_US; n++) {
            if (!one(&f->job))
                atomic_store(&f->is_bad, true);
            now = clock_us(CLOCK_THREAD_CPUTIME_ID);
        }
        (void)pthread_mutex_lock(&f->lock);
        f->cpu_us += now - from - f->job.aside_us;
        f->n += n;
        (void)pthread_mutex_unlock(&f->lock);
        (void)usleep(PAUSE_US);
    }
    return NULL;
}

int
floor_start(struct key *ca, struct key *leaf, enum floor_connect connect, struct floor_run **ret,
            struct err *e)
{
    struct floor_run *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    (void)pthread_mutex_init(&f->lock, NULL);
    bool good = job_init(&f->job, ca, leaf);
    if (good && connect != FLOOR_KEEP)
        good = handshake_new(ca, connect == FLOOR_RESUMED, &f->job.handshake, e) == 0;
    if (!good || pthread_create(&f->thread, NULL, floor_main, f) != 0) {
        job_done(&f->job);
        free(f);
        return err_set(e, E_CRYPTO, "the floor does not start");
    }
    *ret = f;
    return 0;
}

double
floor_take(struct floor_run *f)
{
    for (;;) {
        (void)pthread_mutex_lock(&f->lock);
        double us = f->n == 0 ? 0 : f->cpu_us / (double)f->n;
        bool some = f->n > 0;

        f->cpu_us = 0;
        f->n = 0;
        (void)pthread_mutex_unlock(&f->lock);
        if (atomic_load(&f->is_bad))
            return 0;
        if (some)
            return us;
        (void)usleep(PAUSE_US);
    }
}

void
floor_stop(struct floor_run *f)
{
    if (f == NULL)
        return;
    atomic_store(&f->is_over, true);
    (void)pthread_join(f->thread, NULL);
    job_done(&f->job);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}
