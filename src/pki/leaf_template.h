/* leaf_template.h - private to pki/: what leaf.c and leaf_lint.c share. */
#ifndef PKI_LEAF_TEMPLATE_H
#define PKI_LEAF_TEMPLATE_H

#include <openssl/evp.h>

#include "pki/leaf.h"

enum { LEAF_FIXED_MAX = 256, LEAF_ISSUER_MAX = 1024, LEAF_SANS_MAX = 8, LEAF_AKI_MAX = 64 };

/* The extension parts that never change, as DER; written from and linted against. */
extern const uint8_t leaf_ext_eku[], leaf_ext_basic[];
extern const size_t leaf_ext_eku_n, leaf_ext_basic_n;
extern const uint8_t leaf_oid_aki[3], leaf_oid_san[3];

struct leaf_template {
    EVP_MD_CTX *sign;      /* initialised; copied for each signature; NULL: without the key */
    struct span algorithm; /* AlgorithmIdentifier, DER, static */
    uint8_t issuer[LEAF_ISSUER_MAX]; /* Name, DER */
    size_t issuer_n;
    uint8_t fixed[LEAF_FIXED_MAX]; /* EKU, BC and AKI extensions, DER */
    size_t fixed_n;
    uint8_t ski[LEAF_AKI_MAX]; /* of the signer; ski_n 0: it has none */
    size_t ski_n;
};

/* The key usage extension of a leaf with this SubjectPublicKeyInfo, DER; static. */
struct span leaf_key_usage(struct span spki);

/* One SAN as the GeneralName it becomes: its context tag and content; `ip` holds an address's
 * bytes. Errors: INVAL. */
MUST_USE int leaf_san(const char *text, uint8_t *ret_tag, struct span *ret, uint8_t ip[16],
                      struct err *e);

#endif
