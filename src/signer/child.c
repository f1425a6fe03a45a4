/* child.c - the signer's own process: from its start to the end of its parent. */
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "signer/ipc.h"
#include "signer/sandbox.h"

enum { STACK_BYTES = 1024 * 1024, SPARE_FDS = 8, MODULE_FDS = 256 };

struct child_args {
    size_t lanes;
    int64_t max_life_s;
    const char *trust_domain;
    const char *token_uri, *reads; /* NULL: none */
};

struct lane {
    int fd;
    pthread_barrier_t *started;
    struct ipc_table *table;
};

/* The socket's other end has gone: so has every reason to be here. No destructors: the keys go with
 * the address space. */
static _Noreturn void
leave(void)
{
    _exit(0);
}

static void
write_all(int fd, struct buf *b)
{
    for (struct span s = buf_span(b); s.n > 0;) {
        ssize_t r = write(fd, s.p, s.n);

        if (r < 0 && errno != EINTR)
            leave();
        if (r > 0)
            s = span_skip(s, (size_t)r);
    }
    b->n = 0;
}

/* -- a lane: many requests for each read, many answers for each write -- */

/* The token is lost: the next child logs in anew. What it was is said on the control channel. */
static void
leave_if_lost(const struct ipc_table *t)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    const char *why = t->token == NULL ? NULL : token_lost(t->token);
    struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct err e;

    if (why == NULL)
        return;
    (void)pthread_mutex_lock(&once);
    const struct ipc_frame f = { .code = E_PEER, .tag = IPC_LAST_WORDS, .body = span_str(why) };
    if (ipc_put(&out, &f, &e) == 0)
        write_all(IPC_CONTROL_FD, &out);
    leave();
}

static void
batch_serve(const struct lane *l, struct buf *in, struct buf *out)
{
    struct span s = buf_span(in);
    struct ipc_frame q;
    struct err e;
    uint64_t from = mono_ms();
    int r;

    while ((r = ipc_take(&s, &q, &e)) == 0) {
        if (ipc_serve(l->table, &q, false, -1, out, &e) < 0)
            leave();
        /* slow keys: nobody waits long for the rest of the batch */
        if (mono_ms() - from >= IPC_HOLD_MS || out->n > IPC_BATCH_BYTES / 2) {
            write_all(l->fd, out);
            from = mono_ms();
        }
    }
    if (r < 0)
        leave();
    write_all(l->fd, out);
    leave_if_lost(l->table);
    if (s.n > 0)
        memmove(in->p, s.p, s.n);
    in->n = s.n;
}

static void *
lane_main(void *arg)
{
    const struct lane *l = arg;

    (void)pthread_barrier_wait(l->started);
    struct buf in = BUF_INIT(IPC_BATCH_BYTES), out = BUF_INIT(IPC_BATCH_BYTES);
    uint8_t *to;
    struct err e;

    for (;;) {
        if (buf_reserve(&in, in.max - in.n, &to, &e) < 0)
            leave();
        ssize_t r = read(l->fd, to, in.max - in.n);
        if (r == 0 || (r < 0 && errno != EINTR))
            leave();
        if (r > 0) {
            in.n += (size_t)r;
            batch_serve(l, &in, &out);
        }
    }
}

static int
lanes_start(struct ipc_table *t, size_t n, struct err *e)
{
    static struct lane lanes[SIGNER_LANES_MAX];
    static pthread_barrier_t started;
    pthread_attr_t attr;

    (void)pthread_barrier_init(&started, NULL, (unsigned)n + 1);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK_BYTES);
    for (size_t i = 0; i < n; i++) {
        pthread_t thread;

        lanes[i] = (struct lane){ IPC_CONTROL_FD + 1 + (int)i, &started, t };
        int no = pthread_create(&thread, &attr, lane_main, &lanes[i]);
        if (no != 0)
            return err_sys(e, no, "signer: start a thread");
    }
    (void)pthread_attr_destroy(&attr);
    /* what a thread does at its start is behind it when the doors are shut */
    (void)pthread_barrier_wait(&started);
    return 0;
}

/* -- control: one request at a time, which may bring an open file -- */

/* Appends what comes; a file that comes replaces *fd. */
static void
control_read(struct buf *in, int *fd)
{
    _Alignas(struct cmsghdr) char files[CMSG_SPACE(sizeof(int))];
    uint8_t *to;
    struct err e;

    if (buf_reserve(in, in->max - in->n, &to, &e) < 0)
        leave();
    struct iovec v = { to, in->max - in->n };
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = files, .msg_controllen = sizeof(files)
    };
    ssize_t r = recvmsg(IPC_CONTROL_FD, &m, MSG_CMSG_CLOEXEC);
    if (r == 0 || (r < 0 && errno != EINTR))
        leave();
    if (r < 0)
        return;
    in->n += (size_t)r;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        if (*fd >= 0)
            (void)close(*fd);
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    }
}

