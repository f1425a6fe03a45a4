#include "cmd/pki_tool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/json.h"
#include "pki/bundle.h"

enum { DAY_S = 24 * 60 * 60, KEY_ID_MAX_BYTES = 64, SAN_TEXT_BYTES = 300 };

/* -- files --------------------------------------------------------------------------------------
 */

struct buf *
out_add(struct out *o, const char *name, mode_t mode)
{
    struct out_file *f = &o->v[o->n++];

    *f = (struct out_file){ .name = name, .mode = mode, .data = BUF_INIT(PEM_MAX_BYTES) };
    return &f->data;
}

void
out_done(struct out *o)
{
    for (size_t i = 0; i < o->n; i++)
        buf_wipe(&o->v[i].data);
    o->n = 0;
}

static int
none_exists(const struct out *o, const char *dir, struct err *e)
{
    for (size_t i = 0; i < o->n; i++) {
        CLEANUP(str_freep) char *path = NULL;
        struct stat st;

        TRY(str_format(&path, e, "%s/%s", dir, o->v[i].name));
        if (lstat(path, &st) == 0)
            return err_set(e, E_EXISTS, "%s exists already; --force replaces it", path);
    }
    return 0;
}

/* What is in place now, so that a failure half-way can put it back; absent files stay empty. */
static int
read_old(const struct out *o, const char *dir, struct out *old, struct err *e)
{
    for (size_t i = 0; i < o->n; i++) {
        CLEANUP(str_freep) char *path = NULL;
        struct buf *b = out_add(old, o->v[i].name, o->v[i].mode);

        TRY(str_format(&path, e, "%s/%s", dir, o->v[i].name));
        TRY(file_read(path, b, e));
    }
    return 0;
}

static void
put_back(const struct out *old, const char *dir, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        CLEANUP(str_freep) char *path = NULL;
        struct err e;

        if (str_format(&path, &e, "%s/%s", dir, old->v[i].name) < 0)
            continue;
        if (old->v[i].data.n == 0)
            (void)unlink(path);
        else if (file_write(path, buf_span(&old->v[i].data), old->v[i].mode, &e) < 0)
            fprintf(stderr, "meshroot: could not put back: %s\n", e.msg);
    }
}

int
out_write(const struct out *o, const char *dir, bool force, struct err *e)
{
    CLEANUP(out_done) struct out old = OUT_INIT;

    TRY(dir_make(dir, 0755, e));
    if (force)
        TRY(read_old(o, dir, &old, e));
    else
        TRY(none_exists(o, dir, e));
    for (size_t i = 0; i < o->n; i++) {
        CLEANUP(str_freep) char *path = NULL;
        struct span data = buf_span(&o->v[i].data);

        int r = str_format(&path, e, "%s/%s", dir, o->v[i].name);
        if (r == 0)
            r = force ? file_write(path, data, o->v[i].mode, e)
                      : file_write_new(path, data, o->v[i].mode, e);
        if (r == 0)
            continue;
        for (size_t k = old.n; k < i; k++)
            (void)out_add(&old, o->v[k].name, o->v[k].mode); /* were not there: removed */
        put_back(&old, dir, i);
        return r;
    }
    return 0;
}

