/* digest.c - SHA-256 that cannot fail.
 *
 * What OpenSSL 3 wants one to use (EVP_Digest, and SHA256() on top of it) takes memory for each
 * text, and a certificate's id has nobody to tell that there was none. The calls below it work on
 * the stack: that they are "deprecated" says that they take no other provider's code.
 */
#define OPENSSL_SUPPRESS_DEPRECATED

#include <openssl/sha.h>

#include "pki/pki.h"

_Static_assert(DIGEST_BYTES == SHA256_DIGEST_LENGTH, "a digest is SHA-256's");

void
digest(struct span s, uint8_t ret[DIGEST_BYTES])
{
    SHA256_CTX c;

    /* each returns 1, whatever it is given */
    (void)SHA256_Init(&c);
    (void)SHA256_Update(&c, s.p, s.n);
    (void)SHA256_Final(ret, &c);
}
