/* admin.h - the calls that a daemon takes on STATE/admin.sock: JSON over HTTP, for the commands of
 * the same user. Layer: net. Thread: its loop.
 *
 * One table of routes for each room that has some; errors go out with their code, so that the
 * command ends with the same words and exit status.
 */
#ifndef NET_ADMIN_H
#define NET_ADMIN_H

#include <jansson.h>

#include "net/http.h"
#include "net/monitor.h"

struct admin_route {
    const char *method, *path; /* "POST", "/v1/ca/revoke"; both NULL ends a table */
    void (*serve)(void *self, struct http_exchange *x);
};

struct admin_conf {
    const char *state_dir; /* the socket is STATE/admin.sock, 0600 */
    struct {
        const struct admin_route *routes; /* borrowed */
        void *self;
    } tables[4];             /* asked in this order; routes NULL: no more */
    struct metrics *metrics; /* borrowed */
    struct monitor *monitor; /* its pages are served here too; borrowed */
};

struct admin;
/* Errors: STATE (another process serves there), SYS, NOMEM. Owner: caller. */
MUST_USE int admin_new(struct loop *l, const struct admin_conf *conf, struct admin **ret,
                       struct err *e);
void admin_free(struct admin *a); /* NULL is fine */

/* Ends an exchange with JSON, which is taken; NULL: out of memory. */
void admin_reply(struct http_exchange *x, int status, json_t *take_j);
void admin_reply_err(struct http_exchange *x, const struct err *e);

#endif
