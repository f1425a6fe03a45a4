/* test_signer.c - the process: one answer for each call, whatever becomes of the child. */
#include "kit.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "pki/openssl.h"
#include "signer/sandbox.h"

static const char workload[] = "spiffe://cluster.local/ns/shop/sa/cart";
enum { DAY_S = 86400, CALLS = 200 };

struct scene {
    struct loop *loop;
    struct signer_process *process;
    struct signer_lane *lane;
    struct timer *patience;
    struct kit kit;
    struct signer *signer;
    size_t answers, good;
    enum err_code last;
    int ups, downs;
    struct kit_tbs tbs;
};

static void
out_of_patience(void *arg)
{
    (void)arg;
    fail_msg("nothing happened for 60 s");
}

static void
run(struct scene *s)
{
    struct err e = { 0 };

    timer_set(s->patience, 60000);
    assert_ok(loop_run(s->loop, &e));
    timer_stop(s->patience);
}

static void
stop(void *arg)
{
    loop_stop(arg);
}

/* Until what was posted so far has run. */
static void
settle(struct scene *s)
{
    struct err e = { 0 };

    assert_ok(loop_post(s->loop, stop, s->loop, &e));
    run(s);
}

static void
on_state(bool is_up, void *arg)
{
    struct scene *s = arg;

    s->ups += is_up;
    s->downs += !is_up;
    loop_stop(s->loop);
}

static void
on_signed(struct span signature, const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->answers++;
    s->last = why == NULL ? E_NONE : why->code;
    if (why == NULL) {
        EVP_MD_CTX *x = EVP_MD_CTX_new();

        s->good += EVP_DigestVerifyInit_ex(x, NULL, "SHA256", NULL, NULL, key_evp(s->kit.key),
                                           NULL) == 1 &&
                   EVP_DigestVerify(x, signature.p, signature.n, s->tbs.p, s->tbs.n) == 1;
        EVP_MD_CTX_free(x);
    }
    if (s->answers % CALLS == 0)
        loop_stop(s->loop);
}

static void
sign_many(struct scene *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        signer_sign(s->lane, s->signer, span_of(s->tbs.p, s->tbs.n), on_signed, s);
}

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct signer_process_conf c = {
        .lanes = 1, .max_life_s = DAY_S, .on_state = on_state, .arg = s
    };
    struct err e = { 0 };

    assert_non_null(s);
    *state = s;
    kit_make(&s->kit, KEY_P256, "CN=A", 365);
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(timer_new(s->loop, out_of_patience, NULL, &s->patience, &e));
    c.loop = s->loop;
    assert_ok(signer_process_new(&c, &s->process, &e));
    assert_ok(signer_lane_new(s->process, s->loop, &s->lane, &e));
    assert_ok(signer_load(s->process, s->kit.cert, s->kit.key_fd, &s->signer, &e));
    kit_tbs(&s->kit, workload, -120, DAY_S, &s->tbs);
    settle(s);
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    signer_unref(s->signer);
    signer_lane_free(s->lane);
    signer_process_free(s->process);
    timer_free(s->patience);
    loop_free(s->loop);
    kit_done(&s->kit);
    free(s);
    return 0;
}

static void
signs_many_calls_of_one_turn(void **state)
{
    struct scene *s = *state;
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t n;
    struct err e = { 0 };

    sign_many(s, CALLS);
    assert_int_equal(s->answers, 0);
    run(s);
    assert_int_equal(s->good, CALLS);
    assert_ok(signer_sign_wait(s->signer, span_of(s->tbs.p, s->tbs.n), signature, &n, &e));
    on_signed(span_of(signature, n), NULL, s);
    assert_int_equal(s->good, CALLS + 1);
    assert_err(signer_sign_wait(s->signer, span_str("no TBS"), signature, &n, &e), E_DENIED,
               "leaf lint");
    assert_true(signer_process_status(s->process).is_up);
}

static void
calls_beyond_the_bound_are_told_at_once(void **state)
{
    struct scene *s = *state;

    sign_many(s, SIGNER_LANE_CALLS + 1);
    assert_int_equal(s->answers, 1);
    assert_int_equal(s->last, E_LIMIT);
    while (s->answers < SIGNER_LANE_CALLS + 1)
        settle(s);
    assert_int_equal(s->good, SIGNER_LANE_CALLS);
}

