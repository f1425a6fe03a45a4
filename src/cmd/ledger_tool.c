#include "cmd/ledger_tool.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/str.h"

enum { TEXT_BYTES = 1024 };

int
ledger_store(const char *given_dir, struct store **ret, struct err *e)
{
    CLEANUP(str_freep) char *dir = NULL;

    TRY(state_dir(given_dir, &dir, e));
    int r = store_open_sqlite_readonly(dir, ret, e);
    if (r < 0 && e->code == E_NOTFOUND)
        return err_set(e, E_NOTFOUND,
                       "there is no ledger in %s; --state-dir names the folder of meshroot up or "
                       "ca serve",
                       dir);
    return r;
}

int
serial_parse(const char *text, uint8_t ret[SERIAL_MAX_BYTES], size_t *ret_n, struct err *e)
{
    static const char between[] = ": \t\n";
    char hex[2 * SERIAL_MAX_BYTES + 2] = "0"; /* an odd number of digits gets a zero in front */
    size_t n = 1;
    const char *at = text + strspn(text, between);

    if (strncmp(at, "serial=", 7) == 0)
        at += 7;
    if (strncasecmp(at, "0x", 2) == 0)
        at += 2;
    at += strspn(at, "0: \t\n");
    for (; *at != '\0' && n < sizeof(hex); at++)
        if (strchr(between, *at) == NULL)
            hex[n++] = *at;
    size_t digits = n - 1, skip = digits % 2 == 0 ? 1 : 0;
    if (digits == 0 || n >= sizeof(hex) ||
        hex_parse(span_of(hex + skip, n - skip), ret, (n - skip) / 2, e) < 0)
        return err_set(e, E_INVAL,
                       "\"%.80s\" is no serial number: want 1 to %d hex digits, as ledger list "
                       "or openssl x509 -serial prints them",
                       text, 2 * SERIAL_MAX_BYTES);
    *ret_n = (n - skip) / 2;
    return 0;
}

int
since_parse(const char *text, int64_t *ret, struct err *e)
{
    static const char *const forms[] = { "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d" };
    uint64_t ms;

    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm tm = { 0 };
        const char *end = strptime(text, forms[i], &tm);

        if (end != NULL && *end == '\0') {
            *ret = (int64_t)timegm(&tm);
            return 0;
        }
    }
    if (duration_ms_parse(span_str(text), &ms, e) < 0)
        return err_set(e, E_INVAL,
                       "\"%.60s\" is no time: want 2026-11-23T21:12:40Z, 2026-11-23, or how long "
                       "ago, such as 2h",
                       text);
    *ret = unix_s() - (int64_t)(ms / 1000);
    return 0;
}

/* -- one row as texts, in the order of the columns -------------------------------------------- */

enum column {
    C_SEQ,
    C_SERIAL,
    C_IDENTITY,
    C_INSTANCE,
    C_SIGNER,
    C_ROOT,
    C_NOT_BEFORE,
    C_NOT_AFTER,
    C_ISSUED,
    C_GENERATION,
    C_AUTH,
    C_KEY_ID,
    C_VERSION,
    C_PREV,
    C_HASH,
    C_STATE,
    C__N
};

static const struct {
    const char *name;
    bool is_number;
} columns[C__N] = {
    [C_SEQ] = { "seq", true },
    [C_SERIAL] = { "serial", false },
    [C_IDENTITY] = { "identity", false },
    [C_INSTANCE] = { "instance", false },
    [C_SIGNER] = { "signer", false },
    [C_ROOT] = { "root", false },
    [C_NOT_BEFORE] = { "not_before", true },
    [C_NOT_AFTER] = { "not_after", true },
    [C_ISSUED] = { "issued", true },
    [C_GENERATION] = { "generation", true },
    [C_AUTH] = { "auth", false },
    [C_KEY_ID] = { "key_id", false },
    [C_VERSION] = { "version", true },
    [C_PREV] = { "prev", false },
    [C_HASH] = { "hash", false },
    [C_STATE] = { "state", false },
};

struct texts {
    const char *text[C__N];
    int64_t number[C__N];
    char serial[2 * SERIAL_MAX_BYTES + 1], key_id[2 * LEDGER_KEY_ID_BYTES + 1],
        digests[4][DIGEST_TEXT_BYTES];
};

