/* admin_client.h - how commands talk to the running `meshroot up`. Layer: cmd. */
#ifndef CMD_ADMIN_CLIENT_H
#define CMD_ADMIN_CLIENT_H

#include <jansson.h>

#include "base/err.h"

/* Sends to STATE_DIR/admin.sock and waits. `take_body` NULL for none; `*ret` (owner: caller) is the
 * answer's JSON. Errors: NOTFOUND (nothing runs there: says how to start it), and whatever the
 * server answered, with its code. */
MUST_USE int admin_call(const char *state_dir, const char *method, const char *path,
                        json_t *take_body, json_t **ret, struct err *e);

#endif
