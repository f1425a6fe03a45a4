/* table.c - what the child does when it is asked: loads, judges, signs, forgets. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "pki/crl.h"
#include "pki/issue.h"
#include "signer/ipc.h"

void
ipc_table_init(struct ipc_table *t, int64_t max_life_s, const char *trust_domain)
{
    memset(t, 0, sizeof(*t));
    (void)pthread_mutex_init(&t->lock, NULL);
    t->max_life_s = max_life_s;
    t->trust_domain = trust_domain;
}

static void
held_free(struct ipc_held *h)
{
    if (h == NULL)
        return;
    leaf_template_free(h->leaf); /* with it the last reference to the key */
    free(h);
}
DEFINE_CLEANUP(struct ipc_held, held_free)

void
ipc_table_done(struct ipc_table *t)
{
    for (size_t i = 0; i < SIGNER_KEYS_MAX; i++)
        held_free(t->held[i]);
    (void)pthread_mutex_destroy(&t->lock);
}

/* Under the lock. */
static struct ipc_held **
slot_of(struct ipc_table *t, uint32_t id)
{
    for (size_t i = 0; i < SIGNER_KEYS_MAX; i++)
        if (t->held[i] != NULL && t->held[i]->id == id)
            return &t->held[i];
    return NULL;
}

static struct ipc_held *
held_get(struct ipc_table *t, uint32_t id)
{
    (void)pthread_mutex_lock(&t->lock);
    struct ipc_held **slot = slot_of(t, id), *h = slot == NULL ? NULL : *slot;
    if (h != NULL)
        h->refs++;
    (void)pthread_mutex_unlock(&t->lock);
    return h;
}

static void
held_put(struct ipc_table *t, struct ipc_held *h)
{
    (void)pthread_mutex_lock(&t->lock);
    bool is_last = --h->refs == 0;
    (void)pthread_mutex_unlock(&t->lock);
    if (is_last)
        held_free(h);
}

/* -- load -- */

static int
key_read(int fd, struct key **ret, struct err *e)
{
    CLEANUP(buf_wipe) struct buf pem = BUF_INIT(PEM_MAX_BYTES + 1);
    uint8_t *to;

    TRY(buf_reserve(&pem, PEM_MAX_BYTES + 1, &to, e)); /* once: no copy is left behind by growth */
    while (pem.n <= PEM_MAX_BYTES) {
        ssize_t r = pread(fd, to + pem.n, PEM_MAX_BYTES + 1 - pem.n, (off_t)pem.n);

        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "read");
        if (r == 0)
            return key_from_pem(buf_span(&pem), ret, e);
        pem.n += r > 0 ? (size_t)r : 0;
    }
    return err_set(e, E_LIMIT, "larger than %d bytes", PEM_MAX_BYTES);
}

static int
key_check(const struct cert *cert, const struct key *key, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    if (cert_key_matches(cert, key))
        return 0;
    cert_subject_text(cert, name);
    return err_set(e, E_DENIED,
                   "the key (%s) does not match the certificate in ca-cert.pem, \"%s\" (%s)",
                   key_kind_name(key_get_kind(key)), name, key_kind_name(cert_key_kind(cert)));
}

static int
held_add(struct ipc_table *t, struct ipc_held *take_h, struct err *e)
{
    CLEANUP(held_freep) struct ipc_held *h = take_h;
    size_t i = 0;
    int r = 0;

    (void)pthread_mutex_lock(&t->lock);
    while (i < SIGNER_KEYS_MAX && t->held[i] != NULL)
        i++;
    if (slot_of(t, h->id) != NULL)
        r = err_set(e, E_EXISTS, "signer number %u is in use", h->id);
    else if (i == SIGNER_KEYS_MAX)
        r = err_set(e, E_LIMIT, "more than %d keys at one time", SIGNER_KEYS_MAX);
    else
        t->held[i] = STEAL(h);
    (void)pthread_mutex_unlock(&t->lock);
    return r;
}

static int
op_load(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *cert = NULL;
    CLEANUP(key_unrefp) struct key *key = NULL;

    (void)out;
    TRY(cert_from_der(q->body, &cert, e));
    if (!cert_is_ca(cert))
        return err_set(e, E_DENIED, "the signer's certificate is not a CA's");
    if (key_read(fd, &key, e) < 0 || key_check(cert, key, e) < 0)
        return err_wrap(e, "ca-key.pem");
    CLEANUP(held_freep) struct ipc_held *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return err_nomem(e);
    *h = (struct ipc_held){
        .refs = 1, .id = q->id, .not_after = cert_not_after(cert), .kind = cert_key_kind(cert)
    };
    TRY(leaf_template_new(cert, key, &h->leaf, e));
    return held_add(t, STEAL(h), e);
}

