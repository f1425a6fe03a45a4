#include "alloc.h"

#include <jansson.h>
#include <openssl/crypto.h>
#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static struct {
    atomic_int whose;
    atomic_size_t left; /* until one fails; 0: none will */
    atomic_bool has_failed;
} now; /* the ledger's store has a thread of its own */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
ProtobufCMessage *__real_protobuf_c_message_unpack(const ProtobufCMessageDescriptor *d,
                                                   ProtobufCAllocator *a, size_t n,
                                                   const uint8_t *p);
ProtobufCMessage *__wrap_protobuf_c_message_unpack(const ProtobufCMessageDescriptor *d,
                                                   ProtobufCAllocator *a, size_t n,
                                                   const uint8_t *p);

static bool
fails(enum alloc_whose whose)
{
    if (now.whose != (int)whose || now.left == 0 || atomic_fetch_sub(&now.left, 1) != 1)
        return false;
    now.has_failed = true;
    return true;
}

void *
__wrap_malloc(size_t n)
{
    return fails(ALLOC_OURS) ? NULL : __real_malloc(n);
}

void *
__wrap_calloc(size_t n, size_t size)
{
    return fails(ALLOC_OURS) ? NULL : __real_calloc(n, size);
}

void *
__wrap_realloc(void *p, size_t n)
{
    return fails(ALLOC_OURS) ? NULL : __real_realloc(p, n);
}

static void *
library_malloc(size_t n)
{
    return fails(ALLOC_LIBRARIES) ? NULL : __real_malloc(n);
}

static void *
openssl_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return n == 0 ? NULL : library_malloc(n);
}

static void *
openssl_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    if (n == 0) {
        free(p);
        return NULL;
    }
    return fails(ALLOC_LIBRARIES) ? NULL : __real_realloc(p, n);
}

static void
openssl_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    free(p);
}

static void *
proto_malloc(void *self, size_t n)
{
    (void)self;
    return library_malloc(n);
}

static void
proto_free(void *self, void *p)
{
    (void)self;
    free(p);
}

ProtobufCMessage *
__wrap_protobuf_c_message_unpack(const ProtobufCMessageDescriptor *d, ProtobufCAllocator *a,
                                 size_t n, const uint8_t *p)
{
    static ProtobufCAllocator counted = { proto_malloc, proto_free, NULL };

    return __real_protobuf_c_message_unpack(d, a == NULL ? &counted : a, n, p);
}

void
alloc_setup(void)
{
    json_set_alloc_funcs(library_malloc, free);
    if (CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) != 1)
        abort();
}

void
alloc_fail(enum alloc_whose whose, size_t n)
{
    now.whose = (int)whose;
    now.left = n;
    now.has_failed = false;
}

void
alloc_rest(void)
{
    now.left = 0;
}

bool
alloc_has_failed(void)
{
    return now.has_failed;
}
