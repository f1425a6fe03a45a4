/* ipc.h - private to signer/: frames between the CA and its signer, and the child's half without
 * I/O: bytes in, bytes out. Native byte order: both ends are one binary on one machine. */
#ifndef SIGNER_IPC_H
#define SIGNER_IPC_H

#include <pthread.h>

#include "base/buf.h"
#include "pki/leaf.h"
#include "signer/signer.h"
#include "signer/token.h"

/* clang-format off */
enum ipc_op { IPC_NONE, IPC_LOAD, IPC_SIGN, IPC_DROP, IPC_MAKE, IPC_CRL, IPC_LOAD_TOKEN, IPC_JWT,
              IPC__N };
/* clang-format on */

enum {
    IPC_HEAD_BYTES = 24,
    IPC_BODY_MAX_BYTES = 16 * 1024,
    IPC_FRAME_MAX_BYTES = IPC_HEAD_BYTES + IPC_BODY_MAX_BYTES,
    IPC_BATCH_BYTES = 64 * 1024, /* of one read or write */
    IPC_HOLD_MS = 40,            /* an answer waits so long for others of its batch */
    IPC_CONTROL_FD = 3,          /* the child's; lanes follow */
};

struct ipc_frame {
    uint32_t code; /* a request's ipc_op; an answer's err_code */
    uint32_t id;   /* the signer's number */
    uint64_t tag;  /* the caller's, returned; IPC_MAKE: days */
    struct span body;
};

MUST_USE int ipc_put(struct buf *b, const struct ipc_frame *f, struct err *e);
/* Takes one frame off the front of *s. r: 0; IPC_MORE it is not complete. Errors: PARSE (a length
 * above the bound). */
enum { IPC_MORE = 1 };
MUST_USE int ipc_take(struct span *s, struct ipc_frame *ret, struct err *e);

/* All of `s` to an open file. Errors: SYS. */
MUST_USE int ipc_file_write(int fd, struct span s, struct err *e);

/* What the child says first, as the body of a frame. */
struct ipc_hello {
    int32_t landlock_abi;
    uint32_t memory_locked;
    uint32_t module_threads;      /* of the PKCS#11 module: Landlock does not bind them */
    char token[TOKEN_NAME_BYTES]; /* "": keys come as files */
};

/* The tag of a frame that nobody asked for, on the control channel: why the child ends now. */
#define IPC_LAST_WORDS UINT64_MAX

/* -- the child's table of signers: any of its threads -- */

struct ipc_held { /* one certificate and its key */
    unsigned refs;
    uint32_t id;
    int64_t not_after;
    enum key_kind kind;
    struct leaf_template *leaf;
    uint64_t crl_number;       /* the greatest that was signed here; under the table's lock */
    struct token_key in_token; /* when the table has a token */
};

struct ipc_table {
    pthread_mutex_t lock; /* of held and every refs */
    struct ipc_held *held[SIGNER_KEYS_MAX];
    int64_t max_life_s;
    const char *trust_domain; /* of JWT-SVIDs; "": none is made */
    struct token *token;      /* NULL: keys come as files; else none does */
};
/*   trust_domain   borrowed for the table's life */
void ipc_table_init(struct ipc_table *t, int64_t max_life_s, const char *trust_domain);
void ipc_table_done(struct ipc_table *t);

/* The one place where a held key is used: as leaf_sign. */
MUST_USE int held_sign(const struct ipc_table *t, const struct ipc_held *h, struct span bytes,
                       uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e);
/* jwt.c: one JWT-SVID in compact form, appended. `body`: kid, subject, each audience, each ended by
 * a NUL. Errors: PARSE, DENIED (which rule), LIMIT, INVAL (this kind of key); as held_sign. */
MUST_USE int jwt_make(const struct ipc_table *t, const struct ipc_held *h, struct span body,
                      struct buf *out, struct err *e);

/* Answers one request: exactly one frame is appended to `out`.
 *   is_control   lanes may only sign
 *   fd           the file that came with it, borrowed; -1 none
 * Errors: LIMIT, NOMEM (of `out`): the caller gives up. */
MUST_USE int ipc_serve(struct ipc_table *t, const struct ipc_frame *q, bool is_control, int fd,
                       struct buf *out, struct err *e);

#endif
