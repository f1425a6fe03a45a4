#include "cmd/admin_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/str.h"
#include "net/http.h"

enum { ANSWER_MAX_BYTES = 16 * 1024 * 1024, CALL_TIMEOUT_MS = 30 * 1000 };

/* The server's own words, with the code that makes the exit status. */
static int
refused(const json_t *answer, int status, struct err *e)
{
    const json_t *error = json_object_get(answer, "error");
    const char *msg = json_string_value(json_object_get(error, "message"));
    json_int_t number = json_integer_value(json_object_get(error, "number"));

    if (msg == NULL || number <= E_NONE || number >= E__MAX)
        return err_set(e, E_PEER, "meshroot up answered HTTP %d", status);
    return err_set(e, (enum err_code)number, "%s", msg);
}

int
admin_call(const char *state_dir, const char *method, const char *path, json_t *take_body,
           json_t **ret, struct err *e)
{
    CLEANUP(str_freep) char *sock = NULL;
    CLEANUP(str_freep) char *body = take_body == NULL ? NULL : json_dumps(take_body, JSON_COMPACT);
    CLEANUP(str_freep) char *url = NULL;
    struct buf answer = BUF_INIT(ANSWER_MAX_BYTES);
    int status = 0;

    json_decref(take_body);
    TRY(str_format(&sock, e, "%s/admin.sock", state_dir));
    TRY(str_format(&url, e, "http://localhost%s", path));
    if (access(sock, R_OK | W_OK) < 0 && errno == EACCES)
        return err_set(e, E_DENIED,
                       "%s is not ours: ask as the user that runs meshroot up (sudo -u USER)",
                       sock);
    if (access(sock, F_OK) < 0)
        return err_set(e, E_NOTFOUND,
                       "no meshroot runs on %s; start one with: meshroot up --state-dir %s",
                       state_dir, state_dir);
    struct http_request_conf q = {
        .method = method,
        .url = url,
        .body = span_str(body),
        .unix_socket = sock,
        .timeout_ms = CALL_TIMEOUT_MS,
        .max_body_bytes = ANSWER_MAX_BYTES,
    };
    int r = http_fetch(&q, &status, &answer, e);
    if (r < 0) {
        buf_done(&answer);
        return err_wrap(e, "%s (is meshroot up running?)", sock);
    }
    json_t *j = json_loadb(buf_text(&answer), answer.n, 0, NULL);
    buf_done(&answer);
    if (status != 200) {
        r = refused(j, status, e);
        json_decref(j);
        return r;
    }
    if (j == NULL)
        return err_set(e, E_PEER, "%s answered something that is no JSON", sock);
    *ret = j;
    return 0;
}
