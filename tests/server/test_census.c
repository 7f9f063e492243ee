/* What is counted, where, and that everything is passed on. */
#include "server/census.h"

#include "base/clock.h"
#include "tests/support/check_main.h"

static void nothing(void)
{
}

static int n_told;

static bool tell_may(void *ctx)
{
    return *(int *)ctx == 7 && ++n_told > 0;
}

static void tell_evicted(void *ctx, const struct pool_eviction *eviction)
{
    n_told += *(int *)ctx == 7 && eviction->age_ns == 5;
}

static void tell_scrubbed(void *ctx, uint64_t scrub_id)
{
    n_told += *(int *)ctx == 7 && scrub_id == 9;
}

START_TEST(an_eviction_in_parts_counts_once_and_is_passed_on_each_time)
{
    int ctx = 7;
    const struct pool_observer next = {.ctx = &ctx,
        .may_evict = tell_may,
        .evicted = tell_evicted,
        .scrubbed = tell_scrubbed};
    struct census census = {.next = NULL};
    const struct pool_observer *observer = census_init(&census, &next);
    struct pool_eviction eviction = {.age_ns = 5, .n_parts = 3};

    n_told = 0;
    for (eviction.part = 1; eviction.part <= 3; eviction.part++)
        observer->evicted(observer->ctx, &eviction);
    ck_assert_int_eq(n_told, 3);
    ck_assert_uint_eq(census.age_at_eviction.count, 1);
    ck_assert_uint_eq(census.idle_at_eviction.count, 1);
    ck_assert(observer->may_evict(observer->ctx));
    observer->scrubbed(observer->ctx, 9);
    ck_assert_int_eq(n_told, 5);
    ck_assert(observer->allocated == NULL);
    ck_assert(observer->released == NULL);
    ck_assert(observer->batch == NULL);
    ck_assert(observer->may_allocate == NULL);
}
END_TEST

START_TEST(it_counts_where_nobody_else_listens)
{
    struct census census = {.next = NULL};
    const struct pool_observer *observer = census_init(&census, NULL);
    const struct pool_eviction eviction = {
        .idle_ns = 3 * KV_NS_PER_MS, .part = 1, .n_parts = 1};
    const struct pool_recomputation recomputation = {.gap_ns = KV_NS_PER_S};

    observer->evicted(observer->ctx, &eviction);
    observer->recomputed(observer->ctx, &recomputation);
    census_count_reuse(&census, KV_NS_PER_S, 4);
    ck_assert_int_eq(kv_histogram_bound_ns(5), 5 * KV_NS_PER_MS);
    ck_assert_uint_eq(census.idle_at_eviction.counts[5], 1);
    ck_assert_uint_eq(census.return_gap.count, 1);
    ck_assert_uint_eq(census.reuse_gap.count, 4);
    ck_assert_int_eq(census.reuse_gap.sum_ns, 4 * KV_NS_PER_S);
    ck_assert(observer->may_evict == NULL);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        an_eviction_in_parts_counts_once_and_is_passed_on_each_time,
        it_counts_where_nobody_else_listens,
    };

    return CHECK_RUN("census", nothing, nothing, tests);
}