static int
op_load_token(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out,
              struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *cert = NULL;

    (void)fd;
    (void)out;
    TRY(cert_from_der(q->body, &cert, e));
    if (!cert_is_ca(cert))
        return err_set(e, E_DENIED, "the signer's certificate is not a CA's");
    CLEANUP(held_freep) struct ipc_held *h = calloc(1, sizeof(*h));
    if (h == NULL)
        return err_nomem(e);
    *h = (struct ipc_held){
        .refs = 1, .id = q->id, .not_after = cert_not_after(cert), .kind = cert_key_kind(cert)
    };
    TRY(leaf_template_new(cert, NULL, &h->leaf, e));
    TRY(token_key_find(t->token, cert, &h->in_token, e));
    return held_add(t, STEAL(h), e);
}

int
held_sign(const struct ipc_table *t, const struct ipc_held *h, struct span bytes,
          uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e)
{
    return t->token != NULL ? token_sign(t->token, &h->in_token, bytes, ret, ret_n, e)
                            : leaf_sign(h->leaf, bytes, ret, ret_n, e);
}

static int
op_drop(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    (void)fd;
    (void)out;
    (void)pthread_mutex_lock(&t->lock);
    struct ipc_held **slot = slot_of(t, q->id), *h = slot == NULL ? NULL : *slot;
    if (slot != NULL)
        *slot = NULL;
    (void)pthread_mutex_unlock(&t->lock);
    if (h == NULL)
        return err_set(e, E_NOTFOUND, "no signer of number %u", q->id);
    held_put(t, h);
    return 0;
}

/* -- sign -- */

/* The parent may be in other hands by now: what it wants signed is judged as if by a stranger. */
static int
times_check(const struct ipc_table *t, const struct ipc_held *h, const struct leaf_facts *f,
            struct err *e)
{
    int64_t life = f->profile == LEAF_WORKLOAD ? t->max_life_s : SIGNER_SERVER_LIFE_S;

    if (f->not_after > h->not_after)
        return err_set(e, E_DENIED, "the leaf would outlive its signer");
    if (f->not_after - f->not_before > life + SIGNER_BACKDATE_S ||
        f->not_after > unix_s() + life + SIGNER_CLOCK_S)
        return err_set(e, E_DENIED, "the leaf would live longer than the signer allows");
    return 0;
}

static int
op_sign(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    struct ipc_held *h = held_get(t, q->id);
    uint8_t signature[SIGNATURE_MAX_BYTES];
    struct leaf_facts facts;
    size_t n = 0;

    (void)fd;
    if (h == NULL)
        return err_set(e, E_NOTFOUND, "no signer of number %u", q->id);
    int r = leaf_tbs_lint(h->leaf, q->body, &facts, e);
    if (r == 0)
        r = times_check(t, h, &facts, e);
    if (r == 0)
        r = held_sign(t, h, q->body, signature, &n, e);
    held_put(t, h);
    return r < 0 ? err_wrap(e, "signer") : buf_add(out, span_of(signature, n), e);
}

static int
op_jwt(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    struct ipc_held *h = held_get(t, q->id);

    (void)fd;
    if (h == NULL)
        return err_set(e, E_NOTFOUND, "no signer of number %u", q->id);
    int r = jwt_make(t, h, q->body, out, e);
    held_put(t, h);
    return r < 0 ? err_wrap(e, "signer") : 0;
}

/* -- crl -- */

/* Lists come by file: a full one is larger than a frame. Read once, then judged and signed. */
static int
list_read(int fd, struct buf *tbs, struct err *e)
{
    uint8_t *to;

    TRY(buf_reserve(tbs, CRL_MAX_BYTES, &to, e));
    while (tbs->n < CRL_MAX_BYTES) {
        ssize_t r = pread(fd, to + tbs->n, CRL_MAX_BYTES - tbs->n, (off_t)tbs->n);

        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "read");
        if (r == 0)
            return 0;
        tbs->n += r > 0 ? (size_t)r : 0;
    }
    return err_set(e, E_LIMIT, "a list of %d bytes or more", CRL_MAX_BYTES);
}

/* A list from the past would give leaves back; one from the future, or without an end, would
 * outlive what is known. The numbers of one signer only grow (RFC 5280 5.2.3). */
static int
list_check(struct ipc_table *t, struct ipc_held *h, const struct crl_facts *f, struct err *e)
{
    int64_t now = unix_s(), life = t->max_life_s + SIGNER_CRL_LIFE_S;

    if (f->this_update < now - SIGNER_BACKDATE_S || f->this_update > now + SIGNER_CLOCK_S)
        return err_set(e, E_DENIED, "the list is not of now");
    if (f->next_update > now + life + SIGNER_CLOCK_S)
        return err_set(e, E_DENIED, "the list would be good for longer than the signer allows");
    (void)pthread_mutex_lock(&t->lock);
    bool grows = f->number > h->crl_number;
    if (grows)
        h->crl_number = f->number;
    (void)pthread_mutex_unlock(&t->lock);
    return grows ? 0 : err_set(e, E_DENIED, "the list's number is not greater than the last one's");
}

