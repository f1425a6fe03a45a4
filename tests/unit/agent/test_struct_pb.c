/* test_struct_pb.c - claims as google.protobuf.Struct, against what protobuf-c reads. */
#include "../unit.h"

#include "agent/workload_jwt.h"
#include "google_struct.pb-c.h"

static const Meshroot__Pb__Value *
field(const Meshroot__Pb__Struct *m, const char *key)
{
    for (size_t i = 0; i < m->n_fields; i++)
        if (strcmp(m->fields[i]->key, key) == 0)
            return m->fields[i]->value;
    fail_msg("no %s", key);
    return NULL;
}

static void
every_kind_of_value_comes_back(void **state)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(4096);
    json_t *o = json_pack("{s:n, s:f, s:I, s:s, s:b, s:{s:s}, s:[s,[],i], s:{}}", "nil", "real",
                          -2.5, "whole", (json_int_t)1800000000, "text", "\xc3\xa4", "yes", 1,
                          "deep", "a", "b", "list", "x", 7, "empty");
    struct err e = { 0 };

    (void)state;
    assert_non_null(o);
    assert_ok(struct_encode(o, &b, &e));
    json_decref(o);
    Meshroot__Pb__Struct *m = meshroot__pb__struct__unpack(NULL, b.n, b.p);
    assert_non_null(m);
    assert_int_equal(m->n_fields, 8);
    assert_int_equal(field(m, "nil")->kind_case, MESHROOT__PB__VALUE__KIND_NULL_VALUE);
    assert_true(field(m, "real")->number_value == -2.5);
    assert_true(field(m, "whole")->number_value == 1800000000.0);
    assert_string_equal(field(m, "text")->string_value, "\xc3\xa4");
    assert_true(field(m, "yes")->bool_value);
    assert_string_equal(field(field(m, "deep")->struct_value, "a")->string_value, "b");
    const Meshroot__Pb__ListValue *list = field(m, "list")->list_value;
    assert_int_equal(list->n_values, 3);
    assert_string_equal(list->values[0]->string_value, "x");
    assert_int_equal(list->values[1]->list_value->n_values, 0);
    assert_true(list->values[2]->number_value == 7);
    assert_int_equal(field(m, "empty")->struct_value->n_fields, 0);
    meshroot__pb__struct__free_unpacked(m, NULL);
}

static void
depth_is_bounded(void **state)
{
    (void)state;
    for (int depth = STRUCT_DEPTH_MAX - 1; depth <= STRUCT_DEPTH_MAX; depth++) {
        CLEANUP(buf_done) struct buf b = BUF_INIT(4096);
        json_t *v = json_true();
        struct err e = { 0 };

        for (int i = 0; i < depth; i++)
            v = i % 2 == 0 ? json_pack("{s:o}", "a", v) : json_pack("[o]", v);
        json_t *o = json_pack("{s:o}", "a", v);
        assert_non_null(o);
        if (depth < STRUCT_DEPTH_MAX)
            assert_ok(struct_encode(o, &b, &e));
        else
            assert_err(struct_encode(o, &b, &e), E_LIMIT, "deeper than 16");
        json_decref(o);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_value_comes_back),
        cmocka_unit_test(depth_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
