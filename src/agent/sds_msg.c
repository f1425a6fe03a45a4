/* sds_msg.c - SDS messages: what a request holds, and what is answered. */
#include <stdlib.h>
#include <string.h>

#include "agent/sds.h"
#include "base/str.h"
#include "identity/identity.h"
#include "pki/pem.h"
#include "sds.pb-c.h"

#define TYPE_URL "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

enum { PEM_TEXT_MAX_BYTES = 256 * 1024, KEY_TEXT_MAX_BYTES = 32 * 1024 };

/* -- content ------------------------------------------------------------------------------------
 */

int
sds_content_init(struct sds_content *c, const char *identity, struct err *e)
{
    struct span td, id = span_str(identity);

    *c = (struct sds_content){ .name = { [SDS_DEFAULT] = "default", [SDS_ROOTCA] = "ROOTCA" } };
    TRY(spiffe_uri_check(id, &td, e));
    if (id.n >= SDS_NAME_BYTES)
        return err_set(e, E_LIMIT, "a SPIFFE id of %zu bytes", id.n);
    (void)snprintf(c->name[SDS_ID], SDS_NAME_BYTES, "%s", identity);
    (void)snprintf(c->name[SDS_DOMAIN], SDS_NAME_BYTES, "spiffe://%.*s", SPAN_ARG(td));
    return 0;
}

static bool
is_key(unsigned name)
{
    return (SDS_KEYS >> name & 1) != 0;
}

const char *
sds_content_version(const struct sds_content *c, enum sds_name name)
{
    return c->version[is_key(name) ? 0 : 1];
}

/* Equal for equal content, also over a restart: a client may say in which version it holds a name.
 */
static void
set_version(char version[SDS_VERSION_BYTES], const uint8_t *id)
{
    hex_text(span_of(id, SDS_VERSION_BYTES / 2), version);
}

unsigned
sds_content_use(struct sds_content *c, const struct creds *creds)
{
    uint8_t all[(ROOTS_MAX + CRLS_MAX) * DIGEST_BYTES], id[DIGEST_BYTES];
    char before[2][SDS_VERSION_BYTES];
    size_t n = roots_count(creds->roots);

    memcpy(before, c->version, sizeof(before));
    c->creds = creds;
    for (size_t i = 0; i < n; i++)
        memcpy(all + i * DIGEST_BYTES, cert_id(roots_at(creds->roots, i)), DIGEST_BYTES);
    for (size_t i = 0; crls_are_for_all(creds->crls, creds->roots) && i < crls_count(creds->crls);
         i++)
        digest(crl_der(crls_at(creds->crls, i)), all + n++ * DIGEST_BYTES);
    digest(span_of(all, n * DIGEST_BYTES), id);
    set_version(c->version[0], cert_id(creds->leaf));
    set_version(c->version[1], id);
    return (strcmp(before[0], c->version[0]) != 0 ? SDS_KEYS : 0u) |
           (strcmp(before[1], c->version[1]) != 0 ? SDS_TRUSTS : 0u);
}

/* -- requests -----------------------------------------------------------------------------------
 */

/* What one message takes while it is read is bounded, whatever it is made of. */
static void *
bounded_alloc(void *left, size_t n)
{
    size_t *l = left;

    if (n > *l)
        return NULL;
    *l -= n;
    return malloc(n);
}

static void
bounded_free(void *left, void *p)
{
    (void)left;
    free(p);
}

/* For logs, status and comparing: cut to fit, printable. */
static void
copy_text(ProtobufCBinaryData from, char *to, size_t cap)
{
    size_t n = from.len < cap ? from.len : cap - 1;

    for (size_t i = 0; i < n; i++)
        to[i] = from.data[i] >= ' ' && from.data[i] <= '~' ? (char)from.data[i] : '?';
    to[n] = '\0';
}

static int
check_type(ProtobufCBinaryData url, struct err *e)
{
    if (span_eq_str(span_of(url.data, url.len), TYPE_URL))
        return 0;
    return err_set(e, E_PARSE, "type_url \"%.*s\" is not what is served here: " TYPE_URL,
                   url.len > 120 ? 120 : (int)url.len, url.len == 0 ? "" : (const char *)url.data);
}

/* r: the name's bit; 0 when it is not ours. */
static unsigned
name_bit(const struct sds_content *c, ProtobufCBinaryData name)
{
    for (unsigned i = 0; i < SDS_NAME__N; i++)
        if (name.len == strlen(c->name[i]) && memcmp(name.data, c->name[i], name.len) == 0)
            return 1u << i;
    return 0;
}

static int
take_names(const struct sds_content *c, const ProtobufCBinaryData *names, size_t n,
           struct sds_request *ret, struct err *e)
{
    if (n > SDS_NAMES_MAX)
        return err_set(e, E_LIMIT, "%zu names in one request; %d are possible", n,
                       (int)SDS_NAMES_MAX);
    ret->names_n = n;
    for (size_t i = 0; i < n; i++) {
        unsigned bit = name_bit(c, names[i]);

        if (bit == 0)
            copy_text(names[i], ret->strangers[ret->strangers_n++], SDS_STRANGER_BYTES);
        ret->names |= bit;
    }
    return 0;
}

