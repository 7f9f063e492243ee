#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/heap.h"
#include "rpc/loop.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define N_THREADS 4
#define N_POSTS 2000

static struct rpc_loop *loop;
static struct kv_error error;

static void set_up(void)
{
    ck_assert_int_eq(rpc_loop_open(&loop, &error), KV_OK);
}

static void tear_down(void)
{
    rpc_loop_close(loop);
}

/* ---- posts */

struct numbered {
    struct rpc_post post;
    int thread, number;
};

static struct numbered posts[N_THREADS][N_POSTS];
static int next_of[N_THREADS]; /* the owner's */
static int n_ran;

static void on_numbered(struct rpc_post *post)
{
    struct numbered *numbered = (struct numbered *)(void *)post;

    ck_assert_int_eq(numbered->number, next_of[numbered->thread]);
    next_of[numbered->thread]++;
    if (++n_ran == N_THREADS * N_POSTS)
        rpc_loop_stop(loop);
}

static void *post_all(void *arg)
{
    struct numbered *mine = arg;

    for (int i = 0; i < N_POSTS; i++)
        ck_assert(rpc_loop_post(loop, &mine[i].post));
    return NULL;
}

START_TEST(posts_of_several_threads_all_run_each_threads_in_order)
{
    pthread_t threads[N_THREADS];

    for (int t = 0; t < N_THREADS; t++) {
        for (int i = 0; i < N_POSTS; i++)
            posts[t][i] = (struct numbered){
                .post.run = on_numbered, .thread = t, .number = i};
        pthread_create(&threads[t], NULL, post_all, posts[t]);
    }
    rpc_loop_run(loop);
    for (int t = 0; t < N_THREADS; t++)
        pthread_join(threads[t], NULL);
    ck_assert_int_eq(n_ran, N_THREADS * N_POSTS);
}
END_TEST

static struct rpc_post again;

static void on_again(struct rpc_post *post)
{
    if (++n_ran == 100)
        rpc_loop_stop(loop);
    else
        ck_assert(rpc_loop_post(loop, post));
}

START_TEST(a_post_may_be_posted_again_while_it_runs)
{
    again.run = on_again;
    ck_assert(rpc_loop_post(loop, &again));
    rpc_loop_run(loop);
    ck_assert_int_eq(n_ran, 100);
}
END_TEST

static int n_turns, n_ran_before;

static void on_turn(void *ctx)
{
    ck_assert_ptr_eq(ctx, &again);
    ck_assert_int_le(n_ran, n_ran_before + 1);
    n_ran_before = n_ran;
    n_turns++;
}

START_TEST(each_turn_ends_with_a_call)
{
    again.run = on_again;
    rpc_loop_on_turn(loop, on_turn, &again);
    ck_assert(rpc_loop_post(loop, &again));
    rpc_loop_run(loop);
    ck_assert_int_ge(n_turns, 100);
}
END_TEST

static void on_stop(struct rpc_post *post)
{
    (void)post;
    rpc_loop_stop(loop);
}

static void count_post(struct rpc_post *post)
{
    (void)post;
    n_ran++;
}

static struct rpc_post stop_post, last_post, late_post;

START_TEST(after_stop_what_was_posted_runs_and_nothing_more_is_taken)
{
    stop_post.run = on_stop;
    last_post.run = late_post.run = count_post;
    ck_assert(rpc_loop_post(loop, &stop_post));
    ck_assert(rpc_loop_post(loop, &last_post));
    rpc_loop_run(loop);
    ck_assert_int_eq(n_ran, 1);
    ck_assert(!rpc_loop_post(loop, &late_post));
    ck_assert_int_eq(n_ran, 1);
}
END_TEST

static struct numbered racing[N_THREADS][N_POSTS];
static _Atomic int n_taken;

static void *post_until_refused(void *arg)
{
    struct numbered *mine = arg;
    int i = 0;

    while (i < N_POSTS && rpc_loop_post(loop, &mine[i].post))
        i++;
    n_taken += i;
    return NULL;
}

START_TEST(stopping_races_with_posting_and_loses_nothing_that_was_taken)
{
    pthread_t threads[N_THREADS];

    for (int t = 0; t < N_THREADS; t++) {
        for (int i = 0; i < N_POSTS; i++)
            racing[t][i].post.run = count_post;
        pthread_create(&threads[t], NULL, post_until_refused, racing[t]);
    }
    stop_post.run = on_stop;
    ck_assert(rpc_loop_post(loop, &stop_post));
    rpc_loop_run(loop);
    for (int t = 0; t < N_THREADS; t++)
        pthread_join(threads[t], NULL);
    ck_assert_int_eq(n_ran, n_taken);
}
END_TEST

