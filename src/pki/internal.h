/* internal.h - what the files of pki/ share and nobody else needs. Layer: pki. */
#ifndef PKI_INTERNAL_H
#define PKI_INTERNAL_H

#include "pki/openssl.h"

/* X509_NAME to the text of cert_subject_text; cut with "..." when it is longer. */
void name_text(const X509_NAME *n, char ret[NAME_TEXT_BYTES]);

/* Extended key usage, where present, allows both serverAuth and clientAuth. */
bool x509_usage_fits(X509 *x);
/* Valid at wall time now. Errors: DENIED ("\"CN=..\" expired at .. (now ..)", "not valid before").
 */
MUST_USE int cert_check_time(const struct cert *c, struct err *e);

#endif
