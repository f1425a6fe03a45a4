#include "net/reach.h"

#include <netinet/in.h>
#include <string.h>

#include "base/attr.h"

struct net4 {
    uint32_t net;
    unsigned bits;
    enum http_reach first; /* the first rule that shuts it out */
};

#define NET4(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (d))

static const struct net4 nets4[] = {
    { NET4(169, 254, 0, 0), 16, HTTP_REACH_NO_LINK_LOCAL },     /* link-local; 169.254.169.254 */
    { NET4(168, 63, 129, 16), 32, HTTP_REACH_NO_LINK_LOCAL },   /* Azure's host */
    { NET4(100, 100, 100, 200), 32, HTTP_REACH_NO_LINK_LOCAL }, /* Alibaba's metadata */
    { NET4(192, 0, 0, 192), 32, HTTP_REACH_NO_LINK_LOCAL },     /* Oracle's metadata */
    { NET4(224, 0, 0, 0), 4, HTTP_REACH_NO_LINK_LOCAL },        /* multicast */
    { NET4(255, 255, 255, 255), 32, HTTP_REACH_NO_LINK_LOCAL },
    { NET4(127, 0, 0, 0), 8, HTTP_REACH_NO_LOOPBACK },
    { NET4(0, 0, 0, 0), 8, HTTP_REACH_NO_LOOPBACK }, /* "this host" */
};

struct net6 {
    uint8_t net[16];
    unsigned bits;
    enum http_reach first;
};

static const struct net6 nets6[] = {
    { { 0xfe, 0x80 }, 10, HTTP_REACH_NO_LINK_LOCAL },
    { { 0xff }, 8, HTTP_REACH_NO_LINK_LOCAL },
    { { 0xfd, 0x00, 0x0e, 0xc2, [15] = 0x00 }, 64, HTTP_REACH_NO_LINK_LOCAL }, /* AWS, fd00:ec2:: */
    { { 0xfd, 0x20, 0x00, 0xce, [15] = 0x00 }, 64, HTTP_REACH_NO_LINK_LOCAL }, /* GCP, fd20:ce:: */
    { { [15] = 1 }, 128, HTTP_REACH_NO_LOOPBACK },
    { { 0 }, 128, HTTP_REACH_NO_LOOPBACK },
};

/* IPv4 addresses in IPv6 clothes: where the four bytes are. */
static const struct {
    uint8_t net[16];
    unsigned bits, at;
} inside[] = {
    { { [10] = 0xff, [11] = 0xff }, 96, 12 },            /* mapped, RFC 4291 2.5.5.2 */
    { { 0x00, 0x64, 0xff, 0x9b, [15] = 0x00 }, 96, 12 }, /* NAT64, RFC 6052 2.1 */
    { { 0x20, 0x02, [15] = 0x00 }, 16, 2 },              /* 6to4, RFC 3056 */
};

static bool
has_prefix(const uint8_t *a, const uint8_t *net, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;

    return memcmp(a, net, whole) == 0 && (rest == 0 || (a[whole] ^ net[whole]) >> (8 - rest) == 0);
}

static bool
allows4(enum http_reach reach, uint32_t a)
{
    for (size_t i = 0; i < ARRAY_LEN(nets4); i++)
        if ((a ^ nets4[i].net) >> (32 - nets4[i].bits) == 0 && reach >= nets4[i].first)
            return false;
    return true;
}

static bool
allows6(enum http_reach reach, const uint8_t a[16])
{
    for (size_t i = 0; i < ARRAY_LEN(inside); i++)
        if (has_prefix(a, inside[i].net, inside[i].bits)) {
            const uint8_t *p = a + inside[i].at;

            return allows4(reach, NET4(p[0], p[1], p[2], p[3]));
        }
    for (size_t i = 0; i < ARRAY_LEN(nets6); i++)
        if (has_prefix(a, nets6[i].net, nets6[i].bits) && reach >= nets6[i].first)
            return false;
    return true;
}

bool
reach_allows(enum http_reach reach, const struct sockaddr *to)
{
    struct sockaddr_in in;
    struct sockaddr_in6 in6;

    if (reach == HTTP_REACH_ANY)
        return true;
    if (to->sa_family == AF_INET) {
        memcpy(&in, to, sizeof(in));
        return allows4(reach, ntohl(in.sin_addr.s_addr));
    }
    if (to->sa_family != AF_INET6)
        return false;
    memcpy(&in6, to, sizeof(in6));
    return allows6(reach, in6.sin6_addr.s6_addr);
}
