#include "server/work.h"

#include "base/list.h"
#include "rpc/tsan.h"
#include "server/server.h"

static struct work *work_of(uv_work_t *request)
{
    return KV_LIST_ENTRY(request, struct work, request);
}

/* On a thread of the pool. */
static void on_run(uv_work_t *request)
{
    struct work *work = work_of(request);

    RPC_TSAN_ACQUIRE(work);
    work->run(work);
    RPC_TSAN_RELEASE(work);
}

static void on_ran(uv_work_t *request, int status)
{
    struct work *work = work_of(request);

    RPC_TSAN_ACQUIRE(work);
    work->server->n_works--;
    work->done(work, status == 0);
}

void work_do(struct server *server, struct work *work, bool is_long)
{
    uv_loop_t *loop = rpc_loop_uv(server->loop);

    work->server = server;
    RPC_TSAN_RELEASE(work);
    if (is_long && uv_queue_work(loop, &work->request, on_run, on_ran) == 0) {
        server->n_works++;
        rpc_loop_touched(server->loop);
        return;
    }
    work->run(work);
    work->done(work, true);
}

void work_give_up(struct work *work)
{
    uv_cancel((uv_req_t *)&work->request);
    rpc_loop_touched(work->server->loop);
}