/* ---- uv */

static uv_timer_t timer;
static int n_fired;

static void on_timer(uv_timer_t *handle)
{
    if (++n_fired < 5) {
        uv_timer_start(handle, on_timer, 1, 0);
        return;
    }
    uv_close((uv_handle_t *)handle, NULL);
    rpc_loop_stop(loop);
}

START_TEST(timers_fire_that_were_started_before_run)
{
    uv_timer_init(rpc_loop_uv(loop), &timer);
    uv_timer_start(&timer, on_timer, 1, 0);
    rpc_loop_run(loop);
    ck_assert_int_eq(n_fired, 5);
}
END_TEST

static void start_timer(struct rpc_post *post)
{
    (void)post;
    uv_timer_init(rpc_loop_uv(loop), &timer);
    uv_timer_start(&timer, on_timer, 1, 0);
    rpc_loop_touched(loop);
}

START_TEST(a_timer_fires_that_was_started_from_a_post)
{
    again.run = start_timer;
    rpc_loop_post(loop, &again);
    rpc_loop_run(loop);
    ck_assert_int_eq(n_fired, 5);
}
END_TEST

/* A chain of descriptors: the callback of each starts to watch the next, which
 * is readable already; none may be forgotten outside the epoll set. */
#define N_LINKS 20

static int fds[N_LINKS];
static uv_poll_t polls[N_LINKS];

static void watch_link(int i);

static void on_link(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    n_fired++;
    uv_close((uv_handle_t *)poll, NULL);
    if (n_fired < N_LINKS)
        watch_link(n_fired);
    else
        rpc_loop_stop(loop);
}

static void watch_link(int i)
{
    fds[i] = eventfd(1, EFD_NONBLOCK);
    uv_poll_init(rpc_loop_uv(loop), &polls[i], fds[i]);
    uv_poll_start(&polls[i], UV_READABLE, on_link);
}

START_TEST(a_watcher_that_a_callback_starts_is_not_forgotten)
{
    watch_link(0);
    rpc_loop_run(loop);
    ck_assert_int_eq(n_fired, N_LINKS);
    for (int i = 0; i < N_LINKS; i++)
        close(fds[i]);
}
END_TEST

static void on_work(uv_work_t *work)
{
    (void)work;
}

static void on_worked(uv_work_t *work, int status)
{
    (void)status;
    if (++n_fired < 50)
        uv_queue_work(rpc_loop_uv(loop), work, on_work, on_worked);
    else
        rpc_loop_stop(loop);
}

static uv_work_t work;

START_TEST(work_of_the_thread_pool_comes_back)
{
    uv_queue_work(rpc_loop_uv(loop), &work, on_work, on_worked);
    rpc_loop_run(loop);
    ck_assert_int_eq(n_fired, 50);
}
END_TEST

/* ---- life */

START_TEST(a_loop_that_never_ran_runs_its_posts_when_it_closes)
{
    struct rpc_loop *other;

    ck_assert_int_eq(rpc_loop_open(&other, &error), KV_OK);
    last_post.run = count_post;
    ck_assert(rpc_loop_post(other, &last_post));
    rpc_loop_close(other);
    ck_assert_int_eq(n_ran, 1);
}
END_TEST

START_TEST(open_survives_a_failing_heap)
{
    struct rpc_loop *other = NULL;

    faulty_heap_install();
    faulty_heap_fail_at(0);
    ck_assert_int_eq(rpc_loop_open(&other, &error), KV_NO_MEMORY);
    ck_assert_ptr_null(other);
    faulty_heap_fail_at(-1);
    ck_assert_int_eq(faulty_heap_live(), 0);
    kv_heap_use(NULL);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        posts_of_several_threads_all_run_each_threads_in_order,
        a_post_may_be_posted_again_while_it_runs,
        each_turn_ends_with_a_call,
        after_stop_what_was_posted_runs_and_nothing_more_is_taken,
        stopping_races_with_posting_and_loses_nothing_that_was_taken,
        timers_fire_that_were_started_before_run,
        a_timer_fires_that_was_started_from_a_post,
        a_watcher_that_a_callback_starts_is_not_forgotten,
        work_of_the_thread_pool_comes_back,
        a_loop_that_never_ran_runs_its_posts_when_it_closes,
        open_survives_a_failing_heap,
    };

    return CHECK_RUN("rpc loop", set_up, tear_down, tests);
}
