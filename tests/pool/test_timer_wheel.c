#include <stdlib.h>

#include "pool/timer_wheel.h"
#include "tests/support/check_main.h"

#define TICK_NS (INT64_C(1) << TIMER_TICK_BITS)

static struct timer_wheel wheel;

static void set_up(void)
{
    timer_wheel_init(&wheel, 5 * TICK_NS);
}

START_TEST(a_timer_fires_at_its_tick_and_not_before)
{
    static const int64_t delays[] = {1, TICK_NS, 63 * TICK_NS, 64 * TICK_NS,
        65 * TICK_NS, 4095 * TICK_NS, 4097 * TICK_NS + 1, 1000000 * TICK_NS,
        INT64_MAX / 4};

    for (size_t i = 0; i < sizeof delays / sizeof *delays; i++) {
        struct timer timer = {.place = 0};
        int64_t due = 5 * TICK_NS + delays[i];
        int64_t fires = (due + TICK_NS - 1) / TICK_NS * TICK_NS;

        set_up();
        timer_wheel_set(&wheel, &timer, due);
        timer_wheel_advance(&wheel, fires - 1);
        ck_assert_ptr_null(timer_wheel_take_due(&wheel));
        timer_wheel_advance(&wheel, fires);
        ck_assert_ptr_eq(timer_wheel_take_due(&wheel), &timer);
        ck_assert(!timer_is_set_by(&timer, INT64_MAX - 1));
        ck_assert_int_eq(timer_wheel_next_ns(&wheel), INT64_MAX);
    }
}
END_TEST

START_TEST(a_timer_in_the_past_is_due_at_once)
{
    struct timer timer = {.place = 0};

    timer_wheel_set(&wheel, &timer, 1);
    ck_assert_int_le(timer_wheel_next_ns(&wheel), 5 * TICK_NS);
    ck_assert_ptr_eq(timer_wheel_take_due(&wheel), &timer);
}
END_TEST

START_TEST(a_cancelled_timer_does_not_fire_due_or_not)
{
    struct timer a = {.place = 0}, b = {.place = 0};

    timer_wheel_set(&wheel, &a, 1);
    timer_wheel_set(&wheel, &b, 100 * TICK_NS);
    timer_wheel_cancel(&wheel, &a);
    timer_wheel_cancel(&wheel, &b);
    timer_wheel_cancel(&wheel, &b);
    ck_assert_int_eq(timer_wheel_next_ns(&wheel), INT64_MAX);
    timer_wheel_advance(&wheel, 1000 * TICK_NS);
    ck_assert_ptr_null(timer_wheel_take_due(&wheel));
}
END_TEST

START_TEST(a_timer_set_again_fires_at_the_second_time_only)
{
    struct timer timer = {.place = 0};

    timer_wheel_set(&wheel, &timer, 10 * TICK_NS);
    timer_wheel_set(&wheel, &timer, 5000 * TICK_NS);
    timer_wheel_advance(&wheel, 4999 * TICK_NS);
    ck_assert_ptr_null(timer_wheel_take_due(&wheel));
    timer_wheel_advance(&wheel, 5000 * TICK_NS);
    ck_assert_ptr_eq(timer_wheel_take_due(&wheel), &timer);
}
END_TEST

START_TEST(the_end_of_time_is_never)
{
    struct timer timer = {.place = 0};

    timer_wheel_set(&wheel, &timer, INT64_MAX);
    timer_wheel_advance(&wheel, INT64_MAX - TICK_NS);
    ck_assert_ptr_null(timer_wheel_take_due(&wheel));
}
END_TEST

START_TEST(following_next_reaches_every_timer_in_its_tick_in_few_steps)
{
    enum { N = 300 };
    static struct timer timers[N];
    static int64_t fires[N];
    int n_left = N, n_steps = 0;
    int64_t now = 5 * TICK_NS;

    srand(11);
    for (int i = 0; i < N; i++) {
        int64_t due =
            now + (int64_t)(rand() % 1000) * (INT64_C(1) << (rand() % 40));

        timer_wheel_set(&wheel, &timers[i], due);
        fires[i] = (due + TICK_NS - 1) / TICK_NS * TICK_NS;
    }
    while (n_left > 0) {
        const struct timer *timer;
        int64_t next = timer_wheel_next_ns(&wheel);

        ck_assert_int_ge(next, now);
        ck_assert_int_lt(n_steps++, N * TIMER_LEVELS + N);
        now = next;
        timer_wheel_advance(&wheel, now);
        while ((timer = timer_wheel_take_due(&wheel)) != NULL) {
            ck_assert_int_eq(fires[timer - timers], now);
            n_left--;
        }
    }
    ck_assert_int_eq(timer_wheel_next_ns(&wheel), INT64_MAX);
}
END_TEST

START_TEST(random_timers_agree_with_a_plain_array)
{
    enum { N = 64 };
    static struct timer timers[N];
    static int64_t due[N]; /* 0: not set */
    int64_t now = 5 * TICK_NS;
    int n_fired = 0;

    srand(13);
    for (int step = 0; step < 20000; step++) {
        int i = rand() % N;
        const struct timer *timer;

        if (rand() % 4 == 0) {
            timer_wheel_cancel(&wheel, &timers[i]);
            due[i] = 0;
        } else {
            due[i] = now + 1 + (INT64_C(1) << (rand() % 34)) + rand();
            timer_wheel_set(&wheel, &timers[i], due[i]);
        }
        now += rand() % 100 == 0 ? INT64_C(1) << (rand() % 36) : rand() / 64;
        timer_wheel_advance(&wheel, now);
        while ((timer = timer_wheel_take_due(&wheel)) != NULL) {
            ck_assert_int_gt(due[timer - timers], 0);
            ck_assert_int_le(due[timer - timers], now);
            due[timer - timers] = 0;
            n_fired++;
        }
        for (int j = 0; j < N; j++)
            if (due[j] != 0 && due[j] <= now - TICK_NS)
                ck_abort_msg("timer %d is late", j);
    }
    ck_assert_int_gt(n_fired, 1000);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {a_timer_fires_at_its_tick_and_not_before,
        a_timer_in_the_past_is_due_at_once,
        a_cancelled_timer_does_not_fire_due_or_not,
        a_timer_set_again_fires_at_the_second_time_only,
        the_end_of_time_is_never,
        following_next_reaches_every_timer_in_its_tick_in_few_steps,
        random_timers_agree_with_a_plain_array};

    return CHECK_RUN("timer_wheel", set_up, NULL, tests);
}
