#include "operator/operator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "obs/log.h"
#include "operator/room.h"

static const struct metric_desc leader_gauge = { "meshroot_operator_leads",
                                                 "1 while this replica leads.", METRIC_GAUGE };

/* -- which one is in force -----------------------------------------------------------------------
 */

static const char *
created(const json_t *o)
{
    return kube_object_text(o, "metadata.creationTimestamp");
}

/* Of two that are as old, the first by name. */
static bool
is_older(const json_t *a, const json_t *b)
{
    int order = strcmp(created(a), created(b));

    return order < 0 || (order == 0 && strcmp(kube_object_name(a), kube_object_name(b)) < 0);
}

static const json_t *
oldest(const struct mesh_operator *op)
{
    const json_t *best = NULL;
    const char *name;
    json_t *o;

    json_object_foreach(op->objects, name, o)
        if (best == NULL || is_older(o, best))
            best = o;
    return best;
}

static const json_t *
youngest(const struct mesh_operator *op)
{
    const json_t *best = NULL;
    const char *name;
    json_t *o;

    json_object_foreach(op->objects, name, o)
        if (best == NULL || is_older(best, o))
            best = o;
    return best;
}

static void
others_refuse(struct mesh_operator *op, const json_t *in_force)
{
    char message[PROBLEM_BYTES];
    const char *name;
    json_t *o;

    json_object_foreach(op->objects, name, o) {
        if (o == in_force)
            continue;
        (void)snprintf(message, sizeof(message),
                       "PluginCA %s of this namespace is older and in force; a namespace has one: "
                       "delete one of the two",
                       kube_object_name(in_force));
        status_refuse(op, o, "AnotherPluginCA", message);
    }
}

static void
plugin_end(struct mesh_operator *op)
{
    plugin_free(STEAL(op->plugin));
}

/* Out of every call-back of the parts that may be freed here. */
static void
on_choose(void *arg)
{
    struct mesh_operator *op = arg;
    const json_t *o = oldest(op);
    struct plugin_ca spec = { .poll_ms = 0 };
    struct err e;

    if (op->leads && op->is_listing)
        return; /* half a list: an older one may come yet */
    if (op->plugin != NULL &&
        (!op->leads || o == NULL || strcmp(kube_object_uid(o), op->plugin->spec.uid) != 0))
        plugin_end(op);
    if (!op->leads || !op->is_whole || o == NULL)
        return;
    others_refuse(op, o);
    if (plugin_ca_read(o, &spec, &e) < 0) {
        /* what was good stays in force */
        if (strcmp(op->refused, e.msg) != 0)
            log_warn("operator", "PluginCA %s: %s", kube_object_name(o), e.msg);
        (void)snprintf(op->refused, sizeof(op->refused), "%s", e.msg);
        status_refuse(op, o, "InvalidSpec", e.msg);
        return;
    }
    op->refused[0] = '\0';
    if (op->plugin != NULL && plugin_update(op->plugin, &spec))
        return;
    if (op->plugin != NULL) { /* opened anew */
        plugin_end(op);
        timer_set(op->choose, 0);
        return;
    }
    if (plugin_new(op, &spec, &op->plugin, &e) < 0)
        log_error("operator", "PluginCA %s: %s", kube_object_name(o), e.msg);
}

/* -- the watch -----------------------------------------------------------------------------------
 */

static void
on_begin(void *arg)
{
    struct mesh_operator *op = arg;

    op->is_listing = true;
    op->left_out = false;
    json_object_clear(op->objects);
}

/* The oldest ones are kept: whoever makes many more displaces nobody. */
static int
on_put(const json_t *o, void *arg, struct err *e)
{
    struct mesh_operator *op = arg;
    const char *name = kube_object_name(o);

    if (json_object_size(op->objects) >= PLUGINS_MAX &&
        json_object_get(op->objects, name) == NULL) {
        const json_t *last = youngest(op);

        if (!op->left_out)
            log_warn("operator",
                     "there are more than %d PluginCAs in %s: the youngest are not "
                     "looked at",
                     (int)PLUGINS_MAX, op->conf.namespace);
        op->left_out = true;
        if (is_older(last, o))
            return 0;
        (void)json_object_del(op->objects, kube_object_name(last));
    }
    if (json_object_set_new(op->objects, name, json_deep_copy(o)) < 0)
        return err_nomem(e);
    timer_set(op->choose, 0);
    return 0;
}

static int
on_gone(const json_t *o, void *arg, struct err *e)
{
    struct mesh_operator *op = arg;

    (void)json_object_del(op->objects, kube_object_name(o));
    timer_set(op->choose, 0);
    return op->left_out ? err_set(e, E_STATE, "a PluginCA is gone: all are read again") : 0;
}

