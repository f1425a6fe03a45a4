/* pki_tool.h - what the pki commands share: files in, files out, certificates as text and JSON.
 * Layer: cmd. None of this opens a socket. */
#ifndef CMD_PKI_TOOL_H
#define CMD_PKI_TOOL_H

#include <sys/types.h>

#include "base/buf.h"
#include "cmd/tool.h"
#include "pki/pki.h"

#define ROOT_KEY_FILE "root-key.pem"

/* "p256|p384|..." as OPT_CHOICE wants it; ed25519 is left out: Envoy and Istio do not take it. */
#define KEY_TYPES "p256|p384|rsa2048|rsa3072|rsa4096|ed25519"

enum { OUT_FILES_MAX = 8 };

/* One file of a set that is about to be written. */
struct out_file {
    const char *name; /* "root-cert.pem"; borrowed */
    mode_t mode;
    struct buf data; /* owned by the caller: out_done */
};
struct out {
    size_t n;
    struct out_file v[OUT_FILES_MAX];
};
#define OUT_INIT ((struct out){ .n = 0 })

/* A new empty file of the set; the caller fills its data. n < OUT_FILES_MAX is the caller's care.
 */
struct buf *out_add(struct out *o, const char *name, mode_t mode);
/* Writes all into `dir`, making it if need be. Without `force` nothing is written when one of them
 * exists. When one cannot be written, those before it are put back as they were. Errors: EXISTS
 * (names the file, and --force), SYS. */
MUST_USE int out_write(const struct out *o, const char *dir, bool force, struct err *e);
/* Wipes; for CLEANUP. */
void out_done(struct out *o);

/* DIR/name, or name when dir is NULL, whole. Errors: NOTFOUND, SYS, LIMIT. */
MUST_USE int read_input(const char *dir, const char *name, struct buf *b, struct err *e);

/* The offline root in `dir`: of the certificates in root-cert.pem, the one that root-key.pem
 * belongs to. References, the caller's. Errors: NOTFOUND, PARSE, DENIED. */
MUST_USE int root_read(const char *dir, struct cert **ret_cert, struct key **ret_key,
                       struct err *e);

/* Facts of a certificate for people, indented by `indent`, and for programs; owner: caller. */
void cert_print(const struct cert *c, int indent);
json_t *cert_json(const struct cert *c);

#endif
