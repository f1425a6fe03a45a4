/* identity_keygen.c - meshroot identity keygen: a token issuer for machines without Kubernetes. */
#include <stdio.h>
#include <string.h>

#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "identity/identity.h"

enum { KEYGEN_FILE_BYTES = 16 * 1024 };

struct keygen_conf {
    const char *out, *key_type, *issuer, *output;
    bool force;
};

static const struct opt opts[] = {
    { "out", OPT_STRING, offsetof(struct keygen_conf, out), NULL, NULL, NULL, OPT_REQUIRED, "DIR",
      "folder for issuer-key.pem, jwks.json and issuer; made if need be" },
    { "key-type", OPT_CHOICE, offsetof(struct keygen_conf, key_type), "p256", "p256|p384|rsa2048",
      NULL, 0, "TYPE", "kind of key" },
    { "issuer", OPT_STRING, offsetof(struct keygen_conf, issuer), "https://issuer.meshroot.local",
      NULL, NULL, 0, "URL", "what tokens name as their issuer (\"iss\")" },
    { "force", OPT_FLAG, offsetof(struct keygen_conf, force), NULL, NULL, NULL, 0, NULL,
      "replace files that exist, the key too: tokens signed with the old one end to be valid" },
    OPT_OUTPUT(struct keygen_conf, output),
    { .name = NULL },
};

static int
answer(const struct keygen_conf *c, const char *kid, struct err *e)
{
    if (c->output[0] == 'j')
        return print_json(
            json_pack("{s:s, s:s, s:s}", "dir", c->out, "issuer", c->issuer, "kid", kid), e);
    printf("%s/issuer-key.pem  private key, mode 0600: signs tokens\n", c->out);
    printf("%s/jwks.json       public key, kid %s\n", c->out, kid);
    printf("%s/issuer          %s\n", c->out, c->issuer);
    printf("The CA takes its tokens with --issuer %s=%s/jwks.json\n", c->issuer, c->out);
    return 0;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct keygen_conf *c = conf;
    CLEANUP(key_unrefp) struct key *k = NULL;
    CLEANUP(out_done) struct out files = OUT_INIT;
    char kid[JWK_THUMBPRINT_BYTES];
    enum key_kind kind;

    (void)args;
    if (c->issuer[0] == '\0')
        return err_set(e, E_INVAL, "--issuer is empty");
    TRY(key_kind_parse(c->key_type, &kind, e));
    TRY(key_make(kind, &k, e));
    TRY(jwk_thumbprint(k, kid, e));
    TRY(key_to_pem(k, out_add(&files, "issuer-key.pem", 0600), e));
    struct buf *jwks = out_add(&files, "jwks.json", 0644);
    TRY(jwks_of_key(k, kid, jwks, e));
    TRY(buf_add_byte(jwks, '\n', e));
    TRY(buf_addf(out_add(&files, "issuer", 0644), e, "%s\n", c->issuer));
    TRY(out_write(&files, c->out, c->force, e));
    return answer(c, kid, e);
}

const struct command cmd_identity_keygen = {
    "identity keygen",
    "",
    0,
    0,
    opts,
    sizeof(struct keygen_conf),
    run,
    "make a token issuer's key, for machines without Kubernetes",
    "Makes the key of a token issuer: issuer-key.pem (mode 0600), jwks.json (its public half, for\n"
    "the CA) and issuer (its name). Whoever holds the key can name any workload of the mesh: keep\n"
    "it where tokens are made, and nowhere else. Nothing is replaced without --force. No network\n"
    "is used. On Kubernetes none of this is needed: the cluster is the issuer.\n"
    "\n"
    "Examples:\n"
    "  meshroot identity keygen --out issuer\n"
    "  meshroot identity keygen --out issuer --key-type rsa2048 --issuer https://id.example.com\n",
};
