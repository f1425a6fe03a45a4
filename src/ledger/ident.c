/* ident.c - which ledger this is: a store that was lost, and made anew, is another one. */
#include "base/clock.h"
#include "base/str.h"
#include "ledger/record.h"

int
ident_load(struct store *s, uint8_t ret[LEDGER_ID_BYTES], struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(LEDGER_ID_BYTES);
    uint8_t id[LEDGER_ID_BYTES];

    if (TRY(store_get(s, IDENT_KEY, &b, NULL, e)) == STORE_ABSENT) {
        TRY(random_bytes(id, sizeof(id), e));
        const struct store_op ops[] = {
            { .kind = STORE_EXPECT, .key = IDENT_KEY, .revision = 0 },
            { .kind = STORE_PUT, .key = IDENT_KEY, .value = span_of(id, sizeof(id)) },
        };
        TRY(store_commit_wait(s, ops, ARRAY_LEN(ops), NULL, e));
        memcpy(ret, id, sizeof(id));
        return 0;
    }
    if (b.n != LEDGER_ID_BYTES)
        return err_set(e, E_PARSE, "ledger: " IDENT_KEY " has %zu bytes, not %d", b.n,
                       (int)LEDGER_ID_BYTES);
    memcpy(ret, b.p, LEDGER_ID_BYTES);
    return 0;
}