static void
on_rewound(void *arg)
{
    struct mesh_operator *op = arg;

    if (op->plugin != NULL)
        op->plugin->status_at = op->plugin->force.gone = 0;
}

static void
on_whole(void *arg)
{
    struct mesh_operator *op = arg;

    op->is_whole = true;
    op->is_listing = false;
    timer_set(op->choose, 0);
}

/* -- public --------------------------------------------------------------------------------------
 */

static const char *
keep(struct mesh_operator *op, const char *s)
{
    if (s == NULL || json_array_append_new(op->texts, json_string(s)) < 0)
        return NULL;
    return json_string_value(json_array_get(op->texts, json_array_size(op->texts) - 1));
}

static int
feed_open(struct mesh_operator *op, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    TRY(kube_path(&kube_plugin_ca, op->conf.namespace, NULL, NULL, &path, e));
    struct kube_feed_conf f = { .path = path,
                                .name = "pluginca",
                                .metrics = op->conf.metrics,
                                .begin = on_begin,
                                .put = on_put,
                                .gone = on_gone,
                                .whole = on_whole,
                                .rewound = on_rewound,
                                .verify_ms = KUBE_FEED_VERIFY_MS,
                                .arg = op };
    return kube_feed_new(op->loop, op->conf.kube, &f, &op->feed, e);
}

int
operator_new(struct loop *l, const struct operator_conf *conf, struct mesh_operator **ret,
             struct err *e)
{
    struct mesh_operator *op = calloc(1, sizeof(*op));

    if (op == NULL)
        return err_nomem(e);
    op->loop = l;
    op->conf = *conf;
    op->texts = json_array();
    op->objects = json_object();
    op->conf.namespace = keep(op, conf->namespace);
    op->conf.ca_namespace = keep(op, conf->ca_namespace);
    op->conf.ca_secret = keep(op, conf->ca_secret);
    op->conf.ca_pods = keep(op, conf->ca_pods);
    op->conf.istiod_pods = keep(op, conf->istiod_pods);
    op->conf.identity = keep(op, conf->identity);
    op->conf.token_file = keep(op, conf->token_file);
    op->conf.ca_name = keep(op, conf->ca_name);
    for (size_t i = 0; i < conf->istiod_names_n; i++)
        op->conf.istiod_names[i] = keep(op, conf->istiod_names[i]);
    for (size_t i = 0; i < conf->vault_hosts_n; i++)
        op->conf.vault_hosts[i] = keep(op, conf->vault_hosts[i]);
    int done = op->conf.identity == NULL || op->objects == NULL ? err_nomem(e) : 0;
    if (done == 0)
        done = timer_new(l, on_choose, op, &op->choose, e);
    struct kube_recorder_conf rec = { .component = "meshroot-operator",
                                      .instance = op->conf.identity,
                                      .metrics = conf->metrics };
    if (done == 0)
        done = kube_recorder_new(l, conf->kube, &rec, &op->recorder, e);
    if (done == 0)
        done = feed_open(op, e);
    if (done < 0) {
        operator_free(op);
        return done;
    }
    *ret = op;
    return 0;
}

void
operator_free(struct mesh_operator *op)
{
    if (op == NULL)
        return;
    plugin_end(op);
    kube_feed_free(op->feed);
    kube_recorder_free(op->recorder);
    timer_free(op->choose);
    json_decref(op->objects);
    json_decref(op->texts);
    free(op);
}

void
operator_lead(struct mesh_operator *op, bool leads)
{
    if (op->leads != leads)
        log_info("operator", leads ? "leads" : "does not lead any more");
    op->leads = leads;
    metric_set(op->conf.metrics, &leader_gauge, "", leads);
    if (!leads)
        plugin_end(op); /* at once: another one writes from now on */
    timer_set(op->choose, 0);
}

bool
operator_is_ready(const struct mesh_operator *op)
{
    return op->is_whole;
}

const char *
operator_why_not_ready(struct mesh_operator *op)
{
    const char *trouble = kube_feed_trouble(op->feed);

    (void)snprintf(op->why_not_ready, sizeof(op->why_not_ready),
                   "the PluginCAs of %s are not known%s%.400s\n", op->conf.namespace,
                   trouble[0] == '\0' ? " yet" : ": ", trouble);
    return op->why_not_ready;
}

json_t *
operator_status(const struct mesh_operator *op)
{
    return json_pack("{s:b, s:s, s:o}", "leads", (int)op->leads, "namespace", op->conf.namespace,
                     "plugin_ca", op->plugin == NULL ? json_null() : status_make(op->plugin));
}
