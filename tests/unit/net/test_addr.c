#include "unit.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"

static void
good_addresses(void **state)
{
    static const struct {
        const char *text, *host;
        unsigned port;
    } rows[] = {
        { "127.0.0.1:15012", "127.0.0.1", 15012 },
        { "[::1]:15012", "::1", 15012 },
        { "istiod.istio-system.svc:15012", "istiod.istio-system.svc", 15012 },
        { "localhost:0", "localhost", 0 },
        { "a:65535", "a", 65535 },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct addr a;

        assert_ok(addr_parse(rows[i].text, &a, &e));
        assert_string_equal(a.host, rows[i].host);
        assert_int_equal(a.port, rows[i].port);
    }
}

static void
bad_addresses(void **state)
{
    static const char *const rows[] = { "",       "127.0.0.1", ":80",    "a:",      "a:65536",
                                        "a:-1",   "a:80x",     "::1:80", "[::1:80", "[]:80",
                                        "a b:80", "a/b:80",    "a:8 0" };
    char longest[HOST_BYTES + 8];
    struct addr a = { .port = 7 };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_true(addr_parse(rows[i], &a, &e) < 0);
        assert_int_equal(a.port, 7);
    }
    memset(longest, 'a', sizeof(longest));
    memcpy(longest + HOST_BYTES, ":80", 4);
    assert_err(addr_parse(longest, &a, &e), E_PARSE, "too long");
}

static void
listens_and_names_a_port_in_use(void **state)
{
    struct addr a = { "127.0.0.1", 0 };
    uint16_t port = 0, other;
    struct err e;
    int fd = -1, fd2 = -1;

    (void)state;
    assert_ok(addr_listen(&a, false, &fd, &port, &e));
    assert_int_not_equal(port, 0);
    a.port = port;
    assert_err(addr_listen(&a, false, &fd2, &other, &e), E_SYS, "in use");
    assert_ok(addr_connect(&a, &fd2, &e));
    char text[ADDR_TEXT_BYTES];
    addr_of_peer(fd2, text);
    assert_memory_equal(text, "127.0.0.1:", 10);
    (void)close(fd2);
    (void)close(fd);
    assert_err(addr_listen(&(struct addr){ "localhost", 0 }, false, &fd, &port, &e), E_INVAL,
               "IP address");
}

static void
reuse_port_allows_two(void **state)
{
    struct addr a = { "127.0.0.1", 0 };
    struct err e;
    int one = -1, two = -1;

    (void)state;
    assert_ok(addr_listen(&a, true, &one, &a.port, &e));
    assert_ok(addr_listen(&a, true, &two, &a.port, &e));
    (void)close(one);
    (void)close(two);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_addresses),
        cmocka_unit_test(bad_addresses),
        cmocka_unit_test(listens_and_names_a_port_in_use),
        cmocka_unit_test(reuse_port_allows_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
