#include "base/histogram.h"
#include "tests/support/check_main.h"

START_TEST(bounds_ascend_from_a_tenth_of_a_millisecond_to_58_days)
{
    ck_assert_int_eq(kv_histogram_bound_ns(0), 100000);
    ck_assert_int_eq(kv_histogram_bound_ns(4), 2000000);
    ck_assert_int_eq(kv_histogram_bound_ns(20), INT64_C(500000000000));
    ck_assert_int_eq(kv_histogram_bound_ns(KV_HISTOGRAM_BOUNDS - 1),
        INT64_C(5000000000000000));
    for (size_t i = 1; i < KV_HISTOGRAM_BOUNDS; i++)
        ck_assert_int_gt(
            kv_histogram_bound_ns(i), kv_histogram_bound_ns(i - 1));
}
END_TEST

START_TEST(a_bound_belongs_to_its_bucket)
{
    for (size_t i = 0; i < KV_HISTOGRAM_BOUNDS; i++) {
        struct kv_histogram histogram = {.count = 0};

        kv_histogram_add(&histogram, kv_histogram_bound_ns(i));
        kv_histogram_add(&histogram, kv_histogram_bound_ns(i) + 1);
        ck_assert_uint_eq(histogram.counts[i], 1);
        ck_assert_uint_eq(histogram.counts[i + 1], 1);
        ck_assert_uint_eq(histogram.count, 2);
        ck_assert_int_eq(histogram.sum_ns, 2 * kv_histogram_bound_ns(i) + 1);
    }
}
END_TEST

START_TEST(extremes_are_counted)
{
    struct kv_histogram histogram = {.count = 0};

    kv_histogram_add(&histogram, INT64_MIN);
    kv_histogram_add(&histogram, 0);
    kv_histogram_add(&histogram, INT64_MAX);
    kv_histogram_add(&histogram, INT64_MAX);
    ck_assert_uint_eq(histogram.counts[0], 2);
    ck_assert_uint_eq(histogram.counts[KV_HISTOGRAM_BOUNDS], 2);
    ck_assert_uint_eq(histogram.count, 4);
    ck_assert_int_eq(histogram.sum_ns, INT64_MAX);
}
END_TEST

START_TEST(many_at_once_are_as_many_one_by_one)
{
    struct kv_histogram once = {.count = 0}, each = {.count = 0};

    for (int64_t duration = -5; duration < 1000000000; duration += 99999989) {
        kv_histogram_add_many(&once, duration, 3);
        for (int i = 0; i < 3; i++)
            kv_histogram_add(&each, duration);
    }
    ck_assert_mem_eq(&once, &each, sizeof once);
    kv_histogram_add_many(&once, INT64_MAX, 7);
    ck_assert_uint_eq(once.counts[KV_HISTOGRAM_BOUNDS], 7);
    ck_assert_int_eq(once.sum_ns, INT64_MAX);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        bounds_ascend_from_a_tenth_of_a_millisecond_to_58_days,
        a_bound_belongs_to_its_bucket,
        extremes_are_counted,
        many_at_once_are_as_many_one_by_one,
    };

    return CHECK_RUN("histogram", NULL, NULL, tests);
}
