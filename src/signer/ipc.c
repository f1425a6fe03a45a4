/* ipc.c - frames. */
#include "signer/ipc.h"

#include <errno.h>
#include <unistd.h>

struct head {
    uint32_t body_n, code, id, zero;
    uint64_t tag;
};
_Static_assert(sizeof(struct head) == IPC_HEAD_BYTES, "no holes");

int
ipc_put(struct buf *b, const struct ipc_frame *f, struct err *e)
{
    struct head h = { (uint32_t)f->body.n, f->code, f->id, 0, f->tag };
    uint8_t *to;

    if (f->body.n > IPC_BODY_MAX_BYTES)
        return err_set(e, E_LIMIT, "signer: a message of more than %d bytes", IPC_BODY_MAX_BYTES);
    TRY(buf_reserve(b, sizeof(h) + f->body.n, &to, e));
    memcpy(to, &h, sizeof(h));
    if (f->body.n > 0)
        memcpy(to + sizeof(h), f->body.p, f->body.n);
    b->n += sizeof(h) + f->body.n;
    return 0;
}

int
ipc_take(struct span *s, struct ipc_frame *ret, struct err *e)
{
    struct head h;

    if (s->n < sizeof(h))
        return IPC_MORE;
    memcpy(&h, s->p, sizeof(h));
    if (h.body_n > IPC_BODY_MAX_BYTES || h.zero != 0)
        return err_set(e, E_PARSE, "signer: a frame of bad form");
    if (s->n - sizeof(h) < h.body_n)
        return IPC_MORE;
    *ret = (struct ipc_frame){ h.code, h.id, h.tag, { s->p + sizeof(h), h.body_n } };
    *s = span_skip(*s, sizeof(h) + h.body_n);
    return 0;
}

int
ipc_file_write(int fd, struct span s, struct err *e)
{
    while (s.n > 0) {
        ssize_t r = write(fd, s.p, s.n);

        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "write");
        if (r > 0)
            s = span_skip(s, (size_t)r);
    }
    return 0;
}
