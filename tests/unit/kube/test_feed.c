/* test_feed.c - lists and watches against a server that says what it is told to. */
#include "mint.h"
#include "tmpdir.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "kube/cache.h"
#include "net/addr.h"
#include "net/http.h"

enum { GIVE_UP_MS = 60 * 1000, LOG_MAX = 4096, BIG = KUBE_MAX_BODY_BYTES + 1 };
enum { SILENCE_MS = 60 * 60 * 1000 }; /* over at once when a watch says nothing, never before */

static struct err e;

/* -- the clock, and the timer that looks at silence -- */

static uint64_t ahead_ms;
static struct timer *silence;

uint64_t __real_mono_ms(void);
uint64_t __wrap_mono_ms(void);

uint64_t
__wrap_mono_ms(void)
{
    return __real_mono_ms() + ahead_ms;
}

void __real_timer_set(struct timer *t, uint64_t ms);
void __wrap_timer_set(struct timer *t, uint64_t ms);

void
__wrap_timer_set(struct timer *t, uint64_t ms)
{
    if (ms > SILENCE_MS / 2)
        silence = t;
    __real_timer_set(t, ms);
}

static void
silence_is_over(void)
{
    assert_non_null(silence);
    ahead_ms += SILENCE_MS;
    __real_timer_set(silence, 0);
}

struct row {                  /* what the server gets next, and what it says */
    const char *name, *value; /* a parameter of the query; "-": it is absent */
    int status;
    const char *body; /* NULL: more than any page or event may have */
};

struct scene {
    char dir[64];
    struct loop *loop;
    struct timer *give_up;
    struct http_server *server;
    struct kube_client *client;
    struct kube_feed *feed;
    struct kube_list *list;
    const struct row *rows; /* ended by a row without a name: from there on it is silent */
    size_t at;
    char log[LOG_MAX];
    const char *until; /* the log ends like that: stop */
    char refuses[16];  /* the object that is not taken */
    enum err_code code;
};

static void
on_give_up(void *arg)
{
    struct scene *s = arg;

    fail_msg("gave up: %s (row %zu)", s->log, s->at);
}

static void
note(struct scene *s, const char *what, const char *more)
{
    size_t n = strlen(s->log);

    assert_true(n + strlen(what) + strlen(more) + 2 < sizeof(s->log));
    (void)snprintf(s->log + n, sizeof(s->log) - n, " %s%s", what, more);
    n = strlen(s->log);
    if (s->until != NULL && n >= strlen(s->until) &&
        strcmp(s->log + n - strlen(s->until), s->until) == 0)
        loop_stop(s->loop);
}

static void
on_gone(void *arg)
{
    (void)arg;
}

static void
on_request(struct http_exchange *x, void *self)
{
    static char big[BIG + 1];
    struct scene *s = self;
    const struct row *row = &s->rows[s->at];

    if (row->name == NULL) { /* the answer that never comes */
        http_on_gone(x, on_gone, s);
        return;
    }
    s->at++;
    if (row->status == 0) { /* a watch that says nothing */
        http_on_gone(x, on_gone, s);
        silence_is_over();
        return;
    }
    const char *v = http_query(x, row->name);
    assert_string_equal(v == NULL ? "-" : v, row->value);
    if (row->status == 429)
        http_reply_header(x, "Retry-After", "1");
    memset(big, ' ', BIG);
    http_reply(x, row->status, "application/json", span_str(row->body == NULL ? big : row->body));
}

static void
server_start(struct scene *s, struct kube_conf *conf)
{
    struct tls_conf_args a = { .is_server = true, .rule = TLS_PEER_NONE };
    struct http_server_conf h = { .on_request = on_request, .self = s };
    struct addr at = { "127.0.0.1", 0 };
    struct key *key = NULL;
    struct mint_ca root;
    char path[80];
    uint16_t port;

    mint_ca(&root, "CN=Root", NULL);
    assert_ok(key_make(KEY_P256, &key, &e));
    struct cert *leaf = mint_leaf(&root, key, "127.0.0.1", 3600);
    struct buf pem = BUF_INIT(8192);
    assert_ok(cert_to_pem(root.cert, &pem, &e));
    (void)snprintf(path, sizeof(path), "%s/root.pem", s->dir);
    assert_ok(file_write(path, buf_span(&pem), 0644, &e));
    a.leaf = leaf;
    a.key = key;
    assert_ok(tls_conf_new(&a, &h.tls, &e));
    assert_ok(addr_listen(&at, false, &h.listen_fd, &port, &e));
    assert_ok(http_server_new(s->loop, &h, &s->server, &e));
    tls_conf_unref(h.tls);
    assert_ok(str_format(&conf->server, &e, "https://127.0.0.1:%u", port));
    assert_ok(str_dup(span_str(path), &conf->ca_file, &e));
    buf_done(&pem);
    cert_unref(leaf);
    key_unref(key);
    mint_ca_done(&root);
}

