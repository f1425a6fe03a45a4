/* scene.h - a driver over a real store and a real folder; evidence comes from the test, replicas
 * report when it says so, the vault answers what is asked of it. */
#ifndef TESTS_ROTATE_SCENE_H
#define TESTS_ROTATE_SCENE_H

#include "unit.h"

#include "base/clock.h"
#include "base/file.h"
#include "mesh_of_roots.h"
#include "rotate/driver.h"

enum { LOADS_MAX = 4, DEADLINE_MS = 60 * 1000, TICK_MS = 1 };

struct load {
    const char *leaves; /* "AB": roots of its leaves in use; NULL: none */
    const char *acked;
    uint64_t ack_generation;
};

struct scene {
    char dir[64], folder[128], state[128];
    struct loop *loop;
    struct store *store;
    struct metrics *metrics;
    struct rotate *r;
    struct rotate_conf conf;
    struct timer *tick;
    uint64_t deadline;
    bool (*until)(struct scene *);
    bool came;
    struct load loads[LOADS_MAX];
    /* the vault: what was fetched last, and what it answers */
    struct sync_versions asked;
    size_t fetches;
    struct bundle *answer; /* borrowed; NULL: down */
};

/* Made once: keys take their time. */
struct scene_pki {
    struct authority a, b, a_renewed, a1, a2, b1, b_short;
    struct bundle *a_a1, *a_a2, *ab_a1, *ab_b1, *b_b1, *b_brief, *a_renewed_a1;
};
extern struct scene_pki pki;

struct sync_versions versions(const char *name);
int make_pki(void **state);
int free_pki(void **state);
const uint8_t *letter_id(char c);
void driver_open(struct scene *s);
void driver_crash(struct scene *s);
int set_up(void **state);
int tear_down(void **state);
void assert_folder(struct scene *s, uint64_t generation, const char *roots,
                   const struct authority *signer, const char *version);
bool is_settled(struct scene *s);
bool is_held(struct scene *s);
bool is_troubled(struct scene *s);
bool is_caught_up(struct scene *s);
void want(struct scene *s, struct bundle *b, const char *version);
void replica_loads(struct scene *s);
void assert_held(struct scene *s, const char *reason, const char *gated);
void settle(struct scene *s, struct bundle *b, const char *version);
struct bundle *folder_read(struct scene *s, struct set_manifest *ret_m); /* bundle_unref */
void folder_remove(struct scene *s);

/* The loop runs until cond(s), or the test fails. */
#define run_until(s, cond)                                                                         \
    do {                                                                                           \
        if (!scene_run((s), (cond)))                                                               \
            fail_msg("never: %s", #cond);                                                          \
    } while (0)
bool scene_run(struct scene *s, bool (*until)(struct scene *));

#define scene_test(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif
