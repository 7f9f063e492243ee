#include "rpc/loop.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <grpc/grpc.h>
#include <grpc/support/time.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/thread.h"
#include "rpc/cork.h"
#include "rpc/tag.h"

/* How two loops become one.
 *
 *      owner                                    helper
 *      completion_queue_next <──── bell ─────── poll(uv's backend, nudge)
 *        │ a call's tag: its handler                ▲
 *        │ uv's tag: uv_run(NOWAIT) ─── orders ─────┘ (how long to sleep)
 *        │ the posts' tag: what others posted
 *
 * The bell is an empty batch on a call of a lame channel: its tag comes back at
 * once, through the queue, from any thread, and that is all it does. (Core
 * promises this; it is how its own C++ alarms woke queues.)
 *
 * Ordering is what makes it right:
 * - After it rang for uv the helper sleeps until it has new orders, so uv's
 *   descriptor, which stays readable until uv_run, does not make it spin.
 * - A watcher that was started outside uv_run, or by a callback of its last
 *   poll, is not in the epoll set yet: turn_uv runs uv until none is left.
 * - The owner computes the timeout that the helper sleeps: uv_backend_timeout
 *   is not for other threads.
 * - A batch after the queue's shutdown aborts the process. Whoever may ring is
 *   therefore shut out first: the helper is joined, posting closed, and who is
 *   about to ring for a post waited for.
 * - Nobody rings under the mutex: the bell wakes the owner, which often takes
 *   the ringer's processor at once and then would wait for that very mutex. */

#define MAX_ROUNDS 8 /* of uv in one turn, so that nobody else waits long */

struct rpc_loop {
    uv_loop_t uv;
    grpc_completion_queue *queue;
    grpc_channel *lame;
    grpc_call *bell;
    struct rpc_tag uv_tag, posts_tag;
    bool touched, stopped;
    struct rpc_cork cork;
    void (*on_turn)(void *ctx); /* NULL: nobody */
    void *on_turn_ctx;

    pthread_t helper;
    int nudge_fd; /* eventfd: there are new orders */

    pthread_mutex_t mutex; /* of what follows */
    bool helper_armed, helper_quits;
    int helper_timeout_ms;
    struct rpc_post *posts, **posts_end;
    bool posts_rung, posts_closed;
    unsigned n_ringing; /* threads that are about to ring for posts */
    pthread_cond_t rung;
};

static void ring(struct rpc_loop *loop, struct rpc_tag *tag)
{
    bool rung = rpc_tag_start_batch(loop->bell, NULL, 0, tag);

    assert(rung);
    (void)rung;
}

/* ---- the helper */

struct orders {
    bool armed, quit;
    int timeout_ms;
};

static struct orders read_orders(struct rpc_loop *loop)
{
    struct orders orders;

    pthread_mutex_lock(&loop->mutex);
    orders = (struct orders){
        loop->helper_armed, loop->helper_quits, loop->helper_timeout_ms};
    pthread_mutex_unlock(&loop->mutex);
    return orders;
}

static void disarm_helper(struct rpc_loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    loop->helper_armed = false;
    pthread_mutex_unlock(&loop->mutex);
}

static void *help(void *arg)
{
    struct rpc_loop *loop = arg;
    struct pollfd fds[] = {
        {.fd = loop->nudge_fd, .events = POLLIN},
        {.fd = uv_backend_fd(&loop->uv), .events = POLLIN},
    };
    struct orders orders;
    eventfd_t ignored;
    int n;

    for (;;) {
        orders = read_orders(loop);
        if (orders.quit)
            return NULL;
        n = poll(
            fds, orders.armed ? 2 : 1, orders.armed ? orders.timeout_ms : -1);
        if (n < 0)
            continue; /* EINTR */
        if (n > 0 && fds[0].revents != 0) {
            eventfd_read(loop->nudge_fd, &ignored);
            continue;
        }
        disarm_helper(loop);
        ring(loop, &loop->uv_tag);
    }
}

static void nudge_helper(struct rpc_loop *loop)
{
    eventfd_write(loop->nudge_fd, 1);
}

static void order_helper(struct rpc_loop *loop, int timeout_ms)
{
    bool news;

    pthread_mutex_lock(&loop->mutex);
    news = !loop->helper_armed || loop->helper_timeout_ms != timeout_ms;
    loop->helper_armed = true;
    loop->helper_timeout_ms = timeout_ms;
    pthread_mutex_unlock(&loop->mutex);
    if (news)
        nudge_helper(loop);
}

