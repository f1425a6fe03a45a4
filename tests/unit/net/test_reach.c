/* test_reach.c - addresses that a URL of somebody else's choice may not lead to (peers.md 5a 37).
 */
#include "unit.h"

#include <arpa/inet.h>
#include <string.h>

#include "net/reach.h"

static void
peers_5a_37_addresses(void **state)
{
    static const struct {
        const char *address;
        enum http_reach first; /* that refuses it; HTTP_REACH__N: none does */
    } rows[] = {
        { "169.254.169.254", HTTP_REACH_NO_LINK_LOCAL },
        { "169.254.0.1", HTTP_REACH_NO_LINK_LOCAL },
        { "169.253.255.255", HTTP_REACH__N },
        { "168.63.129.16", HTTP_REACH_NO_LINK_LOCAL },
        { "168.63.129.17", HTTP_REACH__N },
        { "100.100.100.200", HTTP_REACH_NO_LINK_LOCAL },
        { "192.0.0.192", HTTP_REACH_NO_LINK_LOCAL },
        { "224.0.0.1", HTTP_REACH_NO_LINK_LOCAL },
        { "255.255.255.255", HTTP_REACH_NO_LINK_LOCAL },
        { "127.0.0.1", HTTP_REACH_NO_LOOPBACK },
        { "127.255.0.1", HTTP_REACH_NO_LOOPBACK },
        { "0.0.0.0", HTTP_REACH_NO_LOOPBACK },
        { "10.0.0.1", HTTP_REACH__N }, /* where API servers live */
        { "192.168.1.1", HTTP_REACH__N },
        { "1.1.1.1", HTTP_REACH__N },
        { "fe80::1", HTTP_REACH_NO_LINK_LOCAL },
        { "febf::1", HTTP_REACH_NO_LINK_LOCAL },
        { "fec0::1", HTTP_REACH__N },
        { "ff02::1", HTTP_REACH_NO_LINK_LOCAL },
        { "fd00:ec2::254", HTTP_REACH_NO_LINK_LOCAL },
        { "fd20:ce::254", HTTP_REACH_NO_LINK_LOCAL },
        { "fd00:1::1", HTTP_REACH__N },
        { "::1", HTTP_REACH_NO_LOOPBACK },
        { "::", HTTP_REACH_NO_LOOPBACK },
        { "::ffff:169.254.169.254", HTTP_REACH_NO_LINK_LOCAL },
        { "::ffff:127.0.0.1", HTTP_REACH_NO_LOOPBACK },
        { "::ffff:10.0.0.1", HTTP_REACH__N },
        { "64:ff9b::169.254.169.254", HTTP_REACH_NO_LINK_LOCAL },
        { "2002:a9fe:a9fe::", HTTP_REACH_NO_LINK_LOCAL },
        { "2001:db8::1", HTTP_REACH__N },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (int reach = HTTP_REACH_ANY; reach < HTTP_REACH__N; reach++) {
            struct sockaddr_storage s = { 0 };
            struct sockaddr_in in = { .sin_family = AF_INET };
            struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };

            if (inet_pton(AF_INET, rows[i].address, &in.sin_addr) == 1)
                memcpy(&s, &in, sizeof(in));
            else {
                assert_int_equal(inet_pton(AF_INET6, rows[i].address, &in6.sin6_addr), 1);
                memcpy(&s, &in6, sizeof(in6));
            }
            bool allowed = reach_allows((enum http_reach)reach, (const struct sockaddr *)&s);
            if (allowed != (reach < (int)rows[i].first))
                fail_msg("%s at %d: %d", rows[i].address, reach, allowed);
        }
}

static void
other_families_are_not_reached(void **state)
{
    struct sockaddr s = { .sa_family = AF_UNIX };

    (void)state;
    assert_false(reach_allows(HTTP_REACH_NO_LINK_LOCAL, &s));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peers_5a_37_addresses),
        cmocka_unit_test(other_families_are_not_reached),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
