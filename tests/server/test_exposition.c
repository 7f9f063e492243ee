/* Prometheus' text format, by its letter. */
#include "server/admin/exposition.h"

#include <string.h>

#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

static struct exposition out;

static void set_up(void)
{
    faulty_heap_install();
    out = (struct exposition){.text = NULL};
}

static void tear_down(void)
{
    exposition_fini(&out);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

static void check_text(const char *wanted)
{
    ck_assert_int_eq(exposition_status(&out), KV_OK);
    ck_assert_uint_eq(out.n_bytes, strlen(wanted));
    ck_assert_mem_eq(out.text, wanted, out.n_bytes);
}

START_TEST(a_family_is_its_help_its_type_and_its_samples)
{
    exposition_family(&out, "a_total", EXPOSITION_COUNTER, "What it is.");
    exposition_uint(&out, UINT64_MAX, NO_LABELS);
    exposition_uint(&out, 0, LABELS({"x", "1"}, {"y", ""}));
    check_text("# HELP a_total What it is.\n# TYPE a_total counter\n"
               "a_total 18446744073709551615\n"
               "a_total{x=\"1\",y=\"\"} 0\n");
}
END_TEST

START_TEST(a_label_may_hold_anything)
{
    exposition_family(&out, "a", EXPOSITION_GAUGE, "A.");
    exposition_uint(&out, 1, LABELS({"x", "a\"b\\c\nd\xc3\xa4"}));
    check_text("# HELP a A.\n# TYPE a gauge\n"
               "a{x=\"a\\\"b\\\\c\\nd\xc3\xa4\"} 1\n");
}
END_TEST

START_TEST(durations_are_seconds)
{
    exposition_family(&out, "a", EXPOSITION_GAUGE, "A.");
    exposition_seconds(&out, 1, NO_LABELS);
    exposition_seconds(&out, 12000000034, NO_LABELS);
    exposition_seconds(&out, -1500000000, NO_LABELS);
    exposition_seconds(&out, INT64_MIN, NO_LABELS);
    check_text("# HELP a A.\n# TYPE a gauge\n"
               "a 0.000000001\na 12.000000034\na -1.500000000\n"
               "a -9223372036.854775808\n");
}
END_TEST

START_TEST(buckets_count_everything_up_to_their_bounds)
{
    const int64_t bounds_ns[] = {100000, 2500000000};
    const uint64_t counts[] = {3, 0, 4};

    exposition_family(&out, "a_seconds", EXPOSITION_HISTOGRAM, "A.");
    exposition_histogram(&out, bounds_ns, counts, 2, 7000000000);
    check_text("# HELP a_seconds A.\n# TYPE a_seconds histogram\n"
               "a_seconds_bucket{le=\"0.0001\"} 3\n"
               "a_seconds_bucket{le=\"2.5\"} 3\n"
               "a_seconds_bucket{le=\"+Inf\"} 7\n"
               "a_seconds_sum 7.000000000\na_seconds_count 7\n");
}
END_TEST

START_TEST(text_grows_as_needed)
{
    size_t n;

    exposition_family(&out, "a", EXPOSITION_GAUGE, "A.");
    n = out.n_bytes;
    for (int i = 0; i < 100000; i++)
        exposition_uint(&out, 7, NO_LABELS);
    ck_assert_int_eq(exposition_status(&out), KV_OK);
    ck_assert_uint_eq(out.n_bytes, n + 100000 * strlen("a 7\n"));
}
END_TEST

START_TEST(lack_of_memory_is_told_at_the_end)
{
    for (int nth = 0; nth < 2; nth++) {
        faulty_heap_fail_at(nth);
        exposition_family(&out, "a", EXPOSITION_GAUGE, "A.");
        for (int i = 0; i < 10000; i++)
            exposition_uint(&out, 7, NO_LABELS);
        ck_assert_int_eq(exposition_status(&out), KV_NO_MEMORY);
        faulty_heap_fail_at(-1);
        exposition_uint(&out, 7, NO_LABELS);
        ck_assert_int_eq(exposition_status(&out), KV_NO_MEMORY);
        exposition_fini(&out);
    }
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_family_is_its_help_its_type_and_its_samples,
        a_label_may_hold_anything,
        durations_are_seconds,
        buckets_count_everything_up_to_their_bounds,
        text_grows_as_needed,
        lack_of_memory_is_told_at_the_end,
    };

    return CHECK_RUN("exposition", set_up, tear_down, tests);
}