static int
op_crl(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    CLEANUP(buf_done) struct buf tbs = BUF_INIT(CRL_MAX_BYTES);
    struct ipc_held *h = held_get(t, q->id);
    uint8_t signature[SIGNATURE_MAX_BYTES];
    struct crl_facts facts;
    size_t n = 0;

    if (h == NULL)
        return err_set(e, E_NOTFOUND, "no signer of number %u", q->id);
    int r = list_read(fd, &tbs, e);
    if (r == 0)
        r = crl_tbs_lint(h->leaf, buf_span(&tbs), &facts, e);
    if (r == 0)
        r = list_check(t, h, &facts, e);
    if (r == 0)
        r = held_sign(t, h, buf_span(&tbs), signature, &n, e);
    held_put(t, h);
    return r < 0 ? err_wrap(e, "signer") : buf_add(out, span_of(signature, n), e);
}

/* -- make -- */

static int
key_write(int fd, struct span pem, struct err *e)
{
    TRY(ipc_file_write(fd, pem, e));
    return fsync(fd) < 0 ? err_sys(e, errno, "sync") : 0;
}

static int
op_make(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out, struct err *e)
{
    CLEANUP(buf_wipe) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(key_unrefp) struct key *key = NULL;
    CLEANUP(cert_unrefp) struct cert *root = NULL;
    char subject[NAME_TEXT_BYTES];
    struct ca_request r = { .subject = subject, .days = q->tag, .path_len = -1 };

    (void)t;
    (void)snprintf(subject, sizeof(subject), "%.*s", SPAN_ARG(q->body));
    TRY(key_make(KEY_P256, &key, e));
    TRY(root_make(&r, key, &root, e));
    TRY(key_to_pem(key, &pem, e));
    if (key_write(fd, buf_span(&pem), e) < 0)
        return err_wrap(e, "ca-key.pem");
    return buf_add(out, cert_der(root), e);
}

/* -- the table -- */

enum key_place { KEY_EITHER, KEY_FROM_FILE, KEY_IN_TOKEN };

static const struct {
    bool control_only, with_file;
    enum key_place key; /* where keys must be for it */
    size_t min, max;    /* bytes of the body */
    int (*run)(struct ipc_table *t, const struct ipc_frame *q, int fd, struct buf *out,
               struct err *e);
} ops[IPC__N] = {
    [IPC_LOAD] = { true, true, KEY_FROM_FILE, 1, IPC_BODY_MAX_BYTES, op_load },
    [IPC_SIGN] = { false, false, KEY_EITHER, 1, TBS_MAX_BYTES, op_sign },
    [IPC_DROP] = { true, false, KEY_EITHER, 0, 0, op_drop },
    [IPC_MAKE] = { true, true, KEY_FROM_FILE, 1, NAME_TEXT_BYTES - 1, op_make },
    [IPC_CRL] = { true, true, KEY_EITHER, 0, 0, op_crl },
    [IPC_JWT] = { false, false, KEY_EITHER, 1, TBS_MAX_BYTES, op_jwt },
    [IPC_LOAD_TOKEN] = { true, false, KEY_IN_TOKEN, 1, IPC_BODY_MAX_BYTES, op_load_token },
};

static int
request_check(const struct ipc_table *t, const struct ipc_frame *q, bool is_control, int fd,
              struct err *e)
{
    if (q->code == IPC_NONE || q->code >= IPC__N || (ops[q->code].control_only && !is_control))
        return err_set(e, E_DENIED, "signer: no such request here");
    if (ops[q->code].key == (t->token == NULL ? KEY_IN_TOKEN : KEY_FROM_FILE))
        return err_set(e, E_DENIED,
                       t->token == NULL ? "signer: there is no token here"
                                        : "signer: the keys are in a token, none comes as a file");
    if (ops[q->code].with_file != (fd >= 0))
        return err_set(e, E_DENIED, "signer: a file where none belongs, or none");
    if (q->body.n < ops[q->code].min || q->body.n > ops[q->code].max)
        return err_set(e, E_LIMIT, "signer: a request of %zu bytes", q->body.n);
    return 0;
}

int
ipc_serve(struct ipc_table *t, const struct ipc_frame *q, bool is_control, int fd, struct buf *out,
          struct err *e)
{
    struct buf answer = BUF_INIT(IPC_BODY_MAX_BYTES);
    struct ipc_frame f = { .id = q->id, .tag = q->tag };
    struct err why = { .code = E_NONE };

    int r = request_check(t, q, is_control, fd, &why);
    if (r == 0)
        r = ops[q->code].run(t, q, fd, &answer, &why);
    f.code = r < 0 ? (uint32_t)why.code : E_NONE;
    f.body = r < 0 ? span_str(why.msg) : buf_span(&answer);
    r = ipc_put(out, &f, e);
    buf_done(&answer);
    return r;
}
