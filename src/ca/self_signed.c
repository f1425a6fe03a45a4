/* self_signed.c - the root of a mesh that nothing was plugged into: made once, kept in a folder. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/str.h"
#include "ca/room.h"
#include "obs/log.h"

enum { SELF_SIGNED_DAYS = 3650 };

/* The signer process makes the key and writes it to a file that is opened for it here. */
static int
root_make_at(struct ca *c, const char *key_path, struct cert **ret, struct err *e)
{
    char subject[TRUST_DOMAIN_BYTES + 8];
    int fd = open(key_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return err_sys(e, errno, "%s: create", key_path);
    (void)snprintf(subject, sizeof(subject), "O=%s", c->conf.trust_domain);
    int r = signer_make_root(c->signer, subject, SELF_SIGNED_DAYS, fd, ret, e);
    (void)close(fd);
    return r;
}

int
ca_self_signed_make(struct ca *c, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *root = NULL;
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(str_freep) char *key_path = NULL;
    struct set_manifest m = { .generation = 1, .self_signed = true };

    TRY(dir_make(c->conf.self_signed_dir, 0755, e));
    TRY(str_format(&key_path, e, "%s/.new-key.pem", c->conf.self_signed_dir));
    TRY(root_make_at(c, key_path, &root, e));
    TRY(cert_to_pem(root, &pem, e));
    struct span parts[PART__N] = {
        [PART_ROOT_CERT] = buf_span(&pem), [PART_CA_CERT] = buf_span(&pem)
    };
    TRY(bundle_new_public(parts, &b, e));
    TRY(set_write_moved(c->conf.self_signed_dir, b, &m, key_path, e));
    log_info("pkica", "Using self-generated public key; the self-signed root is kept in %s",
             c->conf.self_signed_dir);
    return 0;
}

bool
ca_self_signed_is_kept(const struct ca *c)
{
    static const char *const names[] = { "ca-cert.pem" };
    CLEANUP(buf_done) struct buf text = BUF_INIT(FILESET_MAX_FILE_BYTES);
    bool present = false;
    struct err e;

    return c->conf.self_signed_dir != NULL &&
           (fileset_read(c->conf.self_signed_dir, names, 1, &text, &present, &e) < 0 || present);
}
