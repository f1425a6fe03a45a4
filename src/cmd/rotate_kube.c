#include "cmd/rotate_kube.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cmd/mesh_session.h"
#include "operator/plugin_ca.h"
#include "rotate/rotate.h"

enum { ASKS_MAX = 20 };

/* The step as it was read, and the version of the PluginCA that said so. */
struct held {
    char word[ROTATE_WORD_BYTES];
    json_t *object; /* owned */
    bool is_asked;  /* the word is there already: writing it again changes nothing */
    uint64_t since; /* answers to what was there later are to us */
};

static void
held_done(struct held *h)
{
    json_decref(h->object);
    h->object = NULL;
}

static const json_t *
status_of(const json_t *object)
{
    return json_object_get(object, "status");
}

/* A member of the operator's last answer; "-": there is none. */
static const char *
last_force(const json_t *object, const char *member)
{
    return shown_text(json_object_get(status_of(object), "lastForce"), member);
}

static const json_t *
condition_held(const json_t *object)
{
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(status_of(object), "conditions"), i, c) {
        if (strcmp(shown_text(c, "type"), "Held") == 0)
            return c;
    }
    return NULL;
}

static bool
has_word(const json_t *object, const char *word)
{
    return strcmp(kube_object_get_annotation(object, PLUGIN_FORCE), word) == 0;
}

static int
held_read(struct mesh_session *s, struct held *ret, struct err *e)
{
    if (mesh_session_get(s, &kube_plugin_ca, s->name, e) < 0)
        return e->code == E_NOTFOUND
                   ? err_set(e, E_NOTFOUND, "there is no PluginCA %s/%s", s->ns, s->name)
                   : err_result(e);
    const json_t *c = condition_held(s->body), *held = json_object_get(status_of(s->body), "held");
    const char *word = json_string_value(json_object_get(held, "force"));
    if (strcmp(shown_text(c, "status"), "True") != 0)
        return err_set(e, E_STATE, "no step is held");
    if (word == NULL || strlen(word) >= sizeof(ret->word))
        return err_set(e, E_STATE, "no step is held that can be forced: %s: %s",
                       shown_text(c, "reason"), shown_text(c, "message"));
    held_done(ret);
    memcpy(ret->word, word, strlen(word) + 1);
    ret->object = json_incref(s->body);
    ret->is_asked = has_word(s->body, word);
    ret->since = kube_revision(ret->is_asked ? last_force(s->body, "resourceVersion")
                                             : kube_object_version(s->body));
    return 0;
}

static void
held_print(const struct held *h)
{
    const json_t *waits = json_object_get(status_of(h->object), "waitsFor"), *w;
    const json_t *held = json_object_get(status_of(h->object), "held");
    json_int_t total = shown_number(held, "waitsForTotal");
    size_t i;

    printf("held: %s: %s\n", shown_text(held, "step"),
           shown_text(condition_held(h->object), "message"));
    json_array_foreach(waits, i, w)
        printf("  %s\n", json_string_value(w) == NULL ? "" : json_string_value(w));
    if (total > (json_int_t)json_array_size(waits))
        printf("  and %lld more\n", (long long)(total - (json_int_t)json_array_size(waits)));
}

/* -- the annotation ------------------------------------------------------------------------------
 */

static int
patch_make(const struct mesh_session *s, const struct held *h, json_t **ret, struct err *e)
{
    json_t *o = NULL;
    int done = kube_object_new(&kube_plugin_ca, s->ns, s->name, &o, e);

    if (done == 0)
        done = kube_object_annotate(o, PLUGIN_FORCE, h->word, e);
    if (done == 0)
        done = kube_object_guard(o, kube_object_version(h->object), e);
    if (done < 0)
        json_decref(o);
    else
        *ret = o;
    return done;
}

static int
patch_send(struct mesh_session *s, const struct held *h, bool is_dry, struct err *e)
{
    json_t *patch = NULL;

    TRY(patch_make(s, h, &patch, e));
    struct kube_write w = {
        .kind = &kube_plugin_ca, .object = patch, .manager = "meshroot-cli", .is_dry_run = is_dry
    };
    int done = mesh_session_write(s, kube_patch, &w, e);
    json_decref(patch);
    return done;
}

/* The operator's answer to our word; NULL: none yet. It is in the status before the word goes, so a
 * word that was there before us and is gone was answered, if only just before we looked. Borrowed.
 */
static const json_t *
answer_of(const json_t *object, const struct held *h)
{
    bool is_later = kube_revision(last_force(object, "resourceVersion")) > h->since;

    if (strcmp(last_force(object, "force"), h->word) != 0)
        return NULL;
    return is_later || (h->is_asked && !has_word(object, h->word))
               ? json_object_get(status_of(object), "lastForce")
               : NULL;
}

