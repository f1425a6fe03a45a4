/* fuzz_state_files.c - what a CA and an agent left for their own next start, should a disk or a
 * hand have changed it: what is taken is written again and read the same; what is not says why, and
 * gives nothing.
 *
 * The first byte says which: the keys of JWT-SVIDs, a revoked leaf (key, line feed, value), one of
 * the agent's files (the next byte: which) in an otherwise good set, or a revoked identity. */
#include <fcntl.h>
#include <unistd.h>

#include "agent/creds.h"
#include "base/file.h"
#include "base/str.h"
#include "ca/revoke.h"
#include "ca/room.h"
#include "mint.h"
#include "obs/log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_MAX = 1 << 16, PUBLISH_MS = 60 * 1000, NOW_MS = 1000 * 1000 * 1000 };

static void
jwt_keys(struct span s)
{
    struct ca_jwt j = { .n = 0 }, again = { .n = 0 };
    struct buf b = BUF_INIT(TEXT_MAX);
    struct err e = { 0 };

    if (ca_jwt_recall(s, PUBLISH_MS, NOW_MS, &j, &e) < 0) {
        if (e.msg[0] == '\0' || j.n != 0)
            abort();
        return;
    }
    MUST(ca_jwt_write(&j, NOW_MS, &b, &e));
    MUST(ca_jwt_recall(buf_span(&b), PUBLISH_MS, NOW_MS, &again, &e));
    if (j.n != again.n || j.n > CA_JWT_KEYS_MAX)
        abort();
    for (size_t i = 0; i < j.n; i++)
        if (strcmp(j.keys[i].kid, again.keys[i].kid) != 0 ||
            strcmp(j.keys[i].jwk, again.keys[i].jwk) != 0 ||
            j.keys[i].ready_ms > NOW_MS + PUBLISH_MS ||
            (j.keys[i].gone_ms == 0) != (again.keys[i].gone_ms == 0))
            abort();
    ca_jwt_done(&j);
    ca_jwt_done(&again);
    buf_done(&b);
}

static void
revoked_row(struct span s)
{
    struct revoked v = { .identity = NULL }, again = { .identity = NULL };
    struct buf b = BUF_INIT(TEXT_MAX);
    struct span key;
    char text[REVOKED_KEY_BYTES];
    struct err e = { 0 };

    if (!span_cut(&s, '\n', &key) || key.n >= sizeof(text))
        return;
    memcpy(text, key.p, key.n);
    text[key.n] = '\0';
    if (revoked_record_read(text, s, &v, &e) < 0) {
        if (e.msg[0] == '\0' || v.identity != NULL)
            abort();
        return;
    }
    if (v.identity == NULL || v.entry.serial_n > SERIAL_MAX_BYTES)
        abort();
    MUST(revoked_record_write(&v, &b, &e));
    revoked_record_key(&v, text);
    MUST(revoked_record_read(text, buf_span(&b), &again, &e));
    if (strcmp(v.identity, again.identity) != 0 || v.not_after != again.not_after ||
        v.entry.revoked != again.entry.revoked || v.entry.reason != again.entry.reason ||
        v.entry.serial_n != again.entry.serial_n ||
        memcmp(v.entry.serial, again.entry.serial, v.entry.serial_n) != 0)
        abort();
    free(v.identity);
    free(again.identity);
    buf_done(&b);
}

static void
revoked_identity_row(struct span s)
{
    struct revoked_identity v = { .identity = NULL }, again = { .identity = NULL };
    struct buf b = BUF_INIT(TEXT_MAX);
    struct span key;
    char text[IDENTITY_KEY_BYTES];
    struct err e = { 0 };

    if (!span_cut(&s, '\n', &key) || key.n >= sizeof(text))
        return;
    memcpy(text, key.p, key.n);
    text[key.n] = '\0';
    if (identity_record_read(text, s, &v, &e) < 0) {
        if (e.msg[0] == '\0' || v.identity != NULL)
            abort();
        return;
    }
    MUST(identity_record_write(&v, &b, &e));
    identity_record_key(&v, text);
    MUST(identity_record_read(text, buf_span(&b), &again, &e));
    if (strcmp(v.identity, again.identity) != 0 || v.at != again.at || v.until != again.until ||
        v.reason != again.reason || memcmp(v.id, again.id, sizeof(v.id)) != 0)
        abort();
    free(v.identity);
    free(again.identity);
    buf_done(&b);
}

static void
file_put(const char *dir, const char *name, struct span s)
{
    char path[256];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || (s.n > 0 && write(fd, s.p, s.n) != (ssize_t)s.n))
        abort();
    (void)close(fd);
}

static void
agent_file(struct span s)
{
    static const char *const names[] = { "meshroot.json", "cert-chain.pem", "root-cert.pem",
                                         "ca-crl.pem", "key.pem" };
    static struct creds *good;
    static char dir[64];
    struct creds *c = NULL;
    struct err e = { 0 };

    if (good == NULL) {
        static struct mint m;
        char *chain[MINT_N];

        mint(&m);
        for (size_t i = 0; i < MINT_N; i++)
            chain[i] = (char *)m.pem[i].p;
        MUST(creds_from_answer(m.key, MINT_ID, chain, MINT_N, &good, &e));
        (void)snprintf(dir, sizeof(dir), "/tmp/fuzz_state_XXXXXX");
        if (mkdtemp(dir) == NULL)
            abort();
    }
    if (s.n < 1)
        return;
    MUST(creds_write(dir, MINT_ID, good, &e));
    file_put(dir, names[s.p[0] % ARRAY_LEN(names)], span_skip(s, 1));
    int r = creds_read(dir, MINT_ID, &c, &e);
    if ((r == 0) != (c != NULL) || (r < 0 && e.msg[0] == '\0'))
        abort();
    if (c != NULL && (!span_eq(cert_der(c->leaf), cert_der(good->leaf)) ||
                      c->leaf_generation > c->generation || !creds_leaf_is_trusted(c)))
        abort();
    creds_free(c);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span s = span_of(data, size);

    log_setup(2, LOG_ERROR, false);
    if (size < 2)
        return 0;
    s = span_skip(s, 1);
    static void (*const kinds[])(struct span s) = { jwt_keys, revoked_row, agent_file,
                                                    revoked_identity_row };
    kinds[data[0] % ARRAY_LEN(kinds)](s);
    return 0;
}
