#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/team.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_ITEMS 1000
#define N_ROUNDS 300

/* A step of many rounds over the same items, as a forward pass is. */
struct step {
    struct team *team;
    unsigned counts[N_ITEMS]; /* each item belongs to one thread at a time */
    atomic_bool busy[4];      /* by thread */
    atomic_int n_failed, n_threads_seen;
    size_t chunk;
    atomic_bool is_done;
};

static void count_items(void *ctx, size_t begin, size_t end, uint32_t thread)
{
    struct step *step = ctx;

    if (atomic_exchange(&step->busy[thread], true))
        atomic_fetch_add(&step->n_failed, 1);
    for (size_t i = begin; i < end; i++)
        step->counts[i]++;
    atomic_store(&step->busy[thread], false);
}

/* Between rounds the leader reads what all threads wrote. */
static void run_rounds(void *ctx)
{
    struct step *step = ctx;

    for (unsigned round = 1; round <= N_ROUNDS; round++) {
        team_each(step->team, N_ITEMS, step->chunk, count_items, step);
        for (size_t i = 0; i < N_ITEMS; i++)
            if (step->counts[i] != round)
                atomic_fetch_add(&step->n_failed, 1);
    }
    atomic_store(&step->is_done, true);
}

static void check_rounds(uint32_t n_threads, size_t chunk)
{
    struct step step = {.chunk = chunk};

    ck_assert_int_eq(team_open(&step.team, n_threads, 0, NULL), KV_OK);
    ck_assert_uint_eq(team_n_threads(step.team), n_threads);
    team_start(step.team, run_rounds, &step);
    while (!atomic_load(&step.is_done))
        usleep(100);
    team_close(step.team);
    ck_assert_int_eq(atomic_load(&step.n_failed), 0);
}

START_TEST(every_item_is_computed_once_a_round_by_any_number_of_threads)
{
    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        check_rounds(n_threads, 1);
        check_rounds(n_threads, 7);
        check_rounds(n_threads, 600);
        check_rounds(n_threads, 5000);
    }
}
END_TEST

/* A sleeping team wakes up for the next step, and for the end. */
START_TEST(a_team_that_fell_asleep_wakes_up)
{
    struct step step = {.chunk = 10};

    ck_assert_int_eq(team_open(&step.team, 3, 0, NULL), KV_OK);
    for (int i = 0; i < 5; i++) {
        usleep(5000);
        for (size_t j = 0; j < N_ITEMS; j++)
            step.counts[j] = 0;
        atomic_store(&step.is_done, false);
        team_start(step.team, run_rounds, &step);
        while (!atomic_load(&step.is_done))
            usleep(100);
    }
    usleep(5000);
    team_close(step.team);
    ck_assert_int_eq(atomic_load(&step.n_failed), 0);
}
END_TEST

START_TEST(a_run_returns_when_its_lead_has)
{
    struct step step = {.chunk = 10};

    ck_assert_int_eq(team_open(&step.team, 3, 0, NULL), KV_OK);
    for (int i = 0; i < 10; i++) {
        memset(step.counts, 0, sizeof step.counts);
        atomic_store(&step.is_done, false);
        team_run(step.team, run_rounds, &step);
        ck_assert(atomic_load(&step.is_done));
    }
    team_close(step.team);
    ck_assert_int_eq(atomic_load(&step.n_failed), 0);
}
END_TEST

START_TEST(a_team_may_close_without_having_worked)
{
    struct team *team;

    for (uint32_t n_threads = 1; n_threads <= 4; n_threads++) {
        ck_assert_int_eq(team_open(&team, n_threads, 1, NULL), KV_OK);
        team_close(team);
    }
    team_close(NULL);
}
END_TEST

START_TEST(a_team_without_memory_says_so)
{
    struct team *team = NULL;
    struct kv_error error = {.text = ""};

    faulty_heap_install();
    faulty_heap_fail_at(0);
    ck_assert_int_eq(team_open(&team, 2, 0, &error), KV_NO_MEMORY);
    ck_assert_ptr_null(team);
    ck_assert_int_ne(error.text[0], '\0');
    ck_assert_int_eq(faulty_heap_live(), 0);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        every_item_is_computed_once_a_round_by_any_number_of_threads,
        a_team_that_fell_asleep_wakes_up,
        a_run_returns_when_its_lead_has,
        a_team_may_close_without_having_worked,
        a_team_without_memory_says_so,
    };

    return CHECK_RUN("team", NULL, NULL, tests);
}
