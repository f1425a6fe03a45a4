#include "net/tls_bio.h"

#include <errno.h>
#include <openssl/bio.h>
#include <pthread.h>
#include <sys/socket.h>

static BIO_METHOD *method; /* NULL: no memory; never freed */

static bool
is_passing(int no)
{
    return no == EAGAIN || no == EWOULDBLOCK || no == EINTR;
}

/* A server's ticket says nothing that the peer waits for, and a client's last flight nothing that
 * is of use without a request: each goes with what is said next, or after the kernel's 200 ms. (In
 * TLS 1.2 the peer does wait: a ticket is in the flight of Finished, and Finished wants an answer.)
 */
static bool
may_wait(const struct tls_bio *b)
{
    OSSL_HANDSHAKE_STATE at = SSL_get_state(b->ssl);

    return b->holds || at == TLS_ST_SW_SESSION_TICKET ||
           (at == TLS_ST_CW_FINISHED && b->speaks_first && SSL_version(b->ssl) >= TLS1_3_VERSION);
}

static int
on_write(BIO *bio, const char *p, int n)
{
    struct tls_bio *b = BIO_get_data(bio);
    ssize_t r = send(b->fd, p, (size_t)n, MSG_NOSIGNAL | (may_wait(b) ? MSG_MORE : 0));

    BIO_clear_retry_flags(bio);
    if (r < 0 && is_passing(errno))
        BIO_set_retry_write(bio);
    return (int)r;
}

static int
on_read(BIO *bio, char *p, int n)
{
    struct tls_bio *b = BIO_get_data(bio);
    ssize_t r = -1;

    BIO_clear_retry_flags(bio);
    if (b->is_drained)
        errno = EAGAIN;
    else
        r = recv(b->fd, p, (size_t)n, 0);
    if (r < 0 && is_passing(errno))
        BIO_set_retry_read(bio);
    b->is_drained = r >= 0 ? r < n : b->is_drained;
    b->has_ended = b->has_ended || (r == 0 && n > 0);
    return (int)r;
}

static long
on_ctrl(BIO *bio, int what, long n, void *p)
{
    const struct tls_bio *b = BIO_get_data(bio);

    (void)n;
    (void)p;
    if (what == BIO_CTRL_EOF)
        return b->has_ended;
    return what == BIO_CTRL_FLUSH; /* every write goes to the kernel */
}

static void
method_make(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "meshroot socket");

    if (m != NULL && (BIO_meth_set_write(m, on_write) != 1 || BIO_meth_set_read(m, on_read) != 1 ||
                      BIO_meth_set_ctrl(m, on_ctrl) != 1)) {
        BIO_meth_free(m);
        m = NULL;
    }
    method = m;
}

int
tls_bio_set(SSL *ssl, struct tls_bio *b, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, method_make);
    BIO *bio = method == NULL ? NULL : BIO_new(method);
    if (bio == NULL)
        return err_nomem(e);
    b->ssl = ssl;
    BIO_set_data(bio, b);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    return 0;
}