static _Noreturn void
control_main(struct ipc_table *t)
{
    struct buf in = BUF_INIT(IPC_FRAME_MAX_BYTES), out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct ipc_frame q;
    struct err e;
    int fd = -1;

    for (;;) {
        struct span s = buf_span(&in);
        int r = ipc_take(&s, &q, &e);

        if (r == IPC_MORE) {
            control_read(&in, &fd);
            continue;
        }
        if (r < 0 || s.n > 0 || ipc_serve(t, &q, true, fd, &out, &e) < 0)
            leave();
        if (fd >= 0)
            (void)close(fd);
        fd = -1;
        in.n = 0;
        write_all(IPC_CONTROL_FD, &out);
        leave_if_lost(t);
    }
}

/* -- the start -- */

/* Whatever the library opens or maps when it is used first, it does before the doors are shut. */
static int
library_warm(struct err *e)
{
    static const enum key_kind kinds[] = { KEY_P256, KEY_P384, KEY_ED25519 };
    uint8_t bytes[DIGEST_BYTES];
    EVP_SIGNATURE *rsa = EVP_SIGNATURE_fetch(NULL, "RSA", NULL);

    if (rsa == NULL)
        return err_set(e, E_CRYPTO, "signer: the cryptographic library does not work");
    EVP_SIGNATURE_free(rsa);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        CLEANUP(key_unrefp) struct key *k = NULL;

        TRY(key_make(kinds[i], &k, e));
    }
    return random_bytes(bytes, sizeof(bytes), e);
}

/* How many run in this process. */
static uint32_t
threads_count(void)
{
    struct stat st;

    return stat("/proc/self/task", &st) < 0 || st.st_nlink < 3 ? 1 : (uint32_t)st.st_nlink - 2;
}

static int
token_start(struct ipc_table *t, const struct child_args *a, struct ipc_hello *ret, struct err *e)
{
    if (a->token_uri == NULL)
        return 0;
    TRY(token_open(a->token_uri, a->lanes + 1, &t->token, e));
    ret->module_threads = threads_count() - 1;
    (void)snprintf(ret->token, sizeof(ret->token), "%s", token_name(t->token));
    return 0;
}

static int
child_start(struct ipc_table *t, const struct child_args *a, struct ipc_hello *ret, struct err *e)
{
    size_t fds = IPC_CONTROL_FD + 1 + a->lanes + (a->token_uri == NULL ? SPARE_FDS : MODULE_FDS);

    TRY(sandbox_wipe_openssl(e));
    TRY(sandbox_begin(e));
    TRY(library_warm(e));
    TRY(token_start(t, a, ret, e));
    TRY(sandbox_shut(fds, a->reads, ret, e));
    TRY(lanes_start(t, a->lanes, e));
    return sandbox_seal(t->token != NULL, e);
}

static _Noreturn void
child_main(const struct child_args *a)
{
    static struct ipc_table table;
    struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct ipc_hello hello = { 0 };
    struct err e = { .code = E_NONE };

    /* a terminal's ^C and a service manager's TERM go to the parent, which drains first */
    (void)signal(SIGINT, SIG_IGN);
    (void)signal(SIGTERM, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_NAME, "meshroot-signer");
    ipc_table_init(&table, a->max_life_s, a->trust_domain);
    int r = child_start(&table, a, &hello, &e);
    struct ipc_frame f = { .code = (uint32_t)e.code,
                           .body = r < 0 ? span_str(e.msg) : span_of(&hello, sizeof(hello)) };
    if (ipc_put(&out, &f, &e) < 0)
        leave();
    write_all(IPC_CONTROL_FD, &out);
    if (r < 0)
        leave();
    buf_done(&out);
    control_main(&table);
}

void
signer_child_run(int argc, char *const argv[])
{
    struct stat st;
    uint64_t lanes, life;
    struct err e;

    if (argc < 5 || argc > 7 || strcmp(argv[1], "signer") != 0)
        return;
    if (fstat(IPC_CONTROL_FD, &st) < 0 || !S_ISSOCK(st.st_mode) ||
        u64_parse(span_str(argv[2]), 1, SIGNER_LANES_MAX, &lanes, &e) < 0 ||
        u64_parse(span_str(argv[3]), 1, INT64_MAX / 4, &life, &e) < 0) {
        fprintf(stderr, "meshroot signer: is started by the CA, not by hand\n");
        _exit(2);
    }
    child_main(&(struct child_args){ (size_t)lanes, (int64_t)life, argv[4],
                                     argc > 5 ? argv[5] : NULL, argc > 6 ? argv[6] : NULL });
}
