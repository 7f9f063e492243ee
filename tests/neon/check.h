/* As much of Check as the tests of the kernels use, for processors that Debian
 * has no Check for beside ours: no processes, the first failure ends the
 * program. */
#ifndef TESTS_NEON_CHECK_H
#define TESTS_NEON_CHECK_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*SFun)(void);

typedef struct {
    void (*run)(int i);
    const char *name;
} TTest;

typedef struct {
    SFun set_up;
    int n_passed;
} TCase;

typedef TCase Suite;
typedef TCase SRunner;

#define START_TEST(test)                                                       \
    static void test##_run(int _i);                                            \
    static const TTest test##_test = {test##_run, #test};                      \
    static const TTest *const test = &test##_test;                             \
    static void test##_run(int _i)                                             \
    {                                                                          \
        (void)_i;
#define END_TEST }

#define ck_abort_msg(...)                                                      \
    do {                                                                       \
        printf("%s:%d: %s: ", __FILE__, __LINE__, __func__);                   \
        printf(__VA_ARGS__);                                                   \
        puts("");                                                              \
        exit(EXIT_FAILURE);                                                    \
    } while (0)
#define ck_assert(condition)                                                   \
    do {                                                                       \
        if (!(condition))                                                      \
            ck_abort_msg("%s", #condition);                                    \
    } while (0)
#define ck_assert_int_eq(a, b) ck_assert((a) == (b))
#define ck_assert_uint_eq(a, b) ck_assert((a) == (b))
#define ck_assert_float_eq(a, b) ck_assert((a) == (b))
#define ck_assert_ptr_eq(a, b) ck_assert((a) == (b))
#define ck_assert_ptr_null(a) ck_assert((a) == NULL)
#define ck_assert_ptr_nonnull(a) ck_assert((a) != NULL)
#define ck_assert_str_eq(a, b) ck_assert(strcmp(a, b) == 0)
#define ck_assert_mem_eq(a, b, n) ck_assert(memcmp(a, b, n) == 0)

#define CK_ENV 0

static inline TCase *tcase_create(const char *name)
{
    static TCase only;

    (void)name;
    return &only;
}

static inline Suite *suite_create(const char *name)
{
    return tcase_create(name);
}

static inline SRunner *srunner_create(Suite *suite)
{
    return suite;
}

static inline void tcase_set_timeout(const TCase *tcase, double seconds)
{
    (void)tcase;
    (void)seconds;
}

static inline void tcase_add_checked_fixture(
    TCase *tcase, SFun set_up, SFun tear_down)
{
    (void)tear_down;
    tcase->set_up = set_up;
}

static inline void tcase_add_loop_test(
    TCase *tcase, const TTest *test, int begin, int end)
{
    for (int i = begin; i < end; i++) {
        if (tcase->set_up != NULL)
            tcase->set_up();
        test->run(i);
        tcase->n_passed++;
    }
    printf("passed: %s\n", test->name);
}

static inline void tcase_add_test(TCase *tcase, const TTest *test)
{
    tcase_add_loop_test(tcase, test, 0, 1);
}

static inline void suite_add_tcase(const Suite *suite, const TCase *tcase)
{
    (void)suite;
    (void)tcase;
}

static inline void srunner_run_all(const SRunner *runner, int mode)
{
    (void)mode;
    printf("100%% tests passed, 0 tests failed out of %d\n", runner->n_passed);
}

static inline int srunner_ntests_failed(const SRunner *runner)
{
    (void)runner;
    return 0;
}

static inline void srunner_free(const SRunner *runner)
{
    (void)runner;
}

#endif