/* Only over what was read and shown. A status that is written meanwhile makes no difference as long
 * as the step is the same. */
static int
ask(struct mesh_session *s, struct held *h, bool is_dry, struct err *e)
{
    char word[ROTATE_WORD_BYTES];

    memcpy(word, h->word, sizeof(word));
    for (unsigned i = 0; i < ASKS_MAX; i++) {
        if (patch_send(s, h, is_dry, e) == 0)
            return 0;
        if (e->code != E_CONFLICT)
            return err_result(e);
        TRY(mesh_session_get(s, &kube_plugin_ca, s->name, e));
        if (answer_of(s->body, h) != NULL || has_word(s->body, word))
            return 0; /* an answer to our write was lost */
        TRY(held_read(s, h, e));
        if (strcmp(h->word, word) != 0)
            return err_set(e, E_STATE,
                           "another step is held by now, and nothing was forced: look again");
    }
    return err_set(e, E_CONFLICT, "PluginCA %s/%s changes all the time; nothing was forced", s->ns,
                   s->name);
}

/* *ret is borrowed from s->body. */
static int
wait_answer(struct mesh_session *s, const struct held *h, uint64_t timeout_ms, const json_t **ret,
            struct err *e)
{
    uint64_t until = mono_ms() + timeout_ms;

    for (;;) {
        if (mesh_session_look(s, until, e) < 0)
            return err_wrap(e, "%s may be forced; what came of it is not known", h->word);
        *ret = answer_of(s->body, h);
        if (*ret != NULL && strcmp(shown_text(*ret, "answer"), "Forced") != 0)
            return err_set(e, E_STATE, "%s", shown_text(*ret, "message"));
        if (*ret != NULL)
            return 0;
        if (mono_ms() > until)
            return err_set(e, E_TIMEOUT,
                           "the operator has not answered: is meshroot operator run up? The step "
                           "may still be forced; to take that back: kubectl annotate pluginca -n "
                           "%s %s " PLUGIN_FORCE "-",
                           s->ns, s->name);
        kube_session_pause(&s->kube, MESH_LOOK_MS);
    }
}

/* -- the command ---------------------------------------------------------------------------------
 */

static int
dry_run(struct mesh_session *s, struct held *h, bool is_server, struct err *e)
{
    json_t *patch = NULL;

    if (is_server) {
        TRY(ask(s, h, true, e));
        return print_json(STEAL(s->body), e);
    }
    TRY(patch_make(s, h, &patch, e));
    return print_json(patch, e);
}

static int
force_told(struct mesh_session *s, struct held *h, const struct mesh_kube_change *c,
           const char *output, struct err *e)
{
    bool is_json = strcmp(output, "json") == 0;
    const json_t *answer = NULL;

    if (!is_json)
        held_print(h);
    TRY(ask(s, h, false, e));
    if (c->wait)
        TRY(wait_answer(s, h, c->timeout_ms, &answer, e));
    if (is_json) {
        const json_t *status = status_of(h->object);
        json_t *j = json_pack("{s:s, s:b, s:O?, s:O?, s:O?}", "force", h->word, "taken",
                              (int)c->wait, "held", json_object_get(status, "held"), "waits_for",
                              json_object_get(status, "waitsFor"), "answer", answer);
        return print_json(j, e);
    }
    if (c->wait) {
        printf("forced; these workloads may be cut off now\n");
    } else {
        printf("the operator is asked to force %s; it takes the step, or says why not:\n"
               "  kubectl describe pluginca -n %s %s\n",
               h->word, s->ns, s->name);
    }
    return 0;
}

int
rotate_kube_force(const struct mesh_kube *k, const struct mesh_kube_change *c, bool force,
                  const char *output, struct err *e)
{
    CLEANUP(mesh_session_done) struct mesh_session s = { .ns = NULL };
    CLEANUP(held_done) struct held h = { .object = NULL };
    bool is_dry = strcmp(c->dry_run, "none") != 0;

    if (c->wait && (!force || is_dry))
        return err_set(e, E_INVAL,
                       "--wait waits for a step that is forced: add --force, and no --dry-run");
    TRY(mesh_session_open(k, &s, e));
    TRY(held_read(&s, &h, e));
    if (is_dry)
        return dry_run(&s, &h, strcmp(c->dry_run, "server") == 0, e);
    if (force)
        return force_told(&s, &h, c, output, e);
    held_print(&h);
    printf("Forcing it cuts these workloads off from their peers: handshakes fail until each has "
           "the new trust\n"
           "set and leaf. To do it all the same: meshroot rotate force --namespace %s --name %s "
           "--force\n"
           "With kubectl alone: kubectl annotate pluginca -n %s %s " PLUGIN_FORCE
           "=%s --overwrite\n",
           s.ns, s.name, s.ns, s.name, h.word);
    return 0;
}
