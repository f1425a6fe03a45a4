/* http_curl.c - libcurl, loaded when the first client is made. Its functions of our client are here
 * by their own names, and go on to the library.
 *
 * Debian's libcurl needs thirty more libraries (Kerberos, LDAP, GnuTLS, ...): 4 MiB and 20 ms for
 * each of our processes, of which an agent, a signer, and most commands never make a call.
 */
#include <curl/curl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>

#include "base/attr.h"
#include "obs/log.h"

#define LIBRARY "libcurl.so.4"

/* Here the functions themselves are meant, not the macros that check their arguments. */
#undef curl_easy_setopt
#undef curl_easy_getinfo
#undef curl_multi_setopt

/* An argument of one of the variadic ones is a long, a curl_off_t or a pointer: all of one size. */
_Static_assert(sizeof(long) == sizeof(void *) && sizeof(curl_off_t) == sizeof(void *), "LP64");

static struct {
    __typeof__(&curl_easy_cleanup) easy_cleanup;
    __typeof__(&curl_easy_getinfo) easy_getinfo;
    __typeof__(&curl_easy_init) easy_init;
    __typeof__(&curl_easy_setopt) easy_setopt;
    __typeof__(&curl_easy_strerror) easy_strerror;
    __typeof__(&curl_free) free;
    __typeof__(&curl_global_init) global_init;
    __typeof__(&curl_multi_add_handle) multi_add_handle;
    __typeof__(&curl_multi_assign) multi_assign;
    __typeof__(&curl_multi_cleanup) multi_cleanup;
    __typeof__(&curl_multi_info_read) multi_info_read;
    __typeof__(&curl_multi_init) multi_init;
    __typeof__(&curl_multi_remove_handle) multi_remove_handle;
    __typeof__(&curl_multi_setopt) multi_setopt;
    __typeof__(&curl_multi_socket_action) multi_socket_action;
    __typeof__(&curl_slist_append) slist_append;
    __typeof__(&curl_slist_free_all) slist_free_all;
    __typeof__(&curl_url) url;
    __typeof__(&curl_url_cleanup) url_cleanup;
    __typeof__(&curl_url_get) url_get;
    __typeof__(&curl_url_set) url_set;
} lib;

static const struct symbol {
    const char *name;
    void *to;
} symbols[] = {
    { "curl_easy_cleanup", &lib.easy_cleanup },
    { "curl_easy_getinfo", &lib.easy_getinfo },
    { "curl_easy_init", &lib.easy_init },
    { "curl_easy_setopt", &lib.easy_setopt },
    { "curl_easy_strerror", &lib.easy_strerror },
    { "curl_free", &lib.free },
    { "curl_global_init", &lib.global_init },
    { "curl_multi_add_handle", &lib.multi_add_handle },
    { "curl_multi_assign", &lib.multi_assign },
    { "curl_multi_cleanup", &lib.multi_cleanup },
    { "curl_multi_info_read", &lib.multi_info_read },
    { "curl_multi_init", &lib.multi_init },
    { "curl_multi_remove_handle", &lib.multi_remove_handle },
    { "curl_multi_setopt", &lib.multi_setopt },
    { "curl_multi_socket_action", &lib.multi_socket_action },
    { "curl_slist_append", &lib.slist_append },
    { "curl_slist_free_all", &lib.slist_free_all },
    { "curl_url", &lib.url },
    { "curl_url_cleanup", &lib.url_cleanup },
    { "curl_url_get", &lib.url_get },
    { "curl_url_set", &lib.url_set },
};

static bool is_loaded;

static void
load(void)
{
    void *all = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    const char *why = all == NULL ? dlerror() : "a function is missing";

    for (size_t i = 0; all != NULL && i < ARRAY_LEN(symbols); i++) {
        void *f = dlsym(all, symbols[i].name);

        if (f == NULL) {
            (void)dlclose(all);
            all = NULL;
            break;
        }
        memcpy(symbols[i].to, &f, sizeof(f)); /* ISO C has no cast from data to function */
    }
    is_loaded = all != NULL;
    if (!is_loaded)
        log_error("", "%s cannot be used, install libcurl4: %s", LIBRARY, why);
}

static bool
has_lib(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    (void)pthread_once(&once, load);
    return is_loaded;
}

/* -- the ways in: whoever has an object of the library has passed one of them -- */

CURLcode
curl_global_init(long flags)
{
    return has_lib() ? lib.global_init(flags) : CURLE_FAILED_INIT;
}

CURLM *
curl_multi_init(void)
{
    return has_lib() ? lib.multi_init() : NULL;
}

CURL *
curl_easy_init(void)
{
    return has_lib() ? lib.easy_init() : NULL;
}

CURLU *
curl_url(void)
{
    return has_lib() ? lib.url() : NULL;
}

struct curl_slist *
curl_slist_append(struct curl_slist *l, const char *text)
{
    return has_lib() ? lib.slist_append(l, text) : NULL;
}

/* -- the others; NULL, which nothing was loaded for, is fine where libcurl says so -- */

void
curl_slist_free_all(struct curl_slist *l)
{
    if (l != NULL)
        lib.slist_free_all(l);
}

void
curl_free(void *p)
{
    if (p != NULL)
        lib.free(p);
}

void
curl_url_cleanup(CURLU *u)
{
    if (u != NULL)
        lib.url_cleanup(u);
}

CURLUcode
curl_url_set(CURLU *u, CURLUPart what, const char *part, unsigned int flags)
{
    return lib.url_set(u, what, part, flags);
}

CURLUcode
curl_url_get(CURLU *u, CURLUPart what, char **part, unsigned int flags)
{
    return lib.url_get(u, what, part, flags);
}

void
curl_easy_cleanup(CURL *c)
{
    if (c != NULL)
        lib.easy_cleanup(c);
}

CURLcode
curl_easy_setopt(CURL *c, CURLoption option, ...)
{
    va_list ap;

    va_start(ap, option);
    void *value = va_arg(ap, void *);
    va_end(ap);
    return lib.easy_setopt(c, option, value);
}

CURLcode
curl_easy_getinfo(CURL *c, CURLINFO info, ...)
{
    va_list ap;

    va_start(ap, info);
    void *to = va_arg(ap, void *);
    va_end(ap);
    return lib.easy_getinfo(c, info, to);
}

const char *
curl_easy_strerror(CURLcode code)
{
    return has_lib() ? lib.easy_strerror(code) : "libcurl is not there";
}

CURLMcode
curl_multi_cleanup(CURLM *m)
{
    return m == NULL ? CURLM_OK : lib.multi_cleanup(m);
}

CURLMcode
curl_multi_setopt(CURLM *m, CURLMoption option, ...)
{
    va_list ap;

    va_start(ap, option);
    void *value = va_arg(ap, void *);
    va_end(ap);
    return lib.multi_setopt(m, option, value);
}

CURLMcode
curl_multi_add_handle(CURLM *m, CURL *c)
{
    return lib.multi_add_handle(m, c);
}

CURLMcode
curl_multi_remove_handle(CURLM *m, CURL *c)
{
    return lib.multi_remove_handle(m, c);
}

CURLMcode
curl_multi_assign(CURLM *m, curl_socket_t s, void *p)
{
    return lib.multi_assign(m, s, p);
}

CURLMsg *
curl_multi_info_read(CURLM *m, int *left)
{
    return lib.multi_info_read(m, left);
}

CURLMcode
curl_multi_socket_action(CURLM *m, curl_socket_t s, int what, int *running)
{
    return lib.multi_socket_action(m, s, what, running);
}