static int
setup(void **state)
{
    struct kube_conf conf = { .server = NULL };
    struct scene *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    *state = s;
    tmpdir_make(s->dir);
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(timer_new(s->loop, on_give_up, s, &s->give_up, &e));
    timer_set(s->give_up, GIVE_UP_MS);
    server_start(s, &conf);
    assert_ok(kube_client_new(s->loop, &conf, NULL, &s->client, &e));
    kube_conf_done(&conf);
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    kube_feed_free(s->feed);
    kube_client_free(s->client);
    http_server_free(s->server);
    timer_free(s->give_up);
    loop_free(s->loop);
    tmpdir_remove(s->dir);
    free(s);
    return 0;
}

/* -- list ----------------------------------------------------------------------------------------
 */

static void
on_begin(void *arg)
{
    note(arg, "begin", "");
}

static const char *
name_of(const json_t *o)
{
    return json_string_value(json_object_get(json_object_get(o, "metadata"), "name"));
}

static int
on_put(const json_t *o, void *arg, struct err *err)
{
    struct scene *s = arg;

    if (strcmp(s->refuses, name_of(o)) == 0) {
        s->refuses[0] = '\0';
        return err_set(err, E_LIMIT, "full");
    }
    note(s, "+", name_of(o));
    return 0;
}

static void
on_list_done(const char *version, const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->code = why == NULL ? E_NONE : why->code;
    note(s, "done:", version == NULL ? "-" : version);
}

static void
list(struct scene *s, const struct row *rows, size_t max, const char *log)
{
    struct kube_list_conf conf = { .path = "/api/v1/pods",
                                   .max_objects = max,
                                   .deadline_ms = GIVE_UP_MS,
                                   .begin = on_begin,
                                   .item = on_put,
                                   .done = on_list_done,
                                   .arg = s };

    s->rows = rows;
    s->at = 0;
    s->log[0] = '\0';
    s->until = log;
    assert_ok(kube_list_start(s->client, &conf, &s->list, &e));
    assert_ok(loop_run(s->loop, &e));
    assert_string_equal(s->log, log);
    assert_null(rows[s->at].name); /* all of them were asked for */
}

#define OBJ(name, v) "{\"metadata\":{\"name\":\"" name "\",\"resourceVersion\":\"" v "\"}}"
#define PAGE(v, next, items)                                                                       \
    "{\"metadata\":{\"resourceVersion\":\"" v "\",\"continue\":\"" next "\"},\"items\":[" items "]}"
#define GONE "{\"kind\":\"Status\",\"code\":410,\"message\":\"too old\"}"

static void
a_list_has_pages(void **state)
{
    static const struct row rows[] = {
        { "continue", "-", 200, PAGE("7", "t/=1", OBJ("a", "1") "," OBJ("b", "2")) },
        { "continue", "t/=1", 200, PAGE("7", "t2", OBJ("c", "3")) },
        { "continue", "t2", 200, PAGE("7", "", "") },
        { NULL, NULL, 0, NULL },
    };

    list(*state, rows, 0, " begin +a +b +c done:7");
}

static void
a_list_whose_token_is_too_old_starts_again(void **state)
{
    static const struct row once[] = {
        { "continue", "-", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "continue", "t", 410, GONE },
        { "continue", "-", 200, PAGE("9", "", OBJ("b", "8")) },
        { NULL, NULL, 0, NULL },
    };
    static const struct row always[] = {
        { "continue", "-", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "continue", "t", 410, GONE },
        { "continue", "-", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "continue", "t", 410, GONE },
        { "continue", "-", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "continue", "t", 410, GONE },
        { "continue", "-", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "continue", "t", 410, GONE },
        { NULL, NULL, 0, NULL },
    };
    struct scene *s = *state;

    list(s, once, 0, " begin +a begin +b done:9");
    list(s, always, 0, " begin +a begin +a begin +a begin +a done:-");
    assert_int_equal(s->code, E_STATE);
}

