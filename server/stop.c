/* How a server stops, once a signal came:
 *
 *   NOT_SERVING, no new calls        at once
 *   requests run to their end        until 3/4 of the limit
 *   what still runs is handed back   then
 *   the last snapshot receipt        when nothing runs any more
 *   streams get the rest, `closing`  when all receipts are durable
 *   calls left over are cancelled    at the limit
 *   sinks flush, the loop stops      at the end, all receipts durable again
 *
 * Receipts that never will be durable, the disk being full or broken, are
 * waited for by nobody. A disk that says nothing is waited for beyond the
 * limit, and the log is told: it may yet keep what it was given.
 *
 * A second signal goes to the end at once; what still hangs HURRY_S after the
 * calls are over, in a disk or a sink, is left behind with exit code 1. */
#include "server/server.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define DRAIN_TICK_MS 10
#define HURRY_S 3

/* A thread that waits for a silent disk can be ended with the process only. */
static void on_patience_over(int number)
{
    static const char words[] =
        "kvpoold: stopped at a second signal; what a disk or a sink had not "
        "answered by then is left undone\n";

    (void)number;
    (void)!write(STDERR_FILENO, words, sizeof words - 1);
    _exit(EXIT_FAILURE);
}

/* As a handler of signals too, and they may come again. */
static void hurry(int number)
{
    (void)number;
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGALRM, on_patience_over);
    alarm(HURRY_S);
}

static void on_flushed(void *ctx)
{
    struct server *server = ctx;

    server_close_timers(server);
    /* Another one must not end it otherwise; the first may still hurry it. */
    signal(SIGTERM, server->hurried ? SIG_IGN : hurry);
    signal(SIGINT, server->hurried ? SIG_IGN : hurry);
    server_close_pages(server);
    rpc_loop_stop(server->loop);
}

static bool is_idle(const struct server *server)
{
    struct scheduler_load load = scheduler_load(server->scheduler);

    return server->n_works + load.running + load.waiting + load.set_aside == 0;
}

/* Whether all that was issued is durable, or will not be. */
static bool is_settled(const struct server *server)
{
    enum ledger_state state = recorder_state(server->recorder);
    struct ledger_position position;

    return server->hurried || state == LEDGER_FULL || state == LEDGER_FAILED ||
           !recorder_position(server->recorder, &position) ||
           position.durable_sequence == position.applied_sequence;
}

static void issue_last(struct server *server)
{
    if (server->issued_last)
        return;
    server->issued_last = true;
    recorder_issue_snapshot(server->recorder, server->pool);
}

static void flush_once_settled(struct server *server)
{
    if (!is_settled(server))
        return;
    server->flushing = true;
    recorder_flush(server->recorder, on_flushed, server);
}

static void on_drained(void *ctx)
{
    struct server *server = ctx;

    server->calls_over = true;
    step_stop(server->step); /* zeroes what is left, which releases receipts */
    issue_last(server);
    if (server->hurried)
        hurry(0);
    flush_once_settled(server);
}

static const char *first_sink_that_is_open(const struct server *server)
{
    struct recorder_sink sinks[SINK_MAX_SINKS];

    return recorder_sinks(server->recorder, sinks) > 0 ? sinks[0].name : "";
}

/* Whoever stops us may be about to kill us, and should know what for. */
static void tell_what_is_awaited(struct server *server, int64_t now)
{
    struct ledger_position position;

    server->told_waiting = true;
    if (server->flushing) {
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "stopping waits for sinks; a second signal gives them up",
            KV_LOG_TEXT("sink", first_sink_that_is_open(server)));
    } else if (recorder_position(server->recorder, &position)) {
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "stopping waits for the disk; a second signal gives receipts up",
            KV_LOG_TEXT("data_dir", server->options->data_dir),
            KV_LOG_UINT("receipts",
                position.applied_sequence - position.durable_sequence),
            KV_LOG_INT(
                "silent_ms", (now - position.silent_since_ns) / KV_NS_PER_MS));
    }
}

static void on_drain_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;
    int64_t now = kv_clock_mono_ns();

    if (now >= server->drain_end_ns && !server->told_waiting &&
        (server->flushing || !is_settled(server)))
        tell_what_is_awaited(server, now);
    if (server->calls_over) {
        if (!server->flushing)
            flush_once_settled(server);
        return;
    }
    if (!server->handed_back && now >= server->hand_back_ns) {
        server->handed_back = true;
        scheduler_hand_back(server->scheduler, now);
        step_settle(server->step);
    }
    if (is_idle(server))
        issue_last(server);
    if (!server->closing_streams && server->issued_last && is_settled(server)) {
        server->closing_streams = true;
        service_receipts_drain(server);
    }
}

static void drain(struct server *server, const char *cause)
{
    int64_t limit_ns = (int64_t)server->options->drain_limit_ms * KV_NS_PER_MS;

    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "draining",
        KV_LOG_TEXT("cause", cause),
        KV_LOG_UINT("limit_ms", server->options->drain_limit_ms));
    server->draining = true;
    server->drain_end_ns = kv_clock_mono_ns() + limit_ns;
    server->hand_back_ns = server->drain_end_ns - limit_ns / 4;
    server_set_serving(server, false);
    recorder_issue_drain(server->recorder, cause, limit_ns);
    uv_timer_start(&server->drain_tick, on_drain_tick, 0, DRAIN_TICK_MS);
    rpc_loop_touched(server->loop);
    rpc_server_drain(server->rpc, limit_ns, on_drained, server);
}

void server_stop(struct server *server, int number)
{
    if (!server->draining) {
        drain(server, number == SIGTERM ? "SIGTERM" : "SIGINT");
        return;
    }
    kv_log(KV_LOG_WARN, SERVER_LOG_TARGET, "second signal, stopping at once",
        KV_LOG_INT("signal", number));
    server->hurried = true;
    if (server->calls_over)
        hurry(number);
    else
        rpc_server_drain(server->rpc, 0, on_drained, server);
}
