#include "net/h2_conn.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "net/tls_stream.h"

enum {
    READ_BYTES = 16 * 1024, /* one TLS record */
    READS_PER_TURN = 8,
    WRITES_PER_TURN = 16,
    OUT_MAX_BYTES = H2_OUTPUT_BYTES + 32 * 1024, /* the last frame may go beyond */
};

struct h2_conn {
    struct h2_conn_conf conf;
    struct loop *loop;
    struct stream *io;
    struct h2 *h2;
    struct buf out; /* the pool's; ours only while something in it waits */
    size_t out_at;
    uint64_t last_read_ms, last_write_ms, pinged_ms;
    uint64_t partial_ms;        /* since when bytes have come that complete no frame; 0: none */
    uint64_t body_out, body_ms; /* as h2_conn_check saw it: bytes that went, since when no more */
    enum h2_end end;
    bool is_open, is_reading, flush_is_due, is_dead, is_told;
    struct err *why; /* owned; the session failed: what it still says goes out first */
};

const char *
h2_end_name(enum h2_end end)
{
    static const char *const names[] = { "peer", "opening", "protocol", "flood",
                                         "drip", "stall",   "ping" };

    static_assert(ARRAY_LEN(names) == H2_END__N, "a name for each");
    return names[end];
}

/* Once. The owner may free the connection in it. */
static void
tell_closed(struct h2_conn *c, enum h2_end end, const struct err *why)
{
    if (c->is_dead || c->is_told)
        return;
    c->is_told = true;
    c->end = end;
    if (h2_is_flooded(c->h2)) /* however it ended then */
        c->end = H2_END_FLOOD;
    else if (h2_error_said(c->h2) != 0)
        c->end = h2_error_said(c->h2) == H2_CALM ? H2_END_FLOOD : H2_END_PROTOCOL;
    stream_want(c->io, false, false);
    c->conf.on_closed(why, c->conf.h2.self);
}

static void
closed_because(struct h2_conn *c, enum h2_end end, enum err_code code, const char *text)
{
    struct err e;

    (void)err_set(&e, code, "%s", text);
    tell_closed(c, end, &e);
}

/* r: 0 all written; STREAM_AGAIN the peer must read first. */
static int
write_out(struct h2_conn *c, struct err *e)
{
    while (c->out_at < c->out.n) {
        size_t n = 0;
        int r = TRY(stream_write(c->io, span_skip(buf_span(&c->out), c->out_at), &n, e));

        if (r == STREAM_AGAIN)
            return r;
        c->out_at += n;
        c->last_write_ms = mono_ms();
    }
    if (c->conf.h2.sends_secrets && c->out.n > 0)
        explicit_bzero(c->out.p, c->out.n);
    c->out_at = c->out.n = 0;
    return 0;
}

static void
out_take(struct h2_conn *c)
{
    if (c->out.p == NULL)
        c->out = h2_pool_take_buf(c->conf.h2.pool, OUT_MAX_BYTES);
}

static void
out_give(struct h2_conn *c)
{
    if (c->out.n == 0)
        h2_pool_give_buf(c->conf.h2.pool, &c->out);
}

/* r: 0 all sent; STREAM_AGAIN. */
static int
pump_out(struct h2_conn *c, struct err *e)
{
    for (int i = 0; i < WRITES_PER_TURN; i++) {
        if (TRY(write_out(c, e)) == STREAM_AGAIN)
            return STREAM_AGAIN;
        TRY(h2_output(c->h2, &c->out, H2_OUTPUT_BYTES, e));
        stream_hold(c->io, c->out.n > 0 && h2_answer_is_due(c->h2));
        if (c->out.n == 0)
            return 0;
    }
    return STREAM_AGAIN;
}

