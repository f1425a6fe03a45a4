/* jwt.c - JWT-SVIDs for the Workload API, from the CA: meshroot.v1.Trust/SignJwt. */
#include <stdlib.h>

#include "agent/room.h"
#include "agent/workload_jwt.h"
#include "base/str.h"
#include "meshroot.pb-c.h"
#include "obs/log.h"

#define JWT_PATH "/meshroot.v1.Trust/SignJwt"

enum { QUESTION_MAX_BYTES = 8 * 1024 };

struct jwt_call { /* one question under way */
    struct jwt_call *next, **link;
    struct agent *agent;
    struct jwt_ask *ask; /* NULL: nobody waits any more */
    struct grpc_request *request;
    struct buf token;
};

static void
call_free(struct jwt_call *q)
{
    *q->link = q->next;
    if (q->next != NULL)
        q->next->link = q->link;
    buf_done(&q->token);
    free(q);
}

static void
on_message(struct span msg, void *arg)
{
    struct jwt_call *q = arg;
    Meshroot__V1__JwtAnswer *m = meshroot__v1__jwt_answer__unpack(NULL, msg.n, msg.p);
    struct err e;

    q->token.n = 0;
    if (m == NULL || buf_add_str(&q->token, m->token, &e) < 0)
        q->token.n = 0; /* on_done tells */
    if (m != NULL)
        meshroot__v1__jwt_answer__free_unpacked(m, NULL);
}

static void
on_done(int code, const char *msg, const struct grpc_request *request, void *arg)
{
    struct jwt_call *q = arg;

    (void)request;
    if (code != GRPC_OK && q->ask != NULL)
        log_warn("jwt", "the CA gives no JWT-SVID: code = %s desc = %.350s", grpc_code_name(code),
                 msg);
    if (q->ask == NULL) {
        call_free(q); /* nobody waits any more */
        return;
    }
    if (code == GRPC_OK && q->token.n == 0)
        workload_jwt_answer(q->ask, span_str(""), GRPC_UNAVAILABLE, "the CA's answer is no token");
    else if (code == GRPC_UNAUTHENTICATED || code == GRPC_PERMISSION_DENIED)
        workload_jwt_answer(q->ask, span_str(""), GRPC_UNAVAILABLE,
                            "the CA does not know this agent just now; try again");
    else
        workload_jwt_answer(q->ask, buf_span(&q->token), code, msg);
    call_free(q);
}

static int
question_pack(const char *const *audiences, size_t n, struct buf *out, struct err *e)
{
    Meshroot__V1__JwtRequest m = MESHROOT__V1__JWT_REQUEST__INIT;
    char *all[JWT_ASK_AUDIENCES];
    uint8_t *to;

    for (size_t i = 0; i < n; i++)
        all[i] = (char *)(uintptr_t)audiences[i]; /* only read */
    m.n_audiences = n;
    m.audiences = all;
    TRY(buf_reserve(out, meshroot__v1__jwt_request__get_packed_size(&m), &to, e));
    out->n += meshroot__v1__jwt_request__pack(&m, to);
    return 0;
}

int
agent_jwt_ask(struct jwt_ask *ask, const char *const *audiences, size_t n, void *arg, struct err *e)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(QUESTION_MAX_BYTES);
    struct agent *a = arg;

    TRY(question_pack(audiences, n, &msg, e));
    struct jwt_call *q = calloc(1, sizeof(*q));
    if (q == NULL)
        return err_nomem(e);
    *q = (struct jwt_call){ .next = a->jwt_calls, .link = &a->jwt_calls, .agent = a, .ask = ask };
    q->token = BUF_INIT(QUESTION_MAX_BYTES);
    if (q->next != NULL)
        q->next->link = &q->next;
    a->jwt_calls = q;
    const struct grpc_answer answer = { on_message, on_done, q };
    int r = agent_call(a, JWT_PATH, 0, buf_span(&msg), CALL_MS, &answer, &q->request, e);
    if (r < 0)
        call_free(q);
    return r;
}

void
agent_jwt_cancel(struct agent *a)
{
    for (struct jwt_call *q = a->jwt_calls, *next; q != NULL; q = next) {
        next = q->next;
        q->ask = NULL;
        grpc_cancel(q->request); /* on_done frees it */
    }
}
