/* The main() of a Check program: one suite of tests that share a fixture.
 *
 *     int main(void)
 *     {
 *         const TTest *tests[] = {a_law, another_law};
 *
 *         return CHECK_RUN("block_pool", set_up, tear_down, tests);
 *     }
 *
 * set_up and tear_down may be NULL. */
#ifndef TESTS_SUPPORT_CHECK_MAIN_H
#define TESTS_SUPPORT_CHECK_MAIN_H

#include <check.h>
#include <stdlib.h>

/* Of each assertion that holds Check would make a note in a file, in case that
 * the test crashes before the next: half the time of many a test. Sanitizers
 * say where it was. */
#define _mark_point(file, line) ((void)0)

static inline int check_main_run(const char *name, SFun set_up, SFun tear_down,
    const TTest *const *tests, size_t n_tests)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create("laws");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_set_timeout(tcase, 240);
    if (set_up != NULL || tear_down != NULL)
        tcase_add_checked_fixture(tcase, set_up, tear_down);
    for (size_t i = 0; i < n_tests; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define CHECK_RUN(name, set_up, tear_down, tests)                              \
    check_main_run(                                                            \
        name, set_up, tear_down, tests, sizeof(tests) / sizeof *(tests))

#endif