/* Reading stops while the peer does not read: what it sends would only make more to send. */
static void
send_now(struct h2_conn *c)
{
    struct err e = { 0 };

    if (c->is_dead || c->is_told || !c->is_open)
        return;
    bool was_blocked = c->out_at < c->out.n;
    out_take(c);
    int r = pump_out(c, &e);
    out_give(c);
    if (r < 0) {
        tell_closed(c, H2_END_PEER, &e);
        return;
    }
    if (r == 0 && c->why != NULL) {
        tell_closed(c, H2_END_PROTOCOL, c->why);
        return;
    }
    if (r == 0 && h2_is_done(c->h2)) {
        if (h2_is_flooded(c->h2))
            closed_because(c, H2_END_FLOOD, E_LIMIT, "http/2: the peer resets or idles too much");
        else
            closed_because(c, H2_END_PEER, E_PEER, "http/2: the connection ended");
        return;
    }
    stream_want(c->io, r == 0, r == STREAM_AGAIN);
    if (r == 0 && was_blocked)
        stream_again(c->io);
}

static void
flush_later(void *arg)
{
    struct h2_conn *c = arg;

    c->flush_is_due = false;
    send_now(c);
}

void
h2_conn_flush(struct h2_conn *c)
{
    if (c->is_reading || c->flush_is_due || c->is_dead)
        return; /* on_io writes when it has read */
    c->flush_is_due = true;
    loop_defer(c->loop, flush_later, c);
}

/* r: 0 go on; STREAM_AGAIN nothing more now; STREAM_END. */
static int
read_some(struct h2_conn *c, struct err *e)
{
    uint8_t bytes[READ_BYTES];
    size_t n = 0;
    int r = TRY(stream_read(c->io, bytes, sizeof(bytes), &n, e));

    if (r != 0)
        return r;
    uint64_t frames = h2_frames_in(c->h2);
    c->last_read_ms = mono_ms();
    if (h2_input(c->h2, span_of(bytes, n), e) == 0) {
        if (h2_frames_in(c->h2) != frames)
            c->partial_ms = 0;
        else if (c->partial_ms == 0)
            c->partial_ms = c->last_read_ms;
        return 0;
    }
    c->why = malloc(sizeof(*c->why));
    if (c->why == NULL)
        return err_result(e);
    *c->why = *e;
    return 0;
}

static void
on_io(bool readable, bool writable, void *arg)
{
    struct h2_conn *c = arg;
    struct err e = { 0 };
    int r = 0, i = 0;

    (void)writable;
    c->is_reading = true;
    while (readable && r == 0 && i++ < READS_PER_TURN && !c->is_dead && c->why == NULL) {
        r = read_some(c, &e);
        if (r == 0 && !c->is_dead && stream_is_drained(c->io))
            r = STREAM_AGAIN;
    }
    c->is_reading = false;
    if (c->is_dead)
        return;
    if (r < 0) {
        tell_closed(c, H2_END_PEER, &e);
        return;
    }
    if (r == STREAM_END) {
        closed_because(c, H2_END_PEER, E_PEER, "the peer closed the connection");
        return;
    }
    if (readable && r == 0)
        stream_again(c->io);
    send_now(c);
}

static void
on_open(void *arg)
{
    struct h2_conn *c = arg;

    c->is_open = true;
    c->last_read_ms = c->last_write_ms = mono_ms();
    c->partial_ms = c->last_read_ms; /* the preface is to come */
    c->is_reading = true;
    c->conf.on_open(c->conf.h2.self);
    c->is_reading = false;
    if (!stream_has_more(c->io)) /* else on_io comes, which sends it with what it makes */
        h2_conn_flush(c);
}

static void
on_fail(const struct err *why, void *arg)
{
    tell_closed(arg, H2_END_OPENING, why);
}

static int
conn_start(struct h2_conn *c, const struct h2_conn_conf *conf, struct err *e)
{
    struct stream_conf sc = { .fd = conf->fd,
                              .tls = conf->tls,
                              .verify_name = conf->verify_name,
                              .open_ms = conf->open_ms,
                              .is_accepted = conf->h2.is_server,
                              .speaks_first = !conf->h2.is_server,
                              .on_open = on_open,
                              .on_io = on_io,
                              .on_fail = on_fail,
                              .arg = c };

    TRY(stream_new(c->loop, &sc, &c->io, e));
    return h2_new(&conf->h2, &c->h2, e);
}

