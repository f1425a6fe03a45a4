#include "net/tls_stream.h"

#include <errno.h>
#include <event2/event.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/loop_event.h"
#include "net/tls_bio.h"
#include "net/tls_openssl.h"

struct stream {
    struct stream_conf conf; /* verify_name is not kept */
    SSL *ssl;                /* owned; NULL: clear */
    struct tls_bio bio;      /* of ssl */
    struct event *rd, *wr;   /* owned */
    struct timer *limit;     /* owned; until it is open */
    struct tls_peer peer;    /* owned */
    bool is_connected, is_open;
    bool want_rd, want_wr, rd_armed, wr_armed;
    bool rd_needs_wr, wr_needs_rd; /* what TLS itself waits for (key updates) */
    bool is_broken;                /* no close_notify after a failure */
    bool has_ended;                /* the peer has: it will hardly read one */
};

static void
arm(struct event *ev, bool *is_armed, bool on)
{
    if (*is_armed == on)
        return;
    /* without memory in the kernel it stays off: the next call tries again, or a time limit ends it
     */
    *is_armed = on && event_add(ev, NULL) == 0;
    if (!on)
        (void)event_del(ev);
}

static void
arm_both(struct stream *s)
{
    arm(s->rd, &s->rd_armed, s->want_rd || s->wr_needs_rd);
    arm(s->wr, &s->wr_armed, s->want_wr || s->rd_needs_wr);
}

void
stream_want(struct stream *s, bool readable, bool writable)
{
    s->want_rd = readable;
    s->want_wr = writable;
    arm_both(s);
}

void
stream_hold(struct stream *s, bool on)
{
    s->bio.holds = on;
}

void
stream_again(struct stream *s)
{
    if (s->want_rd)
        event_active(s->rd, EV_READ, 0);
}

bool
stream_has_more(const struct stream *s)
{
    return s->ssl != NULL && SSL_has_pending(s->ssl) == 1;
}

/* The last thing a callback does: the owner may free the stream. */
static void
open_failed(struct stream *s, const struct err *why)
{
    s->is_broken = true;
    s->want_rd = s->want_wr = s->rd_needs_wr = s->wr_needs_rd = false;
    arm_both(s);
    timer_stop(s->limit);
    s->conf.on_fail(why, s->conf.arg);
}

static void
opened(struct stream *s)
{
    s->is_open = true;
    timer_free(STEAL(s->limit));
    stream_want(s, true, false);
    if (stream_has_more(s))
        stream_again(s); /* the first bytes came with the end of the handshake */
    s->conf.on_open(s->conf.arg);
}

static int
check_connected(struct stream *s, struct err *e)
{
    int no = 0;
    socklen_t n = sizeof(no);

    if (getsockopt(s->conf.fd, SOL_SOCKET, SO_ERROR, &no, &n) < 0)
        no = errno;
    if (no != 0 && no != ENOTSOCK)
        return err_sys(e, no, "cannot connect");
    s->is_connected = true;
    return 0;
}

/* r: 0 finished; STREAM_AGAIN. */
static int
handshake(struct stream *s, struct err *e)
{
    ERR_clear_error();
    int r = SSL_do_handshake(s->ssl);
    int no = errno, why = r == 1 ? SSL_ERROR_NONE : SSL_get_error(s->ssl, r);

    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
        s->want_rd = why == SSL_ERROR_WANT_READ;
        s->want_wr = why == SSL_ERROR_WANT_WRITE;
        arm_both(s);
        return STREAM_AGAIN;
    }
    if (why == SSL_ERROR_SYSCALL)
        return no == 0 ? err_set(e, E_PEER, "tls: the peer closed during the handshake")
                       : err_set(e, E_PEER, "tls: the peer went away during the handshake");
    if (why != SSL_ERROR_NONE)
        return tls_error(s->ssl, "handshake", e);
    return tls_peer_of(s->conf.tls, s->ssl, &s->peer, e);
}

static void
advance(struct stream *s)
{
    struct err e = { 0 };
    int r = 0;

    if (!s->is_connected)
        r = check_connected(s, &e);
    if (r == 0 && s->ssl != NULL)
        r = handshake(s, &e);
    if (r < 0)
        open_failed(s, &e);
    else if (r == 0)
        opened(s);
}

static void
on_event(evutil_socket_t fd, short what, void *arg)
{
    struct stream *s = arg;
    bool rd = (what & EV_READ) != 0, wr = (what & EV_WRITE) != 0;

    (void)fd;
    s->bio.is_drained = s->bio.is_drained && !rd;
    if (!s->is_open) {
        advance(s);
        return;
    }
    bool can_rd = (rd && s->want_rd) || (wr && s->rd_needs_wr);
    bool can_wr = (wr && s->want_wr) || (rd && s->wr_needs_rd);
    if ((wr && s->rd_needs_wr) || (rd && s->wr_needs_rd)) {
        s->rd_needs_wr = s->wr_needs_rd = false;
        arm_both(s);
    }
    if (can_rd || can_wr)
        s->conf.on_io(can_rd, can_wr, s->conf.arg);
}

static void
on_limit(void *arg)
{
    struct stream *s = arg;
    struct err e = { 0 };

    (void)err_set(&e, E_TIMEOUT,
                  s->is_connected ? "tls: no handshake within %llu ms"
                                  : "no connection within %llu ms",
                  (unsigned long long)s->conf.open_ms);
    open_failed(s, &e);
}