static void dismiss_helper(struct rpc_loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    loop->helper_quits = true;
    pthread_mutex_unlock(&loop->mutex);
    nudge_helper(loop);
    pthread_join(loop->helper, NULL);
}

/* ---- uv, turned by the owner */

/* Whether a watcher waits to enter the epoll set: uv's queue of them is not
 * empty, that is, does not point to itself. No public call tells. */
static bool has_new_watchers(const uv_loop_t *uv)
{
    return *(const void *const *)&uv->watcher_queue !=
           (const void *)&uv->watcher_queue;
}

static bool wants_round(const struct rpc_loop *loop)
{
    return loop->touched ||
           (uv_loop_alive(&loop->uv) && has_new_watchers(&loop->uv));
}

static void turn_uv(struct rpc_loop *loop)
{
    int timeout_ms, rounds = 0;

    do {
        loop->touched = false;
        uv_run(&loop->uv, UV_RUN_NOWAIT);
    } while (wants_round(loop) && ++rounds < MAX_ROUNDS);

    uv_update_time(&loop->uv);
    timeout_ms = uv_backend_timeout(&loop->uv);
    if (!uv_loop_alive(&loop->uv))
        timeout_ms = -1; /* uv says 0 for a loop with nothing in it */
    if (wants_round(loop))
        timeout_ms = 0;
    loop->touched = false;
    order_helper(loop, timeout_ms);
}

static void on_uv(struct rpc_tag *tag, bool ok)
{
    (void)ok;
    turn_uv(KV_LIST_ENTRY(tag, struct rpc_loop, uv_tag));
}

/* ---- work from elsewhere */

static void ring_for_posts(struct rpc_loop *loop)
{
    ring(loop, &loop->posts_tag);
    pthread_mutex_lock(&loop->mutex);
    if (--loop->n_ringing == 0 && loop->posts_closed)
        pthread_cond_signal(&loop->rung);
    pthread_mutex_unlock(&loop->mutex);
}

bool rpc_loop_post(struct rpc_loop *loop, struct rpc_post *post)
{
    bool open, rings;

    pthread_mutex_lock(&loop->mutex);
    open = !loop->posts_closed;
    rings = open && !loop->posts_rung;
    if (open) {
        post->next = NULL;
        *loop->posts_end = post;
        loop->posts_end = &post->next;
        loop->posts_rung = true;
    }
    loop->n_ringing += rings;
    pthread_mutex_unlock(&loop->mutex);
    if (rings)
        ring_for_posts(loop);
    return open;
}

static void close_posts(struct rpc_loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    loop->posts_closed = true;
    while (loop->n_ringing > 0)
        pthread_cond_wait(&loop->rung, &loop->mutex);
    pthread_mutex_unlock(&loop->mutex);
}

static struct rpc_post *take_posts(struct rpc_loop *loop)
{
    struct rpc_post *posts;

    pthread_mutex_lock(&loop->mutex);
    posts = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    loop->posts_rung = false;
    pthread_mutex_unlock(&loop->mutex);
    return posts;
}

/* Those that are there now; what they post comes with the next tag. */
static void on_posts(struct rpc_tag *tag, bool ok)
{
    struct rpc_loop *loop = KV_LIST_ENTRY(tag, struct rpc_loop, posts_tag);
    struct rpc_post *post = take_posts(loop), *next;

    (void)ok;
    for (; post != NULL; post = next) {
        next = post->next;
        post->run(post);
    }
}

/* ---- life */

static enum kv_status open_uv(struct rpc_loop *loop, struct kv_error *error)
{
    int failed = uv_loop_init(&loop->uv);

    if (failed == UV_ENOMEM)
        return kv_error_set(error, KV_NO_MEMORY, "event loop: out of memory");
    if (failed != 0)
        return kv_error_set(
            error, KV_IO, "event loop: %s", uv_strerror(failed));
    return KV_OK;
}