/* kill -9 with calls under way: each is answered, a new child comes, it is told its key and signs.
 */
static void
a_dead_child_is_replaced(void **state)
{
    struct scene *s = *state;
    struct err e = { 0 };
    struct signer *former = s->signer;

    for (int round = 0; round < 3; round++) {
        int pid = signer_process_status(s->process).pid;

        s->answers = s->good = 0;
        sign_many(s, CALLS);
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (s->downs == round || s->answers < CALLS)
            settle(s);
        assert_int_equal(s->answers, CALLS);
        assert_true(s->last == E_PEER || s->good == CALLS);
        sign_many(s, 1); /* nobody is there */
        while (s->answers < CALLS + 1)
            settle(s);
        assert_int_equal(s->last, E_PEER);
        while (s->ups == round)
            run(s);
        assert_int_equal(signer_process_status(s->process).restarts, round + 1);
        assert_true(signer_process_status(s->process).pid != pid);
        settle(s); /* the lane has its new end */
        s->answers = 0;
        sign_many(s, 1); /* a key that it was not told again */
        while (s->answers < 1)
            settle(s);
        assert_int_equal(s->last, E_NOTFOUND);
        assert_ok(signer_load(s->process, s->kit.cert, s->kit.key_fd, &s->signer, &e));
        signer_unref(former);
        former = s->signer;
        s->answers = s->good = 0;
        sign_many(s, CALLS);
        while (s->answers < CALLS)
            settle(s);
        assert_int_equal(s->good, CALLS);
    }
}

static void
a_wrong_key_is_refused_and_the_child_stays(void **state)
{
    struct scene *s = *state;
    struct signer *x = NULL;
    struct kit other;
    struct err e = { 0 };

    kit_make(&other, KEY_P256, "CN=B", 10);
    assert_err(signer_load(s->process, s->kit.cert, other.key_fd, &x, &e), E_DENIED,
               "ca-key.pem: the key (p256) does not match");
    assert_err(signer_load(s->process, s->kit.cert, -1, &x, &e), E_DENIED, "ca-key.pem: missing");
    assert_null(x);
    kit_done(&other);
    assert_int_equal(s->downs, 0);
}

static void
a_root_is_made_without_its_key_coming_here(void **state)
{
    struct scene *s = *state;
    struct cert *root = NULL;
    struct signer *x = NULL;
    struct err e = { 0 };
    int fd = kit_file(span_str(""));

    assert_ok(signer_make_root(s->process, "O=cluster.local", 3650, fd, &root, &e));
    assert_true(cert_is_ca(root) && cert_is_self_signed(root));
    assert_ok(signer_load(s->process, root, fd, &x, &e));
    signer_unref(x);
    cert_unref(root);
    (void)close(fd);
}

/* -- the doors -- */

enum { NO_SOCKET = 1, NO_OPEN = 2, NO_KILL = 4, NO_EXEC = 8, NO_CODE = 16, ALL_SHUT = 31 };

static int
doors_tried(void)
{
    int shut = 0;

    shut |= socket(AF_INET, SOCK_STREAM, 0) < 0 && errno == EPERM ? NO_SOCKET : 0;
    shut |= open("/etc/hostname", O_RDONLY) < 0 && errno == EPERM ? NO_OPEN : 0;
    shut |= kill(getppid(), 0) < 0 && errno == EPERM ? NO_KILL : 0;
    shut |= execl("/bin/true", "true", (char *)NULL) < 0 && errno == EPERM ? NO_EXEC : 0;
    shut |=
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED
            ? NO_CODE
            : 0;
    return shut;
}

static void
the_doors_are_shut(void **state)
{
    int status = 0;
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        struct ipc_hello hello;
        struct err e;

        if (sandbox_begin(&e) < 0 || sandbox_shut(64, NULL, &hello, &e) < 0 ||
            sandbox_seal(false, &e) < 0)
            _exit(100);
        _exit(doors_tried());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ALL_SHUT);
}