static void
a_page_too_large_is_asked_for_in_halves(void **state)
{
    static const struct row rows[] = {
        { "limit", "100", 200, NULL },
        { "limit", "50", 200, NULL },
        { "limit", "25", 200, PAGE("7", "t", OBJ("a", "1")) },
        { "limit", "25", 200, PAGE("7", "", OBJ("b", "1")) },
        { NULL, NULL, 0, NULL },
    };

    list(*state, rows, 0, " begin begin begin +a +b done:7");
}

static void
lists_that_are_none(void **state)
{
    static const struct {
        struct row rows[2];
        enum err_code code;
    } cases[] = {
        { { { "limit", "100", 200, "{}" } }, E_PEER },
        { { { "limit", "100", 200, "{\"items\":{}}" } }, E_PEER },
        { { { "limit", "100", 200, "{\"items\":[]}" } }, E_PEER },
        { { { "limit", "100", 200, "<html>" } }, E_PEER },
        { { { "limit", "100", 200, PAGE("7&x", "", "") } }, E_PEER },
        { { { "limit", "100", 200, PAGE("7", "more", "") } }, E_PEER },
        { { { "limit", "100", 403, "{\"message\":\"cannot list\"}" } }, E_DENIED },
        { { { "limit", "100", 404, "{}" } }, E_NOTFOUND },
    };
    static const struct row many[] = {
        { "limit", "100", 200, PAGE("7", "t", OBJ("a", "1") "," OBJ("b", "1")) },
        { "continue", "t", 200, PAGE("7", "t", OBJ("c", "1") "," OBJ("d", "1")) },
        { NULL, NULL, 0, NULL },
    };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        list(s, cases[i].rows, 0, " begin done:-");
        assert_int_equal(s->code, cases[i].code);
    }
    list(s, many, 3, " begin +a +b done:-");
    assert_int_equal(s->code, E_LIMIT);
}

/* -- feed ----------------------------------------------------------------------------------------
 */

static int
on_object_gone(const json_t *o, void *arg, struct err *err)
{
    (void)err;
    note(arg, "-", name_of(o));
    return 0;
}

static void
on_whole(void *arg)
{
    note(arg, "whole", "");
}

static void
on_alive(void *arg)
{
    note(arg, ".", "");
}

static void
on_broken(void *arg)
{
    note(arg, "broken", "");
}

static void
on_rewound(void *arg)
{
    note(arg, "rewound", "");
}

static void
feed(struct scene *s, const struct row *rows, uint64_t relist_ms, const char *log)
{
    struct kube_feed_conf conf = { .path = "/api/v1/pods",
                                   .name = "pods",
                                   .wait_first_ms = 2,
                                   .relist_ms = relist_ms,
                                   .begin = on_begin,
                                   .put = on_put,
                                   .gone = on_object_gone,
                                   .whole = on_whole,
                                   .alive = on_alive,
                                   .broken = on_broken,
                                   .rewound = on_rewound,
                                   .arg = s };

    s->rows = rows;
    s->until = log;
    assert_ok(kube_feed_new(s->loop, s->client, &conf, &s->feed, &e));
    assert_ok(loop_run(s->loop, &e));
    assert_string_equal(s->log, log);
    assert_null(rows[s->at].name);
}

#define EVENT(type, object) "{\"type\":\"" type "\",\"object\":" object "}\n"
#define LIST_A                                                                                     \
    {                                                                                              \
        "watch", "-", 200, PAGE("7", "", OBJ("a", "1"))                                            \
    }

static void
a_watch_goes_on_where_it_ended(void **state)
{
    static const struct row rows[] = {
        LIST_A,
        { "resourceVersion", "7", 200,
          EVENT("ADDED", OBJ("b", "8")) EVENT("MODIFIED", OBJ("a", "9"))
              EVENT("DELETED", OBJ("b", "10")) "{\"type\":\"ADD" }, /* cut off in mid-event */
        { "resourceVersion", "10", 200,
          EVENT("BOOKMARK", "{\"metadata\":{\"resourceVersion\":\"44\"}}") },
        { "allowWatchBookmarks", "true", 200, "" },
        { "timeoutSeconds", "60", 500, "{}" },
        { "resourceVersion", "44", 503, "{}" },
        { "resourceVersion", "44", 200, EVENT("ADDED", OBJ("c", "45")) },
        { NULL, NULL, 0, NULL },
    };

    feed(*state, rows, 0, " begin +a whole . +b . +a . -b . . +c .");
}

