/* struct_pb.c - JSON as google.protobuf.Struct on the wire. Source: specs/protos.md 1. */
#include <string.h>

#include "agent/workload_jwt.h"

enum { WIRE_VARINT, WIRE_I64, WIRE_LEN };
enum { VALUE_NULL = 1, VALUE_NUMBER, VALUE_STRING, VALUE_BOOL, VALUE_STRUCT, VALUE_LIST };

static int
varint_add(struct buf *b, uint64_t v, struct err *e)
{
    for (; v >= 0x80; v >>= 7)
        TRY(buf_add_byte(b, (uint8_t)(v | 0x80), e));
    return buf_add_byte(b, (uint8_t)v, e);
}

static int
bytes_add(struct buf *b, unsigned number, struct span s, struct err *e)
{
    TRY(buf_add_byte(b, (uint8_t)(number << 3 | WIRE_LEN), e));
    TRY(varint_add(b, s.n, e));
    return buf_add(b, s, e);
}

static int
flag_add(struct buf *b, unsigned number, bool v, struct err *e)
{
    TRY(buf_add_byte(b, (uint8_t)(number << 3 | WIRE_VARINT), e));
    return buf_add_byte(b, v, e);
}

static int
number_add(struct buf *b, double v, struct err *e)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof(bits));
    TRY(buf_add_byte(b, VALUE_NUMBER << 3 | WIRE_I64, e));
    for (int i = 0; i < 8; i++, bits >>= 8) /* little endian, whatever we are */
        TRY(buf_add_byte(b, (uint8_t)bits, e));
    return 0;
}

static int object_add(struct buf *b, const json_t *o, int depth, struct err *e);
static int list_add(struct buf *b, const json_t *o, int depth, struct err *e);

static int
value_add(struct buf *b, const json_t *v, int depth, struct err *e)
{
    CLEANUP(buf_done) struct buf inner = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);

    if (json_is_null(v))
        return flag_add(b, VALUE_NULL, false, e);
    if (json_is_number(v))
        return number_add(b, json_number_value(v), e);
    if (json_is_boolean(v))
        return flag_add(b, VALUE_BOOL, json_is_true(v), e);
    if (json_is_string(v))
        return bytes_add(b, VALUE_STRING,
                         span_of((const uint8_t *)json_string_value(v), json_string_length(v)), e);
    bool is_list = json_is_array(v);
    TRY(is_list ? list_add(&inner, v, depth, e) : object_add(&inner, v, depth, e));
    return bytes_add(b, is_list ? VALUE_LIST : VALUE_STRUCT, buf_span(&inner), e);
}

static int
list_add(struct buf *b, const json_t *o, int depth, struct err *e)
{
    const json_t *v;
    size_t i;

    if (depth == STRUCT_DEPTH_MAX)
        return err_set(e, E_LIMIT, "claims deeper than %d", STRUCT_DEPTH_MAX);
    json_array_foreach(o, i, v) {
        CLEANUP(buf_done) struct buf value = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);

        TRY(value_add(&value, v, depth + 1, e));
        TRY(bytes_add(b, 1, buf_span(&value), e));
    }
    return 0;
}

static int
entry_add(struct buf *b, const char *key, const json_t *v, int depth, struct err *e)
{
    CLEANUP(buf_done)
    struct buf entry = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES),
               value = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);

    TRY(value_add(&value, v, depth, e));
    TRY(bytes_add(&entry, 1, span_str(key), e));
    TRY(bytes_add(&entry, 2, buf_span(&value), e));
    return bytes_add(b, 1, buf_span(&entry), e);
}

static int
object_add(struct buf *b, const json_t *o, int depth, struct err *e)
{
    if (depth == STRUCT_DEPTH_MAX)
        return err_set(e, E_LIMIT, "claims deeper than %d", STRUCT_DEPTH_MAX);
    /* jansson's iterators take no const; nothing is changed */
    json_t *mine = (json_t *)(uintptr_t)o;
    for (void *i = json_object_iter(mine); i != NULL; i = json_object_iter_next(mine, i))
        TRY(entry_add(b, json_object_iter_key(i), json_object_iter_value(i), depth + 1, e));
    return 0;
}

int
struct_encode(const json_t *o, struct buf *out, struct err *e)
{
    return object_add(out, o, 0, e);
}
