/* openssl.h - for pki/, signer/ and net/tls*.c only: the OpenSSL objects behind pki.h. Layer: pki.
 * All borrowed; valid as long as the object they come from. */
#ifndef PKI_OPENSSL_H
#define PKI_OPENSSL_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "pki/pki.h"

EVP_PKEY *key_evp(const struct key *k);
X509 *cert_x509(const struct cert *c);
X509_STORE *roots_store(const struct roots *r);

#endif
