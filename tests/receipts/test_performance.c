#include "receipts/performance.h"

#include "base/clock.h"
#include "tests/support/check_main.h"

static struct performance performance;

static void set_up(void)
{
    performance_init(&performance,
        &(struct performance_settings){.window_ns = 10 * KV_NS_PER_S});
}

START_TEST(nothing_measured_is_no_report)
{
    struct performance_report report;

    ck_assert(!performance_report(&performance, 0, &report));
    performance_add(&performance, KV_NS_PER_S, KV_NS_PER_MS);
    ck_assert(!performance_report(&performance, 11 * KV_NS_PER_S, &report));
}
END_TEST

START_TEST(a_report_is_the_mean_over_the_window_only)
{
    struct performance_report report;

    performance_add(&performance, 1 * KV_NS_PER_S, 900 * KV_NS_PER_MS);
    performance_add(&performance, 5 * KV_NS_PER_S, 10 * KV_NS_PER_MS);
    performance_add(&performance, 6 * KV_NS_PER_S, 30 * KV_NS_PER_MS);
    ck_assert(performance_report(&performance, 12 * KV_NS_PER_S, &report));
    ck_assert_uint_eq(report.n_samples, 2);
    ck_assert_double_eq_tol(report.latency_ms, 20, 1e-9);
    ck_assert_double_eq_tol(report.requests_per_second, 0.2, 1e-9);
    ck_assert_int_eq(report.window_ns, 10 * KV_NS_PER_S);
}
END_TEST

START_TEST(more_requests_than_are_kept_shorten_the_window_not_the_rate)
{
    struct performance_report report;
    int64_t now = 0;

    for (int i = 0; i < 5 * PERFORMANCE_SAMPLES; i++) {
        now += KV_NS_PER_MS;
        performance_add(&performance, now, 2 * KV_NS_PER_MS);
    }
    ck_assert(performance_report(&performance, now, &report));
    ck_assert_uint_eq(report.n_samples, PERFORMANCE_SAMPLES);
    ck_assert_double_eq_tol(report.requests_per_second, 1000, 2);
    ck_assert_int_eq(
        report.window_ns, (PERFORMANCE_SAMPLES - 1) * KV_NS_PER_MS);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        nothing_measured_is_no_report,
        a_report_is_the_mean_over_the_window_only,
        more_requests_than_are_kept_shorten_the_window_not_the_rate,
    };

    return CHECK_RUN("performance", set_up, NULL, tests);
}
