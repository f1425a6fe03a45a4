/* sync.h - vault to bundle: polls, pairs, checks; one consistent set, or nothing. Layer: sync.
 * Thread: its loop. Source: design.md invariants 1, 6, 8; specs/azure.md 1; specs/peers.md
 * finding 3.
 */
#ifndef SYNC_SYNC_H
#define SYNC_SYNC_H

#include <jansson.h>

#include "net/loop.h"
#include "obs/metrics.h"
#include "pki/bundle.h"
#include "vault/client.h"

enum { VERSION_TEXT_BYTES = 64 };

/* Which version of which secret a bundle came from: the set's name, pinned by a rotation plan (the
 * four; the lists are not the signer's). v[PART_CA_CRL] is "" when there are no lists. */
struct sync_versions {
    char v[PART__ALL][VERSION_TEXT_BYTES];
};

struct sync;

/* How sync reports itself when nothing else is asked of it. */
enum {
    SYNC_CONFIRM_MS = 250, /* from a new look at the vault to the second one that must agree */
    SYNC_ERROR_MAX_MS =
        60 * 1000, /* the longest pause after errors (a shorter poll interval caps it) */
};

struct sync_conf {
    /* Reads one secret (version NULL: the latest) and calls done exactly once, never before it
     * returns: vault_get with its client in production. */
    int (*get)(void *self, const char *name, const char *version, vault_secret_fn *done, void *arg,
               struct err *e);
    void *self;
    const char *vault_url;               /* for status and messages; copied */
    const char *object_names[PART__ALL]; /* secret names, copied; no ca-crl (NULL, ""): no lists */
    uint64_t poll_ms;                    /* 1 s .. 24 h */
    struct metrics *metrics;             /* may be NULL */
    /* A whole, checked set of other versions than the last one given. `b` and `v` are borrowed.
     * bundle_lists(b) are the vault's; NULL with a version of theirs in `v`: the vault has some and
     * they are not to be used, so that those in force stay. */
    void (*on_bundle)(struct bundle *b, const struct sync_versions *v, void *arg);
    /* What the vault holds is no bundle, or the vault does not answer: once per new reason. */
    void (*on_refused)(const struct err *why, void *arg);
    void *arg;
};

/* The first poll is at once. Errors: INVAL, NOMEM. */
MUST_USE int sync_new(struct loop *l, const struct sync_conf *conf, struct sync **ret,
                      struct err *e);
/* The calls under way behind `get` must not answer any more (vault_client_free). Fetches under way
 * are done: BUSY. NULL is fine. */
void sync_free(struct sync *s);

/* Fetches one pinned set, whatever is latest now; done once on the loop (b NULL: `why`). For
 * restarts. */
typedef void sync_fetched_fn(struct bundle *b, const struct err *why, void *arg);
MUST_USE int sync_fetch(struct sync *s, const struct sync_versions *v, sync_fetched_fn *done,
                        void *arg, struct err *e);

/* {"vault","poll_interval","last_success","last_error","requests","versions":{...},"pairing":"...",
 * "lists":{"state":"off|none|used|refused","error"}}; owner: caller. */
json_t *sync_status(const struct sync *s);

/* -- the directory target: what the CA reads -----------------------------------------------------
 */

/* What goes with the files, as manifest.json in the same set. */
struct set_manifest {
    uint64_t generation;
    struct sync_versions versions; /* of the signer's set; empty for a self-signed bundle */
    bool self_signed;
    uint64_t renew_window_ms; /* leaves not under this signer are told to renew within it; 0: at
                                 half-life */
    struct err lists_why; /* not in the file; code E_NONE: the lists beside it are used, or there
                             are none */
};

/* The files of a set: the four, ca-crl.pem, manifest.json; the last two may be absent. */
enum { SET_MANIFEST = PART__ALL, SET_FILES };
extern const char *const set_file_names[SET_FILES];

/* One atomic swap (fileset): root-cert.pem is b's roots, keys 0600. Errors: SYS. Blocks: disk. */
MUST_USE int set_write(const char *dir, const struct bundle *b, const struct set_manifest *m,
                       struct err *e);
/* manifest.json of that set. Errors: LIMIT, NOMEM. */
MUST_USE int set_manifest_text(const struct bundle *b, const struct set_manifest *m,
                               struct buf *out, struct err *e);
/* The same with a key that another process wrote to `key_path`, which is moved into the set: `b` is
 * without its key. */
MUST_USE int set_write_moved(const char *dir, const struct bundle *b, const struct set_manifest *m,
                             const char *key_path, struct err *e);
/* From what fileset_read or filewatch gave for set_file_names. Without a manifest: generation 0.
 * Files other tools wrote are fine. Lists that may not go with the four (garbage, not signed by one
 * of them) block nothing: the bundle is without, and ret_m->lists_why says why. r: 0; SET_ABSENT
 * none of the four is there. Errors: as bundle_new; DENIED (some are missing: which; the lists
 * revoke the intermediate: bundle_lists_spare). */
enum { SET_ABSENT = 1 };
MUST_USE int set_parse(const struct buf *bufs, const bool *present, struct bundle **ret,
                       struct set_manifest *ret_m, struct err *e);

/* The same from what fileset_read_sealed gave with PART_CA_KEY sealed: the key must be there,
 * unless it is in a token, and is not looked at (bundle_new_public). */
MUST_USE int set_parse_public(const struct buf *bufs, const bool *present, bool is_key_in_token,
                              struct bundle **ret, struct set_manifest *ret_m, struct err *e);

#endif