static void
take_refusal(const Envoy__Sds__Status *s, struct sds_request *ret)
{
    if (s == NULL)
        return;
    ret->is_refusal = true;
    copy_text(s->message, ret->reason, SDS_REASON_BYTES);
}

static void
take_node(const Envoy__Sds__Node *n, struct sds_request *ret)
{
    if (n != NULL)
        copy_text(n->id, ret->node, SDS_NODE_BYTES);
}

static int
take_sotw(const struct sds_content *c, const Envoy__Sds__DiscoveryRequest *m,
          struct sds_request *ret, struct err *e)
{
    TRY(check_type(m->type_url, e));
    take_node(m->node, ret);
    copy_text(m->response_nonce, ret->nonce, SDS_NONCE_BYTES);
    take_refusal(m->error_detail, ret);
    return take_names(c, m->resource_names, m->n_resource_names, ret, e);
}

static int
take_delta(const struct sds_content *c, const Envoy__Sds__DeltaDiscoveryRequest *m,
           struct sds_request *ret, struct err *e)
{
    TRY(check_type(m->type_url, e));
    take_node(m->node, ret);
    copy_text(m->response_nonce, ret->nonce, SDS_NONCE_BYTES);
    take_refusal(m->error_detail, ret);
    if (m->n_resource_names_unsubscribe > SDS_NAMES_MAX ||
        m->n_initial_resource_versions > SDS_NAMES_MAX)
        return err_set(e, E_LIMIT, "more than %d names in one request", (int)SDS_NAMES_MAX);
    for (size_t i = 0; i < m->n_resource_names_unsubscribe; i++)
        ret->dropped |= name_bit(c, m->resource_names_unsubscribe[i]);
    for (size_t i = 0; i < m->n_initial_resource_versions; i++) {
        const Envoy__Sds__VersionEntry *v = m->initial_resource_versions[i];

        for (unsigned k = 0; k < SDS_NAME__N; k++)
            if (name_bit(c, v->key) == 1u << k && v->value.len > 0 &&
                span_eq_str(span_of(v->value.data, v->value.len), sds_content_version(c, k)))
                ret->current |= 1u << k;
    }
    return take_names(c, m->resource_names_subscribe, m->n_resource_names_subscribe, ret, e);
}

int
sds_request_parse(const struct sds_content *c, bool is_delta, struct span msg,
                  struct sds_request *ret, struct err *e)
{
    size_t left = SDS_UNPACK_MAX_BYTES;
    struct sds_request q = { .names_n = 0 };
    ProtobufCAllocator bounded = { bounded_alloc, bounded_free, &left };
    ProtobufCMessage *m =
        protobuf_c_message_unpack(is_delta ? &envoy__sds__delta_discovery_request__descriptor
                                           : &envoy__sds__discovery_request__descriptor,
                                  &bounded, msg.n, msg.p);

    if (m == NULL)
        return err_set(e, E_PARSE, "the request is not a %sDiscoveryRequest, or a too big one",
                       is_delta ? "Delta" : "");
    int r = is_delta ? take_delta(c, (const Envoy__Sds__DeltaDiscoveryRequest *)m, &q, e)
                     : take_sotw(c, (const Envoy__Sds__DiscoveryRequest *)m, &q, e);
    protobuf_c_message_free_unpacked(m, &bounded);
    if (r == 0)
        *ret = q;
    return r;
}

/* -- answers ------------------------------------------------------------------------------------
 */

/* The parts of an answer; nothing on the heap but the texts, of which one is a key. */
struct answer {
    struct buf chain, key, roots, lists;
    Envoy__Sds__DataSource source[4];
    Envoy__Sds__TlsCertificate leaf;
    Envoy__Sds__CertificateValidationContext trust;
    Envoy__Sds__Secret secret[SDS_NAME__N];
    Envoy__Sds__Any any[SDS_NAME__N], *anys[SDS_NAME__N];
    Envoy__Sds__Resource resource[SDS_NAME__N], *resources[SDS_NAME__N];
    size_t n;
    ProtobufCBinaryData removed[SDS_NAMES_MAX];
};

static void
answer_done(struct answer *a)
{
    buf_done(&a->chain);
    buf_wipe(&a->key);
    buf_done(&a->roots);
    buf_done(&a->lists);
}

static Envoy__Sds__DataSource *
source_of(Envoy__Sds__DataSource *s, const struct buf *b)
{
    *s = (Envoy__Sds__DataSource)ENVOY__SDS__DATA_SOURCE__INIT;
    s->inline_bytes = (ProtobufCBinaryData){ b->n, b->p };
    return s;
}