static void
too_old_means_a_list(void **state)
{
    static const struct row rows[] = {
        LIST_A,
        { "resourceVersion", "7", 410, GONE },
        LIST_A,
        { "resourceVersion", "7", 200, EVENT("ERROR", GONE) },
        LIST_A,
        { "resourceVersion", "7", 429, "{}" }, /* waits, and does not list */
        { "resourceVersion", "7", 200, EVENT("ERROR", "{\"code\":500}") },
        { "resourceVersion", "7", 200, EVENT("ADDED", OBJ("b", "8")) },
        { NULL, NULL, 0, NULL },
    };

    feed(*state, rows, 0, " begin +a whole . begin +a whole . begin +a whole . +b .");
    assert_string_equal(kube_feed_trouble(((struct scene *)*state)->feed), "");
}

static void
an_event_that_cannot_be_is_no_event(void **state)
{
    static const struct row rows[] = {
        LIST_A,
        { "watch", "1", 200, "<html>\n" EVENT("ADDED", OBJ("x", "8")) },
        LIST_A,
        { "watch", "1", 200, EVENT("RENAMED", OBJ("x", "8")) },
        LIST_A,
        { "watch", "1", 200, EVENT("ADDED", "{\"metadata\":{\"name\":\"x\"}}") },
        LIST_A,
        { "watch", "1", 200, NULL }, /* a line without end */
        LIST_A,
        { "watch", "1", 200, EVENT("ADDED", OBJ("full", "8")) EVENT("ADDED", OBJ("x", "9")) },
        LIST_A,
        { NULL, NULL, 0, NULL },
    };
    struct scene *s = *state;

    (void)snprintf(s->refuses, sizeof(s->refuses), "full");
#define AGAIN " broken begin +a whole ."
    feed(s, rows, 0, " begin +a whole ." AGAIN AGAIN AGAIN AGAIN AGAIN);
}

static void
silence_is_broken_by_a_list(void **state)
{
    static const struct row rows[] = {
        LIST_A,
        { "watch", "1", 0, NULL },
        LIST_A,
        { NULL, NULL, 0, NULL },
    };
    struct scene *s = *state;

    feed(s, rows, SILENCE_MS,
         " begin +a whole . begin +a whole ."); /* a watch is open, and says nothing */
}

/* What an API server does after its etcd was restored: silent until the numbers have caught up, a
 * refusal, or a word of a version that is lower. The list that follows is the judge. */
static void
a_server_that_went_back_is_read_anew(void **state)
{
    static const struct row rows[] = {
        { "watch", "-", 200, PAGE("70", "", OBJ("a", "60")) },
        { "resourceVersion", "70", 200,
          EVENT("ADDED", OBJ("b", "71")) EVENT("BOOKMARK", OBJ("", "40")) },
        { "watch", "-", 200, PAGE("41", "t", OBJ("a", "10")) },
        { "continue", "t", 200, PAGE("41", "", OBJ("c", "11")) },
        { "resourceVersion", "41", 200, EVENT("ADDED", OBJ("d", "42")) },
        { "resourceVersion", "42", 504,
          "{\"code\":504,\"reason\":\"Timeout\",\"message\":\"Timeout: Too large resource "
          "version: 42, current: 30\",\"details\":{\"causes\":[{\"reason\":"
          "\"ResourceVersionTooLarge\"}]}}" },
        { "watch", "-", 200, PAGE("30", "", "") },
        { "resourceVersion", "30", 200, EVENT("DELETED", OBJ("e", "20")) },
        { "watch", "-", 200, PAGE("33", "", "") }, /* no: this server is only odd */
        { "resourceVersion", "33", 0, NULL },      /* silent */
        { "watch", "-", 200, PAGE("5", "", OBJ("a", "1")) },
        { NULL, NULL, 0, NULL },
    };

    feed(*state, rows, SILENCE_MS,
         " begin +a whole . +b . broken begin rewound +a +c whole . +d ."
         " begin rewound whole . broken begin whole . begin rewound +a whole .");
}

