/* csr_forms.h - private to pki/: the keys and signatures that a CSR may have. */
#ifndef PKI_CSR_FORMS_H
#define PKI_CSR_FORMS_H

#include "pki/leaf.h"

enum {
    CSR_CURVES = 3,
    CSR_ALGORITHMS = 7,
    RSA_MIN_BITS = 2048,
    RSA_MAX_BITS = 8192,
};

extern const struct csr_curve {
    struct span oid;
    enum key_kind kind;
    size_t point_bytes; /* uncompressed */
    const char *name;
} csr_curves[CSR_CURVES];

/* How a CSR may be signed, by the family of its key. */
enum csr_family { FAMILY_EC, FAMILY_RSA, FAMILY_ED };
extern const struct csr_algorithm {
    struct span oid;
    enum csr_family family;
    const char *hash; /* NULL: the scheme hashes by itself */
} csr_algorithms[CSR_ALGORITHMS];

enum csr_family csr_family_of(enum key_kind kind);

/* The three parts of the outer SEQUENCE; the algorithm looked up. Errors: PARSE, DENIED. */
MUST_USE int csr_outer(struct span der, struct span *ret_tbs, const struct csr_algorithm **ret_alg,
                       struct span *ret_signature, struct err *e);

#endif