static int
stream_start(struct loop *l, struct stream *s, const struct stream_conf *conf, struct err *e)
{
    if (conf->tls != NULL) {
        TRY(tls_ssl_new(conf->tls, conf->verify_name, &s->ssl, e));
        s->bio = (struct tls_bio){ .fd = conf->fd, .speaks_first = conf->speaks_first };
        TRY(tls_bio_set(s->ssl, &s->bio, e));
    }
    s->rd = event_new(loop_base(l), conf->fd, EV_READ | EV_PERSIST, on_event, s);
    s->wr = event_new(loop_base(l), conf->fd, EV_WRITE | EV_PERSIST, on_event, s);
    if (s->rd == NULL || s->wr == NULL)
        return err_nomem(e);
    TRY(timer_new(l, on_limit, s, &s->limit, e));
    if (conf->open_ms != 0)
        timer_set(s->limit, conf->open_ms);
    s->is_connected = conf->is_accepted && s->ssl != NULL;
    if (s->is_connected)
        stream_want(s, true, false);
    else
        stream_want(s, false, true); /* connected sockets are writable: the first step */
    return 0;
}

int
stream_new(struct loop *l, const struct stream_conf *conf, struct stream **ret, struct err *e)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (s == NULL) {
        (void)close(conf->fd);
        return err_nomem(e);
    }
    s->conf = *conf;
    s->conf.verify_name = NULL;
    if (conf->tls != NULL)
        s->conf.tls = tls_conf_ref(conf->tls);
    if (stream_start(l, s, conf, e) < 0) {
        stream_free(s);
        return err_result(e);
    }
    *ret = s;
    return 0;
}

void
stream_free(struct stream *s)
{
    if (s == NULL)
        return;
    if (s->ssl != NULL && s->is_open && !s->is_broken && !s->has_ended) {
        ERR_clear_error();
        (void)SSL_shutdown(s->ssl);
    }
    ERR_clear_error();
    SSL_free(s->ssl);
    if (s->rd != NULL)
        event_free(s->rd);
    if (s->wr != NULL)
        event_free(s->wr);
    timer_free(s->limit);
    tls_peer_done(&s->peer);
    tls_conf_unref(s->conf.tls);
    (void)close(s->conf.fd);
    free(s);
}

static int
clear_failed(struct stream *s, const char *what, struct err *e)
{
    int no = errno;

    if (no == EAGAIN || no == EWOULDBLOCK || no == EINTR)
        return STREAM_AGAIN;
    s->is_broken = true;
    return no == ECONNRESET || no == EPIPE ? err_set(e, E_PEER, "%s: the peer went away", what)
                                           : err_sys(e, no, "%s", what);
}

/* What SSL_read_ex and SSL_write_ex say when they do not succeed. */
static int
ssl_failed(struct stream *s, int r, bool reading, struct err *e)
{
    int why = SSL_get_error(s->ssl, r);
    const char *what = reading ? "read" : "write";

    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
        if (reading && why == SSL_ERROR_WANT_WRITE)
            s->rd_needs_wr = true;
        if (!reading && why == SSL_ERROR_WANT_READ)
            s->wr_needs_rd = true;
        if (s->rd_needs_wr || s->wr_needs_rd)
            arm_both(s);
        return STREAM_AGAIN;
    }
    if (why == SSL_ERROR_ZERO_RETURN && reading) {
        s->has_ended = true;
        return STREAM_END;
    }
    s->is_broken = true;
    if (why == SSL_ERROR_SYSCALL)
        return err_set(e, E_PEER, "tls: %s: the peer went away", what);
    return tls_error(s->ssl, what, e);
}

int
stream_read(struct stream *s, uint8_t *p, size_t cap, size_t *ret_n, struct err *e)
{
    if (s->ssl == NULL) {
        ssize_t n = read(s->conf.fd, p, cap);

        if (n < 0)
            return clear_failed(s, "read", e);
        *ret_n = (size_t)n;
        return n == 0 ? STREAM_END : 0;
    }
    ERR_clear_error();
    int r = SSL_read_ex(s->ssl, p, cap, ret_n);
    return r == 1 ? 0 : ssl_failed(s, r, true, e);
}

bool
stream_is_drained(const struct stream *s)
{
    return s->ssl != NULL && SSL_has_pending(s->ssl) == 0;
}

int
stream_write(struct stream *s, struct span b, size_t *ret_n, struct err *e)
{
    if (s->ssl == NULL) {
        ssize_t n = send(s->conf.fd, b.p, b.n, MSG_NOSIGNAL | (s->bio.holds ? MSG_MORE : 0));

        if (n < 0)
            return clear_failed(s, "write", e);
        *ret_n = (size_t)n;
        return 0;
    }
    ERR_clear_error();
    int r = SSL_write_ex(s->ssl, b.p, b.n, ret_n);
    return r == 1 ? 0 : ssl_failed(s, r, false, e);
}

int
stream_finish(struct stream *s, struct err *e)
{
    if (s->ssl == NULL)
        return shutdown(s->conf.fd, SHUT_WR) < 0 && errno != ENOTCONN
                   ? err_sys(e, errno, "shutdown")
                   : 0;
    ERR_clear_error();
    int r = SSL_shutdown(s->ssl);
    return r >= 0 ? 0 : ssl_failed(s, r, false, e);
}

const struct tls_peer *
stream_peer(const struct stream *s)
{
    return s->peer.leaf == NULL ? NULL : &s->peer;
}

int
stream_fd(const struct stream *s)
{
    return s->conf.fd;
}

SSL *
stream_ssl(const struct stream *s)
{
    return s->ssl;
}