int
read_input(const char *dir, const char *name, struct buf *b, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    TRY(str_format(&path, e, "%s%s%s", dir == NULL ? "" : dir, dir == NULL ? "" : "/", name));
    if (TRY(file_read(path, b, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "%s: no such file", path);
    return 0;
}

/* -- certificates -------------------------------------------------------------------------------
 */

static const char *const san_names[] = {
    [SAN_OTHER] = "other", [SAN_URI] = "URI",     [SAN_DNS] = "DNS",
    [SAN_IP] = "IP",       [SAN_EMAIL] = "email",
};

/* "DNS:istiod.istio-system.svc"; bytes that could upset a terminal are shown as '?'. */
static void
san_text(struct san s, char ret[SAN_TEXT_BYTES])
{
    char ip[INET6_ADDRSTRLEN] = "?";
    int n = snprintf(ret, SAN_TEXT_BYTES, "%s:", san_names[s.kind]);

    if (s.kind == SAN_IP && (s.value.n == 4 || s.value.n == 16)) {
        (void)inet_ntop(s.value.n == 4 ? AF_INET : AF_INET6, s.value.p, ip, sizeof(ip));
        (void)snprintf(ret + n, (size_t)(SAN_TEXT_BYTES - n), "%s", ip);
        return;
    }
    for (size_t i = 0; i < s.value.n && n < SAN_TEXT_BYTES - 1; i++)
        ret[n++] = s.value.p[i] < 0x20 || s.value.p[i] > 0x7e ? '?' : (char)s.value.p[i];
    ret[n] = '\0';
}

static const char *
time_state(const struct cert *c)
{
    int64_t now = unix_s();

    return now > cert_not_after(c)    ? "expired"
           : now < cert_not_before(c) ? "not yet valid"
                                      : "valid";
}

static void
key_id_text(struct span id, char ret[2 * KEY_ID_MAX_BYTES + 1])
{
    hex_text(span_of(id.p, id.n < KEY_ID_MAX_BYTES ? id.n : KEY_ID_MAX_BYTES), ret);
}

void
cert_print(const struct cert *c, int indent)
{
    char name[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES], id[DIGEST_TEXT_BYTES];
    char from[RFC3339_BYTES], to[RFC3339_BYTES], usage[USAGE_TEXT_BYTES], san[SAN_TEXT_BYTES];
    char ski[2 * KEY_ID_MAX_BYTES + 1], aki[2 * KEY_ID_MAX_BYTES + 1], len[32] = "";

    rfc3339_s(cert_not_before(c), from);
    rfc3339_s(cert_not_after(c), to);
    cert_serial_text(c, serial);
    cert_usage_text(c, usage);
    hex_text(span_of(cert_id(c), DIGEST_BYTES), id);
    key_id_text(cert_ski(c), ski);
    key_id_text(cert_aki(c), aki);
    if (cert_path_len(c) >= 0)
        (void)snprintf(len, sizeof(len), ", path length %d", cert_path_len(c));
    cert_subject_text(c, name);
    printf("%*sSubject    %s\n", indent, "", name);
    cert_issuer_text(c, name);
    printf("%*sIssuer     %s%s\n", indent, "", name,
           cert_is_self_signed(c) ? " (self-signed)" : "");
    printf("%*sSerial     %s\n", indent, "", serial);
    printf("%*sValidity   %s to %s, %s (%lld days left)\n", indent, "", from, to, time_state(c),
           (long long)((cert_not_after(c) - unix_s()) / DAY_S));
    printf("%*sCA         %s%s\n", indent, "", cert_is_ca(c) ? "yes" : "no", len);
    printf("%*sKey        %s\n", indent, "", key_kind_name(cert_key_kind(c)));
    printf("%*sUsage      %s\n", indent, "", usage);
    for (size_t i = 0; i < cert_san_count(c); i++) {
        san_text(cert_san_at(c, i), san);
        printf("%*sName       %s\n", indent, "", san);
    }
    printf("%*sKey id     %s\n", indent, "", ski[0] == '\0' ? "-" : ski);
    printf("%*sIssuer id  %s\n", indent, "", aki[0] == '\0' ? "-" : aki);
    printf("%*sSHA-256    %s\n", indent, "", id);
}

int
root_read(const char *dir, struct cert **ret_cert, struct key **ret_key, struct err *e)
{
    CLEANUP(buf_wipe) struct buf cert = BUF_INIT(PEM_MAX_BYTES), pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    CLEANUP(key_unrefp) struct key *key = NULL;
    const char *name = bundle_file_names[PART_ROOT_CERT];
    size_t i = 0;

    TRY(read_input(dir, name, &cert, e));
    TRY(read_input(dir, ROOT_KEY_FILE, &pem, e));
    if (roots_from_pem(buf_span(&cert), &roots, e) < 0)
        return err_wrap(e, "%s/%s", dir, name);
    if (key_from_pem(buf_span(&pem), &key, e) < 0)
        return err_wrap(e, "%s/%s", dir, ROOT_KEY_FILE);
    while (i < roots_count(roots) && !cert_key_matches(roots_at(roots, i), key))
        i++;
    if (i == roots_count(roots))
        return err_set(e, E_DENIED, "%s: %s does not belong to %s", dir, ROOT_KEY_FILE, name);
    *ret_cert = cert_ref(roots_at(roots, i));
    *ret_key = STEAL(key);
    return 0;
}

json_t *
cert_json(const struct cert *c)
{
    char subject[NAME_TEXT_BYTES], issuer[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES];
    char from[RFC3339_BYTES], to[RFC3339_BYTES], usage[USAGE_TEXT_BYTES], san[SAN_TEXT_BYTES];
    char ski[2 * KEY_ID_MAX_BYTES + 1], aki[2 * KEY_ID_MAX_BYTES + 1], id[DIGEST_TEXT_BYTES];
    json_t *sans = json_array();

    cert_subject_text(c, subject);
    cert_issuer_text(c, issuer);
    cert_serial_text(c, serial);
    cert_usage_text(c, usage);
    rfc3339_s(cert_not_before(c), from);
    rfc3339_s(cert_not_after(c), to);
    hex_text(span_of(cert_id(c), DIGEST_BYTES), id);
    key_id_text(cert_ski(c), ski);
    key_id_text(cert_aki(c), aki);
    for (size_t i = 0; i < cert_san_count(c); i++) {
        san_text(cert_san_at(c, i), san);
        sans = json_array_with(sans, json_string(san));
    }
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:i, s:b, s:s, s:s, s:s, s:s, s:s, s:o}", "type",
        "certificate", "subject", subject, "issuer", issuer, "serial", serial, "not_before", from,
        "not_after", to, "state", time_state(c), "ca", (int)cert_is_ca(c), "path_len",
        cert_path_len(c), "self_signed", (int)cert_is_self_signed(c), "key",
        key_kind_name(cert_key_kind(c)), "usage", usage, "key_id", ski, "issuer_id", aki, "sha256",
        id, "names", sans);
}
