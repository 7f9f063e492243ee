/* Turns and shares against the naive way: one turn, one token at a time. */
#include <string.h>

#include "engine/tenants.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_TENANTS 6
#define N_TURNS 40

static struct tenants tenants;
static struct tenant *members[N_TENANTS];
static uint64_t random_state = 7;

static size_t random_below(size_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) +
                   UINT64_C(1442695040888963407);
    return (size_t)(random_state >> 33) % n;
}

static void join_all(void)
{
    static const char *const names[N_TENANTS] = {"", "a", "b", "ab", "c", "d"};

    faulty_heap_install();
    faulty_heap_fail_at(-1);
    tenants_init(&tenants);
    for (size_t i = 0; i < N_TENANTS; i++) {
        members[i] = tenants_join(&tenants, names[i], strlen(names[i]));
        ck_assert_ptr_nonnull(members[i]);
    }
}

static void leave_all(void)
{
    for (size_t i = 0; i < N_TENANTS; i++)
        tenants_leave(members[i]);
    ck_assert_int_eq(faulty_heap_live(), 0);
}

START_TEST(a_tenant_is_one_as_long_as_it_has_requests)
{
    struct tenant *again = tenants_join(&tenants, "abc", 2), *other;

    ck_assert_ptr_eq(again, members[3]);
    other = tenants_join(&tenants, "abc", 3);
    ck_assert_ptr_ne(other, again);
    tenants_leave(again);
    ck_assert_ptr_eq(tenants_join(&tenants, "ab", 2), members[3]);
    tenants_leave(members[3]);
    tenants_leave(other);
    faulty_heap_fail_at(0);
    ck_assert_ptr_null(tenants_join(&tenants, "abc", 3));
    faulty_heap_fail_at(-1);
}
END_TEST

/* Whether a turn comes before another, given how many run of their tenants. */
static bool comes_before(const struct tenant_turn *a, uint32_t a_running,
    const struct tenant_turn *b, uint32_t b_running)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    return a_running != b_running ? a_running < b_running : a->age < b->age;
}

/* The highest priority, then a tenant of the fewest running, then the oldest; a
 * turn is given once. */
START_TEST(the_next_turn_is_of_the_tenant_with_the_fewest_running)
{
    struct tenant_turn turns[N_TURNS];
    size_t owner[N_TURNS];

    for (int round = 0; round < 200; round++) {
        bool given[N_TURNS] = {false};

        for (size_t i = 0; i < N_TENANTS; i++)
            members[i]->n_running = (uint32_t)random_below(5);
        for (size_t i = 0; i < N_TURNS; i++) {
            /* Ages are a permutation, put in out of order. */
            turns[i].age = (i * 17 + (size_t)round) % N_TURNS;
            turns[i].priority = (uint32_t)random_below(round < 100 ? 1 : 3);
            owner[i] = random_below(N_TENANTS);
            tenants_wait(members[owner[i]], &turns[i]);
        }
        tenants_begin_round(&tenants);
        for (size_t n = 0; n < N_TURNS; n++) {
            struct tenant_turn *turn = tenants_next_turn(&tenants);
            size_t best = N_TURNS;

            for (size_t i = 0; i < N_TURNS; i++) {
                const uint32_t running = members[owner[i]]->n_running;

                if (given[i])
                    continue;
                if (best == N_TURNS ||
                    comes_before(&turns[i], running, &turns[best],
                        members[owner[best]]->n_running))
                    best = i;
            }
            ck_assert_ptr_eq(turn, &turns[best]);
            given[best] = true;
            if (random_below(3) == 0) /* passed over */
                continue;
            kv_list_remove(&turn->link);
            members[owner[best]]->n_running++;
        }
        ck_assert_ptr_null(tenants_next_turn(&tenants));
        for (size_t i = 0; i < N_TURNS; i++)
            if (!kv_list_empty(&turns[i].link))
                kv_list_remove(&turns[i].link);
    }
    for (size_t i = 0; i < N_TENANTS; i++)
        members[i]->n_running = 0;
}
END_TEST

START_TEST(nobody_gets_more_while_another_with_less_still_wants_some)
{
    for (int round = 0; round < 3000; round++) {
        const size_t budget = random_below(120);
        size_t wanted[N_TENANTS] = {0}, sum_wanted = 0, sum = 0;

        for (size_t i = random_below(12); i > 0; i--) {
            const size_t who = random_below(N_TENANTS);
            const size_t n = 1 + random_below(40);

            wanted[who] += n;
            sum_wanted += n;
            tenants_ask(&tenants, members[who], n);
        }
        tenants_divide(&tenants, budget);
        for (size_t i = 0; i < N_TENANTS; i++) {
            const size_t share = wanted[i] > 0 ? members[i]->n_share : 0;

            ck_assert_uint_le(share, wanted[i]);
            sum += share;
            for (size_t j = 0; j < N_TENANTS; j++)
                if (wanted[j] > 0 && members[j]->n_share < wanted[j])
                    ck_assert_uint_le(share, members[j]->n_share + 1);
        }
        ck_assert_uint_eq(sum, budget < sum_wanted ? budget : sum_wanted);
    }
}
END_TEST

START_TEST(what_does_not_divide_goes_to_whoever_asked_first)
{
    tenants_ask(&tenants, members[4], 9);
    tenants_ask(&tenants, members[1], 9);
    tenants_ask(&tenants, members[4], 9);
    tenants_ask(&tenants, members[0], 9);
    tenants_divide(&tenants, 2);
    ck_assert_uint_eq(members[4]->n_share, 1);
    ck_assert_uint_eq(members[1]->n_share, 1);
    ck_assert_uint_eq(members[0]->n_share, 0);
}
END_TEST

START_TEST(who_leaves_asks_for_nothing)
{
    struct tenant *gone = tenants_join(&tenants, "gone", 4);

    tenants_ask(&tenants, gone, 5);
    tenants_ask(&tenants, members[0], 5);
    tenants_leave(gone);
    tenants_divide(&tenants, 5);
    ck_assert_uint_eq(members[0]->n_share, 5);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        a_tenant_is_one_as_long_as_it_has_requests,
        the_next_turn_is_of_the_tenant_with_the_fewest_running,
        nobody_gets_more_while_another_with_less_still_wants_some,
        what_does_not_divide_goes_to_whoever_asked_first,
        who_leaves_asks_for_nothing,
    };

    return CHECK_RUN("tenants", join_all, leave_all, tests);
}