/* Nothing self-signed is in the chain: the peer has its roots. */
static int
fill_leaf(struct answer *a, const struct creds *c, struct span pkcs8, struct err *e)
{
    TRY(cert_to_pem(c->leaf, &a->chain, e));
    for (size_t i = 0; i < c->chain_n; i++)
        TRY(cert_to_pem(c->chain[i], &a->chain, e));
    TRY(pem_add(&a->key, "PRIVATE KEY", pkcs8, e));
    a->leaf = (Envoy__Sds__TlsCertificate)ENVOY__SDS__TLS_CERTIFICATE__INIT;
    a->leaf.certificate_chain = source_of(&a->source[0], &a->chain);
    a->leaf.private_key = source_of(&a->source[1], &a->key);
    return 0;
}

static int
fill_trust(struct answer *a, const struct creds *c, struct err *e)
{
    TRY(roots_to_pem(c->roots, &a->roots, e));
    a->trust =
        (Envoy__Sds__CertificateValidationContext)ENVOY__SDS__CERTIFICATE_VALIDATION_CONTEXT__INIT;
    a->trust.trusted_ca = source_of(&a->source[2], &a->roots);
    if (TRY(creds_crls_pem(c, &a->lists, e)) > 0) {
        /* there is a list for each signer of leaves; without one for each root, too, Envoy would
         * refuse every chain if it looked above the leaf */
        a->trust.crl = source_of(&a->source[3], &a->lists);
        a->trust.only_verify_leaf_cert_crl = !creds_lists_reach_roots(c);
    }
    return 0;
}

static char *
text(const char *s)
{
    return (char *)(uintptr_t)s; /* protobuf-c writes to no message that it packs */
}

static void
add_secret(struct answer *a, const struct sds_content *c, unsigned name)
{
    Envoy__Sds__Secret *s = &a->secret[a->n];
    Envoy__Sds__Any *any = &a->any[a->n];
    Envoy__Sds__Resource *r = &a->resource[a->n];

    *s = (Envoy__Sds__Secret)ENVOY__SDS__SECRET__INIT;
    s->name = text(c->name[name]);
    if (is_key(name))
        s->tls_certificate = &a->leaf;
    else
        s->validation_context = &a->trust;
    *any = (Envoy__Sds__Any)ENVOY__SDS__ANY__INIT;
    any->type_url = text(TYPE_URL);
    any->value = s;
    *r = (Envoy__Sds__Resource)ENVOY__SDS__RESOURCE__INIT;
    r->name = s->name;
    r->version = text(sds_content_version(c, name));
    r->resource = any;
    a->anys[a->n] = any;
    a->resources[a->n++] = r;
}

static int
fill(struct answer *a, const struct sds_content *c, unsigned names, struct span pkcs8,
     struct err *e)
{
    if ((names & SDS_KEYS) != 0)
        TRY(fill_leaf(a, c->creds, pkcs8, e));
    if ((names & SDS_TRUSTS) != 0)
        TRY(fill_trust(a, c->creds, e));
    for (unsigned i = 0; i < SDS_NAME__N; i++)
        if ((names >> i & 1) != 0)
            add_secret(a, c, i);
    return 0;
}

static int
pack(const ProtobufCMessage *m, struct buf *b, struct err *e)
{
    uint8_t *p;

    TRY(buf_reserve(b, protobuf_c_message_get_packed_size(m), &p, e));
    b->n += protobuf_c_message_pack(m, p);
    return 0;
}

int
sds_answer_pack(const struct sds_content *c, bool is_delta, unsigned names, struct span pkcs8,
                const char *nonce, const struct sds_request *removed, struct buf *b, struct err *e)
{
    CLEANUP(answer_done)
    struct answer a = { .chain = BUF_INIT(PEM_TEXT_MAX_BYTES),
                        .key = BUF_INIT(KEY_TEXT_MAX_BYTES),
                        .roots = BUF_INIT(PEM_TEXT_MAX_BYTES),
                        .lists = BUF_INIT(PEM_TEXT_MAX_BYTES) };
    Envoy__Sds__DiscoveryResponse whole = ENVOY__SDS__DISCOVERY_RESPONSE__INIT;
    Envoy__Sds__DeltaDiscoveryResponse delta = ENVOY__SDS__DELTA_DISCOVERY_RESPONSE__INIT;
    char version[2 * SDS_VERSION_BYTES];

    TRY(fill(&a, c, names, pkcs8, e));
    (void)snprintf(version, sizeof(version), "%s/%s", c->version[0], c->version[1]);
    if (!is_delta) {
        whole.version_info = version;
        whole.type_url = text(TYPE_URL);
        whole.nonce = text(nonce);
        whole.n_resources = a.n;
        whole.resources = a.anys;
        return pack(&whole.base, b, e);
    }
    delta.system_version_info = version;
    delta.type_url = text(TYPE_URL);
    delta.nonce = text(nonce);
    delta.n_resources = a.n;
    delta.resources = a.resources;
    for (size_t i = 0; removed != NULL && i < removed->strangers_n; i++)
        a.removed[i] = (ProtobufCBinaryData){ strlen(removed->strangers[i]),
                                              (uint8_t *)(uintptr_t)removed->strangers[i] };
    delta.n_removed_resources = removed == NULL ? 0 : removed->strangers_n;
    delta.removed_resources = a.removed;
    return pack(&delta.base, b, e);
}
