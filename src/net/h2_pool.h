/* h2_pool.h - private to h2*.c: memory that the connections of one loop share. Layer: net. */
#ifndef NET_H2_POOL_H
#define NET_H2_POOL_H

#include "net/h2.h"

struct frame;

struct h2_pool {
    struct h2_stream *streams; /* finished ones: h2.c frees them */
    size_t streams_n;
    struct buf spare;     /* its memory, or none: somebody has it */
    struct frame *frames; /* that nobody has */
    size_t frames_n;
};
void h2_pool_done(struct h2_pool *p); /* all but the streams; NULL is fine */

/* The memory of one nghttp2 session. It keeps a buffer of 16 KiB and a bit for the frame that goes
 * out: from the heap that would be used memory, all of it; here it is pages of its own, of which a
 * connection uses those that a frame reached. `self` is a struct h2_memory. */
struct h2_memory {
    struct h2_pool *pool;
    void *frame; /* NULL: the session has none */
};
void *h2_memory_malloc(size_t n, void *self);
void h2_memory_free(void *at, void *self);
void *h2_memory_calloc(size_t n, size_t size, void *self);
void *h2_memory_realloc(void *at, size_t n, void *self);

#endif