static void
texts_fill(const struct ledger_found *f, struct texts *t)
{
    const struct ledger_row *row = f->row;
    static const enum column digest_at[] = { C_SIGNER, C_ROOT, C_PREV, C_HASH };
    const uint8_t *const digest_of[] = { row->signer_id, row->root_id, f->prev, f->hash };

    *t = (struct texts){ .number = { [C_SEQ] = (int64_t)row->seq,
                                     [C_NOT_BEFORE] = row->not_before,
                                     [C_NOT_AFTER] = row->not_after,
                                     [C_ISSUED] = row->issued,
                                     [C_VERSION] = row->version,
                                     [C_GENERATION] = (int64_t)row->generation } };
    hex_text(span_of(row->serial, row->serial_n), t->serial);
    hex_text(span_of(row->key_id, row->key_id_n), t->key_id);
    t->text[C_KEY_ID] = t->key_id;
    t->text[C_SERIAL] = t->serial;
    t->text[C_IDENTITY] = row->identity;
    t->text[C_INSTANCE] = row->instance;
    t->text[C_AUTH] = row->auth;
    t->text[C_STATE] = leaf_state_name(f->state);
    for (size_t i = 0; i < ARRAY_LEN(digest_at); i++) {
        hex_text(span_of(digest_of[i], DIGEST_BYTES), t->digests[i]);
        t->text[digest_at[i]] = t->digests[i];
    }
}

static int
text_set(json_t *j, const char *name, const char *text)
{
    json_t *v = json_string(text);

    if (v != NULL)
        return json_object_set_new(j, name, v);
    char hex[TEXT_BYTES], hex_name[32]; /* no UTF-8: a token's id that was cut */
    hex_text(span_str(text), hex);
    (void)snprintf(hex_name, sizeof(hex_name), "%s_hex", name);
    return json_object_set_new(j, hex_name, json_string(hex));
}
_Static_assert(TEXT_BYTES > 2 * LEDGER_AUTH_BYTES, "the longest text that need not be UTF-8");

int
row_json(const struct ledger_found *f, bool state, json_t **ret, struct err *e)
{
    struct texts t;
    json_t *j = json_object();
    int r = j == NULL ? -1 : 0;

    texts_fill(f, &t);
    for (int i = 0; i < (state ? C__N : C_STATE) && r == 0; i++)
        r = columns[i].is_number
                ? json_object_set_new(j, columns[i].name, json_integer((json_int_t)t.number[i]))
                : text_set(j, columns[i].name, t.text[i]);
    if (r < 0) {
        json_decref(j);
        return err_nomem(e);
    }
    *ret = j;
    return 0;
}

int
csv_head(bool state, struct err *e)
{
    for (int i = 0; i < (state ? C__N : C_STATE); i++)
        printf("%s%s", i == 0 ? "" : ",", columns[i].name);
    printf("\r\n");
    return ferror(stdout) == 0 ? 0 : stdout_check(e);
}

static void
csv_text(const char *s)
{
    if (strpbrk(s, ",\"\r\n") == NULL) {
        (void)fputs(s, stdout);
        return;
    }
    (void)putchar('"');
    for (; *s != '\0'; s++)
        printf("%s%c", *s == '"' ? "\"" : "", *s);
    (void)putchar('"');
}

int
csv_row(const struct ledger_found *f, bool state, struct err *e)
{
    struct texts t;

    texts_fill(f, &t);
    for (int i = 0; i < (state ? C__N : C_STATE); i++) {
        if (i > 0)
            (void)putchar(',');
        if (columns[i].is_number)
            printf("%" PRId64, t.number[i]);
        else
            csv_text(t.text[i]);
    }
    printf("\r\n");
    return ferror(stdout) == 0 ? 0 : stdout_check(e);
}

void
print_text(const char *text, int width)
{
    int n = 0;

    for (; *text != '\0'; text++, n++)
        (void)putchar((uint8_t)*text < 0x20 || *text == 0x7f ? '?' : *text);
    for (; n < width; n++)
        (void)putchar(' ');
}
