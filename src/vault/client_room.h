/* client_room.h - private to vault/client*.c. */
#ifndef VAULT_CLIENT_ROOM_H
#define VAULT_CLIENT_ROOM_H

#include "vault/challenge.h"
#include "vault/client.h"
#include "vault/secret_json.h"

enum {
    TOKEN_MAX_BYTES = 16 * 1024,
    TOKEN_EARLY_S = 300, /* a token is not used in its last minutes */
    TOKEN_MAX_LIFE_S = 24 * 3600,
    FIELD_BYTES = 256, /* tenant, client id */
    PATH_BYTES = 2048,
    BODY_BYTES = 256 * 1024,
    TEXT_SHOWN = 300, /* of what the other side says */
};

#define API_VERSION "7.4"

enum call_kind { CALL_ONE, CALL_VERSION, CALL_LIST };

struct vault_call {
    struct vault_client *client;
    struct vault_call *next, **prev; /* in client->calls */
    enum call_kind kind;
    const char *method;
    char path[PATH_BYTES]; /* with query */
    char what[SECRET_NAME_BYTES + 32];
    struct buf body; /* wiped */
    struct http_request *http;
    bool has_token, had_retry, waits; /* for the token */
    unsigned pages;
    vault_secret_fn *item, *done;
    void *arg;
};

struct vault_client {
    struct loop *loop;
    struct http_client *http;
    struct origin origin;
    char base[ORIGIN_BYTES], *ca_file, tenant[FIELD_BYTES], client_id[FIELD_BYTES];
    struct secret *client_secret; /* or one of the next two */
    char *assertion_file;
    char *imds; /* the platform's endpoint for tokens */
    bool has_authority;
    struct origin authority; /* of the configuration */
    uint64_t timeout_ms;
    struct vault_call *calls;
    size_t calls_n;
    bool knows; /* `challenge` has been seen and may be answered */
    struct challenge challenge;
    struct secret *token;       /* "Authorization: Bearer ..."; NULL without one */
    uint64_t token_ends_ms;     /* when it is no longer used */
    struct http_request *fetch; /* of a token */
};

/* Makes (or waits to make) the next request of `q`; on failure the call ends. */
void call_send(struct vault_call *q);
/* Ends the call; *e gets its name in front. */
void call_fail(struct vault_call *q, struct err *e);
/* An answer that is not 200, in words. Returns -code. */
int answer_error(const struct http_answer *a, struct err *e);

bool token_usable(const struct vault_client *c);
void token_drop(struct vault_client *c);
/* Starts a fetch unless one is under way; calls with `waits` go on, or fail, when it ends. */
MUST_USE int token_fetch(struct vault_client *c, struct err *e);

#endif