int
h2_conn_new(struct loop *l, const struct h2_conn_conf *conf, struct h2_conn **ret, struct err *e)
{
    struct h2_conn *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    *c = (struct h2_conn){ .conf = *conf, .loop = l, .out = BUF_INIT(OUT_MAX_BYTES) };
    c->conf.tls = NULL; /* the stream holds it */
    c->conf.verify_name = NULL;
    if (conn_start(c, conf, e) < 0) {
        stream_free(c->io);
        h2_free(c->h2);
        free(c);
        return err_result(e);
    }
    *ret = c;
    return 0;
}

static void
conn_destroy(void *arg)
{
    struct h2_conn *c = arg;

    h2_free(c->h2);
    buf_wipe(&c->out); /* what did not go out may be a key */
    free(c->why);
    free(c);
}

void
h2_conn_free(struct h2_conn *c)
{
    struct err e;

    if (c == NULL || c->is_dead)
        return;
    c->is_dead = true;
    if (c->is_open && !c->is_reading && write_out(c, &e) == 0 &&
        h2_output(c->h2, &c->out, H2_OUTPUT_BYTES, &e) == 0)
        (void)!write_out(c, &e); /* a last GOAWAY, when it needs no waiting */
    stream_free(c->io);
    loop_defer(c->loop, conn_destroy, c);
}

struct h2 *
h2_conn_h2(struct h2_conn *c)
{
    return c->h2;
}

const struct tls_peer *
h2_conn_peer(const struct h2_conn *c)
{
    return stream_peer(c->io);
}

int
h2_conn_fd(const struct h2_conn *c)
{
    return stream_fd(c->io);
}

bool
h2_conn_is_open(const struct h2_conn *c)
{
    return c->is_open && !c->is_told;
}

enum h2_end
h2_conn_end(const struct h2_conn *c)
{
    return c->end;
}

uint64_t
h2_conn_last_read_ms(const struct h2_conn *c)
{
    return c->last_read_ms;
}

static uint64_t
min_ms(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* In how many ms `since` will be `limit` ago; 0: it is. */
static uint64_t
left_ms(uint64_t since, uint64_t limit, uint64_t now)
{
    return now - since >= limit ? 0 : limit - (now - since);
}

/* What waits in our buffer, or in streams for the peer's window. */
static uint64_t
check_stall(struct h2_conn *c, uint64_t now)
{
    uint64_t n = h2_body_out(c->h2), next = H2_STALL_MS;

    if (c->out_at < c->out.n)
        next = left_ms(c->last_write_ms, H2_STALL_MS, now);
    if (!h2_body_waits(c->h2))
        c->body_ms = 0;
    else if (c->body_ms == 0 || n != c->body_out)
        c->body_ms = now;
    c->body_out = n;
    return c->body_ms == 0 ? next : min_ms(next, left_ms(c->body_ms, H2_STALL_MS, now));
}

uint64_t
h2_conn_check(struct h2_conn *c, uint64_t now_ms, uint64_t ping_ms)
{
    if (!h2_conn_is_open(c))
        return H2_STALL_MS;
    uint64_t next = check_stall(c, now_ms);
    if (next == 0) {
        closed_because(c, H2_END_STALL, E_TIMEOUT, "the peer does not read");
        return H2_STALL_MS;
    }
    if (c->partial_ms != 0) {
        next = min_ms(next, left_ms(c->partial_ms, H2_FRAME_MS, now_ms));
        if (next == 0) {
            closed_because(c, H2_END_DRIP, E_TIMEOUT,
                           "http/2: the peer takes too long for a frame");
            return H2_STALL_MS;
        }
    }
    if (ping_ms == 0)
        return next;
    if (c->pinged_ms > c->last_read_ms) { /* no sign of life since our PING */
        uint64_t left = left_ms(c->pinged_ms, H2_PING_WAIT_MS, now_ms);

        if (left == 0)
            closed_because(c, H2_END_PING, E_TIMEOUT, "no answer to an HTTP/2 PING");
        return left == 0 ? next : min_ms(next, left);
    }
    if (now_ms - c->last_read_ms < ping_ms)
        return min_ms(next, ping_ms - (now_ms - c->last_read_ms));
    c->pinged_ms = now_ms;
    h2_ping(c->h2);
    h2_conn_flush(c);
    return min_ms(next, H2_PING_WAIT_MS);
}