static void
events_as_texts(void **state)
{
    static const struct {
        const char *line;
        int r;
        enum kube_event_type type;
    } rows[] = {
        { EVENT("ADDED", OBJ("a", "1")), 0, KUBE_PUT },
        { EVENT("DELETED", OBJ("a", "1")), 0, KUBE_GONE },
        { EVENT("ERROR", "{}"), 0, KUBE_ERROR },
        { EVENT("ADDED", "[]"), -E_PARSE, 0 },
        { EVENT("ADDED", "{}"), -E_PARSE, 0 },
        { EVENT("BOOKMARK", OBJ("a", "1 2")), -E_PARSE, 0 },
        { "{\"type\":1,\"object\":{}}", -E_PARSE, 0 },
        { "{\"type\":\"ADDED\",\"type\":\"DELETED\",\"object\":" OBJ("a", "1") "}", -E_PARSE, 0 },
        { "[]", -E_PARSE, 0 },
        { "", -E_PARSE, 0 },
    };
    struct buf deep = BUF_INIT(1024);
    struct kube_event ev;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(kube_event_read(span_str(rows[i].line), &ev, &e), rows[i].r);
        if (rows[i].r == 0) {
            assert_int_equal(ev.type, rows[i].type);
            json_decref(ev.object);
        }
    }
    for (size_t i = 0; i <= KUBE_MAX_DEPTH; i++)
        assert_ok(buf_add_str(&deep, "{\"a\":", &e));
    assert_err(kube_event_read(buf_span(&deep), &ev, &e), E_PARSE, "deeper");
    buf_done(&deep);
}

/* -- cache ---------------------------------------------------------------------------------------
 */

static struct scene *projecting; /* a projection has no argument */

static int
project(const json_t *o, struct buf *group, struct buf *value, struct err *err)
{
    TRY(buf_add_str(group, "all", err));
    TRY(buf_add_str(value, name_of(o), err));
    note(projecting, "+", name_of(o));
    return 0;
}

static bool
on_value(struct span value, void *arg)
{
    size_t *n = arg;

    *n += value.n;
    return false; /* the next */
}

static void
a_full_cache_knows_nothing(void **state)
{
    static const struct row rows[] = {
        { "watch", "-", 200, PAGE("7", "", OBJ("a", "1") "," OBJ("bb", "2")) },
        { "watch", "1", 200,
          EVENT("MODIFIED", OBJ("a", "8")) EVENT("DELETED", OBJ("bb", "9"))
              EVENT("ADDED", OBJ("cc", "10")) },
        { "watch", "1", 200, EVENT("ADDED", OBJ("d", "11")) },
        { NULL, NULL, 0, NULL },
    };
    struct scene *s = projecting = *state;
    struct kube_cache_conf conf = { .path = "/api/v1/pods",
                                    .name = "pods",
                                    .project = project,
                                    .max_objects = 2,
                                    .wait_first_ms = 2 };
    struct kube_cache *c = NULL;
    size_t n = 0;

    s->rows = rows;
    s->until = "+cc";
    assert_ok(kube_cache_new(s->loop, s->client, &conf, &c, &e));
    assert_err(kube_cache_find(c, "", "a", UINT64_MAX, on_value, &n, &e), E_BUSY, "not known yet");
    assert_ok(loop_run(s->loop, &e));
    assert_int_equal(kube_cache_group(c, span_str("all"), 60000, on_value, &n, &e),
                     KUBE_CACHE_ABSENT);
    assert_int_equal(n, 3); /* a, cc */
    assert_int_equal(kube_cache_find(c, "", "bb", 60000, on_value, &n, &e), KUBE_CACHE_ABSENT);
    assert_int_equal(n, 3);
    assert_int_equal(kube_cache_state(c).objects, 2);
    s->until = "+d";
    assert_ok(loop_run(s->loop, &e));
    assert_err(kube_cache_group(c, span_str("all"), 60000, on_value, &n, &e), E_BUSY, "not known");
    assert_false(kube_cache_state(c).is_whole);
    kube_cache_free(c);
}

int
main(void)
{
#define SCENE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        SCENE(a_list_has_pages),
        SCENE(a_list_whose_token_is_too_old_starts_again),
        SCENE(a_page_too_large_is_asked_for_in_halves),
        SCENE(lists_that_are_none),
        SCENE(a_watch_goes_on_where_it_ended),
        SCENE(too_old_means_a_list),
        SCENE(an_event_that_cannot_be_is_no_event),
        SCENE(silence_is_broken_by_a_list),
        SCENE(a_server_that_went_back_is_read_anew),
        SCENE(a_full_cache_knows_nothing),
        cmocka_unit_test(events_as_texts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
