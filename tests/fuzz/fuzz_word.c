/* fuzz_word.c - a workload's word that is taken is its caller's own, sound, and within the bounds
 * of the ledger's index and of its encoding on disk. */
#include <stdlib.h>
#include <string.h>

#include "ca/room.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH_SAFE_BYTES = 4096 }; /* protobuf-c recurses as deep as it is told to */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char who[] = "spiffe://cluster.local/ns/shop/sa/cart";
    struct ca_caller caller = { .auth = "cert" };
    struct ledger_ack a = { .generation = 0 };
    struct err e = { 0 };

    memcpy(caller.identity, who, sizeof(who));
    if (size > DEPTH_SAFE_BYTES)
        return 0;
    if (ca_word_read(span_of(data, size), &caller, &a, &e) < 0) {
        if (e.code != E_INVAL || e.msg[0] == '\0')
            abort();
        return 0;
    }
    if (strcmp(a.identity, who) != 0 || strlen(a.instance) != INSTANCE_TEXT_BYTES - 1 ||
        !ca_instance_is_sound(span_str(a.instance)) || a.roots_n > ROOTS_MAX ||
        a.serial_n > SERIAL_MAX_BYTES)
        abort();
    return 0;
}