/* r: 0 all as it should be; else which line is not. */
static int
module_doors_tried(const char *in, const char *out)
{
    char call[SANDBOX_CALL_BYTES];
    int fd = open(in, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || close(fd) < 0)
        return 1;
    if (open(in, O_RDWR | O_CLOEXEC) >= 0 || errno != EPERM)
        return 2;
    sandbox_refused_call(call);
    if (strcmp(call, "openat") != 0)
        return 3;
    if (open(out, O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
        return 4;
    if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || errno != EPERM)
        return 5;
    sandbox_refused_call(call);
    if (strcmp(call, "socket") != 0)
        return 6;
    if (unlink(in) == 0 || errno != EPERM)
        return 7;
    if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED)
        return 8;
    return 0;
}

static void
a_module_may_read_one_folder_and_no_more(void **state)
{
    char dir[] = "/tmp/meshroot-reads-XXXXXX", in[64];
    int status = 0;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(in, sizeof(in), "%s/object", dir);
    int fd = open(in, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && close(fd) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct ipc_hello hello;
        struct err e;

        if (sandbox_begin(&e) < 0 || sandbox_shut(64, dir, &hello, &e) < 0 ||
            sandbox_seal(true, &e) < 0)
            _exit(100);
        _exit(module_doors_tried(in, "/etc/passwd"));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(unlink(in), 0);
    assert_int_equal(rmdir(dir), 0);
}

static void
a_tokens_uri_is_judged_before_anything_starts(void **state)
{
    static const struct {
        const char *uri, *says;
    } rows[] = {
        { "file:/etc/key", "not a PKCS#11 URI" },
        { "pkcs11:token=a%zz", "not a PKCS#11 URI" },
        { "pkcs11:token=a", "module-path" },
        { "pkcs11:token=a?module-path=x.so", "module-path" },
        { "pkcs11:token=a?module-name=softhsm2&pin-source=file:/pin", "module-path" },
        { "pkcs11:token=a?module-path=/m.so", "pin-source" },
        { "pkcs11:token=a?module-path=/m.so&pin-source=pin", "pin-source" },
        { "pkcs11:token=a?module-path=/m.so&pin-value=1234", "pin-value shows the PIN" },
        { "pkcs11:flavour=a?module-path=/m.so&pin-source=file:/pin", "not known" },
    };
    struct err e = { 0 };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_err(signer_uri_check(rows[i].uri, &e), E_INVAL, rows[i].says);
        assert_null(strstr(e.msg, "1234"));
    }
    assert_ok(signer_uri_check("pkcs11:token=a;id=%01?module-path=/m.so&pin-source=/pin", &e));
    assert_ok(signer_uri_check("pkcs11:serial=1?pin-source=file:///pin&module-path=/m.so", &e));
}

/* A child that cannot open its token does not start; why is said. */
static void
a_token_that_is_not_there_stops_the_start(void **state)
{
    struct signer_process_conf c = {
        .lanes = 1,
        .max_life_s = 1,
        .token_uri = "pkcs11:token=a?module-path=/nowhere/m.so&pin-source=file:/nowhere/pin"
    };
    struct signer_process *p = NULL;
    struct err e = { 0 };

    (void)state;
    assert_ok(loop_new(&c.loop, &e));
    assert_err(signer_process_new(&c, &p, &e), E_NOTFOUND, "/nowhere/m.so cannot be loaded");
    loop_free(c.loop);
}

int
main(int argc, char *argv[])
{
    signer_child_run(argc, argv);
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(signs_many_calls_of_one_turn),
        T(calls_beyond_the_bound_are_told_at_once),
        T(a_dead_child_is_replaced),
        T(a_wrong_key_is_refused_and_the_child_stays),
        T(a_root_is_made_without_its_key_coming_here),
        cmocka_unit_test(the_doors_are_shut),
        cmocka_unit_test(a_module_may_read_one_folder_and_no_more),
        cmocka_unit_test(a_tokens_uri_is_judged_before_anything_starts),
        cmocka_unit_test(a_token_that_is_not_there_stops_the_start),
    };

    return cmocka_run_group_tests_name("signer/signer", tests, NULL, NULL);
}