static void open_queue(struct rpc_loop *loop)
{
    grpc_init();
    loop->queue = grpc_completion_queue_create_for_next(NULL);
    loop->lame = grpc_lame_client_channel_create(
        "bell", GRPC_STATUS_UNAVAILABLE, "bell");
    loop->bell = grpc_channel_create_call(loop->lame, NULL, 0, loop->queue,
        grpc_slice_from_static_string("/bell"), NULL,
        gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
}

static void close_queue(struct rpc_loop *loop)
{
    grpc_call_unref(loop->bell);
    grpc_channel_destroy(loop->lame);
    grpc_completion_queue_destroy(loop->queue);
    grpc_shutdown_blocking();
}

enum kv_status rpc_loop_open(struct rpc_loop **out, struct kv_error *error)
{
    struct rpc_loop *loop = kv_calloc(1, sizeof *loop);
    enum kv_status status;

    if (loop == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "event loop: out of memory");
    loop->uv_tag.run = on_uv;
    loop->posts_tag.run = on_posts;
    loop->posts_end = &loop->posts;
    status = open_uv(loop, error);
    if (status != KV_OK)
        goto free_loop;
    loop->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->nudge_fd < 0) {
        status = kv_error_set(
            error, KV_IO, "event loop: eventfd: %s", strerror(errno));
        goto close_uv;
    }
    pthread_mutex_init(&loop->mutex, NULL);
    pthread_cond_init(&loop->rung, NULL);
    open_queue(loop);
    if (kv_thread_start(&loop->helper, help, loop) != 0) {
        status =
            kv_error_set(error, KV_IO, "event loop: cannot start a thread");
        goto close_queue;
    }
    *out = loop;
    return KV_OK;

close_queue:
    grpc_completion_queue_shutdown(loop->queue);
    close_queue(loop);
    pthread_cond_destroy(&loop->rung);
    pthread_mutex_destroy(&loop->mutex);
    close(loop->nudge_fd);
close_uv:
    uv_loop_close(&loop->uv);
free_loop:
    kv_free(loop);
    return status;
}

uv_loop_t *rpc_loop_uv(struct rpc_loop *loop)
{
    return &loop->uv;
}

grpc_completion_queue *rpc_loop_queue(struct rpc_loop *loop)
{
    return loop->queue;
}

void rpc_loop_on_turn(
    struct rpc_loop *loop, void (*on_turn)(void *ctx), void *ctx)
{
    loop->on_turn = on_turn;
    loop->on_turn_ctx = ctx;
}

void rpc_loop_touched(struct rpc_loop *loop)
{
    loop->touched = true;
}

struct rpc_cork *rpc_loop_cork(struct rpc_loop *loop)
{
    return &loop->cork;
}

/* Waits, unless answers do: where nothing else is there their turn is over. */
static grpc_completion_type run_next(struct rpc_loop *loop)
{
    struct rpc_cork *cork = &loop->cork;
    grpc_completion_type type = rpc_tag_run_next(loop->queue,
        rpc_cork_is_waiting(cork) ? gpr_inf_past(GPR_CLOCK_REALTIME)
                                  : gpr_inf_future(GPR_CLOCK_REALTIME));

    if (type != GRPC_OP_COMPLETE || rpc_cork_is_full(cork))
        rpc_cork_pull(cork);
    return type;
}

void rpc_loop_run(struct rpc_loop *loop)
{
    turn_uv(loop);
    while (run_next(loop) != GRPC_QUEUE_SHUTDOWN) {
        if (loop->touched)
            turn_uv(loop);
        if (loop->on_turn != NULL && !rpc_cork_is_waiting(&loop->cork))
            loop->on_turn(loop->on_turn_ctx);
    }
}

void rpc_loop_stop(struct rpc_loop *loop)
{
    if (loop->stopped)
        return;
    loop->stopped = true;
    dismiss_helper(loop);
    close_posts(loop);
    grpc_completion_queue_shutdown(loop->queue);
}

/* Delivers close callbacks that are still under way. */
static void close_uv(uv_loop_t *uv)
{
    int busy = uv_loop_close(uv);

    for (int rounds = 0; busy != 0 && rounds < MAX_ROUNDS; rounds++) {
        uv_run(uv, UV_RUN_NOWAIT);
        busy = uv_loop_close(uv);
    }
    assert(busy == 0); /* somebody left a handle open */
}

void rpc_loop_close(struct rpc_loop *loop)
{
    if (loop == NULL)
        return;
    if (!loop->stopped) {
        rpc_loop_stop(loop);
        rpc_loop_run(loop);
    }
    close_uv(&loop->uv);
    close_queue(loop);
    pthread_cond_destroy(&loop->rung);
    pthread_mutex_destroy(&loop->mutex);
    close(loop->nudge_fd);
    kv_free(loop);
}
