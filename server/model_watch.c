#include "server/model_watch.h"

#include "base/list.h"
#include "server/server.h"

#define LOOK_MS 1000

static struct model_watch *watch_of(struct work *work)
{
    return KV_LIST_ENTRY(work, struct model_watch, look);
}

/* On a thread of the pool. */
static void on_look(struct work *work)
{
    struct model_watch *watch = watch_of(work);

    pthread_mutex_lock(&watch->mutex);
    if (!watch->closed)
        model_look_at_file(watch->server->model);
    pthread_mutex_unlock(&watch->mutex);
}

static void on_looked(struct work *work, bool ran)
{
    struct model_watch *watch = watch_of(work);

    (void)ran;
    watch->looking = false;
    if (!watch->closed)
        server_lose_model(watch->server);
}

static void on_tick(uv_timer_t *timer)
{
    struct model_watch *watch = timer->data;

    if (watch->looking)
        return;
    watch->looking = true;
    work_do(watch->server, &watch->look, true);
}

void model_watch_open(struct model_watch *watch, struct server *server)
{
    *watch = (struct model_watch){
        .server = server,
        .look = {.run = on_look, .done = on_looked},
    };
    pthread_mutex_init(&watch->mutex, NULL);
    uv_timer_init(rpc_loop_uv(server->loop), &watch->tick);
    watch->tick.data = watch;
}

void model_watch_start(struct model_watch *watch)
{
    uv_timer_start(&watch->tick, on_tick, LOOK_MS, LOOK_MS);
    rpc_loop_touched(watch->server->loop);
}

void model_watch_close(struct model_watch *watch)
{
    pthread_mutex_lock(&watch->mutex); /* who looks is waited for */
    watch->closed = true;
    pthread_mutex_unlock(&watch->mutex);
    uv_close((uv_handle_t *)&watch->tick, NULL);
}
