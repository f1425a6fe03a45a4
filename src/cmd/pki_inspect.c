/* pki_inspect.c - meshroot pki inspect: what is in PEM files. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/str.h"
#include "cmd/commands.h"
#include "cmd/pki_tool.h"
#include "net/json.h"
#include "pki/leaf.h"

enum { INSPECT_FILES_MAX = 64, INSPECT_CERTS_MAX = 64 };

struct inspect_conf {
    const char *output;
};

static const struct opt opts[] = { OPT_OUTPUT(struct inspect_conf, output), { .name = NULL } };

/* What one file turned out to be: prints it, or adds objects to `list`. */
struct sight {
    const char *path;
    struct span text;
    bool as_json; /* else: print */
    json_t *list; /* owned; NULL too when memory ran out */
};

struct findings {
    bool as_json;
    json_t *files; /* owned; NULL too when memory ran out */
};

static int
see_key(struct sight *s, struct err *e)
{
    CLEANUP(key_unrefp) struct key *k = NULL;

    TRY(key_from_pem(s->text, &k, e));
    const char *kind = key_kind_name(key_get_kind(k));
    if (s->as_json)
        s->list =
            json_array_with(s->list, json_pack("{s:s, s:s}", "type", "private key", "key", kind));
    else
        printf("  private key, %s\n", kind);
    return 0;
}

/* A request that our CA would refuse (CA:TRUE asked, a weak key) is a fact to show, no error. */
static int
see_csr(struct sight *s, struct err *e)
{
    CLEANUP(buf_done) struct buf der = BUF_INIT(CSR_MAX_BYTES);
    struct csr c = { .kind = KEY_NONE };

    TRY(csr_from_pem(s->text, &der, e));
    e->msg[0] = '\0';
    if (csr_parse(buf_span(&der), &c, e) < 0 || csr_verify(buf_span(&der), &c, e) < 0)
        c.kind = KEY_NONE;
    const char *kind = key_kind_name(c.kind);
    if (s->as_json)
        s->list = json_array_with(s->list, json_pack("{s:s, s:s, s:b, s:s}", "type",
                                                     "certificate request", "key", kind, "ok",
                                                     (int)(c.kind != KEY_NONE), "reason", e->msg));
    else if (c.kind != KEY_NONE)
        printf("  certificate request, %s, its signature is good\n", kind);
    else
        printf("  certificate request that a CA for workloads refuses: %s\n", e->msg);
    return 0;
}

static int
see_certs(struct sight *s, struct err *e)
{
    struct cert *v[INSPECT_CERTS_MAX];
    size_t n = 0;

    if (s->text.n > 0 && s->text.p[0] == 0x30) { /* DER */
        TRY(cert_from_der(s->text, &v[0], e));
        n = 1;
    } else {
        TRY(certs_from_pem(s->text, v, ARRAY_LEN(v), &n, e));
    }
    for (size_t i = 0; i < n; i++) {
        if (s->as_json) {
            s->list = json_array_with(s->list, cert_json(v[i]));
        } else {
            printf("  certificate %zu of %zu\n", i + 1, n);
            cert_print(v[i], 4);
        }
        cert_unref(v[i]);
    }
    return 0;
}

static bool
has(struct span text, const char *what)
{
    return text.n > 0 && memmem(text.p, text.n, what, strlen(what)) != NULL;
}

/* In this order: a key's file may hold its certificate too, and the key is what matters. */
static const struct {
    const char *mark;
    int (*see)(struct sight *s, struct err *e);
} sorts[] = {
    { "PRIVATE KEY-----", see_key },
    { "CERTIFICATE REQUEST-----", see_csr },
    { "", see_certs },
};

static int
inspect_file(const char *path, struct findings *f, struct err *e)
{
    CLEANUP(buf_wipe) struct buf text = BUF_INIT(PEM_MAX_BYTES);
    struct sight s = { .path = path, .as_json = f->as_json };
    size_t i = 0;

    TRY(read_input(NULL, path, &text, e));
    s.text = buf_span(&text);
    if (s.as_json)
        s.list = json_array();
    while (sorts[i].mark[0] != '\0' && !has(s.text, sorts[i].mark))
        i++;
    if (!s.as_json)
        printf("%s\n", path);
    int r = sorts[i].see(&s, e);
    if (r == 0 && s.as_json)
        f->files = json_array_with(f->files,
                                   json_pack("{s:s, s:o}", "file", path, "holds", STEAL(s.list)));
    json_decref(s.list);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

static int
is_pem_name(const struct dirent *de)
{
    size_t n = strlen(de->d_name);

    return de->d_name[0] != '.' && n > 4 && strcmp(de->d_name + n - 4, ".pem") == 0;
}

static int
inspect_dir(const char *dir, struct findings *f, struct err *e)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, is_pem_name, alphasort), r = 0;

    if (n < 0)
        return err_sys(e, errno, "%s: list", dir);
    if (n == 0)
        r = err_set(e, E_NOTFOUND, "%s: no file named *.pem", dir);
    if (n > INSPECT_FILES_MAX)
        r = err_set(e, E_LIMIT, "%s: more than %d files", dir, (int)INSPECT_FILES_MAX);
    for (int i = 0; i < n; i++) {
        CLEANUP(str_freep) char *path = NULL;

        if (r == 0)
            r = str_format(&path, e, "%s/%s", dir, names[i]->d_name);
        if (r == 0)
            r = inspect_file(path, f, e);
        free(names[i]);
    }
    free(names);
    return r;
}

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct inspect_conf *c = conf;
    struct findings f = { .as_json = c->output[0] == 'j' };
    int r = 0;

    if (f.as_json)
        f.files = json_array();

    for (int i = 0; i < args->n && r == 0; i++) {
        struct stat st;

        if (stat(args->v[i], &st) == 0 && S_ISDIR(st.st_mode))
            r = inspect_dir(args->v[i], &f, e);
        else
            r = inspect_file(args->v[i], &f, e);
    }
    if (r == 0 && f.as_json)
        return print_json(json_pack("{s:o}", "files", f.files), e);
    json_decref(f.files);
    return r;
}

const struct command cmd_pki_inspect = {
    "pki inspect",
    "FILE...|DIR",
    1,
    INSPECT_FILES_MAX,
    opts,
    sizeof(struct inspect_conf),
    run,
    "show what is in certificate, key and request files",
    "Shows every certificate of the files (or of all *.pem of a folder): names, validity, key, "
    "usage,\n"
    "identifiers. Of keys only the kind is shown, never the key. No network is used.\n"
    "\n"
    "Examples:\n"
    "  meshroot pki inspect a1\n"
    "  meshroot pki inspect a1/cert-chain.pem --output json\n",
};
