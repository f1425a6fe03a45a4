/* unit.h - what every cmocka program here starts with. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "base/err.h"

/* The call succeeds; otherwise the test fails with the error's own words. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        int ok_r_ = (call);                                                                        \
        if (ok_r_ < 0)                                                                             \
            fail_msg("%s: %s", #call, e.msg);                                                      \
    } while (0)
/* The call fails with `code`, and the message has `part` in it. */
#define assert_err(call, want_code, part)                                                          \
    do {                                                                                           \
        int err_r_ = (call);                                                                       \
        assert_int_equal(err_r_, -(int)(want_code));                                               \
        assert_int_equal(e.code, (want_code));                                                     \
        if (strstr(e.msg, (part)) == NULL)                                                         \
            fail_msg("\"%s\" does not say \"%s\"", e.msg, (part));                                 \
    } while (0)

#endif
